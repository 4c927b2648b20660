//! `host drain`: begins maintenance, waits until the host is empty, and says what becomes of each workload, and of images
//! that no other host has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::Method;
use wire::client::native::{Patience, path, with_query};
use wire::native::host::{DrainRequest, Fate, Host, Leaving, OnlyImage, Outlook, State};
use wire::native::workload::Workload;

use crate::app::App;
use crate::args::{DrainArgs, Format};
use crate::error::{Doing as _, Failure, Result};
use crate::output::{Cell, Table, Tone};
use crate::{exit, human};

/// Pause between two looks: a workload takes about a second to end and start.
const PAUSE: Duration = Duration::from_millis(500);

/// Workloads listed one by one in a message.
const LISTED_MAX: usize = 20;

pub(super) async fn drain(app: &App, args: &DrainArgs) -> Result<()> {
    let host = &args.host;
    if args.dry_run {
        let outlook = look(app, host, args.stop_rest).await?;
        print(app, &outlook, args.output.output)?;
        let stuck = |it: &&Leaving| matches!(it.fate, Fate::Stays | Fate::Waits);
        if outlook.workloads.iter().any(|it| stuck(&it)) {
            return Err(Failure::silent(exit::CONFLICT));
        }
        return Ok(());
    }
    let body = DrainRequest {
        stop_rest: args.stop_rest,
        force: args.force,
    };
    let path = path(&["hosts", host, "drain"]);
    let begun = app
        .client
        .call(Method::POST, &path, Some(&body), Patience::Short)
        .await;
    let begun: Result<Host> = begun.doing(|| format!("cannot drain host \"{host}\""));
    begun.map_err(|failure| {
        if failure.hint.contains("use force") {
            let hint = failure.hint.replace("use force", "use --force");
            return failure.hint(hint);
        }
        failure
    })?;
    if args.detach {
        app.printer.note(&format!(
            "Host {host} is in maintenance; see `plimsoll host show {host}`."
        ));
        return app.printer.line(host);
    }
    let outlook = wait(app, args).await?;
    match args.output.output {
        Format::Table => app.printer.line(host),
        format => app.printer.value(&outlook, format),
    }
}

/// What becomes of everything on a host.
async fn look(app: &App, host: &str, stop_rest: bool) -> Result<Outlook> {
    let mut path = path(&["hosts", host, "drain"]);
    if stop_rest {
        path = with_query(path, "stop_rest", "true");
    }
    let found = app.client.get(&path).await;
    found.doing(|| format!("cannot see what becomes of what is on host \"{host}\""))
}

