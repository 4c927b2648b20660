//! Draws the steps of a script.

use agent::fake::Op;
use model::{HostLoss, RestartPolicy};

use super::setting::{Machine, Setting, loss_seconds, slice};
use super::{
    Action, Creation, Fault, HostVerb, IMAGES, Needs, POOLS, PoolChange, Size, Start, Verb,
};
use crate::rng::Rng;

/// Commands of tasks: what the fake host understands, ends of every kind.
const COMMANDS: [&str; 14] = [
    "server",
    "server",
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

/// How often each kind of step comes in a script, in parts of a hundred.
struct Mood {
    creations: u64,
    verbs: u64,
    images: u64,
    hosts: u64,
    pools: u64,
    /// Of the creations, those that ask for much, in percent.
    large: u64,
}

/// What is not named are faults.
const MOODS: [Mood; 4] = [
    Mood {
        creations: 18,
        verbs: 34,
        images: 4,
        hosts: 6,
        pools: 6,
        large: 40,
    },
    Mood {
        creations: 18,
        verbs: 14,
        images: 2,
        hosts: 18,
        pools: 4,
        large: 50,
    },
    Mood {
        creations: 30,
        verbs: 20,
        images: 0,
        hosts: 4,
        pools: 24,
        large: 85,
    },
    Mood {
        creations: 18,
        verbs: 46,
        images: 6,
        hosts: 4,
        pools: 2,
        large: 10,
    },
];

pub(super) struct Maker {
    rng: Rng,
    mood: &'static Mood,
    hosts: usize,
    servers: usize,
    slots: usize,
    most_slots: usize,
}

impl Maker {
    pub(super) fn new(seed: u64, size: Size, setting: &Setting) -> Self {
        let mut rng = Rng::new(seed, "script");
        let mood = &MOODS[rng.index(MOODS.len())];
        Self {
            rng,
            mood,
            hosts: size.hosts,
            servers: setting.servers,
            slots: 0,
            most_slots: 6 + size.steps / 6,
        }
    }

    /// Milliseconds before the next step.
    pub(super) fn pause(&mut self) -> u64 {
        let long = self.rng.percent(12);
        self.rng.below(if long { 25_000 } else { 700 })
    }

    pub(super) fn action(&mut self) -> Action {
        if self.slots == 0 {
            return self.create();
        }
        let mut at = self.rng.below(100);
        let mut is = |often: u64| {
            let hit = at < often;
            at = at.saturating_sub(often);
            hit
        };
        let mood = self.mood;
        if is(mood.creations) {
            self.create()
        } else if is(mood.verbs) {
            Action::Verb {
                slot: self.rng.index(self.slots),
                verb: self.verb(),
            }
        } else if is(mood.images) {
            self.image()
        } else if is(mood.hosts) {
            Action::Host {
                host: self.rng.index(self.hosts),
                verb: self.host_verb(),
            }
        } else if is(mood.pools) {
            self.pool()
        } else {
            Action::Fault(self.fault())
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
        let start = match self.rng.below(10) {
            0 => Start::No,
            1..=3 => Start::Queued,
            _ => Start::Now,
        };
        Action::Create(Creation {
            slot,
            pool: self.rng.index(POOLS),
            image: self.rng.index(IMAGES),
            command: self.rng.pick(&COMMANDS).copied().unwrap_or("server"),
            auto_remove: restart == RestartPolicy::No && self.rng.percent(20),
            restart,
            start,
            needs: self.needs(),
        })
    }

    fn needs(&mut self) -> Needs {
        let large = self.rng.percent(self.mood.large);
        let loss = match self.rng.below(10) {
            0 => Some(HostLoss::Restart),
            1 => Some(HostLoss::Keep),
            2 => Some(HostLoss::AtMostOne),
            _ => None,
        };
        Needs {
            cpu_millis: large.then(|| 10 + self.rng.below(1500)),
            memory_mib: large.then(|| 256 * (1 + self.rng.below(14))),
            on_host_loss: loss,
            priority: self.rng.percent(20).then_some(5),
            alike: self.rng.percent(25),
        }
    }

    fn policy(&mut self) -> RestartPolicy {
        match self.rng.below(7) {
            0..=1 => RestartPolicy::No,
            2..=4 => RestartPolicy::Always,
            5 => RestartPolicy::UnlessStopped,
            _ => RestartPolicy::OnFailure {
                max_retries: u32::try_from(self.rng.below(4)).unwrap_or(0),
            },
        }
    }

    fn verb(&mut self) -> Verb {
        match self.rng.below(22) {
            0..=4 => Verb::Start {
                queue: self.rng.percent(30),
            },
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
                memory_mib: [64, 512, 2048][self.rng.index(3)],
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

    fn host_verb(&mut self) -> HostVerb {
        match self.rng.below(12) {
            0 | 1 => HostVerb::Cordon { cordoned: true },
            2..=4 => HostVerb::Cordon { cordoned: false },
            5..=7 => HostVerb::Drain {
                stop_rest: self.rng.percent(50),
            },
            8 => HostVerb::Remove {
                force: self.rng.percent(50),
            },
            _ => HostVerb::Rejoin {
                kept: self.rng.percent(50),
            },
        }
    }

    fn pool(&mut self) -> Action {
        if self.rng.percent(10) {
            return Action::Installation {
                host_loss_seconds: loss_seconds(&mut self.rng),
                memory_overcommit: [1000, 1000, 1500][self.rng.index(3)],
            };
        }
        let change = if self.rng.percent(15) {
            let above = self.rng.index(POOLS + 1);
            PoolChange::Parent((above < POOLS).then_some(above))
        } else {
            PoolChange::Slice(Box::new(slice(&mut self.rng)))
        };
        Action::Pool {
            pool: self.rng.index(POOLS),
            change,
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
        match self.rng.below(24) {
            0..=5 => self.link_fault(host),
            6 => Fault::Latency {
                host,
                millis: [0, 5, 200, 1500][self.rng.index(4)],
            },
            7 => Fault::Slow {
                host,
                millis: [0, 10, 300, 2000][self.rng.index(4)],
            },
            8..=12 => self.machine_fault(host),
            13 | 14 => Fault::Fail {
                host,
                op: self.operation(),
                full: self.rng.percent(40),
            },
            15 => Fault::Hang {
                host,
                op: self.operation(),
            },
            16 | 17 => Fault::End {
                slot: self.rng.index(self.slots),
                code: [0, 1, 137][self.rng.index(3)],
            },
            18 => Fault::Appetite {
                slot: self.rng.index(self.slots),
                percent: [20, 100, 300, 1000][self.rng.index(4)],
            },
            _ => self.server_fault(),
        }
    }

    fn link_fault(&mut self, host: usize) -> Fault {
        match self.rng.below(7) {
            0 | 1 => Fault::Cut {
                host,
                unnoticed: self.rng.percent(50),
            },
            2..=4 => Fault::Partition {
                host,
                server: (self.servers > 1 && self.rng.percent(30))
                    .then(|| self.rng.index(self.servers)),
                unnoticed: self.rng.percent(50),
                millis: if self.rng.percent(50) {
                    500 + self.rng.below(8_000)
                } else {
                    9_000 + self.rng.below(70_000)
                },
            },
            5 => {
                let way = self.rng.below(3);
                Fault::Hole {
                    host,
                    up: way != 1,
                    down: way != 0,
                    millis: 100 + self.rng.below(7_000),
                }
            }
            _ => Fault::Twice {
                host,
                count: 1 + self.rng.below(8),
            },
        }
    }

    fn machine_fault(&mut self, host: usize) -> Fault {
        let away = |rng: &mut Rng| {
            let long = rng.percent(40);
            1_000 + rng.below(if long { 60_000 } else { 9_000 })
        };
        match self.rng.below(10) {
            0..=3 => Fault::Agent {
                host,
                millis: if self.rng.percent(20) {
                    self.rng.below(40_000)
                } else {
                    self.rng.below(5_000)
                },
            },
            4..=6 => Fault::Power {
                host,
                millis: away(&mut self.rng),
            },
            7 => Fault::Wipe {
                host,
                millis: away(&mut self.rng),
            },
            _ => Fault::Resize {
                host,
                machine: Machine::any(&mut self.rng),
            },
        }
    }

    fn server_fault(&mut self) -> Fault {
        let server = self.rng.index(self.servers);
        match self.rng.below(8) {
            0..=2 => Fault::Server {
                server,
                millis: self
                    .rng
                    .below(if self.servers > 1 { 60_000 } else { 8_000 }),
            },
            3 => Fault::LostAnswers {
                server,
                count: 1 + self.rng.below(3),
            },
            4 => Fault::StoreFull {
                server,
                count: 1 + self.rng.below(3),
            },
            5 => Fault::StoreSlow {
                server,
                millis: [0, 1, 50, 400][self.rng.index(4)],
            },
            6 => Fault::StoreLag {
                server,
                millis: [0, 3, 40, 700][self.rng.index(4)],
            },
            _ => Fault::StoreCut {
                server,
                millis: 200 + self.rng.below(25_000),
            },
        }
    }

    fn operation(&mut self) -> Op {
        const ALL: [Op; 13] = [
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
            Op::Divide,
            Op::DropImage,
        ];
        ALL[self.rng.index(ALL.len())]
    }
}
