//! Hosts.

use http::Method;
use wire::client::native::{Patience, path, with_query};
use wire::native::host::{Host, JoinToken, JoinTokenCreate, State};

use crate::app::App;
use crate::args::{Format, HostCommand};
use crate::commands::list::{View, show};
use crate::error::{Doing as _, Result};
use crate::human;
use crate::output::{Cell, Table, Tone, fields};

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
            print(app, &host, output.output)
        }
        HostCommand::Token { ttl, output } => token(app, ttl, output.output).await,
        HostCommand::Cordon { hosts } => each(app, &hosts, "cordon").await,
        HostCommand::Uncordon { hosts } => each(app, &hosts, "uncordon").await,
        HostCommand::Rm { hosts, force, yes } => {
            let question = format!("Remove {} from the installation?", hosts.join(", "));
            app.confirm(yes.yes || force, &question)?;
            for host in hosts {
                let mut path = path(&["hosts", &host]);
                if force {
                    path = with_query(path, "force", "true");
                }
                let removed = app
                    .client
                    .call(Method::DELETE, &path, None::<&()>, Patience::Long)
                    .await;
                let () = removed.doing(|| format!("cannot remove host \"{host}\""))?;
                app.printer.line(&host)?;
            }
            Ok(())
        }
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

fn state(host: &Host) -> Cell {
    match host.state {
        State::Ready => Cell::new("ready", Tone::Good),
        State::Cordoned => Cell::new("cordoned", Tone::Warn),
        State::Unreachable => Cell::new("unreachable", Tone::Bad),
    }
}

fn table(hosts: &[Host]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "ZONE",
        "WORKLOADS",
        "CPUS",
        "MEMORY",
        "ADDRESS",
        "KERNEL",
        "AGE",
    ]);
    let now = human::now_ms();
    for host in hosts {
        table.row(vec![
            host.name.as_str().into(),
            state(host),
            if host.zone.is_empty() {
                "-"
            } else {
                &host.zone
            }
            .into(),
            host.workloads.to_string().into(),
            host.cpus.to_string().into(),
            human::size(host.capacity.memory_bytes).into(),
            host.address.as_str().into(),
            host.kernel.as_str().into(),
            human::age(&host.joined_at, now).into(),
        ]);
    }
    table
}

fn print(app: &App, host: &Host, format: Format) -> Result<()> {
    if format != Format::Table {
        return app.printer.value(host, format);
    }
    let labels: Vec<String> = host
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let state = match host.state {
        State::Ready => "ready",
        State::Cordoned => "cordoned",
        State::Unreachable => "unreachable",
    };
    app.printer.print(&fields(&[
        ("Name", host.name.clone()),
        ("Id", host.id.clone()),
        ("State", state.to_owned()),
        ("Zone", host.zone.clone()),
        ("Labels", labels.join(", ")),
        ("Workloads", host.workloads.to_string()),
        ("Images", host.images.to_string()),
        ("CPUs", host.cpus.to_string()),
        ("Memory", human::size(host.capacity.memory_bytes)),
        (
            "System",
            format!(
                "{}, kernel {}, {}, cgroup {}",
                host.os, host.kernel, host.architecture, host.cgroup
            ),
        ),
        ("Address", host.address.clone()),
        ("Runtimes", host.runtimes.join(", ")),
        ("Agent", host.agent_version.clone()),
        ("Last seen", host.last_seen_at.clone().unwrap_or_default()),
        ("Joined", host.joined_at.clone()),
    ]))
}
