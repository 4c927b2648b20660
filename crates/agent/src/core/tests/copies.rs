//! Images that are fetched without a workload.

use model::{Image, Timestamp};

use super::*;
use crate::driver::DiskRoom;

/// An image with one layer; `from_registry`: the fake host gets it without a relay.
fn copy(name: &str, from_registry: bool) -> (ImageId, Arc<Image>) {
    let id = image(name);
    let image: Image = serde_json::from_value(serde_json::json!({
        "id": id, "pool": model::PoolId::from_bytes(&[1; 32]), "added_at": Timestamp(0),
        "content": { "config": id, "config_bytes": 10, "layers": [
            { "diff_id": id, "blob": id, "blob_bytes": 10, "media_type": "" },
        ] },
        "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        "source": from_registry.then_some("registry/image@digest"),
    }))
    .unwrap();
    (id, Arc::new(image))
}

fn copies(generation: u64, names: &[&str], from_registry: bool) -> DesiredUpdate {
    let images = names.iter().map(|name| copy(name, from_registry));
    DesiredUpdate {
        fetch_images: Some(images.collect()),
        ..whole(generation, vec![])
    }
}

/// What was asked of the image store, in order.
fn ensured(fake: &FakeHost) -> Vec<String> {
    let journal = fake.journal().into_iter();
    let ensures = journal.filter(|(op, _)| *op == Op::Ensure);
    ensures.map(|(_, id)| id).collect()
}

fn has_all(fake: &FakeHost, names: &[&str]) -> bool {
    names
        .iter()
        .all(|name| fake.complete().contains(&image(name)))
}

impl Bench {
    async fn until(&self, what: &str, done: impl Fn(&FakeHost) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(3600), self.fake.wait(done)).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.fake.journal());
    }

    async fn durable(&self, generation: u64) {
        let mut durable = self.agent().generation.clone();
        durable.wait_for(|it| *it == generation).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn copies_are_fetched_one_after_the_other_wherever_the_agent_is_killed() {
    let names = ["b", "c", "d"];
    for halt in (0..3).flat_map(|n| [Halt::Before(n), Halt::After(n)]) {
        let mut bench = Bench::new().await;
        bench.fake.halt_at(halt);
        bench.send(copies(1, &names, true)).await;
        bench.durable(1).await;
        bench.until("halts", FakeHost::is_halted).await;
        bench.kill().await;
        bench.fake.go_on();
        // No server says it again: the ledger knows.
        bench.start().await;
        bench.until("all", |fake| has_all(fake, &names)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_fetched_is_tried_again_later_and_holds_up_no_other() {
    let bench = Bench::new().await;
    let failed = || DriverError::new(ErrorClass::Failed, "a registry that is away");
    for _ in 0..3 {
        bench.fake.fail_next(Op::Ensure, failed());
    }
    let begun = tokio::time::Instant::now();
    bench.send(copies(1, &["b", "c"], true)).await;
    bench.until("both", |fake| has_all(fake, &["b", "c"])).await;
    let tried: Vec<String> = ["b", "c", "b", "c", "b"]
        .map(|n| image(n).to_string())
        .into();
    assert_eq!(ensured(&bench.fake), tried);
    let waited = begun.elapsed();
    let most = Duration::from_secs(4);
    assert!(
        waited >= Duration::from_secs(3) && waited < most,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_link_is_a_reason_to_try_again_at_once() {
    let bench = Bench::new().await;
    // Nobody has its blobs as long as there is no server.
    bench.send(copies(1, &["b"], false)).await;
    bench.durable(1).await;
    tokio::time::timeout(
        Duration::from_secs(20),
        bench.until("never", |fake| has_all(fake, &["b"])),
    )
    .await
    .expect_err("it cannot be had");
    bench.fake.add_blob(image("b"), bytes::Bytes::new());
    let begun = tokio::time::Instant::now();
    bench
        .agent()
        .events
        .send(Event::LinkUp { link: 0 })
        .await
        .unwrap();
    bench.until("there", |fake| has_all(fake, &["b"])).await;
    assert!(begun.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_wanted_any_more_is_given_up_and_the_next_is_fetched() {
    let bench = Bench::new().await;
    bench.fake.hang_next(Op::Ensure);
    bench.send(copies(1, &["b"], true)).await;
    bench.until("hangs", |fake| fake.operations() == 1).await;
    let mut update = copies(2, &["c"], true);
    update.base = Some(1);
    bench.send(update).await;
    bench.until("the next", |fake| has_all(fake, &["c"])).await;
    assert!(!bench.has("b"));
}

#[tokio::test(start_paused = true)]
async fn a_start_does_not_wait_for_copies() {
    let bench = Bench::new().await;
    bench.fake.hang_next(Op::Ensure);
    bench.send(copies(1, &["b", "c"], true)).await;
    bench.until("hangs", |fake| fake.operations() == 1).await;
    let mut update = copies(2, &["b", "c"], true);
    let mut web = workload(1, "server", DesiredState::Running, 1);
    web.image.source = Some("registry/image@digest".to_owned());
    update.upsert.insert(web.id.clone(), Arc::new(web));
    bench.send(update).await;
    bench.phase(1, Phase::Running).await;
    assert!(!bench.has("c"), "one at a time");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_deleted_by_an_order_is_fetched_again_when_it_is_wanted() {
    let bench = Bench::new().await;
    bench.send(copies(1, &["b"], true)).await;
    bench.until("there", |fake| has_all(fake, &["b"])).await;
    bench.send(orders(2, &[("b", 2)])).await;
    bench.until("gone", |fake| !has_all(fake, &["b"])).await;
    bench.send(copies(3, &["b"], true)).await;
    bench
        .until("there again", |fake| has_all(fake, &["b"]))
        .await;
    // An order in the same document is older than the wish.
    let mut both = copies(4, &["b"], true);
    both.drop_images.insert(image("b"), 4);
    bench.decided(both).await;
    assert!(bench.has("b"));
}

#[tokio::test(start_paused = true)]
async fn copies_leave_room_on_the_disk_and_come_once_there_is_more() {
    let bench = Bench::new().await;
    let total = 100;
    bench.fake.set_room(DiskRoom { free: 19, total });
    let begun = tokio::time::Instant::now();
    bench.send(copies(1, &["b"], true)).await;
    bench.durable(1).await;
    tokio::time::timeout(
        Duration::from_secs(1000),
        bench.until("never", |fake| has_all(fake, &["b"])),
    )
    .await
    .expect_err("there is no room");
    assert_eq!(ensured(&bench.fake), [] as [String; 0]);
    bench.fake.set_room(DiskRoom { free: 20, total });
    bench.until("there", |fake| has_all(fake, &["b"])).await;
    let waited = begun.elapsed();
    assert!(waited <= Duration::from_secs(1000 + 5 * 60), "{waited:?}");
}
