//! Hosts.

use http::Method;
use wire::client::native::{Patience, path, with_query};
use wire::native::Amount;
use wire::native::host::{Gpu, Host, JoinToken, JoinTokenCreate, PoolPart, State, Update};

use crate::app::App;
use crate::args::value::LabelChange;
use crate::args::{Format, HostCommand};
use crate::commands::drain;
use crate::commands::list::{View, show};
use crate::error::{Doing as _, Result};
use crate::output::{Cell, Table, Tone, fields};
use crate::{exit, human};

pub(super) async fn execute(app: &App, command: HostCommand) -> Result<()> {
    match command {
        HostCommand::Ls(args) => {
            let view = View {
                path: path(&["hosts"]),
                noun: "hosts",
                empty: "No hosts yet. Make a token for one to join with: plimsoll host token",
                keep: &|_| true,
                id: |host: &Host| &host.id,
                quiet: &|host| host.name.clone(),
                table: &table,
            };
            show(app, &args, view).await
        }
        HostCommand::Show { host, output } => {
            let host: Host = app
                .client
                .get(&path(&["hosts", &host]))
                .await
                .doing(|| format!("cannot show host \"{host}\""))?;
            print(app, &host, output.output).await
        }
        HostCommand::Token { ttl, output } => token(app, ttl, output.output).await,
        HostCommand::Label { host, changes } => {
            let mut body = Update::default();
            for change in changes {
                match change {
                    LabelChange::Set(key, value) => drop(body.labels.insert(key, value)),
                    LabelChange::Remove(key) => drop(body.labels_removed.insert(key)),
                }
            }
            update(app, &host, &body).await
        }
        HostCommand::Overcommit { host, cpu, memory } => {
            let body = Update {
                cpu_overcommit_percent: cpu,
                memory_overcommit_percent: memory,
                ..Update::default()
            };
            update(app, &host, &body).await
        }
        HostCommand::Cordon { hosts } => each(app, &hosts, "cordon").await,
        HostCommand::Uncordon { hosts } => each(app, &hosts, "uncordon").await,
        HostCommand::Drain(args) => drain::drain(app, &args).await,
        HostCommand::Rm { hosts, force, yes } => {
            let question = format!("Remove {} from the installation?", hosts.join(", "));
            app.confirm(yes.yes || force, &question)?;
            for host in hosts {
                remove(app, &host, force).await?;
                app.printer.line(&host)?;
            }
            Ok(())
        }
    }
}

async fn update(app: &App, host: &str, body: &Update) -> Result<()> {
    let path = path(&["hosts", host]);
    let changed = app
        .client
        .call(Method::PATCH, &path, Some(body), Patience::Short)
        .await;
    let _: Host = changed.doing(|| format!("cannot change host \"{host}\""))?;
    app.printer.line(host)
}

/// Removes a host. What is forgotten with it is said first: as a note with `force`, else as the reason of the refusal.
async fn remove(app: &App, host: &str, force: bool) -> Result<()> {
    let mut path = path(&["hosts", host]);
    if force {
        path = with_query(path, "force", "true");
        if let Some(lost) = drain::forgotten(app, host).await {
            app.printer.note(&lost);
        }
    }
    let removed = app
        .client
        .call(Method::DELETE, &path, None::<&()>, Patience::Long)
        .await;
    let removed: Result<()> = removed.doing(|| format!("cannot remove host \"{host}\""));
    let Err(failure) = removed else {
        return Ok(());
    };
    if failure.code != exit::CONFLICT || force {
        return Err(failure);
    }
    let hint = failure.hint.replace("use force", "use --force");
    let failure = failure.hint(hint);
    match drain::forgotten(app, host).await {
        Some(lost) => {
            let why = format!("{}\n{lost}", failure.why);
            Err(failure.why(why))
        }
        None => Err(failure),
    }
}

async fn each(app: &App, hosts: &[String], verb: &str) -> Result<()> {
    for host in hosts {
        let path = path(&["hosts", host, verb]);
        let done = app
            .client
            .call(Method::POST, &path, None::<&()>, Patience::Short)
            .await;
        let _: Host = done.doing(|| format!("cannot {verb} host \"{host}\""))?;
        app.printer.line(host)?;
    }
    Ok(())
}

async fn token(app: &App, ttl: std::time::Duration, format: Format) -> Result<()> {
    let body = JoinTokenCreate {
        ttl_seconds: Some(ttl.as_secs()),
    };
    let made = app
        .client
        .call(
            Method::POST,
            &path(&["join-tokens"]),
            Some(&body),
            Patience::Short,
        )
        .await;
    let token: JoinToken = made.doing(|| "cannot make a join token".into())?;
    match format {
        Format::Table => {
            app.printer.line(&token.token)?;
            app.printer.note(&format!(
                "Works once, until {}. It is not shown again.",
                token.expires_at
            ));
            Ok(())
        }
        format => app.printer.value(&token, format),
    }
}

/// A state in a word, with its tone.
pub(super) fn state(state: State) -> Cell {
    let (word, tone) = match state {
        State::Ready => ("ready", Tone::Good),
        State::Cordoned => ("cordoned", Tone::Warn),
        State::Draining => ("draining", Tone::Warn),
        State::Drained => ("drained", Tone::Warn),
        State::Unreachable => ("unreachable", Tone::Bad),
        State::Lost => ("lost", Tone::Bad),
    };
    Cell::new(word, tone)
}

