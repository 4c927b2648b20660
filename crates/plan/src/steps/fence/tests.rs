//! What lives by a lease: cases, and that it never outlives it.

use model::workload::TaskSpec;
use model::{Phase, RestartPolicy, Timestamp};
use proptest::prelude::*;

use super::super::tests::{NOW, STOPPED, World, want, with_policy, with_run};
use super::super::{SIGKILL, Step};
use super::*;

const FENCE: u32 = 7_500;

/// What may run on one host only, with 10 s between signal and kill if there is time for it.
fn fenced(desired: DesiredState) -> HostWorkload {
    HostWorkload {
        fence_ms: Some(FENCE),
        ..want(desired, 1)
    }
}

fn with_task(mut want: HostWorkload, edit: impl FnOnce(&mut TaskSpec)) -> HostWorkload {
    edit(&mut want.spec.task);
    want
}

/// One that runs.
fn running(want: &HostWorkload) -> World {
    let mut world = World::default();
    settle(&mut world, want);
    assert_eq!(world.starts, [(1, 0)]);
    world
}

fn settle(world: &mut World, want: &HostWorkload) {
    let mut now = NOW;
    world.settle(want, &mut now);
}

/// Asks and does what is to be done; gives the steps and what is reported.
fn step(world: &mut World, want: &HostWorkload, now: Timestamp) -> (Vec<Step>, model::TaskStatus) {
    let plan = world.plan(want, now);
    let steps: Vec<Step> = plan.steps.into_iter().map(|it| it.step).collect();
    for step in &steps {
        world.apply(want, step, now);
    }
    (steps, plan.status.expect("something of it is there"))
}

fn later(ms: u64) -> Timestamp {
    NOW.plus_millis(i64::try_from(ms).unwrap())
}

#[test]
fn what_may_run_anywhere_does_not_care_whether_a_server_is_heard() {
    let free = want(DesiredState::Running, 1);
    let mut world = running(&free);
    world.heard = Heard::Ago(1_000_000);
    let plan = world.plan(&free, NOW);
    assert_eq!((plan.steps, plan.fence_in_ms), (Vec::new(), None));
    let mut world = World {
        heard: Heard::NotYet(1_000_000),
        ..World::default()
    };
    settle(&mut world, &free);
    assert_eq!(world.starts, [(1, 0)]);
}

#[test]
fn without_a_word_it_is_asked_to_stop_then_killed_and_goes_on_when_a_server_is_heard() {
    let once = fenced(DesiredState::Running);
    let mut world = running(&once);
    world.stubborn = true;
    world.heard = Heard::Ago(4_000);
    let plan = world.plan(&once, later(4_000));
    assert_eq!(plan.steps, []);
    assert_eq!(plan.fence_in_ms, Some(500));
    world.heard = Heard::Ago(4_500);
    let (steps, status) = step(&mut world, &once, later(4_500));
    assert_eq!(steps, [Step::Signal { signal: 15 }]);
    assert_eq!(status.phase, Phase::Running);
    let plan = world.plan(&once, later(4_500));
    assert_eq!((plan.steps, plan.fence_in_ms), (Vec::new(), Some(1_875)));
    world.heard = Heard::Ago(6_375);
    let (steps, _) = step(&mut world, &once, later(6_375));
    assert_eq!(steps, [Step::Kill]);
    // It never runs by policy, and yet it is to come back: until then it says what it waits for.
    for ms in [6_400, 7_500, 100_000] {
        world.heard = Heard::Ago(ms);
        let (steps, status) = step(&mut world, &once, later(ms));
        assert_eq!(steps, []);
        assert_eq!(status.phase, Phase::Restarting);
        assert_eq!((status.run, status.restart_count), (1, 1));
        assert_eq!(
            status.error,
            "stopped: no server was heard for 5 s, and it may run on one host only"
        );
    }
    world.heard = Heard::Ago(20);
    let (steps, _) = step(&mut world, &once, later(100_020));
    assert!(steps.ends_with(&[Step::Start { attempt: 1 }]), "{steps:?}");
    let (steps, status) = step(&mut world, &once, later(100_020));
    assert_eq!((steps, status.phase), (Vec::new(), Phase::Running));
    assert_eq!(status.error, "");
    assert_eq!(world.starts, [(1, 0), (1, 1)]);
}

