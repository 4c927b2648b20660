//! `stats` and `top`: what workloads use.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::Serialize;
use tokio::sync::mpsc;
use wire::client::native::{ClientError, path, with_query};
use wire::native::workload::{Phase, Stats, Top, Workload};
use wire::native::{List, ProblemKind};

use crate::app::{App, Located};
use crate::args::{Format, StatsArgs, TopArgs};
use crate::error::{Doing as _, Result};
use crate::human;
use crate::output::{Cell, Table, document};

/// What a workload uses now.
#[derive(Debug, Clone, Serialize)]
struct Use {
    name: String,
    /// Per cent of one core.
    cpu_percent: f64,
    #[serde(flatten)]
    stats: Stats,
}

pub(super) async fn stats(app: &App, args: &StatsArgs) -> Result<()> {
    let watched = watched(app, args).await?;
    if watched.is_empty() {
        app.printer.note("Nothing runs.");
        return Ok(());
    }
    // One reading each is on its way at most; a slow terminal slows the readers.
    let (sender, mut receiver) = mpsc::channel(watched.len());
    for (index, one) in watched.iter().enumerate() {
        tokio::spawn(read(app.clone(), index, one.clone(), sender.clone()));
    }
    drop(sender);
    let mut board = Board::new(watched.len());
    while let Some((index, reading)) = receiver.recv().await {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                let what = format!("cannot measure workload \"{}\"", watched[index].name);
                let failed = Err(error).doing(|| what);
                if watched.len() == 1 {
                    return failed;
                }
                // The others are still worth seeing.
                if let Err(failure) = failed {
                    app.printer.note(failure.text().trim_end());
                }
                None
            }
        };
        let shown = reading.is_some();
        board.take(index, reading);
        if args.no_stream && board.complete() {
            return print(app, args, board.uses());
        }
        if !args.no_stream && shown {
            print(app, args, board.uses())?;
        }
    }
    Ok(())
}

/// The latest reading of each watched workload, in the order they were asked for.
#[derive(Debug)]
struct Board {
    latest: BTreeMap<usize, Use>,
    /// Those that have neither been measured nor ended.
    pending: BTreeSet<usize>,
}

impl Board {
    fn new(watched: usize) -> Self {
        Self {
            latest: BTreeMap::new(),
            pending: (0..watched).collect(),
        }
    }

    /// Takes a reading, or that there will be no more.
    fn take(&mut self, index: usize, reading: Option<Use>) {
        self.pending.remove(&index);
        match reading {
            Some(reading) => self.latest.insert(index, reading),
            None => self.latest.remove(&index),
        };
    }

    /// Nothing is waited for any more.
    fn complete(&self) -> bool {
        self.pending.is_empty()
    }

    fn uses(&self) -> Vec<Use> {
        self.latest.values().cloned().collect()
    }
}

/// A workload to measure and what it is called in the table.
#[derive(Debug, Clone)]
struct Watched {
    name: String,
    at: Located,
}

async fn watched(app: &App, args: &StatsArgs) -> Result<Vec<Watched>> {
    let mut watched = Vec::new();
    if !args.workloads.is_empty() {
        for reference in &args.workloads {
            watched.push(Watched {
                name: reference.clone(),
                at: app.locate(reference).await?,
            });
        }
        return Ok(watched);
    }
    let list = match app.named_pool() {
        Some(pool) => path(&["pools", pool, "workloads"]),
        None => path(&["workloads"]),
    };
    let all: List<Workload> = app
        .client
        .get(&list)
        .await
        .doing(|| "cannot list workloads".into())?;
    let running = all
        .items
        .into_iter()
        .filter(|it| it.status.phase == Phase::Running)
        .collect();
    Ok(named(running))
}

/// What each is called: its name, with its pool where workloads of several pools are listed.
fn named(workloads: Vec<Workload>) -> Vec<Watched> {
    let pools: BTreeSet<&str> = workloads.iter().map(|it| it.pool.name.as_str()).collect();
    let several = pools.len() > 1;
    workloads
        .into_iter()
        .map(|it| Watched {
            name: if several {
                format!("{}/{}", it.pool.name, it.name)
            } else {
                it.name
            },
            at: Located {
                pool: it.pool.name,
                workload: it.id,
            },
        })
        .collect()
}

type Reading = std::result::Result<Option<Use>, ClientError>;

