//! Pools.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use wire::client::native::{Patience, path};
use wire::native::List;
use wire::native::pool::{Create, Policy, Pool, Update};
use wire::native::slice::Slice;

use crate::app::App;
use crate::args::{Format, PolicyArgs, PoolCommand, PoolCreateArgs, PoolUpdateArgs};
use crate::commands::list::{View, show};
use crate::commands::slice;
use crate::error::{Doing as _, Result};
use crate::human;
use crate::output::{Table, fields};

pub(super) async fn execute(app: &App, command: PoolCommand) -> Result<()> {
    match command {
        PoolCommand::Create(args) => create(app, args).await,
        PoolCommand::Ls(args) => {
            let view = View {
                path: path(&["pools"]),
                noun: "pools",
                empty: "No pools yet. Make one: plimsoll pool create NAME",
                keep: &|_| true,
                id: |pool: &Pool| &pool.id,
                quiet: &|pool| pool.name.clone(),
                table: &table,
            };
            show(app, &args, view).await
        }
        PoolCommand::Show { pool_name, output } => {
            let pool = get(app, &pool_name, "show").await?;
            let list: List<Pool> = app
                .client
                .get(&path(&["pools"]))
                .await
                .doing(|| "cannot list pools".into())?;
            print(app, &pool, &list.items, output.output)
        }
        PoolCommand::Top(args) => super::pool_top::top(app, &args).await,
        PoolCommand::Update(args) => update(app, args).await,
        PoolCommand::Rm { pools, yes } => {
            let question = format!("Remove {} with all images in it?", pools.join(", "));
            app.confirm(yes.yes, &question)?;
            for pool in pools {
                remove(app, &pool).await?;
            }
            Ok(())
        }
    }
}

async fn get(app: &App, pool: &str, verb: &str) -> Result<Pool> {
    let found = app.client.get(&path(&["pools", pool])).await;
    match found.doing(|| format!("cannot {verb} pool \"{pool}\"")) {
        Ok(pool) => Ok(pool),
        Err(failure) => Err(app.explain_pool(pool, failure).await),
    }
}

async fn create(app: &App, args: PoolCreateArgs) -> Result<()> {
    let body = Create {
        name: args.name.clone(),
        parent: args.parent.clone(),
        description: args.description,
        labels: args.labels.into_iter().collect(),
        policy: policy(&args.policy),
        slice: slice::changed(&Slice::default(), &args.slice)?,
    };
    let made = app
        .client
        .call(
            Method::POST,
            &path(&["pools"]),
            Some(&body),
            Patience::Short,
        )
        .await;
    let pool: Pool = made.doing(|| format!("cannot create pool \"{}\"", args.name))?;
    match args.output.output {
        Format::Table => {
            app.printer.line(&pool.name)?;
            app.printer.note(&format!(
                "Next: plimsoll run --pool {0} IMAGE, or eval \"$(plimsoll docker-env {0})\" and use docker",
                pool.name
            ));
            Ok(())
        }
        format => app.printer.value(&pool, format),
    }
}

async fn update(app: &App, args: PoolUpdateArgs) -> Result<()> {
    let pool = get(app, &args.pool_name, "update").await?;
    let mut labels = pool.labels.clone();
    for key in &args.labels_removed {
        labels.remove(key);
    }
    labels.extend(args.labels);
    let asked = policy(&args.policy);
    let policy = if args.replace_policy {
        Some(asked)
    } else if asked == Policy::default() {
        None
    } else {
        Some(widened(pool.policy.clone(), asked))
    };
    let wanted = slice::changed(&pool.slice, &args.slice)?;
    let body = Update {
        description: args.description,
        labels: (labels != pool.labels).then_some(labels),
        policy,
        slice: (wanted != pool.slice).then_some(wanted),
        parent: args.parent,
        revision: Some(pool.revision),
        dry_run: args.dry_run,
    };
    let path = path(&["pools", &args.pool_name]);
    let changed = app
        .client
        .call(Method::PATCH, &path, Some(&body), Patience::Short)
        .await;
    let pool: Pool = changed.doing(|| format!("cannot update pool \"{}\"", args.pool_name))?;
    match args.output.output {
        Format::Table => app.printer.line(&pool.name),
        format => app.printer.value(&pool, format),
    }
}

