//! Slices: from options, compared, and shown.

use wire::native::pool::Pool;
use wire::native::quantity::Quantity;
use wire::native::slice::{Line, Portion, Slice};

use crate::args::SliceArgs;
use crate::error::{Failure, Result};
use crate::exit;
use crate::human;
use crate::output::{Cell, Table, Tone};

/// What takes an amount back.
const NONE: &str = "none";

fn set(to: &mut Option<String>, asked: Option<&String>) {
    match asked {
        None => {}
        Some(text) if text == NONE => *to = None,
        Some(text) => *to = Some(text.clone()),
    }
}

/// The slice with the options applied; what is not named stays.
pub(super) fn changed(before: &Slice, args: &SliceArgs) -> Result<Slice> {
    let mut slice = before.clone();
    set(&mut slice.size, args.size.as_ref());
    if args.hard || args.elastic || slice.size.is_none() {
        slice.hard = args.hard;
    }
    portion(
        &mut slice.cpu,
        [
            args.reserve_cpu.as_ref(),
            args.limit_cpu.as_ref(),
            args.shares_cpu.as_ref().or(args.shares.as_ref()),
            args.lend_cpu.as_ref(),
            args.overcommit_cpu.as_ref(),
        ],
    );
    portion(
        &mut slice.memory,
        [
            args.reserve_memory.as_ref(),
            args.limit_memory.as_ref(),
            args.shares_memory.as_ref().or(args.shares.as_ref()),
            args.lend_memory.as_ref(),
            args.overcommit_memory.as_ref(),
        ],
    );
    if let Some(expandable) = args.expandable {
        slice.cpu.expandable = expandable;
        slice.memory.expandable = expandable;
    }
    for (name, count) in &args.quotas {
        if count == NONE {
            slice.quotas.remove(name);
            continue;
        }
        let count = Quantity::parse(count).map_err(|_| {
            Failure::new(exit::USAGE, format!("--quota {name}={count}: not a number")).hint(
                "write for example workloads=100 or gpus=2.5, or workloads=none to take it back",
            )
        })?;
        slice.quotas.insert(name.clone(), count);
    }
    let defaults = &mut slice.defaults;
    set(&mut defaults.cpu_request, args.default_cpu_request.as_ref());
    set(&mut defaults.cpu_limit, args.default_cpu_limit.as_ref());
    set(
        &mut defaults.memory_request,
        args.default_memory_request.as_ref(),
    );
    set(
        &mut defaults.memory_limit,
        args.default_memory_limit.as_ref(),
    );
    if args.any_host || !args.hosts.is_empty() {
        slice.hosts = args.hosts.iter().cloned().collect();
    }
    set(&mut slice.placement, args.placement.as_ref());
    set(&mut slice.on_host_loss, args.on_host_loss.as_ref());
    slice.priority = args.priority.unwrap_or(slice.priority);
    Ok(slice)
}

fn portion(portion: &mut Portion, [reserve, limit, shares, lend, ratio]: [Option<&String>; 5]) {
    set(&mut portion.reservation, reserve);
    set(&mut portion.limit, limit);
    set(&mut portion.shares, shares);
    set(&mut portion.lendable, lend);
    set(&mut portion.overcommit, ratio);
}

/// A slice as lines `cpu.limit: 2`, without what is as always.
fn lines(slice: &Slice) -> Vec<(String, String)> {
    fn walk(
        at: &str,
        value: &serde_json::Value,
        plain: &serde_json::Value,
        found: &mut Vec<(String, String)>,
    ) {
        if value == plain {
            return;
        }
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    let at = if at.is_empty() {
                        key.clone()
                    } else {
                        format!("{at}.{key}")
                    };
                    walk(&at, value, &plain[key.as_str()], found);
                }
            }
            serde_json::Value::String(text) => found.push((at.to_owned(), text.clone())),
            other => found.push((at.to_owned(), other.to_string())),
        }
    }
    let value = |slice: &Slice| serde_json::to_value(slice).unwrap_or_default();
    let mut found = Vec::new();
    walk("", &value(slice), &value(&Slice::default()), &mut found);
    found
}

/// A slice in one line.
pub(super) fn words(slice: &Slice) -> String {
    let parts: Vec<String> = lines(slice)
        .into_iter()
        .map(|(field, value)| format!("{field} {value}"))
        .collect();
    if parts.is_empty() {
        "no guarantee, no limit".into()
    } else {
        parts.join(", ")
    }
}

