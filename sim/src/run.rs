//! Plays one script, heals everything, lets it come to rest, and checks all the while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use store::{Event, Snapshot, Watch};
use tokio::time::Instant;

use crate::checker::steps::{STEPS, Step};
use crate::checker::{Place, When, World};
use crate::cluster::Cluster;
use crate::entropy::Seeded;
use crate::script::{Action, HostVerb, SERVERS, Script, Size};
use crate::trace::{Trace, described};

/// Longer than every wait in the system but the pauses of what was parked: nothing that is due is still outstanding
/// after it.
const REST: Duration = Duration::from_secs(130);
/// Rests until a cluster must have come to rest: pauses of what was parked are up to ten minutes.
const RESTS: usize = 20;
/// States that servers may have decided on that do not see everything at once.
const SEEN: usize = 64;

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
        let mut script = Script::new(options.seed, options.size);
        let cluster = Cluster::start(&script.setting, folder.path(), trace).await?;
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
pub(crate) enum Due {
    Agent(usize),
    Wires(usize),
    Hole(usize),
    Server(usize),
    Store(usize),
}

/// Plays a script and watches.
pub(crate) struct Player {
    pub(crate) cluster: Cluster,
    world: World,
    watch: Watch,
    /// The newest states, the newest last.
    seen: VecDeque<Snapshot>,
    pub(crate) due: BTreeMap<(Instant, usize), Due>,
    step: Option<usize>,
}

impl Player {
    fn new(cluster: Cluster) -> anyhow::Result<Self> {
        let snapshot = cluster.store.snapshot();
        let watch = cluster.store.watch(snapshot.revision)?;
        let mut world = World::default();
        world.take_snapshot(&snapshot);
        Ok(Self {
            cluster,
            world,
            watch,
            seen: VecDeque::from([snapshot]),
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
                Action::Host {
                    host,
                    verb: HostVerb::Rejoin { kept },
                } => self.rejoin(*host, *kept).await?,
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

    /// A machine that was removed joins as another host.
    async fn rejoin(&mut self, host: usize, kept: bool) -> anyhow::Result<()> {
        let snapshot = self.cluster.store.snapshot();
        if snapshot.host(&self.cluster.hosts[host].id).is_some() {
            return Ok(());
        }
        let past = self.cluster.past.clone();
        self.cluster.hosts[host].join_again(kept, &past).await?;
        self.cluster.join(host).await
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
        self.world.now = self.cluster.clock.now();
        self.judge(event);
        self.cluster.past.committed(&self.world, event);
        self.world.apply(event);
        for change in event.changes.iter() {
            self.cluster.trace.line(described(event, change));
        }
    }

    /// Looks at a commit against what was so before.
    fn judge(&mut self, event: &Event) {
        self.world.past = self.cluster.past.take();
        let step = Step {
            before: &self.world,
            event,
        };
        let mut wrong = Vec::new();
        for invariant in STEPS {
            let Err(why) = (invariant.check)(&step) else {
                continue;
            };
            let older = |snapshot: &Snapshot| {
                let mut before = World {
                    now: self.world.now,
                    ..World::default()
                };
                before.take_snapshot(snapshot);
                let step = Step {
                    before: &before,
                    event,
                };
                (invariant.check)(&step).is_ok()
            };
            if !(invariant.late && self.seen.iter().rev().any(older)) {
                wrong.push((invariant.name, why));
            }
        }
        self.world.past.wrong_steps.extend(wrong);
        self.cluster
            .past
            .give_back(std::mem::take(&mut self.world.past));
        if self.seen.len() == SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(self.cluster.store.snapshot());
    }

    fn check(&mut self, when: When) -> Option<Failure> {
        self.cluster.look(&mut self.world);
        self.world.past = self.cluster.past.take();
        let broken = match panicked() {
            Some(panic) => Some(("no-panic", panic)),
            None => self.world.broken(when),
        };
        self.world.remember();
        self.cluster
            .past
            .give_back(std::mem::take(&mut self.world.past));
        let (invariant, why) = broken?;
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

    /// Everything comes to rest and is then as it should be, and stays so.
    async fn rest(&mut self) -> anyhow::Result<Option<Failure>> {
        // Waits of the time before may be long: back-off, graces, patience of clients.
        let broken = self.pass(REST).await?;
        if broken.is_some() {
            return Ok(broken);
        }
        self.cluster.import_what_is_lost();
        if let Err(error) = self.cluster.stop_restless().await {
            return Ok(Some(self.failure("stops", error.to_string())));
        }
        let now = self.cluster.clock.now();
        self.cluster.past.with(|past| past.healed = Some(now));
        if let Some(failure) = self.settle().await? {
            return Ok(Some(failure));
        }
        let before = self.places();
        for server in 0..SERVERS {
            self.cluster.kill_server(server).await;
        }
        self.start_servers().await?;
        if let Some(failure) = self.settle().await? {
            return Ok(Some(failure));
        }
        let restarted = [before, self.places()];
        self.cluster
            .past
            .with(|past| past.restarted = Some(restarted));
        self.cluster.ask_of_pools(&mut self.world)?;
        self.cluster.read_ledgers(&mut self.world).await?;
        Ok(self.check(When::Ended))
    }

    /// Rests until nothing happens any more and everything is as it should be.
    async fn settle(&mut self) -> anyhow::Result<Option<Failure>> {
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
        self.cluster.past.with(|past| past.idle = Some(idle));
        Ok(self.check(When::Settled))
    }

    pub(crate) async fn start_servers(&mut self) -> anyhow::Result<()> {
        for server in 0..self.cluster.server_count {
            self.cluster.start_server(server).await?;
        }
        Ok(())
    }

    fn places(&self) -> BTreeMap<model::WorkloadId, Place> {
        let workloads = self.world.workloads.values();
        workloads.map(|it| (it.id.clone(), Place::of(it))).collect()
    }
}
