//! The owner over a fake host: what it leads to, and that being killed at any step changes nothing.

mod copies;

use std::sync::Arc;

use model::{DesiredState, HostWorkload, ImageId, Phase, RestartPolicy, Timestamp, WorkloadId};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::driver::{BlobSource, ByteStream, ErrorClass, ImageStore};
use crate::fake::{FakeHost, Halt, Op};
use crate::imports::Hold;

mod fences;

const START: Timestamp = Timestamp(1_700_000_000_000);

struct NoBlobs;

#[async_trait::async_trait]
impl BlobSource for NoBlobs {
    async fn open(&self, digest: &model::Digest) -> Result<ByteStream, DriverError> {
        Err(DriverError::new(
            ErrorClass::NotFound,
            format!("no blob {digest}"),
        ))
    }
}

fn id(n: u8) -> WorkloadId {
    WorkloadId::from_bytes(&[n; 32])
}

fn image(c: &str) -> ImageId {
    ImageId::parse(&format!("sha256:{}", c.repeat(64))).unwrap()
}

fn workload(n: u8, command: &str, desired: DesiredState, run: u64) -> HostWorkload {
    let pool = model::PoolId::from_bytes(&[1; 32]);
    serde_json::from_value(serde_json::json!({
        "id": id(n), "pool": pool, "pool_name": "team", "name": format!("w{n}"),
        "spec": { "task": {
            "image": "web", "image_id": image("a"),
            "args": command.split(' ').collect::<Vec<_>>(),
        } },
        "image": {
            "id": image("a"), "pool": pool, "added_at": 0,
            "content": { "config": image("a"), "config_bytes": 10, "layers": [] },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        },
        "desired": desired, "run": run,
    }))
    .unwrap()
}

const STOPPED: DesiredState = DesiredState::Stopped {
    grace_seconds: Some(10),
    signal: None,
};

fn whole(generation: u64, workloads: Vec<HostWorkload>) -> DesiredUpdate {
    DesiredUpdate {
        base: None,
        generation,
        upsert: workloads
            .into_iter()
            .map(|w| (w.id.clone(), Arc::new(w)))
            .collect(),
        ..DesiredUpdate::default()
    }
}

/// A host whose agent can be killed and started again.
struct Bench {
    folder: TempDir,
    fake: Arc<FakeHost>,
    running: Option<Running>,
}

struct Running {
    events: mpsc::Sender<Event>,
    generation: watch::Receiver<u64>,
    outbox: Arc<Outbox>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    imports: Arc<Imports>,
    task: JoinHandle<Ended>,
}

impl Bench {
    async fn new() -> Self {
        let mut bench = Self {
            folder: tempfile::tempdir().unwrap(),
            fake: FakeHost::new(Clock::tokio(START)),
            running: None,
        };
        bench.start().await;
        bench
    }

    async fn start(&mut self) {
        let opened = Ledger::open_when_free(self.folder.path(), false).await;
        let (ledger, recovered) = opened.unwrap();
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let (generation, seen) = watch::channel(0);
        let outbox = Arc::new(Outbox::default());
        let (board, metrics) = (Arc::new(Board::default()), Arc::new(Metrics::default()));
        let imports: Arc<Imports> = Arc::default();
        let lease = Arc::new(Lease::new(self.fake.clock));
        let core = Core::new(CoreParts {
            drivers: self.fake.drivers(),
            clock: self.fake.clock,
            lease: lease.clone(),
            metrics: metrics.clone(),
            board: board.clone(),
            imports: imports.clone(),
            outboxes: vec![outbox.clone()],
            generation,
            context: JobContext::new(
                self.fake.drivers(),
                Arc::new(NoBlobs),
                events.clone(),
                Arc::default(),
                lease,
            ),
            ledger,
            recovered,
            block: false,
        });
        self.running = Some(Running {
            events,
            generation: seen,
            outbox,
            board,
            metrics,
            imports,
            task: tokio::spawn(core.run(queue, CancellationToken::new())),
        });
    }