/// What differs, a line each: `- cpu.limit: 2`, `+ cpu.limit: 4`.
pub(super) fn difference(before: &Slice, after: &Slice) -> Vec<String> {
    let (before, after) = (lines(before), lines(after));
    let mut found = Vec::new();
    for line in before.iter().filter(|line| !after.contains(line)) {
        found.push(format!("- {}: {}", line.0, line.1));
    }
    for line in after.iter().filter(|line| !before.contains(line)) {
        found.push(format!("+ {}: {}", line.0, line.1));
    }
    found
}

/// A pool and all below it with their numbers, indented by depth.
pub(super) fn tree(root: &Pool, pools: &[Pool]) -> Table {
    let mut table = Table::new(&[
        "POOL",
        "CPU RESERVED",
        "CPU LIMIT",
        "CPU CHARGED",
        "MEMORY RESERVED",
        "MEMORY LIMIT",
        "MEMORY CHARGED",
        "WORKLOADS",
        "GPUS",
        "STATE",
    ]);
    add(&mut table, root, pools, 0);
    table
}

fn add(table: &mut Table, pool: &Pool, pools: &[Pool], depth: usize) {
    let (cpu, memory) = (&pool.standing.cpu, &pool.standing.memory);
    let limit = |line: &Line, show: fn(u64) -> String| line.limit.map_or("-".into(), show);
    let count = |name: &str| {
        let count = pool.standing.counts.get(name).copied().unwrap_or_default();
        match count.quota {
            Some(quota) => format!("{}/{quota}", count.used),
            None => count.used.to_string(),
        }
    };
    table.row(vec![
        format!("{}{}", "  ".repeat(depth), pool.name).into(),
        human::cores(cpu.reservation).into(),
        limit(cpu, human::cores).into(),
        human::cores(cpu.used).into(),
        human::size(memory.reservation).into(),
        limit(memory, human::size).into(),
        human::size(memory.used).into(),
        count("workloads").into(),
        count("gpus").into(),
        state(pool),
    ]);
    let mut below: Vec<&Pool> = pools
        .iter()
        .filter(|it| {
            it.parent
                .as_ref()
                .is_some_and(|parent| parent.id == pool.id)
        })
        .collect();
    below.sort_by(|a, b| a.name.cmp(&b.name));
    for child in below {
        add(table, child, pools, depth + 1);
    }
}

/// `ok`, or what is missing.
pub(super) fn state(pool: &Pool) -> Cell {
    let (cpu, memory) = (pool.standing.cpu.missing, pool.standing.memory.missing);
    let mut missing = Vec::new();
    if cpu > 0 {
        missing.push(format!("{} CPU", human::cores(cpu)));
    }
    if memory > 0 {
        missing.push(human::size(memory));
    }
    if missing.is_empty() {
        Cell::new("ok", Tone::Good)
    } else {
        let text = format!("over-committed: {} missing", missing.join(" and "));
        Cell::new(text, Tone::Bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_what_they_name_and_none_takes_back() {
        let before: Slice = serde_json::from_str(
            r#"{"size": "25%", "hard": true, "cpu": {"limit": "2"}, "quotas": {"workloads": 3}}"#,
        )
        .unwrap();
        let args = SliceArgs {
            limit_cpu: Some("none".into()),
            reserve_memory: Some("1GiB".into()),
            quotas: vec![("workloads".into(), "none".into())],
            shares: Some("high".into()),
            ..SliceArgs::default()
        };
        let after = changed(&before, &args).unwrap();
        assert!(after.hard);
        assert_eq!(
            difference(&before, &after),
            [
                "- cpu.limit: 2",
                "- quotas.workloads: 3",
                "+ cpu.shares: high",
                "+ memory.reservation: 1GiB",
                "+ memory.shares: high",
            ]
        );
        assert_eq!(changed(&after, &SliceArgs::default()).unwrap(), after);
    }

    #[test]
    fn a_wrong_count_is_a_usage_error() {
        let args = SliceArgs {
            quotas: vec![("workloads".into(), "many".into())],
            ..SliceArgs::default()
        };
        assert_eq!(
            changed(&Slice::default(), &args).unwrap_err().code,
            exit::USAGE
        );
    }
}
