//! Cases as data, and the properties every sequence must have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::workload::Resources;
use model::{
    DesiredState, HostDesired, HostWorkload, Image, ImageId, Phase, PoolId, RestartPolicy,
    TaskStatus, Timestamp, WorkloadId,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

pub(super) const NOW: Timestamp = Timestamp(1_000_000);

/// As with a server that is heard all the time.
fn plan(want: &HostWorkload, seen: Seen<'_>, memory: &Memory, now: Timestamp) -> Plan {
    super::plan(want, seen, memory, now, Heard::Ago(0))
}

pub(super) fn want(desired: DesiredState, run: u64) -> HostWorkload {
    serde_json::from_value(json!({
        "id": WorkloadId::from_bytes(&[1; 32]),
        "pool": model::PoolId::from_bytes(&[1; 32]),
        "pool_name": "team",
        "name": "web",
        "spec": { "task": { "image": "web", "image_id": format!("sha256:{}", "a".repeat(64)) } },
        "image": {
            "id": format!("sha256:{}", "a".repeat(64)),
            "pool": model::PoolId::from_bytes(&[1; 32]),
            "content": {
                "config": format!("sha256:{}", "a".repeat(64)),
                "config_bytes": 10,
                "layers": [],
            },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
            "added_at": 0,
        },
        "desired": desired,
        "run": run,
    }))
    .unwrap()
}

pub(super) fn with_run(want: &HostWorkload, run: u64) -> HostWorkload {
    HostWorkload {
        run,
        ..want.clone()
    }
}

pub(super) fn with_policy(mut want: HostWorkload, restart: RestartPolicy) -> HostWorkload {
    want.spec.restart = restart;
    want
}

pub(super) const STOPPED: DesiredState = DesiredState::Stopped {
    grace_seconds: Some(10),
    signal: None,
};

fn stopped(grace_seconds: Option<u32>, signal: Option<i32>) -> DesiredState {
    DesiredState::Stopped {
        grace_seconds,
        signal,
    }
}

fn task(phase: Phase, run: u64, attempt: u32) -> TaskStatus {
    TaskStatus {
        phase,
        run,
        restart_count: attempt,
        started_at: Some(NOW),
        finished_at: (phase == Phase::Exited).then_some(NOW),
        ..TaskStatus::default()
    }
}

fn exited(run: u64, attempt: u32, exit_code: i32) -> TaskStatus {
    TaskStatus {
        exit_code,
        ..task(Phase::Exited, run, attempt)
    }
}

fn known(run: u64, attempt: u32) -> Memory {
    Memory {
        run,
        attempt,
        begun: true,
        limits: Some(Box::default()),
        ..Memory::default()
    }
}

/// A host in miniature: applies steps as a runtime and network would.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) task: Option<TaskStatus>,
    pub(super) network: Option<NetworkStatus>,
    pub(super) memory: Memory,
    pub(super) starts: Vec<(u64, u32)>,
    pub(super) stubborn: bool,
    pub(super) limits: Option<Resources>,
    pub(super) heard: Heard,
}

impl Default for World {
    fn default() -> Self {
        Self {
            task: None,
            network: None,
            memory: Memory::default(),
            starts: Vec::new(),
            stubborn: false,
            limits: None,
            heard: Heard::Ago(0),
        }
    }
}

impl World {
    pub(super) fn plan(&mut self, want: &HostWorkload, now: Timestamp) -> Plan {
        let seen = Seen {
            task: self.task.as_ref(),
            network: self.network.as_ref(),
            ..Seen::default()
        };
        let plan = super::plan(want, seen, &self.memory, now, self.heard);
        self.memory = plan.memory.clone();
        plan
    }

    pub(super) fn end(&mut self, exit_code: i32, now: Timestamp) {
        if let Some(task) = &mut self.task
            && task.phase.is_alive()
        {
            task.phase = Phase::Exited;
            task.exit_code = exit_code;
            task.finished_at = Some(now);
        }
    }

