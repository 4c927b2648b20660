//! Images to and from others: archives for other programs, content for other hosts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use agent::driver::{
    BlobSource, ByteStream, DriverError, ErrorClass, ImageStore, ImportedImage, LayerLease,
    SaveImage,
};
use drivers::images::LocalImages;
use futures::StreamExt;
use images_support::fake::Fake;
use images_support::*;
use model::{Digest, Image, PoolId, Timestamp};

fn base() -> Vec<u8> {
    LayerTar::new()
        .dir("bin")
        .file("bin/x", &[1; 200_000])
        .end()
}

fn upper(mark: &str) -> Vec<u8> {
    LayerTar::new()
        .file("mark", mark.as_bytes())
        .file("bin/.wh.gone", b"")
        .end()
}

fn image(imported: &ImportedImage) -> Image {
    Image {
        id: imported.content.config.clone(),
        pool: PoolId::from_bytes(&[1; 32]),
        tags: Default::default(),
        digests: Default::default(),
        content: imported.content.clone(),
        config: imported.config.clone(),
        source: imported.source.clone(),
        added_at: Timestamp::default(),
    }
}

async fn collect(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

async fn save(store: &LocalImages, images: &[(&ImportedImage, &[&str])]) -> Vec<u8> {
    let images = images
        .iter()
        .map(|(i, tags)| SaveImage {
            image: image(i),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        })
        .collect();
    collect(store.save(images).await.unwrap()).await
}

fn skopeo_inspect(what: &str) -> serde_json::Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--config", what])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn skopeo_copy(from: &str, to: &str) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", from, to])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{from} → {to}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_images_are_read_by_others_and_by_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let both = docker_archive(&[
        ("web:1", vec![base(), upper("1")]),
        ("reg.example:5000/b:2", vec![base(), upper("2")]),
    ]);
    let images = load(&store, both).await.unwrap();
    let saved = save(
        &store,
        &[
            (
                &images[0],
                &["docker.io/library/web:1", "docker.io/library/web:latest"],
            ),
            (&images[1], &["reg.example:5000/b:2"]),
        ],
    )
    .await;
    let file = dir.path().join("saved.tar");
    std::fs::write(&file, &saved).unwrap();
    let file = file.display().to_string();

    for (name, imported) in [
        ("web:1", &images[0]),
        ("web:latest", &images[0]),
        ("reg.example:5000/b:2", &images[1]),
    ] {
        let config = skopeo_inspect(&format!("docker-archive:{file}:{name}"));
        let first = config["rootfs"]["diff_ids"][1].as_str().unwrap();
        assert_eq!(first, imported.content.layers[1].diff_id.as_str(), "{name}");
    }
    // The same file as an OCI layout.
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    assert!(
        Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .arg("-C")
            .arg(&layout)
            .status()
            .unwrap()
            .success()
    );
    skopeo_inspect(&format!("oci:{}:latest", layout.display()));

    let other = open(&dir.path().join("other"));
    let back = load(&other, saved).await.unwrap();
    assert_eq!(back.len(), 2);
    assert_eq!(back[0].content, images[0].content);
    assert_eq!(
        back[0].tags,
        ["docker.io/library/web:1", "docker.io/library/web:latest"]
    );
    assert_eq!(back[1].config, images[1].config);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_other_programs_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let layers = vec![base(), upper("1"), base()];
    std::fs::write(
        dir.path().join("in.tar"),
        docker_archive(&[("web:1", layers.clone())]),
    )
    .unwrap();
    let from = format!("docker-archive:{at}/in.tar");
    skopeo_copy(&from, &format!("docker-archive:{at}/docker.tar:web:1"));
    skopeo_copy(&from, &format!("oci-archive:{at}/oci.tar:localhost/web:1"));
    skopeo_copy(&from, &format!("oci:{at}/layout"));
    let tar = Command::new("tar")
        .args([
            "-cf",
            &format!("{at}/layout.tar"),
            "-C",
            &format!("{at}/layout"),
            ".",
        ])
        .status();
    assert!(tar.unwrap().success());
    let gz = gzip(&std::fs::read(dir.path().join("docker.tar")).unwrap());
    std::fs::write(dir.path().join("docker.tar.gz"), gz).unwrap();
    for (name, tags) in [
        ("docker.tar", vec!["docker.io/library/web:1"]),
        ("docker.tar.gz", vec!["docker.io/library/web:1"]),
        ("oci.tar", vec!["localhost/web:1"]),
        ("layout.tar", vec![]),
    ] {
        let store = open(&dir.path().join(format!("store-{name}")));
        let images = load(&store, std::fs::read(dir.path().join(name)).unwrap())
            .await
            .unwrap();
        assert_eq!(images[0].tags, tags, "{name}");
        let found: Vec<_> = images[0]
            .content
            .layers
            .iter()
            .map(|l| l.diff_id.hex().to_owned())
            .collect();
        assert_eq!(
            found,
            layers.iter().map(|l| sha(l)).collect::<Vec<_>>(),
            "{name}"
        );
        assert_eq!(
            store.lowerdirs(&images[0].content.config).unwrap().len(),
            3,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn bad_archives_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let manifest = |text: &str| ("manifest.json".to_owned(), text.as_bytes().to_vec());
    let good = docker_archive(&[("web:1", vec![base()])]);
    let blob = (
        "blobs/sha256/".to_owned() + &"a".repeat(64),
        b"other".to_vec(),
    );
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "neither manifest.json"),
        ("no tar", vec![b'x'; 4000], "check sum"),
        ("cut", good[..good.len() / 2].to_vec(), "cut off"),
        (
            "no documents",
            archive(&[("x".to_owned(), vec![1])]),
            "neither manifest.json",
        ),
        (
            "old",
            archive(&[("repositories".to_owned(), b"{}".to_vec())]),
            "before 1.10",
        ),
        ("bad json", archive(&[manifest("{")]), "manifest.json"),
        ("no image", archive(&[manifest("[]")]), "names no image"),
        (
            "no file",
            archive(&[manifest(r#"[{"Config":"c","Layers":[]}]"#)]),
            "no file",
        ),
        (
            "outside",
            archive(&[manifest(
                r#"[{"Config":"../../../../etc/hostname","Layers":[]}]"#,
            )]),
            "no file",
        ),
        (
            "absolute",
            archive(&[manifest(r#"[{"Config":"/etc/hostname","Layers":[]}]"#)]),
            "no file",
        ),
        ("bad tag", tagged("../../etc"), "tag"),
        ("wrong blob name", archive(&[blob]), "promised"),
        (
            "escaping file",
            LayerTar::new().file("../x", b"").end(),
            "..",
        ),
        (
            "escaping link",
            LayerTar::new().symlink("a", "../../../etc/shadow").end(),
            "out of the archive",
        ),
        (
            "absolute link",
            LayerTar::new().symlink("a", "/etc/shadow").end(),
            "out of the archive",
        ),
        (
            "links in a circle",
            LayerTar::new()
                .symlink("c", "d")
                .symlink("d", "c")
                .file("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)
                .end(),
            "no file",
        ),
        (
            "device",
            LayerTar::new()
                .raw(b'3', b"d", b"", 0o644, (0, 0), b"")
                .end(),
            "only files",
        ),
    ];
    for (what, bytes, expected) in cases {
        let error = load(&store, bytes).await.expect_err(what);
        assert_eq!(error.class, ErrorClass::Invalid, "{what}: {error}");
        assert!(error.message.contains(expected), "{what}: {error}");
    }
    // An upload that breaks off is not the end of an archive.
    let half = good[..good.len() / 2].to_vec();
    let broken = futures::stream::iter([
        Ok(half.into()),
        Err(std::io::Error::other("client went away")),
    ]);
    let error = store
        .load(Box::pin(broken), tokio::sync::mpsc::channel(1).0)
        .await
        .unwrap_err();
    assert!(error.message.contains("client went away"), "{error}");
    assert_empty(dir.path()).await;
}

fn tagged(tag: &str) -> Vec<u8> {
    let layer = base();
    let config = config(std::slice::from_ref(&layer), "x");
    let manifest =
        serde_json::json!([{ "Config": "c", "RepoTags": [tag], "Layers": ["l"] }]).to_string();
    archive(&[
        ("c".to_owned(), config),
        ("l".to_owned(), layer),
        ("manifest.json".to_owned(), manifest.into_bytes()),
    ])
}

/// Another host behind the server's relay; counts what is asked for.
struct OtherHost<'a> {
    store: &'a LocalImages,
    asked: Mutex<Vec<Digest>>,
    refuse: Option<Digest>,
}

impl<'a> OtherHost<'a> {
    fn new(store: &'a LocalImages) -> Self {
        Self {
            store,
            asked: Mutex::default(),
            refuse: None,
        }
    }
}

#[async_trait::async_trait]
impl BlobSource for OtherHost<'_> {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        self.asked.lock().unwrap().push(digest.clone());
        if self.refuse.as_ref() == Some(digest) {
            return Err(DriverError::new(ErrorClass::NotFound, "no host has it"));
        }
        Ok(self.store.open_blob(digest).await?.1)
    }
}

async fn ensure(
    store: &LocalImages,
    image: &Image,
    relay: &dyn BlobSource,
) -> Result<LayerLease, DriverError> {
    let (progress, mut lines) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move { while lines.recv().await.is_some() {} });
    store.ensure(image, relay, progress).await
}

fn assert_same_layers(a: &LocalImages, b: &LocalImages, image: &Digest) {
    let (a, b) = (a.lowerdirs(image).unwrap(), b.lowerdirs(image).unwrap());
    for (a, b) in a.iter().zip(&b) {
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(a)
            .arg(b)
            .output()
            .unwrap();
        // It cannot compare whiteouts, but tells that both are there.
        let text = String::from_utf8_lossy(&diff.stdout).into_owned();
        let differing: Vec<_> = text
            .lines()
            .filter(|l| l.matches("character special file").count() != 2)
            .collect();
        assert!(differing.is_empty(), "{differing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_fetches_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir.path().join("1")), open(&dir.path().join("2")));
    let plain = LayerTar::new().file("plain", b"1").end();
    let first = load(
        &one,
        docker_archive(&[("a:1", vec![plain.clone(), base()])]),
    )
    .await
    .unwrap()
    .remove(0);
    let second = load(&one, docker_archive(&[("b:1", vec![plain.clone()])]))
        .await
        .unwrap()
        .remove(0);

    let relay = OtherHost::new(&one);
    let lease = ensure(&two, &image(&second), &relay).await.unwrap();
    assert_eq!(lease.layers, two.lowerdirs(&second.content.config).unwrap());
    ensure(&two, &image(&first), &relay).await.unwrap();
    let asked = relay.asked.into_inner().unwrap();
    assert_eq!(
        asked.iter().filter(|d| d.hex() == sha(&plain)).count(),
        1,
        "{asked:?}"
    );
    assert_same_layers(&one, &two, &first.content.config);

    // Leased images stay; released ones go.
    let none = Default::default();
    assert_eq!(
        two.drop_image(&second.content.config, &none)
            .await
            .unwrap_err()
            .class,
        ErrorClass::Conflict
    );
    drop(lease);
    two.drop_image(&second.content.config, &none).await.unwrap();
    assert!(
        two.lowerdirs(&first.content.config).unwrap()[1]
            .join("plain")
            .exists()
    );
    two.drop_image(&first.content.config, &none).await.unwrap();
    assert_empty(&dir.path().join("2")).await;
    assert!(
        ensure(&two, &image(&first), &OtherHost::new(&two))
            .await
            .is_err()
    );
    assert_empty(&dir.path().join("2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_comes_from_the_registry_or_else_from_a_host() {
    let fake = Fake::start(|_| None).await;
    fake.put_image("a", "1", &[base(), upper("1")]);
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (
        open(&dir.path().join("1")),
        open(&dir.path().join("2")),
        open(&dir.path().join("3")),
    );
    let (pulled, _) = pull(&one, &fake.reference("a:1"), None).await;
    let pulled = pulled.unwrap();
    let nobody = OtherHost::new(&three);
    ensure(&two, &image(&pulled), &nobody).await.unwrap();
    assert!(nobody.asked.into_inner().unwrap().is_empty());
    assert_same_layers(&one, &two, &pulled.content.config);

    let mut gone = image(&pulled);
    gone.source = Some(format!(
        "127.0.0.1:1/a@{}",
        pulled.manifest.as_ref().unwrap()
    ));
    ensure(&three, &gone, &OtherHost::new(&two)).await.unwrap();
    assert_same_layers(&one, &three, &pulled.content.config);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_kept_in_another_form_is_relayed_as_well() {
    let fake = Fake::start(|_| None).await;
    fake.put_image("a", "1", &[base(), upper("1")]);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir.path().join("1")), open(&dir.path().join("2")));
    // The host has the layers uncompressed from an archive; the image says the registry's compressed ones.
    load(&one, docker_archive(&[("a:1", vec![base()])]))
        .await
        .unwrap();
    let (pulled, _) = pull(&one, &fake.reference("a:1"), None).await;
    let pulled = pulled.unwrap();
    let mut relayed = image(&pulled);
    relayed.source = None;
    ensure(&two, &relayed, &OtherHost::new(&one)).await.unwrap();
    assert_same_layers(&one, &two, &pulled.content.config);
    // And the other way round: compressed here, asked for by its diff_id.
    let diff_id = &pulled.content.layers[1].diff_id;
    let (bytes, stream) = one.open_blob(diff_id).await.unwrap();
    let tar = collect(stream).await;
    assert_eq!(
        (tar.len() as u64, sha(&tar)),
        (bytes, diff_id.hex().to_owned())
    );
}

/// A relay that has some damaged copies behind it, and asks another host each time.
struct Damaged<'a> {
    good: OtherHost<'a>,
    damaged: Digest,
    times: Mutex<u32>,
}

#[async_trait::async_trait]
impl BlobSource for Damaged<'_> {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        let good = self.good.open(digest).await?;
        let mut times = self.times.lock().unwrap();
        if *digest != self.damaged || *times == 0 {
            return Ok(good);
        }
        *times -= 1;
        let damaged = good.map(|piece| Ok(bytes::Bytes::from(vec![7; piece?.len()])));
        Ok(Box::pin(damaged))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_copies_on_some_hosts_do_not_spoil_a_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir.path().join("1")), open(&dir.path().join("2")));
    let loaded = load(&one, docker_archive(&[("a:1", vec![base(), upper("1")])]));
    let loaded = loaded.await.unwrap().remove(0);
    let relay = |times| Damaged {
        good: OtherHost::new(&one),
        damaged: loaded.content.layers[0].blob.clone(),
        times: Mutex::new(times),
    };
    let failed = ensure(&two, &image(&loaded), &relay(u32::MAX)).await;
    assert_eq!(failed.unwrap_err().class, ErrorClass::Invalid);
    assert_empty(&dir.path().join("2")).await;
    ensure(&two, &image(&loaded), &relay(2)).await.unwrap();
    assert_same_layers(&one, &two, &loaded.content.config);
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_drops_at_once_never_break_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let shared = load(&store, docker_archive(&[("s:1", vec![base()])]))
        .await
        .unwrap()
        .remove(0);
    let mut tasks = Vec::new();
    for n in 0..4 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..8 {
                let bytes =
                    docker_archive(&[("x:1", vec![base(), upper(&format!("{n}-{}", round % 2))])]);
                let imported = load(&store, bytes).await.unwrap().remove(0);
                match store.lowerdirs(&imported.content.config) {
                    // Complete means that all of it is there, whoever dropped what meanwhile.
                    Ok(lower) => assert!(lower.len() == 2),
                    Err(error) => panic!("{error}"),
                }
                store
                    .drop_image(&imported.content.config, &Default::default())
                    .await
                    .unwrap();
            }
        }));
    }
    let (dropper, id) = (store.clone(), shared.content.config.clone());
    tasks.push(tokio::spawn(async move {
        for _ in 0..20 {
            let _ = dropper.drop_image(&id, &Default::default()).await;
            let imported = load(&dropper, docker_archive(&[("s:1", vec![base()])]))
                .await
                .unwrap()
                .remove(0);
            let lower = dropper.lowerdirs(&imported.content.config).unwrap();
            assert!(lower[0].join("bin/x").exists());
        }
    }));
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(names(dir.path(), "layers"), [sha(&base())]);
    store
        .drop_image(&shared.content.config, &Default::default())
        .await
        .unwrap();
    assert_empty(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlayfs_shows_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let low = LayerTar::new()
        .file("gone", b"")
        .file("d/old", b"")
        .file("kept", b"low")
        .file("r/old", b"")
        .end();
    let top = LayerTar::new()
        .file(".wh.gone", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"")
        .file(".wh.r", b"")
        .dir("r")
        .file("r/new", b"")
        .end();
    let imported = load(&store, docker_archive(&[("x:1", vec![low, top])]))
        .await
        .unwrap()
        .remove(0);
    let lower: Vec<_> = store
        .lowerdirs(&imported.content.config)
        .unwrap()
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    let at = dir.path().join("merged");
    std::fs::create_dir(&at).unwrap();
    // In a mount namespace of its own: nothing stays behind.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={} {at} && cd {at} && find . | sort",
        lower.join(":"),
        at = at.display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        ".\n./d\n./d/new\n./kept\n./r\n./r/new\n",
        "{output:?}"
    );
    assert!(Path::new(&at).read_dir().unwrap().next().is_none());
}