#[test]
fn how_it_is_stopped_depends_on_how_long_it_may_take() {
    // Grace in seconds, then the age at which the signal goes out; `None`: it is killed without one.
    let cases = [
        (None, Some(4_500)),
        (Some(600), Some(4_500)),
        (Some(1), Some(5_375)),
        (Some(0), None),
    ];
    for (grace, signalled) in cases {
        let want = with_task(fenced(DesiredState::Running), |task| {
            task.stop_grace_seconds = grace;
        });
        let mut world = running(&want);
        world.stubborn = true;
        let mut seen = Vec::new();
        for age in (0..=6_375).step_by(25) {
            world.heard = Heard::Ago(age);
            let (steps, _) = step(&mut world, &want, later(age));
            seen.extend(steps.into_iter().map(|step| (age, step)));
        }
        let mut expected = Vec::new();
        expected.extend(signalled.map(|age| (age, Step::Signal { signal: 15 })));
        expected.push((6_375, Step::Kill));
        assert_eq!(seen, expected, "grace {grace:?}");
    }
}

#[test]
fn a_stop_signal_of_its_own_is_used_and_a_frozen_task_is_thawed() {
    let want = with_task(fenced(DesiredState::Paused), |task| {
        task.stop_signal = Some(3);
    });
    let mut world = running(&want);
    assert_eq!(world.task.as_ref().unwrap().phase, Phase::Paused);
    world.stubborn = true;
    world.heard = Heard::Ago(5_000);
    let (steps, _) = step(&mut world, &want, NOW);
    assert_eq!(steps, [Step::Signal { signal: 3 }, Step::Resume]);
    // It is not frozen again while it is to end.
    assert_eq!(step(&mut world, &want, NOW).0, []);
    let want = with_task(want, |task| task.stop_signal = Some(SIGKILL));
    let mut world = running(&want);
    world.heard = Heard::Ago(5_000);
    assert_eq!(step(&mut world, &want, NOW).0, [Step::Kill]);
}

#[test]
fn one_that_ended_after_its_signal_comes_back_whatever_its_code_and_policy() {
    for policy in [
        RestartPolicy::No,
        RestartPolicy::OnFailure { max_retries: 1 },
        RestartPolicy::Always,
    ] {
        let want = with_policy(fenced(DesiredState::Running), policy);
        let mut world = running(&want);
        world.heard = Heard::Ago(5_000);
        // The exit is seen before the agent hears how sending the signal went.
        let plan = world.plan(&want, later(5_000));
        assert_eq!(plan.steps.len(), 1);
        world.end(0, later(5_010));
        // And the lease is back by then.
        world.heard = Heard::Ago(10);
        let (steps, status) = step(&mut world, &want, later(5_010));
        assert!(steps.ends_with(&[Step::Start { attempt: 1 }]), "{steps:?}");
        assert!(status.error.starts_with("stopped: no server"), "{status:?}");
        settle(&mut world, &want);
        assert_eq!(world.starts, [(1, 0), (1, 1)], "{policy:?}");
    }
}

#[test]
fn a_signal_that_had_no_effect_is_forgotten_after_a_while() {
    let want = with_task(fenced(DesiredState::Running), |task| {
        task.stop_grace_seconds = Some(10);
    });
    let mut world = running(&want);
    world.stubborn = true;
    world.heard = Heard::Ago(5_000);
    step(&mut world, &want, later(5_000));
    world.heard = Heard::Ago(0);
    for ms in [6_000, 25_000] {
        assert_eq!(step(&mut world, &want, later(ms)).0, []);
    }
    world.end(0, later(30_000));
    let (steps, status) = step(&mut world, &want, later(30_000));
    // It ended by itself, and nothing says that it is to run again.
    assert_eq!((steps, status.phase), (vec![Step::Detach], Phase::Exited));
}

#[test]
fn what_waits_by_policy_or_was_never_started_waits_for_the_lease_too() {
    let want = with_policy(fenced(DesiredState::Running), RestartPolicy::Always);
    let mut world = World {
        heard: Heard::NotYet(10),
        ..World::default()
    };
    let (steps, status) = step(&mut world, &want, NOW);
    assert_eq!((steps, status.phase), (Vec::new(), Phase::Pending));
    assert_eq!(status.error, WAITING);
    let mut world = running(&want);
    world.end(1, later(100));
    world.heard = Heard::Ago(5_000);
    for ms in [5_000, 60_000] {
        let (steps, status) = step(&mut world, &want, later(ms));
        assert_eq!((steps, status.phase), (Vec::new(), Phase::Restarting));
        assert_eq!((status.error.as_str(), status.exit_code), (WAITING, 1));
    }
    world.heard = Heard::Ago(100);
    settle(&mut world, &want);
    assert_eq!(world.starts, [(1, 0), (1, 1)]);
}

