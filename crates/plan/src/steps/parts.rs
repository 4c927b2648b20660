//! Whether a task may start, as far as the parts of pools go: what a pool's limit bounds is not started where the pool
//! has no part of that limit yet.
//!
//! What always holds: what runs is never ended by this, whatever becomes of the parts.

use std::collections::BTreeMap;

use model::{CpuMillis, HostPool, HostWorkload, MemoryBytes, PoolId};

/// The parts of pools on a host.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// As the document has them.
    pub told: &'a BTreeMap<PoolId, HostPool>,
    /// As they were last brought in force.
    pub in_force: &'a BTreeMap<PoolId, HostPool>,
}

/// Why a task is not started.
pub(super) const WAITING: &str = "waiting for its pool's part of this host";

/// Whether the parts of its pool and of all above it are in force, as far as it needs them.
pub(super) fn are_there(want: &HostWorkload, parts: Option<Parts<'_>>) -> bool {
    let mut path = want.pool_path.iter().chain([&want.pool]);
    !want.bounded
        || parts.is_some_and(|parts| {
            path.all(|pool| {
                let told = parts.told.get(pool);
                told.is_some_and(has_room) && told == parts.in_force.get(pool)
            })
        })
}

/// Whether anything can run in a part: others have the whole limit as long as it is empty.
fn has_room(part: &HostPool) -> bool {
    part.cpu_limit != Some(CpuMillis(0)) && part.memory_limit != Some(MemoryBytes(0))
}

#[cfg(test)]
mod tests {
    use model::{DesiredState, Phase, TaskStatus};

    use super::super::tests::{NOW, want};
    use super::super::{Heard, Memory, Plan, Seen, plan};
    use super::*;

    type Told = BTreeMap<PoolId, HostPool>;

    fn pool(n: u8) -> PoolId {
        PoolId::from_bytes(&[n; 32])
    }

    fn part(memory: Option<u64>) -> HostPool {
        HostPool {
            memory_limit: memory.map(MemoryBytes),
            ..HostPool::default()
        }
    }

    fn bounded() -> HostWorkload {
        HostWorkload {
            pool_path: vec![pool(2)],
            bounded: true,
            ..want(DesiredState::Running, 1)
        }
    }

    fn planned(want: &HostWorkload, parts: Option<(&Told, &Told)>) -> Plan {
        let seen = Seen {
            parts: parts.map(|(told, in_force)| Parts { told, in_force }),
            ..Seen::default()
        };
        plan(want, seen, &Memory::default(), NOW, Heard::Ago(0))
    }

    #[test]
    fn what_a_limit_bounds_waits_for_the_parts_of_its_pool_and_those_above() {
        let want = bounded();
        let all = Told::from([(pool(1), part(None)), (pool(2), part(Some(100)))]);
        let without = |n| {
            let mut some = all.clone();
            some.remove(&pool(n));
            some
        };
        let other = Told::from([(pool(1), part(None)), (pool(2), part(Some(200)))]);
        let empty = Told::from([(pool(1), part(None)), (pool(2), part(Some(0)))]);
        let none = Told::new();
        let waits = [
            ("nothing is known", None),
            ("nothing was told", Some((&none, &none))),
            ("it is not in force", Some((&all, &none))),
            ("it was taken back", Some((&none, &all))),
            ("another is in force", Some((&all, &other))),
            ("others have all of it", Some((&empty, &empty))),
            ("its own is missing", Some((&all, &without(1)))),
            ("the one above is missing", Some((&without(2), &all))),
        ];
        for (why, parts) in waits {
            let plan = planned(&want, parts);
            assert_eq!(plan.steps, [], "{why}");
            assert_eq!(plan.status.unwrap().error, WAITING, "{why}");
        }
        let plan = planned(&want, Some((&all, &all)));
        assert!(!plan.steps.is_empty());
        assert_eq!(plan.status.unwrap().error, "");
    }

    #[test]
    fn without_a_limit_nothing_waits_and_what_runs_goes_on_without_a_part() {
        let mut want = bounded();
        let running = TaskStatus {
            phase: Phase::Running,
            run: 1,
            ..TaskStatus::default()
        };
        let begun = planned(
            &HostWorkload {
                bounded: false,
                ..want.clone()
            },
            None,
        );
        assert!(!begun.steps.is_empty());
        want.desired = DesiredState::Running;
        let seen = Seen {
            task: Some(&running),
            ..Seen::default()
        };
        let mut memory = begun.memory;
        memory.limits = Some(Box::new(want.spec.task.resources.clone()));
        let plan = plan(&want, seen, &memory, NOW, Heard::Ago(0));
        assert_eq!(plan.steps, []);
        assert_eq!(plan.status.unwrap().error, "");
    }
}