    pub(super) fn apply(&mut self, want: &HostWorkload, step: &Step, now: Timestamp) {
        let run = self.memory.run;
        match step {
            Step::EnsureImage => {}
            Step::Prepare { attempt } => {
                assert!(!self.task.as_ref().is_some_and(|t| t.phase.is_alive()));
                self.task = Some(task(Phase::Preparing, run, *attempt));
            }
            Step::Attach => self.network = Some(NetworkStatus::default()),
            Step::Start { attempt } => {
                assert!(self.network.is_some());
                assert!(!self.starts.contains(&(run, *attempt)), "begun twice");
                self.starts.push((run, *attempt));
                self.limits = Some(want.spec.task.resources.clone());
                self.task = Some(TaskStatus {
                    started_at: Some(now),
                    ..task(Phase::Running, run, *attempt)
                });
            }
            Step::Signal { signal } => {
                if !self.stubborn {
                    self.end(128 + signal, now);
                }
            }
            Step::Kill => {
                if self
                    .task
                    .as_ref()
                    .is_some_and(|t| t.phase == Phase::Preparing)
                {
                    self.task = None;
                }
                self.end(137, now);
            }
            Step::Pause => self.freeze(Phase::Paused),
            Step::Resume => self.freeze(Phase::Running),
            Step::Update { resources } => self.limits = Some((**resources).clone()),
            Step::Detach => self.network = None,
            Step::Remove => self.task = None,
        }
        self.memory.record(want, step, Ok(()), now);
    }

    fn freeze(&mut self, phase: Phase) {
        if let Some(task) = &mut self.task
            && task.phase.is_alive()
        {
            task.phase = phase;
        }
    }

    /// Plans and applies until nothing is to be done; gives the last report.
    pub(super) fn settle(&mut self, want: &HostWorkload, now: &mut Timestamp) -> Plan {
        for _ in 0..100 {
            let plan = self.plan(want, *now);
            if plan.steps.is_empty() {
                match plan.wake_at {
                    Some(at) => {
                        assert!(at > *now, "a wake in the past would spin");
                        *now = at;
                        continue;
                    }
                    None => return plan,
                }
            }
            for planned in &plan.steps {
                self.apply(want, &planned.step, *now);
            }
        }
        panic!("does not settle: {self:?}");
    }
}

fn steps_of(want: &HostWorkload, seen: Seen<'_>, memory: &Memory) -> Vec<Step> {
    let plan = plan(want, seen, memory, NOW);
    plan.steps.into_iter().map(|p| p.step).collect()
}

fn start_steps(attempt: u32) -> Vec<Step> {
    vec![
        Step::EnsureImage,
        Step::Prepare { attempt },
        Step::Attach,
        Step::Start { attempt },
    ]
}

