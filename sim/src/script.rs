//! What happens in a simulation: made from the seed before anything runs, so that steps can be left out.

use agent::fake::Op;
use model::RestartPolicy;

use crate::rng::Rng;

/// Commands of tasks: what the fake host understands, ends of every kind.
const COMMANDS: [&str; 12] = [
    "server",
    "server",
    "server",
    "true",
    "false",
    "exit 3",
    "sleep 2",
    "sleep 7 1",
    "sleep 30 4",
    "stubborn",
    "missing",
    "echo hello",
];

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
    /// A workload is made in this slot, and started if `start`.
    Create {
        /// Slot that later steps name it by.
        slot: usize,
        /// Pool number.
        pool: usize,
        /// Image number.
        image: usize,
        /// Its command.
        command: &'static str,
        /// Its restart policy.
        restart: RestartPolicy,
        /// Removed when it ends.
        auto_remove: bool,
        /// Started at once.
        start: bool,
    },
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
    /// A host takes no new work, or does again.
    Cordon {
        /// Host number.
        host: usize,
        /// Which.
        cordoned: bool,
    },
    /// Something breaks.
    Fault(Fault),
}

/// What users do with a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verb {
    /// Start.
    Start,
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
    /// A host cannot reach the server for so long.
    Partition {
        /// Host number.
        host: usize,
        /// Milliseconds.
        millis: u64,
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
    /// The server is killed and comes back after so long.
    Server {
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
    /// Commits are made but not answered.
    LostAnswers {
        /// How many.
        count: u64,
    },
    /// Commits find the disk full.
    StoreFull {
        /// How many.
        count: u64,
    },
    /// Commits take so long from now on.
    StoreSlow {
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

/// Pools of every simulation.
pub const POOLS: usize = 2;
/// Images of every simulation; the last is never imported at the beginning.
pub const IMAGES: usize = 3;

impl Script {
    /// The script of a seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let mut maker = Maker {
            rng: Rng::new(seed, "script"),
            hosts: size.hosts,
            slots: 0,
            most_slots: 4 + size.steps / 8,
        };
        let steps = (0..size.steps)
            .map(|number| {
                let long = maker.rng.percent(10);
                let after_ms = maker.rng.below(if long { 20_000 } else { 700 });
                let action = maker.action();
                Step {
                    number,
                    after_ms,
                    action,
                }
            })
            .collect();
        Self { steps }
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
        Self { steps }
    }
}

struct Maker {
    rng: Rng,
    hosts: usize,
    slots: usize,
    most_slots: usize,
}

impl Maker {
    fn action(&mut self) -> Action {
        if self.slots == 0 {
            return self.create();
        }
        match self.rng.below(100) {
            0..=17 => self.create(),
            18..=59 => Action::Verb {
                slot: self.rng.index(self.slots),
                verb: self.verb(),
            },
            60..=63 => self.image(),
            64..=66 => Action::Cordon {
                host: self.rng.index(self.hosts),
                cordoned: self.rng.percent(50),
            },
            _ => Action::Fault(self.fault()),
        }
    }

    fn create(&mut self) -> Action {
        let slot = if self.slots < self.most_slots {
            self.slots += 1;
            self.slots - 1
        } else {
            self.rng.index(self.slots)
        };
        let restart = self.policy();
        Action::Create {
            slot,
            pool: self.rng.index(POOLS),
            image: self.rng.index(IMAGES),
            command: self.rng.pick(&COMMANDS).copied().unwrap_or("server"),
            auto_remove: restart == RestartPolicy::No && self.rng.percent(20),
            restart,
            start: self.rng.percent(80),
        }
    }

    fn policy(&mut self) -> RestartPolicy {
        match self.rng.below(6) {
            0..=2 => RestartPolicy::No,
            3 => RestartPolicy::Always,
            4 => RestartPolicy::UnlessStopped,
            _ => RestartPolicy::OnFailure {
                max_retries: u32::try_from(self.rng.below(4)).unwrap_or(0),
            },
        }
    }

    fn verb(&mut self) -> Verb {
        match self.rng.below(22) {
            0..=4 => Verb::Start,
            5..=7 => Verb::Stop {
                grace: [0, 1, 3, 10][self.rng.index(4)],
            },
            8 | 9 => Verb::Kill {
                signal: [9, 15, 1, 17][self.rng.index(4)],
            },
            10 | 11 => Verb::Restart,
            12 => Verb::Pause,
            13 => Verb::Resume,
            14 => Verb::Rename {
                number: self.rng.below(6),
            },
            15 => Verb::Update {
                restart: self.policy(),
            },
            16 | 17 => Verb::Remove {
                force: self.rng.percent(70),
            },
            18 => Verb::Wait,
            19 => Verb::WaitNext,
            20 => Verb::Exec,
            _ => Verb::Logs,
        }
    }

    fn image(&mut self) -> Action {
        let pool = self.rng.index(POOLS);
        let image = self.rng.index(IMAGES);
        match self.rng.below(4) {
            0 => Action::Pull { pool, image },
            1 => Action::Load { pool, image },
            _ => Action::ImageRemove { pool, image },
        }
    }

    fn fault(&mut self) -> Fault {
        let host = self.rng.index(self.hosts);
        match self.rng.below(20) {
            0 | 1 => Fault::Cut {
                host,
                unnoticed: self.rng.percent(50),
            },
            2 | 3 => Fault::Partition {
                host,
                millis: 500 + self.rng.below(30_000),
            },
            4 | 5 => Fault::Latency {
                host,
                millis: [0, 5, 200, 1500][self.rng.index(4)],
            },
            6 | 7 => Fault::Slow {
                host,
                millis: [0, 10, 300, 2000][self.rng.index(4)],
            },
            8..=10 => Fault::Agent {
                host,
                millis: self.rng.below(5_000),
            },
            11 => Fault::Power {
                host,
                millis: 1_000 + self.rng.below(20_000),
            },
            12 | 13 => Fault::Server {
                millis: self.rng.below(8_000),
            },
            14 | 15 => Fault::Fail {
                host,
                op: self.operation(),
                full: self.rng.percent(40),
            },
            16 => Fault::Hang {
                host,
                op: self.operation(),
            },
            17 | 18 => Fault::End {
                slot: self.rng.index(self.slots),
                code: [0, 1, 137][self.rng.index(3)],
            },
            _ => match self.rng.below(3) {
                0 => Fault::LostAnswers {
                    count: 1 + self.rng.below(3),
                },
                1 => Fault::StoreFull {
                    count: 1 + self.rng.below(3),
                },
                _ => Fault::StoreSlow {
                    millis: [0, 1, 50, 400][self.rng.index(4)],
                },
            },
        }
    }

    fn operation(&mut self) -> Op {
        const ALL: [Op; 12] = [
            Op::Ensure,
            Op::Prepare,
            Op::Attach,
            Op::Start,
            Op::Signal,
            Op::Kill,
            Op::Pause,
            Op::Resume,
            Op::Update,
            Op::Detach,
            Op::Remove,
            Op::DropImage,
        ];
        ALL[self.rng.index(ALL.len())]
    }
}
