//! What a host says wrongly changes nothing but what is its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use control::testing::{RawHost, TestHost};
use control::{Caller, Control};
use model::{Digest, HostId, ImageId, Name, Phase, PoolId, TaskStatus, Workload, WorkloadId};
use wire::link::{Frame, FrameKind, FromHost, StreamReply, ToHost};

struct World {
    control: Control,
    pool: PoolId,
    /// Runs on another host, in another pool than what the tests ask for.
    theirs: WorkloadId,
    honest: Option<TestHost>,
    honest_id: HostId,
    forger: RawHost,
}

fn admin() -> Caller {
    Caller::local_admin()
}

async fn create(control: &Control, pool: &PoolId, args: &[&str]) -> WorkloadId {
    let image = control.test_image(pool, "web").await.unwrap();
    let spec = serde_json::from_value(serde_json::json!({
        "task": {"image": "web", "image_id": image, "args": args}
    }))
    .unwrap();
    let name = Some(Name::parse("web").unwrap());
    let made = control
        .workload_create(&admin(), pool, name, spec)
        .await
        .unwrap();
    made.id.clone()
}

/// A workload runs on an honest host; then a forger joins.
async fn world() -> World {
    let control = Control::for_tests().await.unwrap();
    let honest = control.test_host("honest").await.unwrap();
    let pool = control.test_pool("red").await.unwrap();
    let theirs = create(&control, &pool, &["sleep"]).await;
    control
        .workload_start(&admin(), &pool, &theirs, Default::default())
        .await
        .unwrap();
    let forger = control.raw_host("forger").await.unwrap();
    World {
        control,
        pool,
        theirs,
        honest_id: honest.id.clone(),
        honest: Some(honest),
        forger,
    }
}

impl World {
    fn workload(&self, id: &WorkloadId) -> Workload {
        self.control
            .snapshot()
            .workload(id)
            .unwrap()
            .value()
            .clone()
    }

    /// A workload of a pool of its own that runs on the forger's host.
    async fn mine(&mut self) -> (PoolId, WorkloadId) {
        self.control
            .host_cordon(&admin(), self.honest_id.as_str())
            .await
            .unwrap();
        let pool = self.control.test_pool("blue").await.unwrap();
        let id = create(&self.control, &pool, &["sleep"]).await;
        let (control, of, started) = (self.control.clone(), pool.clone(), id.clone());
        let start = tokio::spawn(async move {
            control
                .workload_start(&admin(), &of, &started, Default::default())
                .await
        });
        while self.workload(&id).run == 0 {
            tokio::task::yield_now().await;
        }
        self.forger.report([(id.clone(), Some(running(1)))]).await;
        start.await.unwrap().unwrap();
        (pool, id)
    }

    /// Waits until everything the forger has said so far was taken in or dropped: a true report comes through last.
    async fn taken_in(&mut self, mine: &WorkloadId) {
        let pid = self.workload(mine).status.pid + 1;
        let last = TaskStatus { pid, ..running(1) };
        self.forger.report([(mine.clone(), Some(last))]).await;
        while self.workload(mine).status.pid != pid {
            tokio::task::yield_now().await;
        }
    }
}

fn running(run: u64) -> TaskStatus {
    TaskStatus {
        phase: Phase::Running,
        run,
        pid: 1,
        ..TaskStatus::default()
    }
}

fn exited(run: u64, exit_code: i32) -> TaskStatus {
    TaskStatus {
        phase: Phase::Exited,
        run,
        exit_code,
        ..TaskStatus::default()
    }
}

#[tokio::test]
async fn a_host_cannot_report_on_what_is_placed_elsewhere() {
    let mut w = world().await;
    let (_, mine) = w.mine().await;
    let before = w.workload(&w.theirs);
    let ignored = w.control.metrics().reports_ignored;
    w.forger
        .report([(w.theirs.clone(), Some(exited(1, 0)))])
        .await;
    w.forger.report([(w.theirs.clone(), None)]).await;
    w.taken_in(&mine).await;
    assert_eq!(w.workload(&w.theirs), before);
    assert_eq!(w.control.metrics().reports_ignored, ignored + 2);
    // Nor once it is being removed, where "it is gone" would delete its record.
    let (control, pool, id) = (w.control.clone(), w.pool.clone(), w.theirs.clone());
    drop(w.honest.take());
    let options = control::workloads::RemoveOptions {
        force: true,
        volumes: false,
    };
    let removing =
        tokio::spawn(async move { control.workload_remove(&admin(), &pool, &id, options).await });
    while w.workload(&w.theirs).desired != model::DesiredState::Removed {
        tokio::task::yield_now().await;
    }
    w.forger.report([(w.theirs.clone(), None)]).await;
    assert_eq!(w.control.metrics().reports_ignored, ignored + 3);
    assert_eq!(w.workload(&w.theirs).desired, model::DesiredState::Removed);
    removing.abort();
}