#[test]
#[expect(
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a table of cases"
)]
fn what_is_done_follows_from_wanted_and_seen() {
    let network = NetworkStatus::default();
    let running = task(Phase::Running, 1, 0);
    let paused = task(Phase::Paused, 1, 0);
    let prepared = task(Phase::Preparing, 1, 0);
    let ended = exited(1, 0, 0);
    let term = || vec![Step::Signal { signal: 15 }];
    let cases: Vec<(&str, DesiredState, u64, Option<&TaskStatus>, Vec<Step>)> = vec![
        ("never started", DesiredState::Created, 0, None, vec![]),
        (
            "first start",
            DesiredState::Running,
            1,
            None,
            start_steps(0),
        ),
        (
            "half prepared",
            DesiredState::Running,
            1,
            Some(&prepared),
            start_steps(0),
        ),
        ("runs", DesiredState::Running, 1, Some(&running), vec![]),
        (
            "thaw",
            DesiredState::Running,
            1,
            Some(&paused),
            vec![Step::Resume],
        ),
        (
            "freeze",
            DesiredState::Paused,
            1,
            Some(&running),
            vec![Step::Pause],
        ),
        ("frozen", DesiredState::Paused, 1, Some(&paused), vec![]),
        (
            "newer run",
            DesiredState::Running,
            2,
            Some(&running),
            term(),
        ),
        (
            "next run",
            DesiredState::Running,
            2,
            Some(&ended),
            start_steps(0),
        ),
        (
            "over",
            DesiredState::Running,
            1,
            Some(&ended),
            vec![Step::Detach],
        ),
        ("stop", STOPPED, 1, Some(&running), term()),
        (
            "stop frozen",
            STOPPED,
            1,
            Some(&paused),
            vec![Step::Signal { signal: 15 }, Step::Resume],
        ),
        (
            "stop by INT",
            stopped(None, Some(2)),
            1,
            Some(&running),
            vec![Step::Signal { signal: 2 }],
        ),
        (
            "kill",
            stopped(Some(5), Some(9)),
            1,
            Some(&running),
            vec![Step::Kill],
        ),
        (
            "no grace",
            stopped(Some(0), None),
            1,
            Some(&running),
            vec![Step::Kill],
        ),
        (
            "stop prepared",
            STOPPED,
            1,
            Some(&prepared),
            vec![Step::Kill],
        ),
        ("stopped", STOPPED, 1, Some(&ended), vec![Step::Detach]),
        (
            "remove running",
            DesiredState::Removed,
            1,
            Some(&running),
            vec![Step::Kill],
        ),
        (
            "remove",
            DesiredState::Removed,
            1,
            Some(&ended),
            vec![Step::Detach, Step::Remove],
        ),
        (
            "remove nothing",
            DesiredState::Removed,
            1,
            None,
            vec![Step::Detach, Step::Remove],
        ),
    ];
    for (name, desired, run, seen, expected) in cases {
        let attached = seen.is_some();
        let memory = if seen.is_some_and(|t| t.phase != Phase::Preparing) {
            known(1, 0)
        } else {
            Memory::default()
        };
        let seen = Seen {
            task: seen,
            network: (attached).then_some(&network),
            ..Seen::default()
        };
        assert_eq!(
            steps_of(&want(desired, run), seen, &memory),
            expected,
            "{name}"
        );
    }
}

#[test]
fn the_restart_policy_decides_after_an_end() {
    use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
    let cases = [
        (No, 0, 1, false),
        (No, 0, 0, false),
        (Always, 0, 0, true),
        (Always, 50, 1, true),
        (UnlessStopped, 3, 0, true),
        (OnFailure { max_retries: 0 }, 99, 1, true),
        (OnFailure { max_retries: 0 }, 0, 0, false),
        (OnFailure { max_retries: 3 }, 2, 1, true),
        (OnFailure { max_retries: 3 }, 3, 1, false),
    ];
    for (policy, attempt, exit_code, again) in cases {
        let want = with_policy(want(DesiredState::Running, 1), policy);
        let ended = exited(1, attempt, exit_code);
        let seen = Seen {
            task: Some(&ended),
            network: None,
            ..Seen::default()
        };
        let plan = plan(&want, seen, &known(1, attempt), NOW);
        let status = plan.status.unwrap();
        assert_eq!(
            plan.wake_at.is_some(),
            again,
            "{policy:?} {attempt} {exit_code}"
        );
        let phase = if again {
            Phase::Restarting
        } else {
            Phase::Exited
        };
        assert_eq!(status.phase, phase);
        assert_eq!(status.exit_code, exit_code);
        assert_eq!(status.restart_count, attempt + u32::from(again));
    }
}

#[test]
fn restarts_wait_longer_each_time_and_a_healthy_run_forgives() {
    let want = with_policy(want(DesiredState::Running, 1), RestartPolicy::Always);
    let mut world = World::default();
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..13 {
        world.settle(&want, &mut now);
        world.end(1, now);
        let plan = world.plan(&want, now);
        waits.push(plan.wake_at.unwrap().millis() - now.millis());
    }
    let doubled: Vec<i64> = (0..13).map(|n| (100_i64 << n).min(60_000)).collect();
    assert_eq!(waits, doubled);
    world.settle(&want, &mut now);
    now = now.plus_millis(10_000);
    world.end(1, now);
    assert_eq!(world.plan(&want, now).wake_at, Some(now.plus_millis(100)));
}

#[test]
fn a_stop_ends_with_a_kill_when_its_time_is_over() {
    let mut world = World {
        stubborn: true,
        ..World::default()
    };
    let mut now = NOW;
    world.settle(&want(DesiredState::Running, 1), &mut now);
    let begun = now;
    let plan = world.settle(&want(STOPPED, 1), &mut now);
    assert_eq!(now, begun.plus_millis(10_000));
    let status = plan.status.unwrap();
    assert_eq!((status.phase, status.exit_code), (Phase::Exited, 137));
    assert!(world.network.is_none());
}

