//! Whether a pool may be made or changed: its form, and whether the tree that results can keep its reservations.

use model::{Amount, Installation, Percent, Pool, PoolId, Portion, Resource, Shares, Slice};

use super::tree::Tree;

/// Why a pool may not be so; a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Highest number of labels a selector may name: more is a mistake.
const SELECTOR_MAX: usize = 64;

fn refuse<T>(why: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(why.into()))
}

/// Checks what can be checked of a slice alone.
///
/// # Errors
/// The first thing that can never be right.
pub fn check_form(slice: &Slice) -> Result<(), Invalid> {
    if slice.size == Some(Percent(0)) {
        return refuse("size: 0% is nothing; leave it out, or give more");
    }
    if slice.hard && slice.size.is_none() {
        return refuse("hard: needs a size; give one, or set limits instead");
    }
    if slice.hosts.len() > SELECTOR_MAX {
        return refuse(format!(
            "hosts: at most {SELECTOR_MAX} labels can be asked for"
        ));
    }
    for resource in Resource::ALL {
        check_portion(resource, slice.portion(resource))?;
    }
    let defaults = &slice.defaults;
    for (name, request, limit) in [
        ("cpu", defaults.cpu_request, defaults.cpu_limit),
        ("memory", defaults.memory_request, defaults.memory_limit),
    ] {
        if let (Some(request), Some(limit)) = (request, limit)
            && request > limit
        {
            return refuse(format!(
                "defaults: the {name} request is above the {name} limit; lower one or raise the other"
            ));
        }
    }
    Ok(())
}

fn check_portion(resource: Resource, portion: &Portion) -> Result<(), Invalid> {
    let name = resource.as_str();
    for (what, amount) in [
        ("reservation", portion.reservation),
        ("limit", portion.limit),
        ("lendable part", portion.lendable),
    ] {
        if let Some(Amount::Percent(percent)) = amount
            && percent > Percent::WHOLE
        {
            return refuse(format!(
                "{name}: a {what} of {percent} is more than there is; at most 100% can be asked for (sizes may go \
                 beyond as far as the overcommit ratio allows)"
            ));
        }
    }
    if let Some(Shares::Number(number)) = portion.shares
        && !(1..=Shares::MAX).contains(&number)
    {
        return refuse(format!("{name}: shares must be from 1 to {}", Shares::MAX));
    }
    if portion
        .overcommit
        .is_some_and(|it| !(1000..=100_000).contains(&it.0))
    {
        return refuse(format!(
            "{name}: the overcommit ratio must be from 1 to 100"
        ));
    }
    Ok(())
}

/// Compares the sizes of siblings with what the overcommit ratio allows.
///
/// # Errors
/// When they add up to more.
pub fn check_sizes<'a>(
    pool: &Pool,
    siblings: impl Iterator<Item = &'a Pool>,
    installation: &Installation,
) -> Result<(), Invalid> {
    let Some(size) = pool.slice.size else {
        return Ok(());
    };
    let others: u64 = siblings
        .filter(|other| other.id != pool.id)
        .filter_map(|other| other.slice.size)
        .map(|size| u64::from(size.0))
        .sum();
    let ratio = installation
        .cpu_overcommit
        .min(installation.memory_overcommit);
    let most = ratio.of(u64::from(Percent::WHOLE.0));
    if others + u64::from(size.0) <= most {
        return Ok(());
    }
    let left = Percent(u32::try_from(most.saturating_sub(others)).unwrap_or(u32::MAX));
    refuse(format!(
        "size: {size} is not left: the sizes of its siblings add up to {}, and all together may be {} with an \
         overcommit ratio of {ratio}; ask for at most {left}, or raise the ratio",
        Percent(u32::try_from(others).unwrap_or(u32::MAX)),
        Percent(u32::try_from(most).unwrap_or(u32::MAX)),
    ))
}

/// Checks a changed tree against the one before: the changed pool's own numbers, and that no node's reservations fit
/// less than before.
///
/// Returns the pools above that now take more from their own parents: whoever makes the change must be allowed to
/// change these as well.
///
/// # Errors
/// What does not fit, and where.
pub fn check_tree(before: &Tree, after: &Tree, pool: &PoolId) -> Result<Vec<PoolId>, Invalid> {
    let Some(at) = after.index(pool) else {
        return Ok(Vec::new());
    };
    let mut raised = Vec::new();
    for resource in Resource::ALL {
        let node = &after.nodes[at];
        let line = node.line(resource);
        if let Some(limit) = line.limit
            && limit < line.reservation
        {
            return refuse(format!(
                "{}: the limit of {} is below the reservation of {}; raise the limit or lower the reservation",
                resource.as_str(),
                resource.show(limit),
                resource.show(line.reservation),
            ));
        }
        for up in after.upwards(at) {
            check_room(before, after, up, resource)?;
            let node = &after.nodes[up];
            let Some(id) = node.pool.as_ref().filter(|id| *id != pool) else {
                continue;
            };
            let old = before.node(id).map_or(0, |it| it.line(resource).taken);
            if node.line(resource).taken > old && !raised.contains(id) {
                raised.push(id.clone());
            }
        }
    }
    Ok(raised)
}

/// Whether what is reserved directly below a node lacks more than before.
fn check_room(before: &Tree, after: &Tree, at: usize, resource: Resource) -> Result<(), Invalid> {
    let node = &after.nodes[at];
    let line = node.line(resource);
    let old_at = match &node.pool {
        Some(id) => before.index(id),
        None => Some(super::ROOT),
    };
    let (old_missing, old_below) = old_at.map_or((0, 0), |at| {
        let missing = before.nodes[at].line(resource).missing;
        (missing, before.taken_below(at, resource))
    });
    if line.missing <= old_missing {
        return Ok(());
    }
    let below = after.taken_below(at, resource);
    let has = line.taken.min(line.limit.unwrap_or(u64::MAX));
    let place = match &node.pool {
        Some(_) => format!("pool {}", node.name),
        None => node.name.clone(),
    };
    let more = below.saturating_sub(old_below);
    if more == 0 {
        return refuse(format!(
            "{}: {place} would have {}, but {} are reserved by the pools below it; lower those first",
            resource.as_str(),
            resource.show(has),
            resource.show(below),
        ));
    }
    refuse(format!(
        "{}: {} cannot be reserved: {place} has {}, of which {} are reserved already; ask for at most {}, or make room \
         there first",
        resource.as_str(),
        resource.show(more),
        resource.show(has),
        resource.show(old_below),
        resource.show(has.saturating_sub(old_below)),
    ))
}
