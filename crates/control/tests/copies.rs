//! Images are kept on enough hosts, and their bytes go only to those that are to have them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use control::copies::OnlyCopy;
use control::maintenance::{DrainOptions, HostCondition};
use control::testing::{RawHost, document};
use control::{Caller, Control, ControlConfig, ErrorKind, LinkStream};
use model::host::Drain;
use model::{Digest, HostDesired, HostId, Image, ImageId, Object, PoolId, Timestamp};
use sha2::Digest as _;
use store::Transaction;
use wire::link::{DesiredUpdate, Frame, FrameKind, FromHost, StreamReply, StreamRequest, ToHost};

const CONFIG: &[u8] = b"a configuration";
const LAYER: &[u8] = b"a layer, compressed";
const TAR: &[u8] = b"the same layer, not compressed";

fn admin() -> Caller {
    Caller::local_admin()
}

fn digest(of: &[u8]) -> Digest {
    let hex = hex::encode(sha2::Sha256::digest(of));
    Digest::parse(&format!("sha256:{hex}")).unwrap()
}

struct World {
    control: Control,
    pool: PoolId,
    hosts: Vec<RawHost>,
    image: ImageId,
}

impl World {
    /// Three hosts; a pool has an image that is on the first of them.
    async fn new() -> Self {
        let control = Control::for_tests().await.unwrap();
        let pool = control.test_pool("red").await.unwrap();
        let mut hosts = Vec::new();
        for name in ["one", "two", "three"] {
            hosts.push(control.raw_host(name).await.unwrap());
        }
        let made_up = control.test_image(&pool, "web").await.unwrap();
        let mut record: Image = control
            .snapshot()
            .image(&pool, &made_up)
            .unwrap()
            .value()
            .clone();
        record.id = digest(CONFIG);
        record.content.config = digest(CONFIG);
        record.content.layers[0].blob = digest(LAYER);
        record.content.layers[0].diff_id = digest(TAR);
        let world = Self {
            control,
            pool,
            hosts,
            image: digest(CONFIG),
        };
        let old = model::Key::Image(world.pool.clone(), made_up);
        let tx = Transaction::new().delete(old).create(Object::Image(record));
        world.control.store().commit(tx).await.unwrap();
        for at in 0..3 {
            world.has(at, at == 0).await;
        }
        world
    }

    fn lacking(&self) -> usize {
        self.control.images_lacking_copies(&admin()).unwrap()
    }

    fn id(&self, at: usize) -> HostId {
        self.hosts[at].session.host.clone()
    }

    /// Whether a host has the image, by its record.
    async fn has(&self, at: usize, has: bool) {
        let images = BTreeSet::from_iter(has.then(|| self.image.clone()));
        let edit = |host: &mut model::Host| host.status.images.clone_from(&images);
        self.control
            .test_host_edit(&self.id(at), edit)
            .await
            .unwrap();
    }

    async fn edit(&self, at: usize, edit: impl FnMut(&mut model::Host)) {
        self.control
            .test_host_edit(&self.id(at), edit)
            .await
            .unwrap();
    }

    /// Looks once, and says which hosts are to fetch the image.
    async fn look(&self) -> Vec<usize> {
        self.control.keep_copies_once().await.unwrap();
        self.asked()
    }

    fn asked(&self) -> Vec<usize> {
        let snapshot = self.control.snapshot();
        let asked = |at: &usize| {
            let host = snapshot.host(&self.id(*at));
            host.is_some_and(|it| it.fetch_images.contains_key(&self.image))
        };
        (0..self.hosts.len()).filter(asked).collect()
    }

    /// The one host that is to fetch the image, and the other that has nothing of it.
    async fn asked_and_other(&self) -> (usize, usize) {
        let asked = self.look().await;
        assert!(asked == [1] || asked == [2], "{asked:?}");
        (asked[0], 3 - asked[0])
    }

