//! Plays one script, heals everything, lets it come to rest, and checks all the while.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use model::{Object, WorkloadId};
use serde::{Deserialize, Serialize};
use store::{Change, Event, Watch};
use tokio::time::Instant;

use crate::checker::When;
use crate::cluster::Cluster;
use crate::entropy::Seeded;
use crate::link::short;
use crate::script::{Action, Fault, Script, Size};
use crate::trace::Trace;

/// Longer than every wait in the system: nothing that is due is still outstanding after it.
const REST: Duration = Duration::from_secs(130);
/// Rests until a cluster must have come to rest.
const RESTS: usize = 20;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seed.
    pub seed: u64,
    /// Size.
    pub size: Size,
    /// Only these steps.
    pub only: Option<Vec<usize>>,
    /// Print every line of the trace.
    pub print: bool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Hash of the trace.
    pub hash: String,
    /// Steps that were played.
    pub steps: usize,
    /// Commits.
    pub commits: u64,
    /// Attempts that began.
    pub starts: u64,
    /// What did not hold.
    pub failure: Option<Failure>,
}

/// Something that did not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Step that was played last; `None`: all were.
    pub step: Option<usize>,
    /// Name of what did not hold.
    pub invariant: String,
    /// Why.
    pub why: String,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

/// The first panic of any task.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn panicked() -> Option<String> {
    PANIC.lock().ok()?.take()
}

/// Runs a simulation in this thread. Only the first one of a process is exactly repeatable: tokio counts the runtimes
/// of a process, and its choices follow from that number too.
///
/// # Errors
/// When the simulation itself does not work.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let seeded = Seeded::enter(options.seed);
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut first) = PANIC.lock() {
            first.get_or_insert_with(|| info.to_string());
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let report = runtime.block_on(async {
        seeded.start_clock();
        let trace = Trace::new(options.print);
        let cluster = Cluster::start(options.size.hosts, folder.path(), trace).await?;
        let mut script = Script::new(options.seed, options.size);
        if let Some(only) = &options.only {
            script = script.only(only);
        }
        let mut player = Player::new(cluster)?;
        let failure = player.play(&script).await?;
        let starts = player.cluster.past.with(|past| past.starts.len() as u64);
        anyhow::Ok(Report {
            seed: options.seed,
            hash: format!("{:016x}", player.cluster.trace.hash()),
            steps: script.steps.len(),
            commits: player.cluster.store.snapshot().revision.0,
            starts,
            failure,
        })
    });
    drop(runtime);
    let _ = std::panic::take_hook();
    report
}

/// What comes back by itself.
#[derive(Debug, Clone, Copy)]
enum Due {
    Agent(usize),
    Wire(usize),
    Server,
}

struct Player {
    cluster: Cluster,
    watch: Watch,
    due: BTreeMap<(Instant, usize), Due>,
    step: Option<usize>,
}

impl Player {
    fn new(cluster: Cluster) -> anyhow::Result<Self> {
        let watch = cluster.store.watch(cluster.store.snapshot().revision)?;
        Ok(Self {
            cluster,
            watch,
            due: BTreeMap::new(),
            step: None,
        })
    }

    async fn play(&mut self, script: &Script) -> anyhow::Result<Option<Failure>> {
        self.begin().await?;
        for step in &script.steps {
            let broken = self.pass(Duration::from_millis(step.after_ms)).await?;
            if broken.is_some() {
                return Ok(broken);
            }
            self.step = Some(step.number);
            self.cluster
                .trace
                .line(format!("step {} {:?}", step.number, step.action));
            match &step.action {
                Action::Fault(fault) => self.fault(fault, step.number).await,
                action => self.cluster.ask(step.number, action),
            }
        }
        let broken = self.pass(Duration::from_secs(5)).await?;
        if broken.is_some() {
            return Ok(broken);
        }
        self.step = None;
        self.heal().await?;
        self.rest().await
    }