#[test]
fn after_a_restart_of_the_agent_what_lives_goes_on_for_a_while_and_nothing_is_started() {
    let want = fenced(DesiredState::Running);
    let mut world = running(&want);
    world.heard = Heard::NotYet(100);
    let plan = world.plan(&want, NOW);
    assert_eq!((plan.steps, plan.fence_in_ms), (Vec::new(), Some(4_400)));
    // Its supervisor had less time left, and ends it.
    world.end(137, later(200));
    if let Some(task) = &mut world.task {
        task.fenced = true;
        task.error = "its supervisor says why".to_owned();
    }
    world.heard = Heard::NotYet(200);
    let (steps, status) = step(&mut world, &want, later(200));
    assert_eq!((steps, status.phase), (Vec::new(), Phase::Restarting));
    assert_eq!(status.error, "its supervisor says why");
    world.heard = Heard::Ago(0);
    settle(&mut world, &want);
    assert_eq!(world.starts, [(1, 0), (1, 1)]);
    // A supervisor that knows no leases: then it is the agent that counts.
    let mut world = running(&want);
    world.heard = Heard::NotYet(6_375);
    assert_eq!(step(&mut world, &want, NOW).0, [Step::Kill]);
}

#[test]
fn a_long_stop_ends_with_the_lease_and_stays_stopped() {
    let mut world = running(&fenced(DesiredState::Running));
    world.stubborn = true;
    let stop = fenced(DesiredState::Stopped {
        grace_seconds: None,
        signal: None,
    });
    assert_eq!(
        step(&mut world, &stop, NOW).0,
        [Step::Signal { signal: 15 }]
    );
    world.heard = Heard::Ago(5_000);
    assert_eq!(step(&mut world, &stop, later(5_000)).0, []);
    world.heard = Heard::Ago(6_375);
    assert_eq!(step(&mut world, &stop, later(6_375)).0, [Step::Kill]);
    world.heard = Heard::Ago(0);
    settle(&mut world, &stop);
    let (_, status) = step(&mut world, &stop, later(7_000));
    assert_eq!(status.phase, Phase::Exited);
    assert_eq!(world.starts, [(1, 0)]);
    let gone = fenced(STOPPED);
    assert_eq!(step(&mut world, &gone, later(7_000)).0, []);
}

#[test]
fn an_earlier_run_ends_with_the_lease_and_the_new_one_waits() {
    let first = fenced(DesiredState::Running);
    let mut world = running(&first);
    world.stubborn = true;
    let second = with_run(&first, 2);
    world.heard = Heard::Ago(6_375);
    assert_eq!(step(&mut world, &second, later(6_375)).0, [Step::Kill]);
    assert_eq!(step(&mut world, &second, later(6_400)).0, []);
    assert_eq!(world.starts, [(1, 0)]);
    world.heard = Heard::Ago(0);
    settle(&mut world, &second);
    assert_eq!(world.starts, [(1, 0), (2, 0)]);
}

#[test]
fn the_supervisor_is_last_and_still_in_time() {
    for fence in [6_000, 7_500, 60_000, 64_800_000] {
        let want = HostWorkload {
            fence_ms: Some(fence),
            ..want(DesiredState::Running, 1)
        };
        let until = supervised_until(&want, 1_000_000).unwrap() - 1_000_000;
        let (_, kill) = limits(&want, fence);
        assert!(kill < until && until < u64::from(fence));
        assert!(may_start(&want, Heard::Ago(0)) && !may_start(&want, Heard::NotYet(0)));
    }
    assert_eq!(supervised_until(&want(STOPPED, 1), 7), None);
}

#[derive(Debug, Clone)]
enum Happening {
    /// Time passes, and the newest lease counts from so long before.
    Heard { after: u64, old: u64 },
    /// Time passes.
    Silence { after: u64 },
    /// The agent is started anew, after a time in which only the supervisor watches.
    Restart { after: u64 },
    /// The task ends by itself.
    End(i32),
    /// Something else is wanted.
    Want(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u64..4_000, 0_u64..3_000).prop_map(|(after, old)| Happening::Heard { after, old }),
        2 => (0_u64..12_000).prop_map(|after| Happening::Silence { after }),
        1 => (0_u64..12_000).prop_map(|after| Happening::Restart { after }),
        1 => (0..2).prop_map(Happening::End),
        1 => any::<bool>().prop_map(Happening::Want),
    ]
}

