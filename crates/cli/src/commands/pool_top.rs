//! `pool top`: what pools use and may use, as bars, again and again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use wire::client::native::path;
use wire::native::List;
use wire::native::pool_use::{PoolUse, ResourceUse};

use crate::app::App;
use crate::args::{Format, PoolTopArgs};
use crate::error::{Doing as _, Result};
use crate::human;

/// Hosts measure every two seconds; asking more often shows nothing new.
const PAUSE: Duration = Duration::from_secs(2);

/// Longest and shortest bar in characters: as long as the terminal has room for.
const BAR: std::ops::RangeInclusive<usize> = 6..=24;

/// Deepest indentation that is drawn.
const DEPTH_MAX: usize = 16;

pub(super) async fn top(app: &App, args: &PoolTopArgs) -> Result<()> {
    loop {
        let list: List<PoolUse> = app
            .client
            .get(&path(&["pool-use"]))
            .await
            .doing(|| "cannot read what pools use".into())?;
        let once = args.once || args.output.output != Format::Table || !app.printer.terminal;
        match args.output.output {
            Format::Table if once => app.printer.print(&text(&list.items, columns()))?,
            Format::Table => app.printer.print(&format!(
                "\x1b[H\x1b[2J{}\nCtrl-C ends.\n",
                text(&list.items, columns())
            ))?,
            format => app.printer.value(&list, format)?,
        }
        if once {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Columns to draw in; without a terminal the longest bars.
fn columns() -> usize {
    crate::terminal::size().map_or(usize::MAX, |(columns, _)| usize::from(columns))
}

/// The numbers behind the bars of a resource.
struct Numbers {
    cells: Vec<String>,
    width: usize,
}

impl Numbers {
    fn of(rows: &[(usize, &PoolUse)], of: Of, show: fn(u64) -> String) -> Self {
        let one = |it: &ResourceUse| {
            let limit = it.limit.map_or("-".into(), show);
            format!("{}, {}, {limit}", show(it.used), show(it.entitled))
        };
        let cells: Vec<String> = rows.iter().map(|(_, pool)| one(of(pool))).collect();
        let width = cells.iter().map(|text| text.chars().count()).max();
        Self {
            width: width.unwrap_or(0),
            cells,
        }
    }
}

type Of = fn(&PoolUse) -> &ResourceUse;

/// The whole view, in so many columns if that is possible.
fn text(pools: &[PoolUse], columns: usize) -> String {
    if pools.is_empty() {
        return "No pools yet. Make one: plimsoll pool create NAME\n".into();
    }
    let rows = in_tree(pools);
    let width = rows
        .iter()
        .map(|(depth, pool)| depth * 2 + pool.pool.name.chars().count())
        .max()
        .unwrap_or(0)
        .max("POOL".len());
    let scale = |of: Of| {
        let ends = pools.iter().map(|pool| of(pool).ceiling.max(of(pool).used));
        ends.max().unwrap_or(0).max(1)
    };
    let of: [Of; 2] = [|pool| &pool.cpu, |pool| &pool.memory];
    let cpu = Numbers::of(&rows, of[0], human::cores);
    let memory = Numbers::of(&rows, of[1], human::size);
    // Between columns stand two blanks; behind the bars the numbers and the count of processes.
    let fixed = width + cpu.width + memory.width + 5 * 2 + "PIDS".len();
    let length = (columns.saturating_sub(fixed) / 2).clamp(*BAR.start(), *BAR.end());
    let mut text = format!(
        "{:width$}  {:<cpu_cell$}  {:<memory_cell$}  PIDS\n",
        "POOL",
        "CPU",
        "MEMORY",
        cpu_cell = length + 2 + cpu.width,
        memory_cell = length + 2 + memory.width,
    );
    for (row, (depth, pool)) in rows.iter().enumerate() {
        let name = format!("{}{}", "  ".repeat(*depth), pool.pool.name);
        let cell = |of: Of, numbers: &Numbers| {
            let (bar, numbers, width) = (
                bar(of(pool), scale(of), length),
                &numbers.cells[row],
                numbers.width,
            );
            format!("{bar}  {numbers:<width$}")
        };
        let (cpu, memory) = (cell(of[0], &cpu), cell(of[1], &memory));
        let _ = writeln!(text, "{name:width$}  {cpu}  {memory}  {}", pool.pids);
    }
    text.push_str(
        "\nNumbers: used, entitled, limit\n\
         █ used of its reservation   ▓ borrowed   · may be used now   [ reservation   | limit\n",
    );
    text
}

/// A bar of `length` characters from nothing to `scale`.
fn bar(it: &ResourceUse, scale: u64, length: usize) -> String {
    let place = |units: u64| {
        let place = u128::from(units) * length as u128 / u128::from(scale.max(1));
        usize::try_from(place).unwrap_or(length).min(length)
    };
    let (used, kept) = (place(it.used), place(it.used.min(it.reservation)));
    let entitled = place(it.entitled);
    let mut bar: Vec<char> = (0..length)
        .map(|at| match at {
            _ if at < kept => '█',
            _ if at < used => '▓',
            _ if at < entitled => '·',
            _ => ' ',
        })
        .collect();
    let mut mark = |units: u64, sign: char| {
        if let Some(slot) = bar.get_mut(place(units).min(length.saturating_sub(1))) {
            *slot = sign;
        }
    };
    if it.reservation > 0 {
        mark(it.reservation, '[');
    }
    if let Some(limit) = it.limit {
        mark(limit, '|');
    }
    bar.into_iter().collect()
}

/// Pools with their depth, each below its parent, by name.
fn in_tree(pools: &[PoolUse]) -> Vec<(usize, &PoolUse)> {
    let mut below: BTreeMap<Option<&str>, Vec<&PoolUse>> = BTreeMap::new();
    for pool in pools {
        let parent = pool.parent.as_ref().map(|parent| parent.id.as_str());
        // A parent that the caller may not see is as good as none.
        let parent = parent.filter(|id| pools.iter().any(|other| other.pool.id == *id));
        below.entry(parent).or_default().push(pool);
    }
    let mut rows = Vec::new();
    push(&below, None, 0, &mut rows);
    rows
}

fn push<'a>(
    below: &BTreeMap<Option<&str>, Vec<&'a PoolUse>>,
    parent: Option<&str>,
    depth: usize,
    rows: &mut Vec<(usize, &'a PoolUse)>,
) {
    for pool in below.get(&parent).into_iter().flatten() {
        rows.push((depth, pool));
        if depth < DEPTH_MAX {
            push(below, Some(&pool.pool.id), depth + 1, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::native::Reference;

    fn pool(name: &str, parent: Option<&str>, cpu: ResourceUse) -> PoolUse {
        let reference = |name: &str| Reference {
            id: format!("id-{name}"),
            name: name.into(),
        };
        PoolUse {
            pool: reference(name),
            parent: parent.map(reference),
            cpu,
            memory: ResourceUse {
                ceiling: 1 << 30,
                ..ResourceUse::default()
            },
            pids: 7,
        }
    }

    #[test]
    fn bars_show_what_is_used_borrowed_and_allowed() {
        let it = ResourceUse {
            reservation: 500,
            limit: Some(2000),
            ceiling: 2000,
            entitled: 1500,
            demand: 1000,
            used: 1000,
            borrowed: 500,
        };
        assert_eq!(bar(&it, 2400, 24), "█████[▓▓▓▓·····     |   ");
        assert_eq!(bar(&ResourceUse::default(), 0, 24), " ".repeat(24));
        let full = ResourceUse {
            used: 9000,
            ..ResourceUse::default()
        };
        assert_eq!(bar(&full, 100, 6), "▓".repeat(6));
    }

    #[test]
    fn pools_stand_below_their_parents() {
        let cpu = ResourceUse {
            ceiling: 1000,
            ..ResourceUse::default()
        };
        let pools = [
            pool("b", None, cpu),
            pool("a-small", Some("b"), cpu),
            pool("hidden-parent", Some("nobody"), cpu),
        ];
        let text = text(&pools, 80);
        let names: Vec<&str> = text
            .lines()
            .skip(1)
            .map(|line| line.split("    ").next().unwrap())
            .collect();
        assert_eq!(&names[..3], ["b", "  a-small", "hidden-parent"], "{text}");
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest <= 84), "{text}");
    }
}