    /// All images but the last are there at the beginning.
    async fn begin(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for pool in 0..self.cluster.pools.len() {
            for image in 0..self.cluster.images.len() - 1 {
                let load = Action::Load { pool, image };
                self.cluster.ask(0, &load);
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Lets time pass; everything that is due comes back, every commit is checked.
    async fn pass(&mut self, time: Duration) -> anyhow::Result<Option<Failure>> {
        let until = Instant::now() + time;
        loop {
            let next = self.due.first_key_value().map(|((at, _), _)| *at);
            let wake = next.map_or(until, |at| at.min(until));
            tokio::select! {
                biased;
                event = self.watch.next() => {
                    let event = event.context("the store is closed")?;
                    self.heard(&event);
                    while let Some(event) = self.watch.try_next()? {
                        self.heard(&event);
                    }
                    if let Some(failure) = self.check(When::Always) {
                        return Ok(Some(failure));
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if wake == until {
                        return Ok(self.check(When::Always));
                    }
                    self.come_back().await?;
                }
            }
        }
    }

    fn heard(&mut self, event: &Event) {
        self.cluster.past.committed(event);
        for change in event.changes.iter() {
            self.cluster.trace.line(described(event, change));
        }
    }

    fn check(&mut self, when: When) -> Option<Failure> {
        let world = self.cluster.world();
        let (invariant, why) = match panicked() {
            Some(panic) => ("no-panic", panic),
            None => world.broken(when)?,
        };
        Some(self.failure(invariant, why))
    }

    fn failure(&self, invariant: &str, why: String) -> Failure {
        Failure {
            step: self.step,
            invariant: invariant.to_owned(),
            why,
            tail: self.cluster.trace.tail(),
        }
    }

    async fn come_back(&mut self) -> anyhow::Result<()> {
        let Some(((at, number), due)) = self.due.pop_first() else {
            return Ok(());
        };
        self.cluster.trace.line(format!("back: {due:?}"));
        match due {
            Due::Agent(host) => self.cluster.hosts[host].start_agent(),
            Due::Wire(host) => self.cluster.hosts[host]
                .wires
                .send_modify(|wires| wires.blocked = false),
            Due::Server => {
                // A disk that is full then keeps it from starting: it is tried again.
                if self.cluster.start_server().await.is_err() {
                    let later = at + Duration::from_secs(1);
                    self.due.insert((later, number), due);
                }
            }
        }
        Ok(())
    }

    fn later(&mut self, number: usize, millis: u64, due: Due) {
        let at = Instant::now() + Duration::from_millis(millis);
        self.due.insert((at, number), due);
    }

    async fn fault(&mut self, fault: &Fault, number: usize) {
        use agent::driver::{DriverError, ErrorClass};
        let cluster = &mut self.cluster;
        match *fault {
            Fault::Cut { host, unnoticed } => cluster.hosts[host].wires.send_modify(|wires| {
                wires.cuts += 1;
                wires.unnoticed = unnoticed;
            }),
            Fault::Partition { host, millis } => {
                cluster.hosts[host]
                    .wires
                    .send_modify(|wires| wires.blocked = true);
                self.later(number, millis, Due::Wire(host));
            }
            Fault::Latency { host, millis } => cluster.hosts[host]
                .wires
                .send_modify(|wires| wires.latency = Duration::from_millis(millis)),
            Fault::Slow { host, millis } => {
                cluster.hosts[host].fake.slow(Duration::from_millis(millis))
            }
            Fault::Agent { host, millis } => {
                cluster.hosts[host].kill_agent().await;
                self.later(number, millis, Due::Agent(host));
            }
            Fault::Power { host, millis } => {
                cluster.hosts[host].lose_power(&cluster.past).await;
                self.later(number, millis, Due::Agent(host));
            }
            Fault::Server { millis } => {
                cluster.kill_server().await;
                self.later(number, millis, Due::Server);
            }
            Fault::Fail { host, op, full } => {
                let (class, why) = if full {
                    (ErrorClass::Full, "no space left on the simulated device")
                } else {
                    (ErrorClass::Failed, "a simulated hiccup")
                };
                cluster.hosts[host]
                    .fake
                    .fail_next(op, DriverError::new(class, why));
            }
            Fault::Hang { host, op } => {
                cluster.hosts[host].hangs = true;
                cluster.hosts[host].fake.hang_next(op);
            }
            Fault::End { slot, code } => self.end_task(slot, code),
            Fault::LostAnswers { count } => self.with_store(|store| store.lose_answers(count)),
            Fault::StoreFull { count } => self.with_store(|store| store.refuse(count)),
            Fault::StoreSlow { millis } => self.with_store(|store| store.delay(millis)),
        }
    }

    fn with_store(&self, change: impl FnOnce(&crate::faulty_store::FaultyStore)) {
        if let Some(server) = &self.cluster.server {
            change(&server.store);
        }
    }

    fn end_task(&mut self, slot: usize, code: i32) {
        let Some((_, id)) = self.cluster.slot(slot) else {
            return;
        };
        for host in &self.cluster.hosts {
            if host.fake.task(&id).is_some_and(|t| t.phase.is_alive()) {
                if code == 137 {
                    host.fake.run_out_of_memory(&id);
                } else {
                    host.fake.end(&id, code);
                }
            }
        }
    }

    /// Nothing breaks any more.
    async fn heal(&mut self) -> anyhow::Result<()> {
        self.cluster.trace.line("heal");
        self.due.clear();
        self.with_store(crate::faulty_store::FaultyStore::heal);
        self.cluster.start_server().await?;
        for host in &mut self.cluster.hosts {
            host.fake.heal();
            if host.hangs {
                host.kill_agent().await;
            }
            host.start_agent();
            host.wires.send_modify(|wires| {
                wires.blocked = false;
                wires.latency = Duration::ZERO;
            });
        }
        Ok(())
    }

    /// Everything comes to rest and is then as it should be, and stays so.
    async fn rest(&mut self) -> anyhow::Result<Option<Failure>> {
        // Waits of the time before may be long: back-off, graces, patience of clients.
        let broken = self.pass(REST).await?;
        if broken.is_some() {
            return Ok(broken);
        }
        if let Err(error) = self.cluster.stop_restless().await {
            return Ok(Some(self.failure("stops", error.to_string())));
        }
        let mut idle = (0, 0);
        for _ in 0..RESTS {
            idle.0 = self.cluster.store.snapshot().revision.0;
            let broken = self.pass(REST).await?;
            if broken.is_some() {
                return Ok(broken);
            }
            idle.1 = self.cluster.store.snapshot().revision.0;
            if idle.0 == idle.1 && self.check(When::Settled).is_none() {
                break;
            }
        }
        if let Some(failure) = self.check(When::Settled) {
            return Ok(Some(failure));
        }
        self.cluster.past.with(|past| past.idle = Some(idle));
        let mut world = self.cluster.world();
        self.cluster.read_ledgers(&mut world).await?;
        Ok(world
            .broken(When::Ended)
            .map(|(invariant, why)| self.failure(invariant, why)))
    }
}

fn brief(id: &WorkloadId) -> String {
    id.as_str().chars().take(6).collect()
}

fn described(event: &Event, change: &Change) -> String {
    let revision = event.revision;
    let object = match change {
        Change::Put(versioned) => &versioned.object,
        Change::Delete { key, .. } => return format!("{revision} delete {key}"),
    };
    match object {
        Object::Workload(w) => format!(
            "{revision} workload {} {} {:?} run {} on {} is {:?} run {} restarts {} code {} {}",
            brief(&w.id),
            w.name,
            w.desired,
            w.run,
            w.host.as_ref().map_or_else(|| "none".to_owned(), short),
            w.status.phase,
            w.status.run,
            w.status.restart_count,
            w.status.exit_code,
            w.status.error,
        ),
        Object::Host(h) => format!(
            "{revision} host {} connected {} images {}",
            short(&h.id),
            h.status.connected,
            h.status.images.len()
        ),
        other => format!("{revision} {}", other.key()),
    }
}