#[test]
fn a_stop_without_end_waits_for_ever_and_a_shorter_one_cuts_it_short() {
    let mut world = World {
        stubborn: true,
        ..World::default()
    };
    let mut now = NOW;
    world.settle(&want(DesiredState::Running, 1), &mut now);
    let patient = want(stopped(None, None), 1);
    let plan = world.settle(&patient, &mut now);
    assert_eq!(
        (plan.wake_at, plan.status.unwrap().phase),
        (None, Phase::Running)
    );
    now = now.plus_millis(3_000);
    let plan = world.plan(&want(stopped(Some(5), None), 1), now);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.wake_at, Some(now.plus_millis(2_000)));
    let plan = world.plan(&want(stopped(Some(2), None), 1), now);
    assert_eq!(plan.steps[0].step, Step::Kill);
}

#[test]
fn a_lost_end_is_found_by_killing_again() {
    let running = task(Phase::Running, 1, 0);
    let seen = Seen {
        task: Some(&running),
        network: None,
        ..Seen::default()
    };
    let want = want(DesiredState::Removed, 1);
    let mut memory = known(1, 0);
    memory.record(&want, &Step::Kill, Ok(()), NOW);
    let waiting = plan(&want, seen, &memory, NOW);
    assert!(waiting.steps.is_empty());
    let at = waiting.wake_at.unwrap();
    let again = plan(&want, seen, &waiting.memory, at);
    assert_eq!(again.steps[0].step, Step::Kill);
}

#[test]
fn restart_stops_the_old_run_first() {
    let mut world = World::default();
    let mut now = NOW;
    world.settle(&want(DesiredState::Running, 1), &mut now);
    let plan = world.settle(&want(DesiredState::Running, 2), &mut now);
    let status = plan.status.unwrap();
    assert_eq!((status.phase, status.run), (Phase::Running, 2));
    assert_eq!(world.starts, [(1, 0), (2, 0)]);
}

#[test]
fn failures_to_start_are_final_or_tried_again() {
    let failure = |message: &str, retry| Failure {
        message: message.to_owned(),
        retry,
    };
    let start = Step::Start { attempt: 0 };
    let not_there = failure("exec: \"x\": executable file not found in $PATH", true);
    let forbidden = failure("exec \"/x\": permission denied", true);
    let taken = failure("port 80 is taken", false);
    let cases = [
        (&start, &not_there, 127),
        (&start, &forbidden, 126),
        (&Step::Attach, &taken, 128),
    ];
    for (step, failure, exit_code) in cases {
        let want = with_policy(want(DesiredState::Running, 1), RestartPolicy::Always);
        let mut memory = plan(&want, Seen::default(), &Memory::default(), NOW).memory;
        memory.record(&want, step, Err(failure), NOW);
        let plan = plan(&want, Seen::default(), &memory, NOW);
        assert!(plan.steps.is_empty());
        let status = plan.status.unwrap();
        assert_eq!((status.phase, status.exit_code), (Phase::Failed, exit_code));
        assert_eq!(status.error, failure.message);
        assert_eq!(status.run, 1);
    }
}

#[test]
fn a_hiccup_is_tried_again_a_few_times() {
    let want = want(DesiredState::Running, 1);
    let failure = Failure {
        message: "connection reset".to_owned(),
        retry: true,
    };
    let mut now = NOW;
    let mut memory = Memory::default();
    let mut tries = 0;
    let status = loop {
        let plan = plan(&want, Seen::default(), &memory, now);
        memory = plan.memory;
        if let Some(at) = plan.wake_at {
            now = at;
        } else if plan.steps.is_empty() {
            break plan.status.unwrap();
        } else {
            tries += 1;
            memory.record(&want, &Step::EnsureImage, Err(&failure), now);
        }
    };
    assert_eq!((tries, status.phase), (5, Phase::Failed));
    assert!(now.millis() - NOW.millis() < 3_000);
}