    /// What a host needs to know of what it is to fetch, as the server sends it.
    async fn told(&mut self, at: usize, done: impl Fn(&HostDesired) -> bool) -> HostDesired {
        let mut known = HostDesired::default();
        let host = &mut self.hosts[at];
        let wait = async {
            while !done(&known) {
                if let ToHost::Desired(update) = host.outgoing.recv().await.unwrap() {
                    take(&mut known, update);
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "{known:?}");
        known
    }

    /// Asks for a blob as a host does; the named hosts answer with bytes, or refuse.
    async fn blob(
        &mut self,
        at: usize,
        what: &[u8],
        answers: &[(usize, Option<&[u8]>)],
    ) -> Result<Vec<u8>, (ErrorKind, String)> {
        let (control, host, digest) = (self.control.clone(), self.id(at), digest(what));
        let asking = tokio::spawn(async move {
            let mut blob = control.link_blob(&host, &digest).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = blob.next().await {
                bytes.extend_from_slice(&piece?);
            }
            Ok(bytes)
        });
        for (holder, answer) in answers {
            let stream = self.hosts[*holder].stream();
            let (request, stream) = tokio::time::timeout(Duration::from_secs(20), stream)
                .await
                .expect("this host is asked")
                .unwrap();
            assert!(matches!(request, StreamRequest::Blob { .. }), "{request:?}");
            serve(stream, *answer).await;
        }
        asking
            .await
            .unwrap()
            .map_err(|e: control::Error| (e.kind, e.message))
    }
}

async fn serve(stream: LinkStream, answer: Option<&[u8]>) {
    let reply = match answer {
        Some(_) => StreamReply::Ok,
        None => StreamReply::Error(wire::link::StreamError {
            class: wire::link::ErrorClass::NotFound,
            message: "no such blob".into(),
        }),
    };
    stream
        .send
        .send(Frame::json(&reply).unwrap())
        .await
        .unwrap();
    if let Some(bytes) = answer {
        let data = Frame::new(FrameKind::Data, Bytes::copy_from_slice(bytes));
        stream.send.send(data).await.unwrap();
        stream.send.send(Frame::end()).await.unwrap();
    }
}

fn take(known: &mut HostDesired, update: DesiredUpdate) {
    known.generation = update.generation;
    known.drop_images = update.drop_images;
    match (update.fetch_images, update.base) {
        (Some(images), _) => known.fetch_images = images,
        (None, None) => known.fetch_images.clear(),
        (None, Some(_)) => {}
    }
}

#[tokio::test]
async fn an_image_that_is_on_one_host_is_copied_to_one_other_and_then_nothing_more_happens() {
    let mut w = World::new().await;
    assert_eq!(w.lacking(), 1);
    let (asked, _) = w.asked_and_other().await;
    let image = w.image.clone();
    let told = w.told(asked, |it| !it.fetch_images.is_empty()).await;
    let record = &told.fetch_images[&image];
    assert_eq!(record.content.layers[0].blob, digest(LAYER));
    assert!(record.tags.is_empty(), "names are no matter of a host");
    let revision = w.control.snapshot().revision;
    assert_eq!(w.look().await, [asked]);
    assert_eq!(w.control.snapshot().revision, revision);
    // It says that it has it.
    let images = BTreeSet::from([image]);
    w.hosts[asked].say(FromHost::Images { images }).await;
    while w.lacking() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(w.look().await, [] as [usize; 0]);
    let told = w.told(asked, |it| {
        it.generation > told.generation && it.fetch_images.is_empty()
    });
    told.await;
    let revision = w.control.snapshot().revision;
    w.look().await;
    assert_eq!(w.control.snapshot().revision, revision);
}

#[tokio::test]
async fn copies_of_lost_removed_and_leaving_hosts_are_made_up_for() {
    let w = World::new().await;
    w.has(1, true).await;
    assert!(w.look().await.is_empty());
    w.edit(1, |host| host.status.lost_at = Some(Timestamp(1)))
        .await;
    assert_eq!(w.look().await, [2]);
    w.edit(1, |host| host.status.lost_at = None).await;
    assert!(w.look().await.is_empty(), "it is back with what it has");
    let drain = Drain {
        since: Timestamp(1),
        stop_rest: false,
    };
    w.edit(1, |host| host.drain = Some(drain)).await;
    assert_eq!(w.look().await, [2]);
    w.edit(1, |host| host.drain = None).await;
    assert!(w.look().await.is_empty());
    w.control.host_remove(&admin(), "two", false).await.unwrap();
    assert_eq!(w.look().await, [2]);
}

#[tokio::test]
async fn what_no_pool_has_any_more_is_not_fetched_but_deleted() {
    let mut w = World::new().await;
    let (asked, _) = w.asked_and_other().await;
    let id = w.image.to_string();
    w.told(asked, |it| !it.fetch_images.is_empty()).await;
    w.control
        .image_remove(&admin(), &w.pool.clone(), &id, true)
        .await
        .unwrap();
    // Even before the controller has looked.
    w.told(asked, |it| it.generation > 0 && it.fetch_images.is_empty())
        .await;
    assert_eq!(w.look().await, [] as [usize; 0]);
    // It was fetched in the same moment.
    w.has(asked, true).await;
    let image = w.image.clone();
    w.told(asked, |it| it.drop_images.contains_key(&image))
        .await;
    assert_eq!(w.lacking(), 0);
}

#[tokio::test]
async fn two_servers_say_the_same_and_ask_one_host_in_the_end() {
    let w = World::new().await;
    let config = ControlConfig {
        address: "127.0.0.1:7441".into(),
    };
    let connected = |it: &mut model::Host| it.status.connected = true;
    let other = Control::open(w.control.store().clone(), config)
        .await
        .unwrap();
    for at in 0..3 {
        w.edit(at, connected).await;
    }
    let (one, two) = tokio::join!(w.control.keep_copies_once(), other.keep_copies_once());
    one.and(two).unwrap();
    let asked = w.look().await;
    assert_eq!(asked.len(), 1);
    let snapshot = w.control.snapshot();
    let theirs = other.snapshot();
    for host in snapshot.hosts() {
        let ours = document(&snapshot, &host);
        assert_eq!(ours, document(&theirs, &theirs.host(&host.id).unwrap()));
    }
}

#[tokio::test]
async fn blobs_are_relayed_to_hosts_that_are_to_fetch_them_and_to_no_others() {
    let mut w = World::new().await;
    let stranger = w.blob(1, LAYER, &[]).await.unwrap_err();
    assert_eq!(stranger.0, ErrorKind::NotFound);
    let (asked, other) = w.asked_and_other().await;
    for what in [CONFIG, LAYER, TAR] {
        let bytes = w.blob(asked, what, &[(0, Some(what))]).await.unwrap();
        assert_eq!(bytes, what);
        let refused = w.blob(other, what, &[]).await.unwrap_err();
        assert_eq!(refused.0, ErrorKind::NotFound);
    }
    let foreign = w.blob(asked, b"of another image", &[]).await.unwrap_err();
    assert_eq!(foreign.0, ErrorKind::NotFound);
    // Once it is not to fetch it any more, it gets nothing more.
    w.has(other, true).await;
    assert!(w.look().await.is_empty());
    let refused = w.blob(asked, LAYER, &[]).await.unwrap_err();
    assert_eq!(refused.0, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_host_that_has_not_what_it_says_is_passed_over() {
    let mut w = World::new().await;
    let (asked, liar) = w.asked_and_other().await;
    // Both say that they have it; whichever is asked first has something else.
    w.edit(asked, |host| {
        host.fetch_images = BTreeMap::from([(digest(CONFIG), Timestamp(1))])
    })
    .await;
    w.has(liar, true).await;
    let first = if w.id(0) < w.id(liar) { 0 } else { liar };
    let second = liar - first;
    let wrong = w
        .blob(asked, LAYER, &[(first, Some(b"something else"))])
        .await;
    let (_, why) = wrong.unwrap_err();
    assert!(why.contains("not of digest"), "{why}");
    let bytes = w
        .blob(asked, LAYER, &[(second, Some(LAYER))])
        .await
        .unwrap();
    assert_eq!(bytes, LAYER);
    // From now on the other is asked for all of that image, and if it has something not, the first again.
    let bytes = w.blob(asked, TAR, &[(second, Some(TAR))]).await.unwrap();
    assert_eq!(bytes, TAR);
    let answers: [(usize, Option<&[u8]>); 2] = [(second, None), (first, Some(CONFIG))];
    let bytes = w.blob(asked, CONFIG, &answers).await.unwrap();
    assert_eq!(bytes, CONFIG);
}

impl World {
    /// How the first host is, and which images would be lost with it.
    fn leaving(&self) -> (HostCondition, Vec<(String, OnlyCopy)>) {
        let outlook = self.control.host_outlook(&admin(), "one", false).unwrap();
        let images = outlook.images.into_iter();
        let images = images.map(|it| (it.name, it.fate)).collect();
        (outlook.condition, images)
    }

    async fn drain_first(&self) {
        let options = DrainOptions::default();
        let drained = self.control.host_drain(&admin(), "one", options).await;
        drained.unwrap();
    }

    async fn remove_first(&self) -> Result<(), String> {
        let removed = self.control.host_remove(&admin(), "one", false).await;
        removed.map_err(|refused| {
            assert_eq!(refused.kind, ErrorKind::Conflict);
            refused.message
        })
    }
}

#[tokio::test]
async fn maintenance_is_over_when_what_only_that_host_has_is_elsewhere() {
    let w = World::new().await;
    let only = |fate| vec![("web:latest".to_owned(), fate)];
    assert_eq!(
        w.leaving(),
        (HostCondition::Ready, only(OnlyCopy::Leaves)),
        "before it begins"
    );
    w.drain_first().await;
    assert_eq!(
        w.leaving(),
        (HostCondition::Draining, only(OnlyCopy::Leaves))
    );
    assert_eq!(w.look().await, [1, 2]);
    w.has(1, true).await;
    assert_eq!(w.leaving(), (HostCondition::Drained, vec![]));
    w.remove_first().await.unwrap();
}

#[tokio::test]
async fn maintenance_does_not_wait_for_what_no_other_host_can_have() {
    let w = World::new().await;
    w.drain_first().await;
    for at in [1, 2] {
        w.edit(at, |host| host.status.connected = false).await;
    }
    let (condition, images) = w.leaving();
    assert_eq!(condition, HostCondition::Drained);
    assert_eq!(images, [("web:latest".to_owned(), OnlyCopy::Stays)]);
    let why = w.remove_first().await.unwrap_err();
    assert!(why.contains("docker save"), "{why}");
}

#[tokio::test]
async fn a_host_with_an_only_copy_is_removed_by_force_alone() {
    let w = World::new().await;
    let why = w.remove_first().await.unwrap_err();
    assert!(
        why.contains("image web:latest") && why.contains("host drain one"),
        "{why}"
    );
    // Who leaves as well is nobody to rely on.
    w.has(1, true).await;
    w.drain_first().await;
    let (caller, options) = (admin(), DrainOptions::default());
    let second = w.control.host_drain(&caller, "two", options);
    second.await.unwrap();
    let why = w.remove_first().await.unwrap_err();
    assert!(why.contains("wait until"), "{why}");
    let removed = w.control.host_remove(&admin(), "one", true).await;
    removed.unwrap();
}
