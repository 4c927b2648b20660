//! Pod lists made from one list: the same pods in other proportions, or with other needs.

use model::WorkloadSpec;
use model::placement::{GPU_MILLIS, GpuRequest};

use super::Dice;

/// What a pod asks of GPUs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Part,
    One,
    Several,
}

/// Parts of a GPU that pods of no list ask for.
const OTHER_PARTS: [u32; 9] = [100, 200, 250, 300, 400, 500, 600, 700, 750];

/// Lists with a name each; what cannot be made from the list is left out.
pub(super) fn variants(pods: &[WorkloadSpec]) -> Vec<(&'static str, Vec<WorkloadSpec>)> {
    let mut dice = Dice(7);
    let mut more_cpu = pods.to_vec();
    more_cpu.extend(of_kind(pods, Kind::None));
    let mut less_cpu = pods.to_vec();
    let mut every_other = 0;
    less_cpu.retain(|pod| {
        every_other += usize::from(kind(pod) == Kind::None);
        kind(pod) != Kind::None || every_other % 2 == 0
    });
    let mut all = vec![
        ("twice as many without GPU", more_cpu),
        ("half as many without GPU", less_cpu),
    ];
    for (name, wanted, percent) in [
        ("60 % of GPUs in parts", Kind::Part, 60),
        ("all GPUs in parts", Kind::Part, 100),
        ("half of GPUs several at a time", Kind::Several, 50),
    ] {
        if let Some(list) = shifted(pods, wanted, percent, &mut dice) {
            all.push((name, list));
        }
    }
    all.push(("other parts and CPU", reshaped(pods, &mut dice)));
    all
}

fn kind(pod: &WorkloadSpec) -> Kind {
    match &pod.task.gpus {
        None => Kind::None,
        Some(gpus) if gpus.count > 1 => Kind::Several,
        Some(gpus) if gpus.millis >= GPU_MILLIS => Kind::One,
        Some(_) => Kind::Part,
    }
}

fn millis(pod: &WorkloadSpec) -> u64 {
    pod.task.gpus.as_ref().map_or(0, GpuRequest::total_millis)
}

fn of_kind(pods: &[WorkloadSpec], wanted: Kind) -> Vec<WorkloadSpec> {
    let pods = pods.iter().filter(|pod| kind(pod) == wanted);
    pods.cloned().collect()
}

/// As much GPU in all, so many percent of it asked for by pods of one kind; `None`: there are none.
fn shifted(
    pods: &[WorkloadSpec],
    wanted: Kind,
    percent: u64,
    dice: &mut Dice,
) -> Option<Vec<WorkloadSpec>> {
    let total: u64 = pods.iter().map(millis).sum();
    let (those, others): (Vec<WorkloadSpec>, Vec<WorkloadSpec>) = pods
        .iter()
        .filter(|pod| kind(pod) != Kind::None)
        .cloned()
        .partition(|pod| kind(pod) == wanted);
    let mut list = of_kind(pods, Kind::None);
    for (from, share) in [(those, percent), (others, 100 - percent)] {
        let mut left = total * share / 100;
        if left > 0 && from.is_empty() {
            return None;
        }
        while left > 0 {
            let pod = &from[dice.below(from.len())];
            left = left.saturating_sub(millis(pod));
            list.push(pod.clone());
        }
    }
    Some(list)
}

/// Other parts of a GPU, and half to one and a half times the CPU.
fn reshaped(pods: &[WorkloadSpec], dice: &mut Dice) -> Vec<WorkloadSpec> {
    let mut list = pods.to_vec();
    for pod in &mut list {
        let parts = kind(pod) == Kind::Part;
        if let Some(gpus) = pod.task.gpus.as_mut().filter(|_| parts) {
            gpus.millis = OTHER_PARTS[dice.below(OTHER_PARTS.len())];
        }
        let cpu = &mut pod.task.resources.request.cpu_millis;
        let quarters = 2 + dice.below(5) as u64;
        *cpu = cpu.map(|cpu| (cpu * quarters / 4).max(500));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: u64, gpus: serde_json::Value) -> WorkloadSpec {
        serde_json::from_value(serde_json::json!({
            "task": {
                "image": "pod", "image_id": format!("sha256:{}", "a".repeat(64)),
                "gpus": gpus, "resources": { "request": { "cpu_millis": cpu, "memory_bytes": 1 } },
            },
        }))
        .unwrap()
    }

    #[test]
    fn shifting_keeps_the_sum_and_reaches_the_part() {
        let pods = [
            pod(1000, serde_json::json!(null)),
            pod(1000, serde_json::json!({"count": 1, "millis": 250})),
            pod(1000, serde_json::json!({"count": 1})),
            pod(1000, serde_json::json!({"count": 2})),
        ];
        let list = shifted(&pods, Kind::Several, 50, &mut Dice(1)).unwrap();
        let of = |wanted: Kind| -> u64 {
            let pods = list.iter().filter(|pod| kind(pod) == wanted);
            pods.map(millis).sum()
        };
        assert_eq!(of(Kind::Several), 2000);
        assert!((1625..3000).contains(&(of(Kind::One) + of(Kind::Part))));
        assert!(shifted(&pods[..3], Kind::Several, 50, &mut Dice(1)).is_none());
        assert_eq!(variants(&pods).len(), 6);
    }
}