#[test]
fn a_restart_that_cannot_start_is_tried_again_for_ever() {
    let want = with_policy(want(DesiredState::Running, 1), RestartPolicy::Always);
    let ended = exited(1, 0, 0);
    let seen = Seen {
        task: Some(&ended),
        network: None,
        ..Seen::default()
    };
    let mut memory = plan(&want, seen, &known(1, 0), NOW).memory;
    let failure = Failure {
        message: "no space left".to_owned(),
        retry: false,
    };
    memory.record(&want, &Step::EnsureImage, Err(&failure), NOW);
    let plan = plan(&want, seen, &memory, NOW);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Phase::Restarting);
    assert_eq!(status.error, "no space left");
    assert!(plan.wake_at.is_some());
}

/// An end can be heard before the start that led to it.
#[test]
fn a_late_result_of_a_start_changes_nothing() {
    let failure = Failure {
        message: "executable file not found".to_owned(),
        retry: false,
    };
    for (policy, result) in [
        (RestartPolicy::Always, Ok(())),
        (RestartPolicy::Always, Err(&failure)),
        (RestartPolicy::No, Ok(())),
        (RestartPolicy::No, Err(&failure)),
    ] {
        let want = with_policy(want(DesiredState::Running, 1), policy);
        let ended = exited(1, 2, 1);
        let seen = Seen {
            task: Some(&ended),
            network: None,
            ..Seen::default()
        };
        let before = Memory {
            begun: false,
            ..known(1, 2)
        };
        let after_end = plan(&want, seen, &before, NOW);
        let mut memory = after_end.memory.clone();
        memory.record(&want, &Step::Start { attempt: 2 }, result, NOW);
        assert_eq!(memory, after_end.memory);
        // And of an older run's steps.
        let mut newer = plan(&with_run(&want, 2), seen, &memory, NOW).memory;
        let unchanged = newer.clone();
        newer.record(&want, &Step::EnsureImage, Err(&failure), NOW);
        newer.record(&want, &Step::Start { attempt: 3 }, result, NOW);
        assert_eq!(newer, unchanged);
    }
}

#[test]
fn a_run_stopped_before_it_began_is_over() {
    let plan = plan(&want(STOPPED, 3), Seen::default(), &Memory::default(), NOW);
    assert!(plan.steps.is_empty());
    let status = plan.status.unwrap();
    assert_eq!((status.phase, status.run), (Phase::Exited, 3));
    assert_eq!(status.started_at, None);
}

#[test]
fn a_task_the_host_lost_has_ended_with_255() {
    let no = want(DesiredState::Running, 1);
    let lost = plan(&no, Seen::default(), &known(1, 0), NOW);
    assert_eq!(lost.status.unwrap().exit_code, 255);
    assert!(lost.steps.is_empty() && lost.wake_at.is_none());
    let always = with_policy(no, RestartPolicy::UnlessStopped);
    assert!(
        plan(&always, Seen::default(), &known(1, 0), NOW)
            .wake_at
            .is_some()
    );
}

#[test]
fn losing_the_memory_begins_nothing_twice() {
    for policy in [RestartPolicy::No, RestartPolicy::Always] {
        let want = with_policy(want(DesiredState::Running, 7), policy);
        let running = task(Phase::Running, 7, 3);
        let seen = Seen {
            task: Some(&running),
            network: None,
            ..Seen::default()
        };
        let plan = plan(&want, seen, &Memory::default(), NOW);
        assert!(
            !plan
                .steps
                .iter()
                .any(|s| matches!(s.step, Step::Start { .. }))
        );
        assert_eq!(plan.memory.attempt_key(), (7, 3));
    }
}