async fn remove(app: &App, pool: &str) -> Result<()> {
    let removed: std::result::Result<(), _> = app
        .client
        .call(
            Method::DELETE,
            &path(&["pools", pool]),
            None::<&()>,
            Patience::Long,
        )
        .await;
    match removed.doing(|| format!("cannot remove pool \"{pool}\"")) {
        Ok(()) => app.printer.line(pool),
        Err(failure) => Err(app.explain_pool(pool, failure).await),
    }
}

fn policy(args: &PolicyArgs) -> Policy {
    let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
    Policy {
        host_paths: set(&args.host_paths),
        privileged: args.privileged,
        host_namespaces: set(&args.host_namespaces),
        devices: set(&args.devices),
        capabilities: set(&args.capabilities),
        custom_seccomp: args.custom_seccomp,
        runtimes: set(&args.runtimes),
    }
}

fn widened(mut policy: Policy, more: Policy) -> Policy {
    policy.host_paths.extend(more.host_paths);
    policy.privileged |= more.privileged;
    policy.host_namespaces.extend(more.host_namespaces);
    policy.devices.extend(more.devices);
    policy.capabilities.extend(more.capabilities);
    policy.custom_seccomp |= more.custom_seccomp;
    policy.runtimes.extend(more.runtimes);
    policy
}

fn table(pools: &[Pool]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "PARENT",
        "RUNNING",
        "WORKLOADS",
        "IMAGES",
        "CPU",
        "MEMORY",
        "AGE",
    ]);
    let now = human::now_ms();
    for pool in pools {
        table.row(vec![
            pool.name.as_str().into(),
            pool.parent
                .as_ref()
                .map_or("-", |parent| &parent.name)
                .into(),
            pool.usage.running.to_string().into(),
            pool.usage.workloads.to_string().into(),
            pool.usage.images.to_string().into(),
            human::cores(pool.usage.charged.cpu_millis).into(),
            human::size(pool.usage.charged.memory_bytes).into(),
            human::age(&pool.created_at, now).into(),
        ]);
    }
    table
}

fn print(app: &App, pool: &Pool, pools: &[Pool], format: Format) -> Result<()> {
    if format != Format::Table {
        return app.printer.value(pool, format);
    }
    let now = human::now_ms();
    let usage = &pool.usage;
    app.printer.print(&fields(&[
        ("Name", pool.name.clone()),
        ("Id", pool.id.clone()),
        (
            "Parent",
            pool.parent
                .as_ref()
                .map(|parent| parent.name.clone())
                .unwrap_or_default(),
        ),
        ("Description", pool.description.clone()),
        ("Labels", pairs(&pool.labels)),
        (
            "Workloads",
            format!("{} ({} running)", usage.workloads, usage.running),
        ),
        ("Images", usage.images.to_string()),
        (
            "Charged",
            format!(
                "{} CPU, {}",
                human::cores(usage.charged.cpu_millis),
                human::size(usage.charged.memory_bytes)
            ),
        ),
        ("Slice", slice::words(&pool.slice)),
        ("Allows", allowed(&pool.policy)),
        ("Docker", pool.docker_socket.clone().unwrap_or_default()),
        (
            "Created",
            format!(
                "{} ({} ago)",
                pool.created_at,
                human::age(&pool.created_at, now)
            ),
        ),
    ]))?;
    let text = slice::tree(pool, pools).text(app.printer.color);
    app.printer.print(&format!("\n{text}"))
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(", ")
}

fn allowed(policy: &Policy) -> String {
    let list = |name: &str, set: &BTreeSet<String>| {
        let names: Vec<&str> = set.iter().map(String::as_str).collect();
        (!set.is_empty()).then(|| format!("{name} {}", names.join(" ")))
    };
    let parts: Vec<String> = [
        list("host paths", &policy.host_paths),
        policy.privileged.then(|| "privileged".to_owned()),
        list("host namespaces", &policy.host_namespaces),
        list("devices", &policy.devices),
        list("capabilities", &policy.capabilities),
        policy.custom_seccomp.then(|| "custom seccomp".to_owned()),
        list("runtimes", &policy.runtimes),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "only the safe defaults".into()
    } else {
        parts.join("; ")
    }
}
