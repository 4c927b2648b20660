//! Rules for the choice of a host, and GPUs.

use model::WorkloadSpec;
use model::placement::{GPU_MILLIS, GpuRequest, PlacementSpec};

use super::{Refusal, invalid};

/// Checks the number of rules, and what is asked of GPUs.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), Refusal> {
    let PlacementSpec {
        hosts, affinities, ..
    } = &spec.placement;
    let rules = hosts.len() + affinities.len();
    if rules > PlacementSpec::RULES_MAX {
        return Err(invalid(
            "placement",
            format!(
                "has {rules} rules, at most {} are allowed",
                PlacementSpec::RULES_MAX
            ),
        ));
    }
    let Some(gpus) = &spec.task.gpus else {
        return Ok(());
    };
    let GpuRequest { count, millis, .. } = gpus;
    if !(1..=GpuRequest::COUNT_MAX).contains(count) {
        let most = GpuRequest::COUNT_MAX;
        return Err(invalid(
            "gpus",
            format!("{count} GPUs are asked for, 1 to {most} are possible"),
        ));
    }
    if !(1..=GPU_MILLIS).contains(millis) {
        return Err(invalid(
            "gpus",
            format!("{millis} thousandths of a GPU are asked for, 1 to {GPU_MILLIS} are possible"),
        ));
    }
    if !gpus.devices.is_empty() && gpus.devices.len() < *count as usize {
        return Err(invalid(
            "gpus",
            format!(
                "{count} GPUs are asked for, {} are named",
                gpus.devices.len()
            ),
        ));
    }
    Ok(())
}