#[test]
fn what_cannot_be_done_is_not_tried_without_a_pause() {
    let failure = Failure {
        message: "busy".into(),
        retry: true,
    };
    let mut limited = want(DesiredState::Paused, 1);
    limited.spec.task.resources.memory_limit = Some(1 << 20);
    let cases = [
        (
            want(DesiredState::Removed, 1),
            exited(1, 0, 0),
            Step::Remove,
        ),
        (limited, task(Phase::Running, 1, 0), Step::Pause),
    ];
    for (want, seen, last) in cases {
        let mut world = World {
            task: Some(seen),
            memory: known(1, 0),
            ..World::default()
        };
        let mut steps = 0;
        for _ in 0..10 {
            for planned in world.plan(&want, NOW).steps {
                steps += 1;
                // Detaching works, all else fails.
                let result = match planned.step {
                    Step::Detach => Ok(()),
                    _ => Err(&failure),
                };
                world.memory.record(&want, &planned.step, result, NOW);
                if result.is_err() {
                    break;
                }
            }
        }
        assert_eq!(steps, 2, "{last:?}");
        assert!(world.plan(&want, NOW).wake_at.is_some(), "{last:?}");
    }
}

#[test]
fn new_limits_are_applied_once() {
    let mut world = World::default();
    let mut now = NOW;
    let mut want = want(DesiredState::Running, 1);
    world.settle(&want, &mut now);
    want.spec.task.resources.memory_limit = Some(1 << 20);
    let plan = world.plan(&want, now);
    assert_eq!(plan.steps.len(), 1);
    world.settle(&want, &mut now);
    assert_eq!(world.limits.as_ref(), Some(&want.spec.task.resources));
}

fn images(names: &[&str]) -> BTreeSet<ImageId> {
    let id = |c: &&str| ImageId::parse(&format!("sha256:{}", c.repeat(64))).unwrap();
    names.iter().map(id).collect()
}

fn ordered(orders: &[(&str, u64)]) -> HostDesired {
    let order = |(name, order): &(&str, u64)| (images(&[name]).pop_first().unwrap(), *order);
    HostDesired {
        generation: 9,
        drop_images: orders.iter().map(order).collect(),
        ..HostDesired::default()
    }
}

#[test]
fn images_are_dropped_only_if_named_there_and_unused() {
    let document = ordered(&[("a", 1), ("b", 1), ("c", 1)]);
    let drops = |complete: &[&str], in_use: &[&str], strangers| {
        let (complete, in_use) = (images(complete), images(in_use));
        images_to_drop(&document, &complete, &in_use, &BTreeMap::new(), strangers)
    };
    assert_eq!(
        drops(&["a", "b", "d"], &["b"], false),
        Vec::from_iter(images(&["a"]))
    );
    assert!(drops(&["a"], &[], true).is_empty());
}

fn to_fetch(images_and_bytes: &[(&str, u64)]) -> HostDesired {
    let image = |(name, bytes): &(&str, u64)| {
        let id = images(&[name]).pop_first().unwrap();
        let image: Image = serde_json::from_value(json!({
            "id": id, "pool": PoolId::from_bytes(&[1; 32]), "added_at": 0,
            "content": { "config": id, "config_bytes": 10, "layers": [
                { "diff_id": id, "blob": id, "blob_bytes": bytes, "media_type": "" },
            ] },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        }))
        .unwrap();
        (id, Arc::new(image))
    };
    HostDesired {
        fetch_images: images_and_bytes.iter().map(image).collect(),
        ..HostDesired::default()
    }
}

#[test]
fn what_is_to_be_fetched_is_not_dropped() {
    let mut document = ordered(&[("a", 1), ("b", 1)]);
    document.fetch_images = to_fetch(&[("a", 1)]).fetch_images;
    let there = images(&["a", "b"]);
    let drops = images_to_drop(&document, &there, &images(&[]), &BTreeMap::new(), false);
    assert_eq!(drops, Vec::from_iter(images(&["b"])));
}