/// Waits until nothing runs on the host any more; tells what happens meanwhile.
async fn wait(app: &App, args: &DrainArgs) -> Result<Outlook> {
    let host = &args.host;
    let began = Instant::now();
    let mut progress = Progress::default();
    loop {
        let outlook = look(app, host, false).await?;
        for line in progress.take(app, &outlook).await {
            app.printer.note(&line);
        }
        if outlook.drain.is_none() {
            return Err(Failure::new(
                exit::CONFLICT,
                format!("the maintenance of host \"{host}\" was ended meanwhile"),
            ));
        }
        if outlook.state == State::Drained {
            app.printer.note(&progress.summary(&outlook));
            return Ok(outlook);
        }
        let stuck: Vec<&Leaving> = busy(&outlook).collect();
        if !stuck.is_empty() && stuck.iter().all(|it| it.fate == Fate::Stays) {
            let what = format!("host \"{host}\" cannot be emptied");
            let hint = format!(
                "stop what cannot move with `plimsoll host drain --stop-rest {host}`, or take the host into use again \
                 with `plimsoll host uncordon {host}`"
            );
            return Err(Failure::new(exit::CONFLICT, what)
                .why(listed(&stuck))
                .hint(hint));
        }
        if began.elapsed() >= args.timeout {
            let waited = human::span(i64::try_from(args.timeout.as_secs()).unwrap_or(i64::MAX));
            let what = format!("host \"{host}\" is not empty after {waited}");
            let why = match outlook.state {
                State::Unreachable | State::Lost => "it cannot be reached".to_owned(),
                State::Ready | State::Cordoned | State::Draining | State::Drained => {
                    format!("{}{}", listed(&stuck), listed_images(&outlook.images))
                }
            };
            let hint = format!(
                "it goes on: wait again with `plimsoll host drain {host}`, or end it with `plimsoll host uncordon {host}`"
            );
            return Err(Failure::new(exit::FAILED, what).why(why).hint(hint));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What still has to leave or end.
fn busy(outlook: &Outlook) -> impl Iterator<Item = &Leaving> {
    let workloads = outlook.workloads.iter();
    workloads.filter(|it| it.fate != Fate::Idle)
}

/// What was told already of each workload.
#[derive(Default)]
struct Progress {
    known: BTreeMap<String, Leaving>,
    /// Images that were on no other host when it was looked last.
    images: BTreeMap<String, OnlyImage>,
    moved: usize,
    stopped: usize,
    silent: bool,
}

impl Progress {
    /// What is new, a line each.
    async fn take(&mut self, app: &App, outlook: &Outlook) -> Vec<String> {
        let mut lines = Vec::new();
        let silent = matches!(outlook.state, State::Unreachable | State::Lost);
        if silent && !self.silent {
            lines.push(format!(
                "{} cannot be reached: nothing there can be told to end",
                outlook.host.name
            ));
        }
        self.silent = silent;
        let mut before = std::mem::take(&mut self.known);
        for it in &outlook.workloads {
            let was = before.remove(&it.workload.id).map(|it| it.fate);
            if was != Some(it.fate) {
                lines.extend(
                    self.changed(was, it)
                        .map(|text| format!("{}: {text}", name(it))),
                );
            }
            self.known.insert(it.workload.id.clone(), it.clone());
        }
        let gone = before.into_values();
        for it in gone.filter(|it| it.fate != Fate::Moved) {
            let text = self.whereabouts(app, &it).await;
            lines.push(format!("{}: {text}", name(&it)));
        }
        lines.extend(self.images(outlook));
        lines
    }

    /// What is new of images.
    fn images(&mut self, outlook: &Outlook) -> Vec<String> {
        let images = outlook.images.iter();
        let now: BTreeMap<String, OnlyImage> =
            images.map(|it| (it.image.id.clone(), it.clone())).collect();
        let mut lines = Vec::new();
        for (id, it) in &now {
            if self.images.get(id).map(|it| it.can_be_copied) != Some(it.can_be_copied) {
                lines.push(image_words(it));
            }
        }
        for (id, it) in &self.images {
            if !now.contains_key(id) {
                lines.push(format!("{}: another host has it now", image_name(it)));
            }
        }
        self.images = now;
        lines
    }

    /// What has become of a workload now; `None`: nothing of interest.
    fn changed(&mut self, was: Option<Fate>, it: &Leaving) -> Option<String> {
        match (was, it.fate) {
            // What did not run from the beginning.
            (None, Fate::Idle) => None,
            (Some(_), Fate::Idle) => {
                self.stopped += 1;
                let reason = it.reason.as_deref().unwrap_or_default();
                Some(format!("stopped: {reason}"))
            }
            (_, Fate::Moved) => {
                self.moved += 1;
                Some(match &it.to {
                    Some(to) => format!("moved to {}", human::named(to)),
                    None => "waits for a place elsewhere".to_owned(),
                })
            }
            (_, Fate::Moves | Fate::Moving | Fate::Waits | Fate::Stays | Fate::Stops) => {
                Some(words(it))
            }
        }
    }

    /// Where a workload is that is not on the host any more.
    async fn whereabouts(&mut self, app: &App, leaving: &Leaving) -> String {
        let segments = ["pools", &leaving.pool.id, "workloads", &leaving.workload.id];
        let found = app.client.get::<Workload>(&path(&segments)).await;
        match found.map(|workload| workload.host) {
            Ok(Some(host)) => {
                self.moved += 1;
                format!("moved to {}", human::named(&host))
            }
            Ok(None) => "waits for a place elsewhere".to_owned(),
            Err(_) => "removed".to_owned(),
        }
    }

    fn summary(&self, outlook: &Outlook) -> String {
        let idle = outlook.workloads.len().saturating_sub(self.stopped);
        let parts: Vec<String> = [
            (self.moved, "moved"),
            (self.stopped, "stopped"),
            (idle, "not running, with files that stay"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        let host = &outlook.host.name;
        if parts.is_empty() {
            format!("Nothing runs on {host} any more.")
        } else {
            format!("Nothing runs on {host} any more: {}.", parts.join(", "))
        }
    }
}

fn name(leaving: &Leaving) -> String {
    format!("{}/{}", human::named(&leaving.pool), leaving.workload.name)
}

/// A fate in a word or two, with its tone.
fn word(fate: Fate) -> (&'static str, Tone) {
    match fate {
        Fate::Moves => ("moves", Tone::Good),
        Fate::Moving => ("is moving", Tone::Good),
        Fate::Moved => ("moved", Tone::Good),
        Fate::Waits => ("waits for room", Tone::Warn),
        Fate::Stays => ("stays", Tone::Bad),
        Fate::Stops => ("is stopped", Tone::Warn),
        Fate::Idle => ("does not run", Tone::Plain),
    }
}

/// What becomes of a workload, in one line.
fn words(leaving: &Leaving) -> String {
    let to = leaving.to.as_ref().map(human::named);
    let reason = leaving.reason.as_deref().unwrap_or_default();
    match (leaving.fate, to) {
        (Fate::Moves, Some(to)) => format!("moves ({to} has room)"),
        (Fate::Moved, Some(to)) => format!("moved to {to}; still to be removed where it was"),
        (fate, _) if reason.is_empty() => word(fate).0.to_owned(),
        (fate, _) => format!("{}: {reason}", word(fate).0),
    }
}

fn image_name(image: &OnlyImage) -> String {
    format!(
        "image {} of {}",
        image.image.name,
        human::named(&image.pool)
    )
}

/// What becomes of an image, in one line.
fn image_words(image: &OnlyImage) -> String {
    let what = if image.can_be_copied {
        "has to be copied to another host first: no other that stays has it, and no registry"
    } else {
        "would be lost with this host: no registry has it, and no other host can"
    };
    format!("{}: {what}", image_name(image))
}

fn listed_images(images: &[OnlyImage]) -> String {
    let mut text = String::new();
    for it in images.iter().take(LISTED_MAX) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", image_words(it));
    }
    if images.len() > LISTED_MAX {
        let _ = writeln!(text, "and {} more images", images.len() - LISTED_MAX);
    }
    text
}

fn listed(workloads: &[&Leaving]) -> String {
    let mut text = String::new();
    for it in workloads.iter().take(LISTED_MAX) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}: {}", name(it), words(it));
    }
    if workloads.len() > LISTED_MAX {
        let _ = writeln!(text, "and {} more", workloads.len() - LISTED_MAX);
    }
    text
}

/// What is forgotten with a host that is removed, and what is not; `None`: nothing is there, or it cannot be said.
pub(super) async fn forgotten(app: &App, host: &str) -> Option<String> {
    let outlook = look(app, host, false).await.ok()?;
    let workloads = outlook.workloads.iter();
    let (moved, there): (Vec<&Leaving>, Vec<&Leaving>) =
        workloads.partition(|it| it.fate == Fate::Moved);
    let mut text = String::new();
    if !there.is_empty() {
        let _ = write!(
            text,
            "Forgotten with {}, with all files there:\n{}",
            outlook.host.name,
            listed(&there)
        );
    }
    if !moved.is_empty() {
        let _ = write!(
            text,
            "Started elsewhere already, and not forgotten:\n{}",
            listed(&moved)
        );
    }
    if !outlook.images.is_empty() {
        let _ = write!(
            text,
            "Lost with {}:\n{}",
            outlook.host.name,
            listed_images(&outlook.images)
        );
    }
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// Shows what becomes of what is on a host, below what else is shown of it.
pub(super) async fn show(app: &App, host: &str) -> Result<()> {
    let outlook = look(app, host, false).await?;
    if !outlook.workloads.is_empty() {
        let table = table(&outlook.workloads).text(app.printer.color);
        app.printer.print(&format!("\nWhat is there:\n{table}"))?;
    }
    if !outlook.images.is_empty() {
        let images = listed_images(&outlook.images);
        app.printer
            .print(&format!("\nImages only there:\n{images}"))?;
    }
    Ok(())
}

fn print(app: &App, outlook: &Outlook, format: Format) -> Result<()> {
    if format != Format::Table {
        return app.printer.value(outlook, format);
    }
    for line in listed_images(&outlook.images).lines() {
        app.printer.note(line);
    }
    if outlook.workloads.is_empty() {
        app.printer.note("No workload is on this host.");
        return Ok(());
    }
    app.printer
        .print(&table(&outlook.workloads).text(app.printer.color))
}

fn table(workloads: &[Leaving]) -> Table {
    let mut table = Table::new(&["POOL", "WORKLOAD", "WHAT HAPPENS", "TO", "WHY"]);
    for it in workloads {
        let (word, tone) = word(it.fate);
        table.row(vec![
            human::named(&it.pool).into(),
            it.workload.name.as_str().into(),
            Cell::new(word, tone),
            it.to.as_ref().map_or("-".to_owned(), human::named).into(),
            it.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}
