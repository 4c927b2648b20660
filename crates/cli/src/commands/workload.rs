//! Workloads: list, control, inspect, remove.

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::client::native::{Patience, path, with_query};
use wire::native::List;
use wire::native::image::Image;
use wire::native::workload::{
    Changed, KillRequest, Phase, RenameRequest, Resources, StartRequest, StopRequest, WaitOutcome,
    Workload, WorkloadUpdate,
};

use crate::app::{App, Located};
use crate::args::{
    Format, KillArgs, PsArgs, RmArgs, StartArgs, StopArgs, UpdateArgs, WorkloadsArgs,
};
use crate::commands::list::{View, show};
use crate::error::{Failure, Result};
use crate::output::{Cell, Table, Tone};
use crate::{exit, human};

pub(super) async fn ps(app: &App, args: &PsArgs) -> Result<()> {
    let path = match app.named_pool() {
        Some(pool) => path(&["pools", pool, "workloads"]),
        None => path(&["workloads"]),
    };
    let labels: Vec<(String, Option<String>)> = args
        .labels
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        })
        .collect();
    let keep = |it: &Workload| {
        let shown = args.all
            || it.hold.is_some()
            || match it.status.phase {
                Phase::Created | Phase::Exited | Phase::Failed => false,
                Phase::Pending
                | Phase::Preparing
                | Phase::Running
                | Phase::Paused
                | Phase::Restarting
                | Phase::Unknown => true,
            };
        let host = args.host.as_ref().is_none_or(|wanted| {
            it.host
                .as_ref()
                .is_some_and(|host| host.name == *wanted || host.id == *wanted)
        });
        let labels = labels.iter().all(|(key, value)| {
            it.spec
                .labels
                .get(key)
                .is_some_and(|have| value.as_ref().is_none_or(|value| have == value))
        });
        shown && host && labels
    };
    let view = View {
        path,
        noun: "workloads",
        empty: if args.all {
            "No workloads. Start one: plimsoll run IMAGE"
        } else {
            "Nothing runs. Start something: plimsoll run IMAGE; what ended is shown with -a"
        },
        keep: &keep,
        id: |it: &Workload| &it.id,
        quiet: &|it| {
            if args.no_trunc {
                it.id.clone()
            } else {
                human::short(&it.id)
            }
        },
        table: &|items| table(items, args.no_trunc),
    };
    let shown = show(app, &args.list, view).await;
    match (shown, app.named_pool()) {
        (Err(failure), Some(pool)) => Err(app.explain_pool(pool, failure).await),
        (shown, _) => shown,
    }
}

/// Longest reason in a list, in characters; whole with `--no-trunc`, and in `inspect`.
const REASON_MAX: usize = 80;

fn table(workloads: &[Workload], whole: bool) -> Table {
    let mut headings = vec![
        "ID", "NAME", "POOL", "HOST", "STATE", "IMAGE", "PORTS", "AGE",
    ];
    // Most of the time there is nothing to explain, and lines are long enough.
    let reasons: Vec<String> = workloads.iter().map(human::reason).collect();
    if reasons.iter().any(|reason| !reason.is_empty()) {
        headings.push("REASON");
    }
    let mut table = Table::new(&headings);
    let now = human::now_ms();
    for (it, reason) in workloads.iter().zip(reasons) {
        let tone = match it.status.phase {
            _ if it.hold.is_some() => Tone::Warn,
            Phase::Running => Tone::Good,
            Phase::Failed | Phase::Unknown => Tone::Bad,
            Phase::Exited if it.status.exit_code != 0 => Tone::Bad,
            Phase::Pending | Phase::Preparing | Phase::Restarting | Phase::Paused => Tone::Warn,
            Phase::Created | Phase::Exited => Tone::Plain,
        };
        let image = if it.spec.task.image.starts_with("sha256:") && !whole {
            human::short(&it.spec.task.image)
        } else {
            human::image_name(&it.spec.task.image).to_owned()
        };
        table.row(vec![
            if whole {
                it.id.clone()
            } else {
                human::short(&it.id)
            }
            .into(),
            it.name.as_str().into(),
            it.pool.name.as_str().into(),
            it.host.as_ref().map_or("-".to_owned(), human::named).into(),
            Cell::new(human::state(it, now), tone),
            image.into(),
            human::ports(&it.status.ports).into(),
            human::age(&it.created_at, now).into(),
            if whole {
                reason
            } else {
                human::cut(&reason, REASON_MAX)
            }
            .into(),
        ]);
    }
    table
}