#[test]
fn images_are_fetched_one_after_the_other_and_failed_ones_after_a_growing_wait() {
    let document = to_fetch(&[("a", 20), ("b", 10), ("c", 30)]);
    let id = |name: &str| images(&[name]).pop_first().unwrap();
    let next = |there: &[&str], failures: &[(&str, u32)], at: i64| {
        let failure = |(name, times): &(&str, u32)| {
            let failure = FetchFailure {
                times: *times,
                last: NOW,
            };
            (id(name), failure)
        };
        let failures = failures.iter().map(failure).collect();
        next_fetch(&document, &images(there), &failures, NOW.plus_millis(at))
    };
    assert_eq!(next(&[], &[], 0), Fetch::Now(id("b")));
    assert_eq!(next(&["b"], &[], 0), Fetch::Now(id("a")));
    assert_eq!(next(&["a", "b", "c"], &[], 0), Fetch::Nothing);
    assert_eq!(next(&[], &[("b", 1)], 0), Fetch::Now(id("a")));
    assert_eq!(
        next(&[], &[("b", 1)], 1000),
        Fetch::Now(id("a")),
        "the others first"
    );
    let failed = [("a", 2), ("b", 3), ("c", 1)];
    assert_eq!(next(&[], &failed, 999), Fetch::Wait(NOW.plus_millis(1000)));
    assert_eq!(next(&[], &failed, 5000), Fetch::Now(id("c")));
    assert_eq!(
        next(&["c"], &failed, 1999),
        Fetch::Wait(NOW.plus_millis(2000))
    );
    assert_eq!(next(&["c"], &failed, 2000), Fetch::Now(id("a")));
    let often = FetchFailure {
        times: u32::MAX,
        last: NOW,
    };
    assert_eq!(often.again_at(), NOW.plus_millis(300_000));
}

#[test]
fn a_copy_leaves_a_part_of_the_disk_free_and_counts_unpacked() {
    let document = to_fetch(&[("a", 100)]);
    let mut image = Image::clone(document.fetch_images.values().next().unwrap());
    let fits = |image: &Image, free: u64, total: u64| copy_fits(image, DiskRoom { free, total });
    assert!(fits(&image, 200, 1000));
    assert!(!fits(&image, 199, 1000));
    // Of a large disk a few GiB are enough.
    assert!(fits(&image, (4 << 30) + 100, 1 << 50));
    image.config.size_bytes = 300;
    assert!(fits(&image, 400, 1000));
    assert!(!fits(&image, 399, 1000));
    image.config.size_bytes = u64::MAX;
    assert!(!fits(&image, u64::MAX - 1, 1000));
}

#[test]
fn an_import_voids_the_orders_it_may_have_crossed_and_no_later_one() {
    let dropped = |order, import: Import| {
        let imports = BTreeMap::from([(images(&["a"]).pop_first().unwrap(), import)]);
        let document = ordered(&[("a", order)]);
        !images_to_drop(&document, &images(&["a"]), &images(&[]), &imports, false).is_empty()
    };
    let recorded = Import {
        recorded: 7,
        ..Import::default()
    };
    assert!(!dropped(0, recorded), "an order of the earlier form");
    assert!(!dropped(7, recorded));
    assert!(dropped(8, recorded));
    let under_way = Import {
        under_way: 1,
        ..recorded
    };
    assert!(!dropped(8, under_way));
    let unsure = Import {
        unsure_in: Some(9),
        ..recorded
    };
    assert!(!dropped(8, unsure));
}

#[test]
fn what_is_known_of_an_import_ends_with_a_document_that_knows_it() {
    let import = Import {
        under_way: 0,
        recorded: 7,
        unsure_in: Some(5),
    };
    assert_eq!(import.after_document(5), Some(import));
    let sure = Import {
        unsure_in: None,
        ..import
    };
    assert_eq!(import.after_document(6), Some(sure));
    assert_eq!(import.after_document(7), None);
    let again = Import {
        under_way: 1,
        ..import
    };
    assert_eq!(again.after_document(7).map(|it| it.under_way), Some(1));
}

#[test]
fn signals_have_names_and_numbers() {
    for (text, number) in [
        ("SIGTERM", Some(15)),
        ("term", Some(15)),
        ("9", Some(9)),
        ("SIGSYS", Some(31)),
        ("SIGRTMIN+3", Some(37)),
        ("SIGRTMAX", Some(64)),
        ("0", None),
        ("65", None),
        ("SIGNONE", None),
        ("", None),
    ] {
        assert_eq!(signal_number(text), number, "{text}");
    }
}

#[derive(Debug, Clone)]
enum Change {
    Want(DesiredState, bool),
    End(i32),
    Elapse(i64),
    /// The agent dies after so many steps of its plan, and the ledger has or has not the memory.
    Crash {
        after: usize,
        forget: bool,
    },
    Reboot,
    Limits(u64),
}