/// A host in time: its agent asks when it was told to, and is late by a little; its supervisors are in time.
struct Host {
    world: World,
    now: u64,
    /// The newest moment from which leases count, as everybody on the host knows together.
    leased_from: u64,
    /// What the agent knows of it.
    heard: Option<u64>,
    agent_began: u64,
    late: u64,
}

impl Host {
    fn know(&mut self) {
        self.world.heard = match self.heard {
            Some(from) => Heard::Ago(self.now - from),
            None => Heard::NotYet(self.now - self.agent_began),
        };
    }

    /// The supervisor ends what has outlived its lease; then nothing may live any more.
    fn supervise(&mut self, want: &HostWorkload) {
        let until = supervised_until(want, self.leased_from).unwrap();
        let alive = |world: &World| world.task.as_ref().is_some_and(|it| it.phase.is_alive());
        if alive(&self.world) && self.now >= until {
            self.world.end(137, later(self.now));
            if let Some(task) = &mut self.world.task {
                task.fenced = true;
            }
        }
        let fence = u64::from(want.fence_ms.unwrap());
        assert!(
            !alive(&self.world) || self.now < self.leased_from + fence,
            "outlived its lease"
        );
    }

    /// Lets time pass; with an agent, it asks and acts meanwhile.
    fn pass(&mut self, want: &HostWorkload, time: u64, agent: bool) {
        let end = self.now + time;
        loop {
            let mut next = end;
            if agent {
                self.know();
                let before = self.world.starts.len();
                let may = may_start(want, self.world.heard);
                let plan = self.world.plan(want, later(self.now));
                for planned in &plan.steps {
                    self.world.apply(want, &planned.step, later(self.now));
                }
                assert!(
                    may || self.world.starts.len() == before,
                    "started without a lease"
                );
                let busy = !plan.steps.is_empty();
                let asks = plan.fence_in_ms.map(|ms| self.now + ms + self.late);
                next = next.min(asks.unwrap_or(end));
                if busy {
                    next = next.min(self.now + self.late);
                }
            }
            let until = supervised_until(want, self.leased_from).unwrap();
            if until > self.now {
                next = next.min(until);
            }
            self.now = next.max(self.now + 1).min(end.max(self.now));
            self.supervise(want);
            if self.now >= end {
                return;
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_outlives_its_lease_and_nothing_starts_without_one(
        happenings in proptest::collection::vec(happening(), 1..40),
        fence in 6_000_u32..20_000,
        grace in prop_oneof![Just(None), (0_u32..20).prop_map(Some)],
        stubborn: bool,
        always: bool,
        late in 1_u64..200,
    ) {
        let make = |desired| {
            let mut want = with_task(fenced(desired), |task| task.stop_grace_seconds = grace);
            want.fence_ms = Some(fence);
            let policy = if always { RestartPolicy::Always } else { RestartPolicy::No };
            with_policy(want, policy)
        };
        let mut want = make(DesiredState::Running);
        let mut host = Host {
            world: World { stubborn, ..World::default() },
            now: 1_000_000,
            leased_from: 0,
            heard: None,
            agent_began: 1_000_000,
            late,
        };
        for happening in happenings {
            match happening {
                Happening::Heard { after, old } => {
                    host.pass(&want, after, true);
                    let from = host.now - old;
                    host.heard = host.heard.max(Some(from));
                    host.leased_from = host.leased_from.max(from);
                    host.pass(&want, 0, true);
                }
                Happening::Silence { after } => host.pass(&want, after, true),
                Happening::Restart { after } => {
                    host.pass(&want, after, false);
                    host.heard = None;
                    host.agent_began = host.now;
                    host.pass(&want, 0, true);
                }
                Happening::End(code) => host.world.end(code, later(host.now)),
                Happening::Want(true) => {
                    want = HostWorkload { run: want.run + 1, ..make(DesiredState::Running) };
                }
                Happening::Want(false) => want = HostWorkload { run: want.run, ..make(STOPPED) },
            }
        }
    }
}