/// Reads one workload until it ends; CPU needs two readings, so the first is only remembered.
async fn read(app: App, index: usize, one: Watched, sender: mpsc::Sender<(usize, Reading)>) {
    let path = with_query(one.at.path(&["stats"]), "follow", "true");
    let mut lines = match app
        .client
        .lines::<(), Stats>(Method::GET, &path, None)
        .await
    {
        Ok(lines) => lines,
        Err(error) => {
            // It may be gone since it was listed: that is its end.
            let gone = error.kind() == Some(ProblemKind::NotFound);
            let reading = if gone { Ok(None) } else { Err(error) };
            let _ = sender.send((index, reading)).await;
            return;
        }
    };
    let mut before: Option<Stats> = None;
    loop {
        let reading = match lines.next().await {
            Ok(Some(stats)) => {
                let Some(last) = before.replace(stats.clone()) else {
                    continue;
                };
                Ok(Some(Use {
                    name: one.name.clone(),
                    cpu_percent: cpu_percent(&last, &stats),
                    stats,
                }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let ended = !matches!(reading, Ok(Some(_)));
        if sender.send((index, reading)).await.is_err() || ended {
            return;
        }
    }
}

fn cpu_percent(last: &Stats, now: &Stats) -> f64 {
    let spent = now.cpu_total_ns.saturating_sub(last.cpu_total_ns);
    let wall_ns = now
        .read_ms
        .saturating_sub(last.read_ms)
        .saturating_mul(1_000_000);
    if wall_ns <= 0 {
        return 0.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage with one decimal is shown"
    )]
    let percent = spent as f64 * 100.0 / wall_ns as f64;
    (percent * 10.0).round() / 10.0
}

fn print(app: &App, args: &StatsArgs, items: Vec<Use>) -> Result<()> {
    match args.output {
        Format::Json if args.no_stream => app.printer.value(&List { items }, Format::Json),
        Format::Json => app
            .printer
            .line(&serde_json::to_string(&List { items }).unwrap_or_default()),
        Format::Yaml => app.printer.print(&format!(
            "---\n{}",
            document(&List { items }, Format::Yaml)?
        )),
        Format::Table => {
            let text = table(&items).text(app.printer.color);
            if app.printer.terminal && !args.no_stream {
                app.printer.print(&format!("\x1b[H\x1b[2J{text}"))
            } else {
                app.printer.print(&text)
            }
        }
    }
}

fn table(items: &[Use]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "CPU",
        "MEMORY",
        "LIMIT",
        "PROCESSES",
        "NET IN",
        "NET OUT",
        "READ",
        "WRITTEN",
    ]);
    for it in items {
        let stats = &it.stats;
        let size = |bytes: u64| -> Cell { human::size(bytes).into() };
        table.row(vec![
            it.name.as_str().into(),
            format!("{:.1} %", it.cpu_percent).into(),
            size(stats.memory_bytes),
            if stats.memory_limit_bytes == 0 {
                "-".into()
            } else {
                size(stats.memory_limit_bytes)
            },
            stats.pids.to_string().into(),
            size(stats.network_rx_bytes),
            size(stats.network_tx_bytes),
            size(stats.block_read_bytes),
            size(stats.block_write_bytes),
        ]);
    }
    table
}

pub(super) async fn top(app: &App, args: &TopArgs) -> Result<()> {
    let at = app.locate(&args.workload).await?;
    let mut path = at.path(&["top"]);
    if !args.ps_args.is_empty() {
        path = with_query(path, "ps_args", &args.ps_args.join(" "));
    }
    let top: Top = match app.client.get(&path).await {
        Ok(top) => top,
        Err(error) => {
            let what = format!(
                "cannot list the processes of workload \"{}\"",
                args.workload
            );
            return Err(app.explain(&at, error, what).await);
        }
    };
    let widths: Vec<usize> = (0..top.titles.len())
        .map(|column| {
            let cells = top
                .rows
                .iter()
                .filter_map(|row| row.get(column))
                .chain([&top.titles[column]]);
            cells.map(|text| text.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in std::iter::once(&top.titles).chain(&top.rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(text, width)| format!("{:width$}", crate::output::visible(text), width = *width))
            .collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    app.printer.print(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str) -> Use {
        Use {
            name: name.into(),
            cpu_percent: 1.0,
            stats: Stats::default(),
        }
    }

    #[test]
    fn workloads_of_one_name_in_two_pools_are_two_rows() {
        let mut board = Board::new(2);
        board.take(0, Some(reading("a/web")));
        assert!(!board.complete());
        board.take(1, Some(reading("b/web")));
        assert!(board.complete());
        let names: Vec<String> = board.uses().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["a/web", "b/web"]);
    }

    #[test]
    fn one_that_ends_before_it_was_measured_is_not_waited_for() {
        let mut board = Board::new(2);
        board.take(1, None);
        board.take(0, Some(reading("web")));
        assert!(board.complete());
        assert_eq!(board.uses().len(), 1);
    }
}