fn desired() -> impl Strategy<Value = DesiredState> {
    prop_oneof![
        3 => Just(DesiredState::Running),
        1 => Just(DesiredState::Paused),
        1 => Just(STOPPED),
        1 => Just(stopped(Some(0), None)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (desired(), any::<bool>()).prop_map(|(d, again)| Change::Want(d, again)),
        3 => (0..3_i32).prop_map(Change::End),
        2 => (0..20_000_i64).prop_map(Change::Elapse),
        3 => (0..4_usize, any::<bool>()).prop_map(|(after, forget)| Change::Crash { after, forget }),
        1 => Just(Change::Reboot),
        1 => (1..4_u64).prop_map(Change::Limits),
    ]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
        (0..3_u32).prop_map(|max_retries| RestartPolicy::OnFailure { max_retries }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: no attempt begins twice (checked by the world), and when things are left
    /// alone the host settles where planning again gives nothing and what is seen is what is wanted.
    #[test]
    fn every_history_settles(
        restart in policy(),
        stubborn in any::<bool>(),
        changes in prop::collection::vec(change(), 0..30),
        last in desired(),
    ) {
        let mut world = World { stubborn, ..World::default() };
        let mut want = with_policy(want(DesiredState::Running, 1), restart);
        let mut now = NOW;
        for change in changes {
            match change {
                Change::Want(desired, again) => {
                    // As `control`: a start after a stop is a new run, and a restart is too.
                    let was_stopped = matches!(want.desired, DesiredState::Stopped { .. });
                    let is_stopped = matches!(desired, DesiredState::Stopped { .. });
                    if !is_stopped && (was_stopped || again) {
                        want.run += 1;
                    }
                    want.desired = desired;
                }
                Change::End(code) => world.end(code, now),
                Change::Elapse(ms) => now = now.plus_millis(ms),
                Change::Limits(n) => want.spec.task.resources.memory_limit = Some(n << 20),
                Change::Reboot => {
                    world.end(255, now);
                    world.network = None;
                    if world.task.as_ref().is_some_and(|t| t.phase == Phase::Preparing) {
                        world.task = None;
                    }
                }
                Change::Crash { after, forget } => {
                    let plan = world.plan(&want, now);
                    for planned in plan.steps.iter().take(after) {
                        world.apply(&want, &planned.step, now);
                    }
                    // Without the task's own record nothing could know of an earlier attempt.
                    if forget && world.task.is_some() {
                        world.memory = Memory::default();
                    }
                }
            }
            let plan = world.plan(&want, now);
            if let Some(planned) = plan.steps.first() {
                world.apply(&want, &planned.step, now);
            }
        }
        if matches!(want.desired, DesiredState::Stopped { .. }) && !matches!(last, DesiredState::Stopped { .. }) {
            want.run += 1;
        }
        want.desired = last;
        let plan = world.settle(&want, &mut now);
        let status = plan.status.unwrap();
        match last {
            DesiredState::Running => prop_assert!(matches!(status.phase, Phase::Running | Phase::Exited)),
            DesiredState::Paused => prop_assert!(matches!(status.phase, Phase::Paused | Phase::Exited)),
            DesiredState::Stopped { .. } => prop_assert_eq!(status.phase, Phase::Exited),
            DesiredState::Created | DesiredState::Removed => {}
        }
        prop_assert!(status.run >= want.run);
        if status.phase.is_alive() {
            prop_assert_eq!(world.limits.as_ref(), Some(&want.spec.task.resources));
        } else {
            prop_assert!(world.network.is_none());
            if restart == RestartPolicy::Always {
                let wanted = matches!(last, DesiredState::Running | DesiredState::Paused);
                prop_assert!(!wanted, "kept down");
            }
        }
        let again = world.plan(&want, now);
        prop_assert!(again.steps.is_empty());

        want.desired = DesiredState::Removed;
        let plan = world.settle(&want, &mut now);
        prop_assert_eq!(plan.status, None);
        prop_assert!(world.task.is_none() && world.network.is_none());
    }
}
