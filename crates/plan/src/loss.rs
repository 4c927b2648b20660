//! What becomes of workloads whose host is lost, or is to be emptied, and how fast.
//!
//! Start with [`answer`]: what was agreed for a workload. [`obstacle`] says why one cannot be started on another host;
//! [`replaceable`] says which of the lost hosts are replaced now.

use std::collections::{BTreeMap, BTreeSet};

use model::workload::{MountSource, NetworkMode};
use model::{HostId, HostLoss, RestartPolicy, Timestamp, Workload, WorkloadId, WorkloadSpec};

/// What becomes of a workload whose host is lost: its own word, else its pool's, else what its restart policy means.
#[must_use]
pub fn answer(spec: &WorkloadSpec, pool: Option<HostLoss>) -> HostLoss {
    let by_policy = match spec.restart {
        RestartPolicy::Always | RestartPolicy::UnlessStopped => HostLoss::Restart,
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => HostLoss::Keep,
    };
    match (spec.on_host_loss, pool) {
        (Some(own), _) => own,
        (None, Some(HostLoss::Keep) | None) => by_policy,
        (None, Some(pool)) => pool,
    }
}

/// Why a workload cannot be started on another host; `None`: it can.
///
/// What has files that only its own host has is started elsewhere only if that was said of it or of its pool: a
/// restart policy alone does not mean that its data may be left behind.
#[must_use]
pub fn obstacle(spec: &WorkloadSpec, pool: Option<HostLoss>) -> Option<String> {
    if answer(spec, pool) == HostLoss::Keep {
        return Some(
            "its files are on this host, and neither it nor its pool says that it may start elsewhere \
             (on-host-loss, or a restart policy of always or unless-stopped)"
                .into(),
        );
    }
    let said = |it: Option<HostLoss>| it.is_some_and(|it| it != HostLoss::Keep);
    if said(spec.on_host_loss) || said(pool) {
        return None;
    }
    spec.task.mounts.iter().find_map(|mount| {
        let what = match &mount.source {
            MountSource::Tmpfs { .. } => return None,
            MountSource::Volume { name, .. } if name.is_empty() => "an anonymous volume".to_owned(),
            MountSource::Volume { name, .. } => format!("volume {name}"),
            MountSource::HostPath { path, .. } => format!("the host's {path}"),
        };
        Some(format!(
            "{what} at {} is on this host only; on-host-loss=restart of it or of its pool starts it elsewhere without \
             that data",
            mount.target
        ))
    })
}

/// The workload whose network namespace it shares.
#[must_use]
pub fn shares_with(spec: &WorkloadSpec) -> Option<&WorkloadId> {
    match &spec.network {
        NetworkMode::Workload { id } => Some(id),
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Host => None,
    }
}

/// In which order workloads leave a host, or are started elsewhere: those that share a namespace after the one they
/// share it with, the more important first, then the older. `priority` is what counts for one, its own or its pool's.
pub fn order(workloads: &mut [&Workload], priority: impl Fn(&Workload) -> i32) {
    workloads.sort_by_cached_key(|it| {
        (
            shares_with(&it.spec).is_some(),
            std::cmp::Reverse(priority(it)),
            it.created_at,
            it.id.clone(),
        )
    });
}

/// Losses longer ago do not count towards how many hosts vanished at once.
const WAVE_MS: i64 = 10 * 60 * 1000;

/// Pause after which as many further hosts are replaced.
const WAVE_PAUSE_MS: i64 = 30 * 1000;

/// Of the hosts of an installation, one in so many may be lost at once and is replaced at once.
const WAVE_PART: usize = 5;

/// Which of the lost hosts are replaced now, and when the next of the others is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replaceable {
    /// These, now.
    pub now: BTreeSet<HostId>,
    /// The others, each with the moment it is its turn.
    pub later: BTreeMap<HostId, Timestamp>,
}

