//! Slices of pools between the API's words and the model's.

use ::wire::native::Reference;
use ::wire::native::pool_use::{PoolUse, ResourceUse};
use ::wire::native::quantity::Quantity;
use control::Control;
use control::pools::PoolStanding;
use model::{
    Amount, Counted, HostLoss, Installation, Percent, PlacementPolicy, Portion, QuotaKey, Ratio,
    Resource, Shares, Slice, WorkloadDefaults,
};
use wire::native::slice as wire;

use super::failure::{Failure, Result};

/// Reads a slice; what is wrong is named.
pub(crate) fn from_wire(slice: &wire::Slice) -> Result<Slice> {
    Ok(Slice {
        size: option(slice.size.as_ref(), "size", Percent::parse)?,
        hard: slice.hard,
        cpu: portion(Resource::Cpu, &slice.cpu)?,
        memory: portion(Resource::Memory, &slice.memory)?,
        quotas: slice
            .quotas
            .iter()
            .map(|(name, most)| quota(name, *most))
            .collect::<Result<_>>()?,
        defaults: defaults(&slice.defaults)?,
        placement: slice.placement.as_deref().map(placement).transpose()?,
        hosts: slice.hosts.clone(),
        on_host_loss: slice
            .on_host_loss
            .as_deref()
            .map(|text| host_loss("on_host_loss", text))
            .transpose()?,
        priority: slice.priority,
    })
}

fn option<T, E: std::fmt::Display>(
    text: Option<&String>,
    field: &str,
    parse: impl Fn(&str) -> std::result::Result<T, E>,
) -> Result<Option<T>> {
    text.map(|text| parse(text).map_err(|why| Failure::invalid(format!("{field}: {why}"))))
        .transpose()
}

fn portion(resource: Resource, portion: &wire::Portion) -> Result<Portion> {
    let name = resource.as_str();
    let amount = |text: &Option<String>, field: &str| {
        let parse = |text: &str| Amount::parse(resource, text);
        option(text.as_ref(), &format!("{name}.{field}"), parse)
    };
    let shares = |text: &str| {
        Shares::parse(text)
            .ok_or("write low, normal, high or a number from 1 to 1000000".to_owned())
    };
    Ok(Portion {
        reservation: amount(&portion.reservation, "reservation")?,
        limit: amount(&portion.limit, "limit")?,
        shares: option(portion.shares.as_ref(), &format!("{name}.shares"), shares)?,
        expandable: portion.expandable,
        lendable: amount(&portion.lendable, "lendable")?,
        overcommit: option(
            portion.overcommit.as_ref(),
            &format!("{name}.overcommit"),
            Ratio::parse,
        )?,
    })
}

fn quota(name: &str, most: Quantity) -> Result<(Counted, u64)> {
    let counted = counted(name)?;
    let most = counted
        .from_thousandths(most.0)
        .ok_or_else(|| Failure::invalid(format!("quotas.{name}: {most} is not a whole number")))?;
    Ok((counted, most))
}

fn quantity(counted: Counted, count: u64) -> Quantity {
    Quantity(counted.to_thousandths(count))
}

fn counted(name: &str) -> Result<Counted> {
    Counted::parse(name).ok_or_else(|| {
        let names: Vec<&str> = Counted::ALL.into_iter().map(Counted::as_str).collect();
        Failure::invalid(format!(
            "quotas: there is no \"{}\"; there are {}",
            name.escape_debug(),
            names.join(", ")
        ))
    })
}

/// Reads defaults for workloads.
pub(crate) fn defaults(defaults: &wire::WorkloadDefaults) -> Result<WorkloadDefaults> {
    let cpu = model::amount::cpu_millis;
    let memory = model::amount::memory_bytes;
    Ok(WorkloadDefaults {
        cpu_request: option(defaults.cpu_request.as_ref(), "defaults.cpu_request", cpu)?,
        cpu_limit: option(defaults.cpu_limit.as_ref(), "defaults.cpu_limit", cpu)?,
        memory_request: option(
            defaults.memory_request.as_ref(),
            "defaults.memory_request",
            memory,
        )?,
        memory_limit: option(
            defaults.memory_limit.as_ref(),
            "defaults.memory_limit",
            memory,
        )?,
    })
}

