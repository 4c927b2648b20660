//! What happens in a simulation: made from the seed before anything runs, so that steps can be left out.

mod maker;
mod setting;

use agent::fake::Op;
use model::{HostLoss, RestartPolicy, Slice};

pub use setting::{Machine, Setting};

use maker::Maker;

/// Whether a task of this command ends or fails by itself.
#[must_use]
pub fn ends_by_itself(words: &[String]) -> bool {
    !matches!(
        words.first().map(String::as_str),
        Some("server" | "stubborn")
    )
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A workload is made.
    Create(Creation),
    /// A verb on the workload in a slot.
    Verb {
        /// Slot.
        slot: usize,
        /// Verb.
        verb: Verb,
    },
    /// An image is pulled into a pool.
    Pull {
        /// Pool number.
        pool: usize,
        /// Image number.
        image: usize,
    },
    /// An image is loaded into a pool.
    Load {
        /// Pool number.
        pool: usize,
        /// Image number.
        image: usize,
    },
    /// An image is removed from a pool.
    ImageRemove {
        /// Pool number.
        pool: usize,
        /// Image number.
        image: usize,
    },
    /// An operator's word on a host.
    Host {
        /// Host number.
        host: usize,
        /// Which.
        verb: HostVerb,
    },
    /// A pool is changed.
    Pool {
        /// Pool number.
        pool: usize,
        /// How.
        change: PoolChange,
    },
    /// What holds for the whole installation is changed.
    Installation {
        /// After how many seconds a host is lost.
        host_loss_seconds: u32,
        /// Overcommit of memory, in thousandths.
        memory_overcommit: u32,
    },
    /// Something breaks.
    Fault(Fault),
}

/// A workload to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// Slot that later steps name it by.
    pub slot: usize,
    /// Pool number.
    pub pool: usize,
    /// Image number.
    pub image: usize,
    /// Its command.
    pub command: &'static str,
    /// Its restart policy.
    pub restart: RestartPolicy,
    /// Removed when it ends.
    pub auto_remove: bool,
    /// Whether it is started at once.
    pub start: Start,
    /// What it asks for.
    pub needs: Needs,
}

/// Whether and how a new workload is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Not at once.
    No,
    /// At once, or not at all.
    Now,
    /// At once, or when there is room.
    Queued,
}

/// What a workload asks for; `None`: what its pool says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// CPU in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// What becomes of it without its host.
    pub on_host_loss: Option<HostLoss>,
    /// Its priority in its pool.
    pub priority: Option<i32>,
    /// Whether it is one of several that are alike.
    pub alike: bool,
}

/// What operators say of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostVerb {
    /// It takes no new work, or does again; that ends maintenance.
    Cordon {
        /// Which.
        cordoned: bool,
    },
    /// Maintenance begins.
    Drain {
        /// Whether what cannot move is stopped.
        stop_rest: bool,
    },
    /// It is removed.
    Remove {
        /// Also if something is on it.
        force: bool,
    },
    /// Once it is removed, its machine joins again, as another host.
    Rejoin {
        /// Whether what is on it stays; else it is empty.
        kept: bool,
    },
}

/// How a pool is changed.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolChange {
    /// What it may use.
    Slice(Box<Slice>),
    /// The pool it is a slice of.
    Parent(Option<usize>),
}

/// What users do with a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verb {
    /// Start.
    Start {
        /// Whether it waits when there is no room.
        queue: bool,
    },
    /// Stop with this grace.
    Stop {
        /// Seconds.
        grace: u32,
    },
    /// Signal.
    Kill {
        /// Number.
        signal: i32,
    },
    /// Stop and start.
    Restart,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Another name, made from this number: sometimes a taken one.
    Rename {
        /// Number.
        number: u64,
    },
    /// Another restart policy and memory limit.
    Update {
        /// Policy.
        restart: RestartPolicy,
        /// Memory limit in MiB.
        memory_mib: u64,
    },
    /// Remove.
    Remove {
        /// Also if it runs.
        force: bool,
    },
    /// Wait until it does not run.
    Wait,
    /// Wait for its next end.
    WaitNext,
    /// Run a further process.
    Exec,
    /// Read its output.
    Logs,
}