/// Sends one request about a workload; a failure names the verb and looks for a name that was meant.
pub(super) async fn ask<B: Serialize + Sync, T: DeserializeOwned>(
    app: &App,
    at: &Located,
    (method, path): (Method, String),
    body: Option<&B>,
    what: String,
) -> Result<T> {
    match app.client.call(method, &path, body, Patience::Long).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(app.explain(at, error, what).await),
    }
}

/// Does something with each of several; goes on after a failure and ends with the first one's code.
async fn each<'a, F>(
    app: &App,
    references: &'a [String],
    mut act: impl FnMut(&'a str, Located) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut first = None;
    for reference in references {
        let done = match app.locate(reference).await {
            Ok(at) => act(reference, at).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => app.printer.line(reference)?,
            Err(failure) => {
                if references.len() > 1 {
                    app.printer.note(failure.text().trim_end());
                    first.get_or_insert(Failure::silent(failure.code));
                } else {
                    first.get_or_insert(failure);
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

pub(super) async fn plain(app: &App, args: &WorkloadsArgs, verb: &str) -> Result<()> {
    each(app, &args.workloads, |reference, at| async move {
        let what = format!("cannot {verb} workload \"{reference}\"");
        let _: Changed = ask(
            app,
            &at,
            (Method::POST, at.path(&[verb])),
            None::<&()>,
            what,
        )
        .await?;
        Ok(())
    })
    .await
}

pub(super) async fn start(app: &App, args: &StartArgs) -> Result<()> {
    let body = &StartRequest { queue: args.queue };
    each(app, &args.workloads, |reference, at| async move {
        let what = format!("cannot start workload \"{reference}\"");
        let request = (Method::POST, at.path(&["start"]));
        let _: Changed = ask(app, &at, request, Some(body), what).await?;
        if args.queue {
            note_hold(app, &at).await;
        }
        Ok(())
    })
    .await
}

/// Says so if a workload that was asked to run waits instead.
pub(super) async fn note_hold(app: &App, at: &Located) {
    let found = app.client.get::<Workload>(&at.path(&[])).await;
    // It was started, or waits: whoever cannot read it any more need not be told.
    let Ok(workload) = found else { return };
    if let Some(hold) = &workload.hold {
        app.printer.note(&format!(
            "{} does not run yet: {}: {}",
            workload.name,
            human::hold_word(hold.kind),
            hold.reason
        ));
    }
}

pub(super) async fn stop(app: &App, args: &StopArgs, verb: &str) -> Result<()> {
    let body = &StopRequest {
        grace_seconds: args
            .time
            .map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
        signal: args.signal,
    };
    each(app, &args.workloads, |reference, at| async move {
        let what = format!("cannot {verb} workload \"{reference}\"");
        let _: Changed = ask(app, &at, (Method::POST, at.path(&[verb])), Some(body), what).await?;
        Ok(())
    })
    .await
}

pub(super) async fn kill(app: &App, args: &KillArgs) -> Result<()> {
    let body = &KillRequest {
        signal: Some(args.signal),
    };
    each(app, &args.workloads, |reference, at| async move {
        let what = format!("cannot send a signal to workload \"{reference}\"");
        ask::<_, ()>(
            app,
            &at,
            (Method::POST, at.path(&["kill"])),
            Some(body),
            what,
        )
        .await
    })
    .await
}

pub(super) async fn wait(app: &App, args: &WorkloadsArgs) -> Result<()> {
    for reference in &args.workloads {
        let at = app.locate(reference).await?;
        let what = format!("cannot wait for workload \"{reference}\"");
        let outcome: WaitOutcome = ask(
            app,
            &at,
            (Method::POST, at.path(&["wait"])),
            None::<&()>,
            what,
        )
        .await?;
        if let Some(error) = &outcome.error {
            app.printer.note(error);
        }
        app.printer.line(&outcome.exit_code.to_string())?;
    }
    Ok(())
}

pub(super) async fn rename(app: &App, reference: &str, name: &str) -> Result<()> {
    let at = app.locate(reference).await?;
    let what = format!("cannot rename workload \"{reference}\"");
    let body = RenameRequest {
        name: name.to_owned(),
    };
    ask::<_, ()>(
        app,
        &at,
        (Method::POST, at.path(&["rename"])),
        Some(&body),
        what,
    )
    .await?;
    app.printer.line(name)
}

pub(super) async fn update(app: &App, args: &UpdateArgs) -> Result<()> {
    each(app, &args.workloads, |reference, at| async move {
        let what = || format!("cannot update workload \"{reference}\"");
        let path = at.path(&[]);
        let now: Workload = ask(app, &at, (Method::GET, path.clone()), None::<&()>, what()).await?;
        let body = WorkloadUpdate {
            resources: updated(now.spec.task.resources, args),
            restart: args.restart,
        };
        let _: Workload = ask(app, &at, (Method::PATCH, path), Some(&body), what()).await?;
        Ok(())
    })
    .await
}

/// All resources with those that are named replaced, because the server takes them as a whole; `None`: none is named.
fn updated(now: Resources, args: &UpdateArgs) -> Option<Resources> {
    let new = Resources {
        request_cpu_millis: args.request_cpus.or(now.request_cpu_millis),
        request_memory_bytes: args.request_memory.or(now.request_memory_bytes),
        memory_limit_bytes: args.memory.or(now.memory_limit_bytes),
        memory_swap_bytes: args.memory_swap.or(now.memory_swap_bytes),
        cpu_limit_millis: args.cpus.or(now.cpu_limit_millis),
        cpu_shares: args.cpu_shares.or(now.cpu_shares),
        cpuset_cpus: args.cpuset_cpus.clone().or_else(|| now.cpuset_cpus.clone()),
        pids_limit: args.pids_limit.or(now.pids_limit),
    };
    (new != now).then_some(new)
}

pub(super) async fn rm(app: &App, args: &RmArgs) -> Result<()> {
    let question = format!(
        "Remove {} with everything written in it?",
        args.workloads.join(", ")
    );
    app.confirm(args.yes.yes || args.force, &question)?;
    each(app, &args.workloads, |reference, at| async move {
        let mut path = at.path(&[]);
        if args.force {
            path = with_query(path, "force", "true");
        }
        if args.volumes {
            path = with_query(path, "volumes", "true");
        }
        let what = format!("cannot remove workload \"{reference}\"");
        let removed = ask::<(), ()>(app, &at, (Method::DELETE, path), None, what).await;
        removed.map_err(|failure| {
            if failure.code == exit::CONFLICT && failure.why.contains("running") {
                failure.hint("stop it first, or use --force")
            } else {
                failure
            }
        })
    })
    .await
}

/// What a name may stand for.
#[derive(Serialize)]
#[serde(untagged)]
enum Thing {
    Workload(Box<Workload>),
    Image(Box<Image>),
}

pub(super) async fn inspect(app: &App, names: &[String], format: Format) -> Result<()> {
    let mut items = Vec::new();
    for name in names {
        items.push(find(app, name).await?);
    }
    app.printer.value(&List { items }, format)
}

async fn find(app: &App, name: &str) -> Result<Thing> {
    let failure = match app.locate(name).await {
        Ok(at) => {
            let what = format!("cannot inspect \"{name}\"");
            match ask(app, &at, (Method::GET, at.path(&[])), None::<&()>, what).await {
                Ok(workload) => return Ok(Thing::Workload(workload)),
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    if failure.code == exit::NOT_FOUND
        && let Ok(pool) = app.pool().await
        && let Ok(image) = app
            .client
            .get(&path(&["pools", &pool, "images", name]))
            .await
    {
        return Ok(Thing::Image(image));
    }
    Err(failure)
}