fn placement(text: &str) -> Result<PlacementPolicy> {
    match text {
        "balance" => Ok(PlacementPolicy::Balance),
        "pack" => Ok(PlacementPolicy::Pack),
        other => Err(Failure::invalid(format!(
            "placement: \"{}\" is neither balance nor pack",
            other.escape_debug()
        ))),
    }
}

/// Reads what becomes of workloads whose host is lost.
pub(crate) fn host_loss(field: &str, text: &str) -> Result<HostLoss> {
    HostLoss::parse(text).ok_or_else(|| {
        Failure::invalid(format!(
            "{field}: \"{}\" is none of restart, keep and at-most-one",
            text.escape_debug()
        ))
    })
}

/// Reads a change of the installation's settings.
pub(crate) fn installation(
    asked: &wire::Installation,
) -> Result<impl Fn(&mut Installation) + use<>> {
    let cpu = option(
        asked.cpu_overcommit.as_ref(),
        "cpu_overcommit",
        Ratio::parse,
    )?;
    let memory = option(
        asked.memory_overcommit.as_ref(),
        "memory_overcommit",
        Ratio::parse,
    )?;
    let defaults = asked.defaults.as_ref().map(defaults).transpose()?;
    let host_loss = asked.host_loss_seconds;
    Ok(move |settings: &mut Installation| {
        settings.cpu_overcommit = cpu.unwrap_or(settings.cpu_overcommit);
        settings.memory_overcommit = memory.unwrap_or(settings.memory_overcommit);
        settings.defaults = defaults.unwrap_or(settings.defaults);
        settings.host_loss_seconds = host_loss.unwrap_or(settings.host_loss_seconds);
    })
}

/// A slice in the API's words.
pub(crate) fn to_wire(slice: &Slice) -> wire::Slice {
    wire::Slice {
        size: slice.size.map(|size| size.to_string()),
        hard: slice.hard,
        cpu: portion_to_wire(Resource::Cpu, &slice.cpu),
        memory: portion_to_wire(Resource::Memory, &slice.memory),
        quotas: slice
            .quotas
            .iter()
            .map(|(counted, most)| (counted.as_str().to_owned(), quantity(*counted, *most)))
            .collect(),
        defaults: defaults_to_wire(&slice.defaults),
        placement: slice.placement.map(|policy| {
            match policy {
                PlacementPolicy::Balance => "balance",
                PlacementPolicy::Pack => "pack",
            }
            .to_owned()
        }),
        hosts: slice.hosts.clone(),
        on_host_loss: slice.on_host_loss.map(|loss| loss.as_str().to_owned()),
        priority: slice.priority,
    }
}

fn portion_to_wire(resource: Resource, portion: &Portion) -> wire::Portion {
    let text = |amount: Option<Amount>| amount.map(|amount| amount.text(resource));
    wire::Portion {
        reservation: text(portion.reservation),
        limit: text(portion.limit),
        shares: portion.shares.map(|shares| shares.to_string()),
        expandable: portion.expandable,
        lendable: text(portion.lendable),
        overcommit: portion.overcommit.map(|ratio| ratio.to_string()),
    }
}

fn defaults_to_wire(defaults: &WorkloadDefaults) -> wire::WorkloadDefaults {
    let cpu = |millis: Option<u64>| millis.map(|it| Amount::Absolute(it).text(Resource::Cpu));
    let memory = |bytes: Option<u64>| bytes.map(|it| Amount::Absolute(it).text(Resource::Memory));
    wire::WorkloadDefaults {
        cpu_request: cpu(defaults.cpu_request),
        cpu_limit: cpu(defaults.cpu_limit),
        memory_request: memory(defaults.memory_request),
        memory_limit: memory(defaults.memory_limit),
    }
}