#[tokio::test]
async fn an_exit_of_a_run_that_nobody_asked_for_is_no_exit() {
    let mut w = world().await;
    let (_, mine) = w.mine().await;
    for status in [exited(2, 0), exited(u64::MAX, 0), running(7)] {
        w.forger.report([(mine.clone(), Some(status))]).await;
    }
    w.taken_in(&mine).await;
    let workload = w.workload(&mine);
    assert_eq!((workload.status.run, workload.run), (1, 1));
    assert_eq!(workload.status.phase, Phase::Running);
    assert_eq!(w.control.metrics().reports_ignored, 3);
    // The true end is still believed.
    w.forger.report([(mine.clone(), Some(exited(1, 3)))]).await;
    while w.workload(&mine).status.phase != Phase::Exited {
        tokio::task::yield_now().await;
    }
    // And an older state does not come back after it.
    w.forger.report([(mine.clone(), Some(running(0)))]).await;
    assert_eq!(w.workload(&mine).status.exit_code, 3);
}

#[tokio::test]
async fn a_flood_of_reports_leaves_nothing_behind() {
    let mut w = world().await;
    let (_, mine) = w.mine().await;
    let revision = w.control.snapshot().revision;
    for batch in 0..20_u32 {
        let reports = (0..5000_u32).map(|n| {
            let mut bytes = [9; 32];
            bytes[..4].copy_from_slice(&batch.to_be_bytes());
            bytes[4..8].copy_from_slice(&n.to_be_bytes());
            (WorkloadId::from_bytes(&bytes), Some(exited(1, 0)))
        });
        w.forger.report(reports).await;
    }
    assert_eq!(w.control.metrics().reports_ignored, 100_000);
    let text = TaskStatus {
        error: "ä".repeat(1 << 20),
        ..running(1)
    };
    w.forger.report([(mine.clone(), Some(text))]).await;
    w.taken_in(&mine).await;
    assert_eq!(w.control.snapshot().workloads().count(), 2);
    assert!(w.control.snapshot().revision.0 <= revision.0 + 2);
}

#[tokio::test]
async fn more_images_than_a_host_can_have_do_not_stop_its_reports() {
    let mut w = world().await;
    let (_, mine) = w.mine().await;
    let images: BTreeSet<ImageId> = (0..30_000_u32)
        .map(|n| Digest::parse(&format!("sha256:{n:064x}")).unwrap())
        .collect();
    w.forger.say(FromHost::Images { images }).await;
    w.taken_in(&mine).await;
    let host = w.forger.session.host.clone();
    let recorded = || images_of(&w.control, &host);
    while recorded() != 10_000 {
        tokio::task::yield_now().await;
    }
    assert!(images_of(&w.control, &w.honest_id) <= 2, "of another host");
}

fn images_of(control: &Control, host: &HostId) -> usize {
    control.snapshot().host(host).unwrap().status.images.len()
}

#[tokio::test]
async fn a_stream_belongs_to_the_host_that_was_asked_for_it() {
    let mut w = world().await;
    let (pool, mine) = w.mine().await;
    let other = w.control.raw_host("other").await.unwrap();
    let (control, id) = (w.control.clone(), mine.clone());
    let top = tokio::spawn(async move { control.workload_top(&admin(), &pool, &id, "").await });
    let stream = loop {
        if let ToHost::OpenStream { id, .. } = w.forger.outgoing.recv().await.unwrap() {
            break id;
        }
    };
    assert!(w.control.link_claim(&other.session.host, &stream).is_none());
    assert!(w.control.link_claim(&w.honest_id, &stream).is_none());
    let host = w.forger.session.host.clone();
    assert!(w.control.link_claim(&host, "no such stream").is_none());
    let claimed = w.control.link_claim(&host, &stream).unwrap();
    assert!(
        w.control.link_claim(&host, &stream).is_none(),
        "a second time"
    );
    // What is no answer is told as that.
    claimed
        .send
        .send(Frame::new(FrameKind::Data, "\u{0}"))
        .await
        .unwrap();
    let error = top.await.unwrap().unwrap_err();
    assert!(error.message.contains("unexpected frame"), "{error:?}");
}

#[tokio::test]
async fn wrong_frames_reach_no_client_as_output() {
    let mut w = world().await;
    let (pool, mine) = w.mine().await;
    let options = control::streams::FollowOptions {
        from: wire::link::FollowFrom::Start,
        until_ms: None,
        follow: true,
        stdout: true,
        stderr: true,
    };
    let (control, id) = (w.control.clone(), mine.clone());
    let client = tokio::spawn(async move {
        control
            .workload_follow(&admin(), &pool, &id, options)
            .await
            .unwrap()
    });
    let (_, stream) = w.forger.stream().await.unwrap();
    let say = async |kind, text: &'static str| {
        stream.send.send(Frame::new(kind, text)).await.unwrap();
    };
    stream
        .send
        .send(Frame::json(&StreamReply::Ok).unwrap())
        .await
        .unwrap();
    let mut client = client.await.unwrap();
    // Input, archives and exits are no output; what follows the end is not heard.
    say(FrameKind::Stdin, "typed").await;
    say(FrameKind::EndInput, "").await;
    say(FrameKind::Data, "archive").await;
    say(FrameKind::Json, "{\"exit_code\":0}").await;
    say(FrameKind::Stdout, "true").await;
    say(FrameKind::End, "").await;
    let mut heard = Vec::new();
    while let Some(frame) = client.recv.recv().await {
        heard.push((frame.kind, frame.payload));
    }
    let (last, output) = heard.split_last().unwrap();
    assert_eq!(last.0, FrameKind::End);
    assert_eq!(output, [(FrameKind::Stdout, "true".into())]);
}