fn table(hosts: &[Host]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "ZONE",
        "WORKLOADS",
        "CPU",
        "MEMORY",
        "HEARD",
        "ADDRESS",
    ]);
    let now = human::now_ms();
    for host in hosts {
        let (requested, room) = (host.requested, host.room);
        table.row(vec![
            host.name.as_str().into(),
            state(host.state),
            if host.zone.is_empty() {
                "-"
            } else {
                &host.zone
            }
            .into(),
            host.workloads.to_string().into(),
            format!(
                "{}/{}",
                human::cores(requested.cpu_millis),
                human::cores(room.cpu_millis)
            )
            .into(),
            format!(
                "{}/{}",
                human::size(requested.memory_bytes),
                human::size(room.memory_bytes)
            )
            .into(),
            heard(host, now).into(),
            host.address.as_str().into(),
        ]);
    }
    table
}

/// When it was heard last.
fn heard(host: &Host, now_ms: i64) -> String {
    match (&host.silent_since, host.state) {
        (Some(since), _) => format!("{} ago", human::age(since, now_ms)),
        (None, State::Unreachable | State::Lost) => "-".into(),
        (None, State::Ready | State::Cordoned | State::Draining | State::Drained) => "now".into(),
    }
}

/// What is asked for of what there is, and how that comes about.
fn room(host: &Host, of: fn(&Amount) -> u64, percent: u32, show: fn(u64) -> String) -> String {
    let overcommit = match percent {
        100 => String::new(),
        percent => format!(", {percent} %"),
    };
    format!(
        "{} of {} requested ({} less {} reserve{overcommit})",
        show(of(&host.requested)),
        show(of(&host.room)),
        show(of(&host.capacity)),
        show(of(&host.reserve))
    )
}

async fn print(app: &App, host: &Host, format: Format) -> Result<()> {
    if format != Format::Table {
        return app.printer.value(host, format);
    }
    app.printer.print(&fields(&lines(host)))?;
    if !host.pools.is_empty() {
        let parts = pool_table(&host.pools).text(app.printer.color);
        app.printer.print(&format!("\nParts of pools:\n{parts}"))?;
    }
    match host.state {
        State::Ready | State::Cordoned | State::Unreachable => Ok(()),
        State::Draining | State::Drained | State::Lost => drain::show(app, &host.name).await,
    }
}

fn lines(host: &Host) -> Vec<(&'static str, String)> {
    let now = human::now_ms();
    let labels: Vec<String> = host
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let (cpu, memory) = (host.overcommit.cpu_percent, host.overcommit.memory_percent);
    let lost = host.lost_at.as_ref();
    let lost = lost.map(|at| format!("{} ago, {at}", human::age(at, now)));
    let system = format!(
        "{}, kernel {}, {}, cgroup {}",
        host.os, host.kernel, host.architecture, host.cgroup
    );
    let mut lines = vec![
        ("Name", host.name.clone()),
        ("Id", host.id.clone()),
        ("State", state(host.state).text().to_owned()),
        ("Maintenance", maintenance(host, now)),
        ("Lost", lost.unwrap_or_default()),
        ("Heard", heard(host, now)),
        ("Zone", host.zone.clone()),
        ("Labels", labels.join(", ")),
        ("Workloads", host.workloads.to_string()),
        ("Images", host.images.to_string()),
        ("CPUs", host.cpus.to_string()),
        ("CPU", room(host, |it| it.cpu_millis, cpu, human::cores)),
        (
            "Memory",
            room(host, |it| it.memory_bytes, memory, human::size),
        ),
    ];
    lines.extend(host.gpus.iter().map(|gpu| ("GPU", gpu_words(gpu))));
    lines.extend([
        ("System", system),
        ("Address", host.address.clone()),
        ("Runtimes", host.runtimes.join(", ")),
        ("Agent", host.agent_version.clone()),
        ("Joined", host.joined_at.clone()),
    ]);
    lines
}

fn maintenance(host: &Host, now_ms: i64) -> String {
    let Some(drain) = &host.drain else {
        return String::new();
    };
    let rest = if drain.stop_rest {
        "; what cannot move is stopped"
    } else {
        ""
    };
    let age = human::age(&drain.since, now_ms);
    format!("for {age}, since {}{rest}", drain.since)
}

fn gpu_words(gpu: &Gpu) -> String {
    let used = f64::from(gpu.used_millis) / 10.0;
    format!(
        "{}: {}, {used} % in use, {}",
        gpu.index, gpu.model, gpu.uuid
    )
}

fn pool_table(parts: &[PoolPart]) -> Table {
    let mut table = Table::new(&[
        "POOL",
        "WEIGHT",
        "CPU USED",
        "CPU LIMIT",
        "MEMORY USED",
        "MEMORY LIMIT",
        "PROTECTED",
    ]);
    let or_none = |value: Option<u64>, show: fn(u64) -> String| value.map_or("-".into(), show);
    for part in parts {
        table.row(vec![
            human::named(&part.pool).into(),
            part.cpu_weight.to_string().into(),
            or_none(part.cpu_used_millis, human::cores).into(),
            or_none(part.cpu_limit_millis, human::cores).into(),
            or_none(part.memory_used_bytes, human::size).into(),
            or_none(part.memory_limit_bytes, human::size).into(),
            human::size(part.memory_protected_bytes).into(),
        ]);
    }
    table
}