/// A pool's numbers in the API's words.
pub(crate) fn standing(standing: &PoolStanding) -> wire::Standing {
    let line = |resource| {
        let line = standing.node.line(resource);
        let key = QuotaKey::Resource(resource);
        wire::Line {
            reservation: line.reservation,
            limit: line.limit,
            ceiling: line.ceiling,
            used: standing.sum[key],
            own_used: standing.own[key],
            missing: line.short(),
        }
    };
    let counts = Counted::ALL.into_iter().map(|counted| {
        let count = wire::Count {
            used: quantity(counted, standing.sum[QuotaKey::Counted(counted)]),
            quota: standing
                .node
                .quotas
                .get(&counted)
                .map(|most| quantity(counted, *most)),
        };
        (counted.as_str().to_owned(), count)
    });
    wire::Standing {
        cpu: line(Resource::Cpu),
        memory: line(Resource::Memory),
        counts: counts.collect(),
    }
}

/// What a pool uses in the API's words.
pub(crate) fn uses(control: &Control, uses: &control::dividing::PoolUse) -> PoolUse {
    let of = |it: &control::dividing::ResourceUse| ResourceUse {
        reservation: it.reservation,
        limit: it.limit,
        ceiling: it.ceiling,
        entitled: it.entitled,
        demand: it.demand,
        used: it.used,
        borrowed: it.used.saturating_sub(it.reservation),
    };
    let reference = |pool: &model::Pool| Reference {
        id: pool.id.to_string(),
        name: pool.name.to_string(),
    };
    let snapshot = control.snapshot();
    let parent = uses.pool.parent.as_ref().and_then(|id| snapshot.pool(id));
    PoolUse {
        pool: reference(&uses.pool),
        parent: parent.map(|parent| reference(parent.value())),
        cpu: of(&uses.cpu),
        memory: of(&uses.memory),
        pids: uses.pids,
    }
}

/// The installation's settings in the API's words.
pub(crate) fn installation_to_wire(settings: &Installation) -> wire::Installation {
    wire::Installation {
        cpu_overcommit: Some(settings.cpu_overcommit.to_string()),
        memory_overcommit: Some(settings.memory_overcommit.to_string()),
        defaults: Some(defaults_to_wire(&settings.defaults)),
        host_loss_seconds: Some(settings.host_loss_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_read_back() {
        let text = r#"{"size": "12.5%", "hard": true, "cpu": {"reservation": "500m", "shares": "high", "expandable": false},
            "memory": {"limit": "8GiB", "lendable": "50%", "overcommit": "1.5"}, "quotas": {"workloads": 3, "gpus": 2.5},
            "defaults": {"memory_limit": "256m"}, "placement": "pack", "hosts": {"disk": "ssd"},
            "on_host_loss": "restart", "priority": 7}"#;
        let slice = from_wire(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(from_wire(&to_wire(&slice)).unwrap(), slice);
        assert_eq!(to_wire(&slice).cpu.reservation.as_deref(), Some("0.5"));
        assert_eq!(
            to_wire(&slice).defaults.memory_limit.as_deref(),
            Some("256MiB")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, field) in [
            (r#"{"size": "lots"}"#, "size: "),
            (r#"{"cpu": {"limit": "8GiB"}}"#, "cpu.limit: "),
            (r#"{"memory": {"shares": "huge"}}"#, "memory.shares: "),
            (r#"{"quotas": {"cats": 1}}"#, "quotas: "),
            (
                r#"{"quotas": {"workloads": 1.5}}"#,
                "quotas.workloads: 1.5 is",
            ),
            (r#"{"placement": "random"}"#, "placement: "),
        ] {
            let refused = from_wire(&serde_json::from_str(bad).unwrap()).unwrap_err();
            assert!(format!("{refused:?}").contains(field), "{refused:?}");
        }
    }
}