/// Which of the lost hosts are replaced now.
///
/// When many hosts vanish at once, the cause is often something between them and the server, and starting everything
/// anew on those that are left would bring these down as well. So one host in five (at least one) is replaced at once,
/// and as many again every 30 seconds. (Kubernetes' node controller limits evictions for the same reason.)
#[must_use]
pub fn replaceable(
    hosts: usize,
    lost: &BTreeMap<HostId, Timestamp>,
    now: Timestamp,
) -> Replaceable {
    let at_once = (hosts / WAVE_PART).max(1);
    let mut order: Vec<(Timestamp, &HostId)> = lost.iter().map(|(id, at)| (*at, id)).collect();
    order.sort();
    let mut turns: Vec<Timestamp> = Vec::new();
    let mut answer = Replaceable::default();
    for (at, host) in order {
        if at.plus_millis(WAVE_MS) < now {
            answer.now.insert(host.clone());
            continue;
        }
        let turn = match turns.len().checked_sub(at_once) {
            Some(before) => turns[before].plus_millis(WAVE_PAUSE_MS).max(at),
            None => at,
        };
        turns.push(turn);
        if turn <= now {
            answer.now.insert(host.clone());
        } else {
            answer.later.insert(host.clone(), turn);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(patch: serde_json::Value) -> WorkloadSpec {
        let image = format!("sha256:{}", "a".repeat(64));
        let mut spec = json!({ "task": { "image": "web", "image_id": image } });
        for (key, value) in patch.as_object().unwrap() {
            if key == "mounts" {
                spec["task"][key] = value.clone();
            } else {
                spec[key] = value.clone();
            }
        }
        serde_json::from_value(spec).unwrap()
    }

    fn host(number: u8) -> HostId {
        HostId::from_bytes(&[number; 32])
    }

    #[test]
    fn the_own_word_counts_before_the_pools_and_the_restart_policy() {
        let always = json!({ "restart": { "policy": "always" } });
        let own = json!({ "restart": { "policy": "always" }, "on_host_loss": "keep" });
        assert_eq!(answer(&spec(json!({})), None), HostLoss::Keep);
        assert_eq!(answer(&spec(always.clone()), None), HostLoss::Restart);
        assert_eq!(
            answer(&spec(always.clone()), Some(HostLoss::Keep)),
            HostLoss::Restart
        );
        assert_eq!(
            answer(&spec(always), Some(HostLoss::AtMostOne)),
            HostLoss::AtMostOne
        );
        assert_eq!(
            answer(&spec(json!({})), Some(HostLoss::Restart)),
            HostLoss::Restart
        );
        assert_eq!(answer(&spec(own), Some(HostLoss::Restart)), HostLoss::Keep);
    }

    #[test]
    fn data_of_a_host_is_left_behind_only_if_that_was_said() {
        let volume = json!([{ "target": "/data", "source": { "type": "volume", "name": "" } }]);
        let with = |patch: serde_json::Value| {
            let mut all = json!({ "restart": { "policy": "always" }, "mounts": volume });
            for (key, value) in patch.as_object().unwrap() {
                all[key] = value.clone();
            }
            spec(all)
        };
        let why = obstacle(&with(json!({})), None).unwrap();
        assert!(why.contains("anonymous volume at /data"), "{why}");
        assert!(obstacle(&with(json!({})), Some(HostLoss::Keep)).is_some());
        assert_eq!(obstacle(&with(json!({})), Some(HostLoss::Restart)), None);
        assert_eq!(
            obstacle(&with(json!({ "on_host_loss": "at-most-one" })), None),
            None
        );
        assert!(obstacle(&spec(json!({})), None).is_some());
        let tmpfs = json!([{ "target": "/tmp", "source": { "type": "tmpfs" } }]);
        let tmpfs = json!({ "restart": { "policy": "always" }, "mounts": tmpfs });
        assert_eq!(obstacle(&spec(tmpfs), None), None);
    }

    #[test]
    fn one_lost_host_is_replaced_at_once() {
        let lost = BTreeMap::from([(host(1), Timestamp(1000))]);
        let answer = replaceable(3, &lost, Timestamp(1000));
        assert_eq!(answer.now, BTreeSet::from([host(1)]));
        assert!(answer.later.is_empty());
    }

    #[test]
    fn hosts_that_vanish_together_are_replaced_one_part_after_the_other() {
        let lost: BTreeMap<HostId, Timestamp> = (0..20)
            .map(|number| (host(number), Timestamp(1000 + i64::from(number))))
            .collect();
        // One in five of 50 hosts: 10 at once.
        let first = replaceable(50, &lost, Timestamp(2000));
        assert_eq!(first.now.len(), 10);
        assert!(first.later.values().all(|at| *at >= Timestamp(31_000)));
        let second = replaceable(50, &lost, Timestamp(31_020));
        assert_eq!((second.now.len(), second.later.len()), (20, 0));
        // What was replaced once stays so.
        assert!(first.now.is_subset(&second.now));
    }

    #[test]
    fn losses_of_long_ago_hold_nobody_up() {
        let mut lost: BTreeMap<HostId, Timestamp> =
            (0..5).map(|number| (host(number), Timestamp(0))).collect();
        lost.insert(host(9), Timestamp(WAVE_MS * 2));
        let answer = replaceable(3, &lost, Timestamp(WAVE_MS * 2));
        assert_eq!(answer.now.len(), 6);
    }
}