    async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    fn agent(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    async fn send(&self, update: DesiredUpdate) {
        let event = Event::Desired { link: 0, update };
        self.agent().events.send(event).await.unwrap();
    }

    /// Waits for a report of a workload.
    async fn known(&self, n: u8, done: impl Fn(&Known) -> bool) -> Known {
        let mut known = self.agent().board.follow(&id(n));
        let wait = known.wait_for(done);
        let found = tokio::time::timeout(Duration::from_secs(600), wait).await;
        found.expect("in time").unwrap().clone()
    }

    async fn phase(&self, n: u8, phase: Phase) -> model::TaskStatus {
        let is = |k: &Known| matches!(k, Known::Status(s) if s.phase == phase);
        match self.known(n, is).await {
            Known::Status(status) => *status,
            Known::Nothing | Known::Gone => unreachable!(),
        }
    }
}

/// What a document is to lead to.
#[derive(Clone, Copy)]
enum Until {
    Runs(u64, u32),
    Frozen,
    Down,
    Gone,
    ImageGone,
}

impl Until {
    fn holds(self, fake: &FakeHost) -> bool {
        let task = fake.task(&id(1));
        match self {
            Until::Runs(run, attempt) => task.is_some_and(|t| {
                t.phase == Phase::Running && (t.run, t.restart_count) == (run, attempt)
            }),
            Until::Frozen => task.is_some_and(|t| t.phase == Phase::Paused),
            Until::Down => task.is_some_and(|t| t.phase.is_final()) && !fake.is_attached(&id(1)),
            Until::Gone => task.is_none() && !fake.is_attached(&id(1)),
            Until::ImageGone => fake.complete().is_empty(),
        }
    }
}

/// The life of a workload: started, frozen, thawed, ended and restarted by policy, restarted by hand, stopped, started,
/// removed, its image dropped.
fn life() -> Vec<(DesiredUpdate, Until, bool)> {
    let web = |generation, desired, run| {
        let mut web = workload(1, "server", desired, run);
        web.spec.restart = RestartPolicy::Always;
        whole(generation, vec![web])
    };
    let mut last = whole(10, vec![]);
    last.drop_images.insert(image("a"), 9);
    vec![
        (web(1, DesiredState::Running, 1), Until::Runs(1, 0), false),
        (web(2, DesiredState::Paused, 1), Until::Frozen, false),
        (web(3, DesiredState::Running, 1), Until::Runs(1, 0), false),
        (web(4, DesiredState::Running, 1), Until::Runs(1, 1), true),
        (web(5, DesiredState::Running, 2), Until::Runs(2, 0), false),
        (web(6, STOPPED, 2), Until::Down, false),
        (web(7, DesiredState::Running, 3), Until::Runs(3, 0), false),
        (web(8, DesiredState::Removed, 3), Until::Gone, false),
        (last, Until::ImageGone, false),
    ]
}

/// Lives that life with one interruption; gives operations, attempts that began, and whether it was interrupted.
async fn live(halt: Option<Halt>) -> (usize, Vec<(u64, u32)>, bool) {
    let mut bench = Bench::new().await;
    if let Some(halt) = halt {
        bench.fake.halt_at(halt);
    }
    let mut interrupted = false;
    for (update, until, end_it) in life() {
        if end_it {
            bench.fake.end(&id(1), 1);
        }
        bench.send(update.clone()).await;
        loop {
            let wait = bench.fake.wait(|f| f.is_halted() || until.holds(f));
            let waited = tokio::time::timeout(Duration::from_secs(3600), wait).await;
            assert!(
                waited.is_ok(),
                "stuck at {} with {halt:?}: {:?}",
                update.generation,
                bench.fake.journal()
            );
            if !bench.fake.is_halted() {
                break;
            }
            interrupted = true;
            bench.kill().await;
            bench.fake.go_on();
            bench.start().await;
            bench.send(update.clone()).await;
        }
        if matches!(until, Until::Gone) {
            bench.known(1, |k| *k == Known::Gone).await;
        }
    }
    let starts = bench
        .fake
        .starts()
        .into_iter()
        .map(|(_, run, attempt)| (run, attempt));
    let result = (bench.fake.operations(), starts.collect(), interrupted);
    bench.kill().await;
    result
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_step_it_ends_in_the_same_state() {
    let (operations, starts, _) = live(None).await;
    assert_eq!(starts, [(1, 0), (1, 1), (2, 0), (3, 0)]);
    assert!(operations > 20);
    for number in 0..operations {
        for halt in [Halt::Before(number), Halt::After(number)] {
            let (_, starts, interrupted) = live(Some(halt)).await;
            assert!(interrupted, "{halt:?}");
            assert_eq!(starts, [(1, 0), (1, 1), (2, 0), (3, 0)], "{halt:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_left_alone_when_the_agent_comes_back_without_a_ledger() {
    let mut bench = Bench::new().await;
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench.phase(1, Phase::Running).await;
    bench.kill().await;
    for entry in std::fs::read_dir(bench.folder.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), b"garbage").unwrap();
    }
    let before = bench.fake.operations();
    bench.start().await;
    bench.phase(1, Phase::Running).await;
    assert_eq!(*bench.agent().generation.borrow(), 0);
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench
        .agent()
        .generation
        .clone()
        .wait_for(|g| *g == 1)
        .await
        .unwrap();
    // Only its limits are set again, which nobody can know after the loss.
    let after: Vec<Op> = bench
        .fake
        .journal()
        .into_iter()
        .skip(before)
        .map(|(op, _)| op)
        .collect();
    assert_eq!(after, [Op::Update]);
}

#[tokio::test(start_paused = true)]
async fn strangers_are_reported_and_never_touched() {
    let bench = Bench::new().await;
    bench.fake.add_stranger(id(9));
    let mut bench = bench;
    bench.kill().await;
    bench.start().await;
    let mut update = whole(1, vec![]);
    bench.fake.add_image(image("b"));
    update.drop_images.insert(image("b"), 1);
    bench.send(update).await;
    bench.phase(9, Phase::Running).await;
    bench
        .agent()
        .generation
        .clone()
        .wait_for(|g| *g == 1)
        .await
        .unwrap();
    assert_eq!(bench.fake.journal(), []);
    // Only when a document says so.
    bench
        .send(whole(
            2,
            vec![workload(9, "server", DesiredState::Removed, 1)],
        ))
        .await;
    bench.known(9, |k| *k == Known::Gone).await;
    assert!(bench.fake.task(&id(9)).is_none());
}

/// A document without workloads that orders images to be deleted.
fn orders(generation: u64, orders: &[(&str, u64)]) -> DesiredUpdate {
    DesiredUpdate {
        drop_images: orders.iter().map(|(name, at)| (image(name), *at)).collect(),
        ..whole(generation, vec![])
    }
}

impl Bench {
    /// Puts an image there and an import of it that the server has not answered.
    async fn import(&self, name: &str) -> Hold {
        self.fake.add_image(image(name));
        let images = BTreeSet::from([image(name)]);
        self.agent().imports.hold(images, Box::new(())).await
    }

    /// Puts another image there and orders its deletion too: when that is done, the rest was decided.
    async fn decided(&self, mut update: DesiredUpdate) {
        let other = image("f");
        self.fake.add_image(other.clone());
        update.drop_images.insert(other.clone(), update.generation);
        self.send(update).await;
        self.fake
            .wait(|fake| !fake.complete().contains(&other))
            .await;
    }

    fn has(&self, name: &str) -> bool {
        self.fake.complete().contains(&image(name))
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_came_in_again_is_not_deleted_by_an_order_from_before() {
    let bench = Bench::new().await;
    let hold = bench.import("a").await;
    bench.decided(orders(5, &[("a", 4)])).await;
    assert!(bench.has("a"), "while its import waits for the server");
    hold.recorded(9);
    bench.decided(orders(6, &[("a", 4)])).await;
    assert!(bench.has("a"), "by an order that its import has voided");
    bench.decided(orders(10, &[("a", 10)])).await;
    assert!(!bench.has("a"), "a later order counts");
}

#[tokio::test(start_paused = true)]
async fn an_import_without_an_answer_voids_orders_until_a_newer_document_comes() {
    let bench = Bench::new().await;
    let hold = bench.import("a").await;
    bench.decided(orders(5, &[("a", 4)])).await;
    drop(hold);
    bench.fake.add_image(image("b"));
    assert!(bench.has("a"));
    bench.decided(orders(6, &[("a", 4)])).await;
    assert!(!bench.has("a"), "the newer document knows of no import");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_orders_count_only_once_a_server_repeats_them() {
    let mut bench = Bench::new().await;
    bench.decided(orders(5, &[("a", 4)])).await;
    bench
        .agent()
        .generation
        .clone()
        .wait_for(|g| *g == 5)
        .await
        .unwrap();
    bench.kill().await;
    // It comes in; whether the server has recorded that, the ledger cannot know.
    bench.fake.add_image(image("a"));
    bench.start().await;
    bench.decided(orders(6, &[])).await;
    assert!(bench.has("a"));
    bench.decided(orders(7, &[("a", 7)])).await;
    assert!(!bench.has("a"));
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_only_the_restart_policy_starts_tasks() {
    let mut bench = Bench::new().await;
    let mut always = workload(1, "server", DesiredState::Running, 1);
    always.spec.restart = RestartPolicy::UnlessStopped;
    let once = workload(2, "server", DesiredState::Running, 1);
    bench.send(whole(1, vec![always, once])).await;
    bench.phase(1, Phase::Running).await;
    bench.phase(2, Phase::Running).await;
    bench
        .agent()
        .generation
        .clone()
        .wait_for(|g| *g == 1)
        .await
        .unwrap();
    bench.kill().await;
    bench.fake.reboot();
    bench.start().await;
    let status = bench.phase(1, Phase::Running).await;
    assert_eq!(status.restart_count, 1);
    assert!(!status.network.ip.is_empty());
    assert_eq!(bench.phase(2, Phase::Exited).await.exit_code, 255);
}

#[tokio::test(start_paused = true)]
async fn many_workloads_start_and_go() {
    let bench = Bench::new().await;
    let all = |desired| {
        (1..=100)
            .map(|n| workload(n, "server", desired, 1))
            .collect()
    };
    bench.send(whole(1, all(DesiredState::Running))).await;
    for n in 1..=100 {
        bench.phase(n, Phase::Running).await;
    }
    bench.send(whole(2, all(DesiredState::Removed))).await;
    for n in 1..=100 {
        bench.known(n, |k| *k == Known::Gone).await;
    }
    assert_eq!(bench.agent().metrics.starts.get(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_taken_port_fails_at_once_and_a_hiccup_does_not() {
    let bench = Bench::new().await;
    let taken = DriverError::new(ErrorClass::Conflict, "port 80 is taken");
    bench.fake.fail_next(Op::Attach, taken);
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    let status = bench.phase(1, Phase::Failed).await;
    assert_eq!((status.error.as_str(), status.run), ("port 80 is taken", 1));
    bench.fake.fail_next(
        Op::Attach,
        DriverError::new(ErrorClass::Failed, "netlink is busy"),
    );
    bench
        .send(whole(
            2,
            vec![workload(1, "server", DesiredState::Running, 2)],
        ))
        .await;
    bench.phase(1, Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_up_on_an_image_that_does_not_come() {
    let bench = Bench::new().await;
    bench.fake.hang_next(Op::Ensure);
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench
        .fake
        .wait(|f| f.task(&id(1)).is_some() && f.operations() == 2)
        .await;
    bench
        .send(whole(2, vec![workload(1, "server", STOPPED, 1)]))
        .await;
    let status = bench.phase(1, Phase::Exited).await;
    assert_eq!((status.run, status.started_at), (1, None));
    bench.fake.wait(|f| f.task(&id(1)).is_none()).await;
    bench
        .send(whole(
            3,
            vec![workload(1, "server", DesiredState::Running, 2)],
        ))
        .await;
    assert_eq!(bench.phase(1, Phase::Running).await.run, 2);
}

#[tokio::test(start_paused = true)]
async fn documents_that_do_not_fit_are_refused_and_asked_for_again() {
    let bench = Bench::new().await;
    bench.send(whole(5, vec![])).await;
    let mut generation = bench.agent().generation.clone();
    generation.wait_for(|g| *g == 5).await.unwrap();
    bench
        .send(whole(
            4,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench
        .send(whole(
            5,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    let mut difference = whole(8, vec![]);
    difference.base = Some(7);
    bench.send(difference).await;
    let refused = || bench.agent().metrics.documents_refused.get() == 3;
    while !refused() {
        tokio::task::yield_now().await;
    }
    assert!(
        bench.agent().outbox.take().is_err(),
        "a new session is asked for"
    );
    assert_eq!(bench.fake.journal(), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_limit_bounds_starts_under_its_part() {
    use model::{CpuMillis, HostPool};
    let bench = Bench::new().await;
    let mut bounded = workload(1, "server", DesiredState::Running, 1);
    bounded.bounded = true;
    let part = HostPool {
        cpu_limit: Some(CpuMillis(500)),
        ..HostPool::default()
    };
    let parts = BTreeMap::from([(bounded.pool.clone(), part)]);
    bench.send(whole(1, vec![bounded])).await;
    let waits = |known: &Known| matches!(known, Known::Status(it) if it.error.contains("part"));
    bench.known(1, waits).await;
    // The kernel takes its time to bring it in force.
    bench.fake.slow(Duration::from_secs(1));
    let document = DesiredUpdate {
        base: Some(1),
        generation: 2,
        pools: Some(parts.clone()),
        ..DesiredUpdate::default()
    };
    bench.send(document).await;
    let status = bench.phase(1, Phase::Running).await;
    assert_eq!((status.error, bench.fake.parts()), (String::new(), parts));
    let journal = bench.fake.journal();
    let first = |op| journal.iter().position(|(it, _)| *it == op);
    assert!(first(Op::Divide).unwrap() < first(Op::Start).unwrap());
}

#[tokio::test(start_paused = true)]
async fn parts_of_pools_are_in_force_before_they_are_told_so() {
    use model::{HostPool, MemoryBytes, PoolId, PoolUsage};
    let bench = Bench::new().await;
    let pool = PoolId::from_bytes(&[1; 32]);
    let part = |bytes| {
        let part = HostPool {
            memory_limit: Some(MemoryBytes(bytes)),
            ..HostPool::default()
        };
        BTreeMap::from([(pool.clone(), part)])
    };
    let document = |generation, bytes| DesiredUpdate {
        pools: Some(part(bytes)),
        ..whole(generation, vec![])
    };
    let told = async |wanted: u64| {
        loop {
            bench.agent().outbox.changed().await;
            for message in bench.agent().outbox.take().unwrap() {
                if let wire::link::FromHost::Pools { applied, usage } = message {
                    assert!(applied <= wanted, "{applied}");
                    if applied == wanted {
                        return usage;
                    }
                }
            }
        }
    };
    bench
        .agent()
        .events
        .send(Event::LinkUp { link: 0 })
        .await
        .unwrap();
    bench.send(document(1, 100)).await;
    told(1).await;
    assert_eq!(bench.fake.parts(), part(100));
    // More is in use than the next part allows, twice; meanwhile nothing is told.
    for _ in 0..2 {
        let busy = DriverError::new(ErrorClass::Conflict, "in use");
        bench.fake.fail_next(Op::Divide, busy);
    }
    let usage = BTreeMap::from([(
        pool.clone(),
        PoolUsage {
            pids: 7,
            ..PoolUsage::default()
        },
    )]);
    bench.fake.use_pools(usage.clone());
    bench.send(document(2, 50)).await;
    told(2).await;
    assert_eq!(bench.fake.parts(), part(50));
    // A difference that says nothing of pools leaves them; a whole document without them sets them free.
    let other = DesiredUpdate {
        base: Some(2),
        generation: 3,
        ..DesiredUpdate::default()
    };
    bench.send(other).await;
    assert_eq!(told(3).await, usage);
    assert_eq!(bench.fake.parts(), part(50));
    bench.send(whole(4, vec![])).await;
    told(4).await;
    assert!(bench.fake.parts().is_empty());
}

#[tokio::test]
async fn a_removed_host_is_left_when_no_task_is_left() {
    let mut bench = Bench::new().await;
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench.phase(1, Phase::Running).await;
    for _ in 0..2 {
        let event = Event::HostRemoved;
        bench.agent().events.send(event).await.unwrap();
    }
    // It goes on: a task that ends is still told, and one that was to go still goes.
    bench
        .send(whole(
            2,
            vec![workload(1, "server", DesiredState::Removed, 1)],
        ))
        .await;
    let ended = tokio::time::timeout(
        Duration::from_secs(20),
        &mut bench.running.as_mut().unwrap().task,
    )
    .await
    .expect("an end in time")
    .unwrap();
    assert_eq!(ended, Ended::Removed);
    assert!(bench.fake.task(&id(1)).is_none() && !bench.fake.is_attached(&id(1)));
}

#[tokio::test]
async fn a_host_that_is_welcomed_again_was_not_removed() {
    let bench = Bench::new().await;
    let events = &bench.agent().events;
    bench
        .send(whole(
            1,
            vec![workload(1, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench.phase(1, Phase::Running).await;
    events.send(Event::HostRemoved).await.unwrap();
    events.send(Event::LinkUp { link: 0 }).await.unwrap();
    bench
        .send(whole(
            2,
            vec![workload(1, "server", DesiredState::Removed, 1)],
        ))
        .await;
    bench.known(1, |k| *k == Known::Gone).await;
    bench
        .send(whole(
            3,
            vec![workload(2, "server", DesiredState::Running, 1)],
        ))
        .await;
    bench.phase(2, Phase::Running).await;
}