/// What breaks.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A link is cut; `unnoticed`: the server believes in it for a while, so that the host comes twice.
    Cut {
        /// Host number.
        host: usize,
        /// Whether the server does not notice.
        unnoticed: bool,
    },
    /// A host cannot reach servers for so long.
    Partition {
        /// Host number.
        host: usize,
        /// Only this server; `None`: none of them.
        server: Option<usize>,
        /// Whether the servers do not notice for a while.
        unnoticed: bool,
        /// Milliseconds.
        millis: u64,
    },
    /// Messages of a host are lost for so long, until its links break.
    Hole {
        /// Host number.
        host: usize,
        /// Those it sends.
        up: bool,
        /// Those it should get.
        down: bool,
        /// Milliseconds.
        millis: u64,
    },
    /// So many messages from and to a host come twice.
    Twice {
        /// Host number.
        host: usize,
        /// How many.
        count: u64,
    },
    /// Messages of a host take so long from now on, each way.
    Latency {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// Drivers of a host take so long from now on.
    Slow {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// The agent is killed and comes back after so long.
    Agent {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// The machine loses power and comes back after so long.
    Power {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// The machine dies and comes back after so long, with nothing on it.
    Wipe {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// The agent is ended and begins anew on a machine that has become larger or smaller.
    Resize {
        /// Host number.
        host: usize,
        /// What it has then.
        machine: Machine,
    },
    /// A server is killed and comes back after so long.
    Server {
        /// Server number.
        server: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// The next operation of a driver fails; `full`: for lack of room.
    Fail {
        /// Host number.
        host: usize,
        /// Operation.
        op: Op,
        /// Whether the disk is full.
        full: bool,
    },
    /// The next operation of a driver never comes back.
    Hang {
        /// Host number.
        host: usize,
        /// Operation.
        op: Op,
    },
    /// A task ends by itself.
    End {
        /// Slot.
        slot: usize,
        /// Exit code; 137: memory ran out.
        code: i32,
    },
    /// From now on a workload works with so much of what it asked for.
    Appetite {
        /// Slot.
        slot: usize,
        /// In percent.
        percent: u64,
    },
    /// Commits of a server are made but not answered.
    LostAnswers {
        /// Server number.
        server: usize,
        /// How many.
        count: u64,
    },
    /// Commits of a server find the disk full.
    StoreFull {
        /// Server number.
        server: usize,
        /// How many.
        count: u64,
    },
    /// Commits of a server take so long from now on.
    StoreSlow {
        /// Server number.
        server: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// A server sees what others commit so much later from now on.
    StoreLag {
        /// Server number.
        server: usize,
        /// Milliseconds.
        millis: u64,
    },
    /// A server cannot reach the store for so long.
    StoreCut {
        /// Server number.
        server: usize,
        /// Milliseconds.
        millis: u64,
    },
}

/// An action after a pause.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Number in the whole script.
    pub number: usize,
    /// Milliseconds after the step before.
    pub after_ms: u64,
    /// What.
    pub action: Action,
}

/// Everything that happens in one simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// What it begins with.
    pub setting: Setting,
    /// In order.
    pub steps: Vec<Step>,
}

/// How large a simulation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Hosts.
    pub hosts: usize,
    /// Steps.
    pub steps: usize,
}

/// Servers there may be at most.
pub const SERVERS: usize = 2;
/// Pools of every simulation.
pub const POOLS: usize = 5;
/// Images of every simulation; the last is never imported at the beginning.
pub const IMAGES: usize = 3;

impl Script {
    /// The script of a seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let setting = Setting::new(seed, size);
        let mut maker = Maker::new(seed, size, &setting);
        let steps = (0..size.steps)
            .map(|number| {
                let after_ms = maker.pause();
                let action = maker.action();
                Step {
                    number,
                    after_ms,
                    action,
                }
            })
            .collect();
        Self { setting, steps }
    }

    /// Only the steps with these numbers; pauses of the others stay.
    #[must_use]
    pub fn only(&self, numbers: &[usize]) -> Self {
        let mut waited = 0;
        let mut steps = Vec::new();
        for step in &self.steps {
            waited += step.after_ms;
            if numbers.contains(&step.number) {
                steps.push(Step {
                    after_ms: std::mem::take(&mut waited),
                    ..step.clone()
                });
            }
        }
        Self {
            setting: self.setting.clone(),
            steps,
        }
    }
}
