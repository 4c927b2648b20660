//! `apply`: makes pools as a file says.

use std::collections::BTreeMap;
use std::io::Read as _;

use http::Method;
use serde::Deserialize;
use wire::client::native::{Patience, path};
use wire::native::List;
use wire::native::pool::{Create, Pool, Update};
use wire::native::quantity::Quantity;
use wire::native::slice::{Portion, Slice, WorkloadDefaults};

use super::slice;
use crate::app::App;
use crate::args::ApplyArgs;
use crate::error::{Doing as _, Failure, Result};
use crate::exit;

/// Largest accepted file, in bytes: far more than a thousand pools need.
const FILE_MAX: u64 = 8 << 20;

/// What a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    pools: Vec<Wanted>,
}

/// A pool as it is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    size: Option<serde_json::Value>,
    #[serde(default)]
    hard: bool,
    #[serde(default)]
    cpu: Portion,
    #[serde(default)]
    memory: Portion,
    #[serde(default)]
    quotas: BTreeMap<String, Quantity>,
    #[serde(default)]
    defaults: WorkloadDefaults,
    #[serde(default)]
    placement: Option<String>,
    #[serde(default)]
    hosts: BTreeMap<String, String>,
    #[serde(default)]
    on_host_loss: Option<String>,
    #[serde(default)]
    priority: i32,
    /// Pools inside it.
    #[serde(default)]
    pools: Vec<Wanted>,
}

/// One pool of the file.
struct Step {
    name: String,
    parent: Option<String>,
    description: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    slice: Slice,
}

/// Makes everything as the file says, or shows what would change.
pub(super) async fn apply(app: &App, args: &ApplyArgs) -> Result<()> {
    let steps = read(args)?;
    let list: List<Pool> = app
        .client
        .get(&path(&["pools"]))
        .await
        .doing(|| "cannot list pools".into())?;
    let known: BTreeMap<&str, &Pool> = list
        .items
        .iter()
        .map(|pool| (pool.name.as_str(), pool))
        .collect();
    let mut waiting: Vec<(&Step, Option<&Pool>)> = Vec::new();
    for step in &steps {
        let pool = known.get(step.name.as_str()).copied();
        let lines = difference(step, pool);
        if pool.is_some() && lines.is_empty() {
            app.printer.line(&format!("  {} unchanged", step.name))?;
            continue;
        }
        let sign = if pool.is_some() { '~' } else { '+' };
        app.printer.line(&format!("{sign} {}", step.name))?;
        for line in lines {
            app.printer.line(&format!("    {line}"))?;
        }
        waiting.push((step, pool));
    }
    if args.dry_run {
        return check(app, &waiting).await;
    }
    carry_out(app, waiting).await
}

/// Some changes need others first, such as room that another pool gives back: as long as one succeeds, the rest is
/// tried again.
async fn carry_out(app: &App, mut waiting: Vec<(&Step, Option<&Pool>)>) -> Result<()> {
    while !waiting.is_empty() {
        let (mut left, mut first) = (Vec::new(), None);
        let before = waiting.len();
        for (step, pool) in waiting {
            if let Err(failure) = one(app, step, pool, false).await {
                left.push((step, pool));
                first.get_or_insert(failure);
            }
        }
        match first {
            Some(failure) if left.len() == before => {
                let names: Vec<&str> = left.iter().map(|(step, _)| step.name.as_str()).collect();
                return Err(failure.hint(format!("not done: {}; the rest is", names.join(", "))));
            }
            _ => waiting = left,
        }
    }
    Ok(())
}

/// Asks the server whether each change of a pool that is there would do by itself.
async fn check(app: &App, waiting: &[(&Step, Option<&Pool>)]) -> Result<()> {
    for (step, pool) in waiting.iter().filter(|(_, pool)| pool.is_some()) {
        if let Err(failure) = one(app, step, *pool, true).await {
            app.printer.note(&failure.text());
        }
    }
    Ok(())
}

async fn one(app: &App, step: &Step, pool: Option<&Pool>, dry_run: bool) -> Result<()> {
    let Some(pool) = pool else {
        let body = Create {
            name: step.name.clone(),
            parent: step.parent.clone(),
            description: step.description.clone().unwrap_or_default(),
            labels: step.labels.clone().unwrap_or_default(),
            slice: step.slice.clone(),
            ..Create::default()
        };
        let path = path(&["pools"]);
        let made = app
            .client
            .call(Method::POST, &path, Some(&body), Patience::Short)
            .await;
        return made
            .doing(|| format!("cannot create pool \"{}\"", step.name))
            .map(|_: Pool| ());
    };
    let parent = step.parent.clone().unwrap_or_default();
    let moves = parent != parent_name(pool);
    let body = Update {
        description: step.description.clone(),
        labels: step.labels.clone(),
        slice: Some(step.slice.clone()),
        parent: moves.then_some(parent),
        revision: Some(pool.revision),
        dry_run,
        ..Update::default()
    };
    let path = path(&["pools", &pool.id]);
    let changed = app
        .client
        .call(Method::PATCH, &path, Some(&body), Patience::Short)
        .await;
    changed
        .doing(|| format!("cannot update pool \"{}\"", step.name))
        .map(|_: Pool| ())
}

fn parent_name(pool: &Pool) -> &str {
    pool.parent.as_ref().map_or("", |parent| &parent.name)
}

/// What would change, a line each; of a new pool everything.
fn difference(step: &Step, pool: Option<&Pool>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut field = |name: &str, before: &str, after: &str| {
        if before == after {
            return;
        }
        if !before.is_empty() {
            lines.push(format!("- {name}: {before}"));
        }
        if !after.is_empty() {
            lines.push(format!("+ {name}: {after}"));
        }
    };
    let before = pool.map_or("", parent_name);
    field("parent", before, step.parent.as_deref().unwrap_or(""));
    if let Some(description) = &step.description {
        field(
            "description",
            pool.map_or("", |it| &it.description),
            description,
        );
    }
    if let Some(labels) = &step.labels {
        let text = |labels: &BTreeMap<String, String>| {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(", ")
        };
        let before = pool.map(|it| text(&it.labels)).unwrap_or_default();
        field("labels", &before, &text(labels));
    }
    let none = Slice::default();
    lines.extend(slice::difference(
        pool.map_or(&none, |it| &it.slice),
        &step.slice,
    ));
    lines
}

fn read(args: &ApplyArgs) -> Result<Vec<Step>> {
    let shown = args.file.display();
    let failed = |why: String| Failure::new(exit::USAGE, format!("cannot read {shown}")).why(why);
    let mut text = String::new();
    let outcome = if args.file.as_os_str() == "-" {
        std::io::stdin().take(FILE_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(&args.file)
            .and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
    };
    outcome.map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> std::result::Result<Vec<Step>, String> {
    let document: Document = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let mut steps = Vec::new();
    flatten(document.pools, None, &mut steps)?;
    let mut names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("pool {} is named twice", twice[0]));
    }
    Ok(steps)
}

/// Parents before those inside them.
fn flatten(
    pools: Vec<Wanted>,
    inside: Option<&str>,
    steps: &mut Vec<Step>,
) -> std::result::Result<(), String> {
    for wanted in pools {
        if let (Some(inside), Some(parent)) = (inside, &wanted.parent)
            && parent != inside
        {
            return Err(format!(
                "pool {} is written inside {inside} but names {parent} as its parent",
                wanted.name
            ));
        }
        let size = match wanted.size {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        steps.push(Step {
            parent: wanted.parent.or(inside.map(str::to_owned)),
            description: wanted.description,
            labels: wanted.labels,
            slice: Slice {
                size,
                hard: wanted.hard,
                cpu: wanted.cpu,
                memory: wanted.memory,
                quotas: wanted.quotas,
                defaults: wanted.defaults,
                placement: wanted.placement,
                hosts: wanted.hosts,
                on_host_loss: wanted.on_host_loss,
                priority: wanted.priority,
            },
            name: wanted.name.clone(),
        });
        flatten(wanted.pools, Some(&wanted.name), steps)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_inside_pools_come_after_them() {
        let steps = parse(
            "pools:\n- name: a\n  size: 25%\n  pools:\n  - name: b\n    cpu: {limit: 2.5}\n    quotas: {gpus: 2.5}\n- name: c\n  parent: a\n",
        )
        .unwrap();
        let shown: Vec<(&str, Option<&str>)> = steps
            .iter()
            .map(|step| (step.name.as_str(), step.parent.as_deref()))
            .collect();
        assert_eq!(shown, [("a", None), ("b", Some("a")), ("c", Some("a"))]);
        assert_eq!(steps[1].slice.cpu.limit.as_deref(), Some("2.5"));
        assert_eq!(
            difference(&steps[1], None),
            ["+ parent: a", "+ cpu.limit: 2.5", "+ quotas.gpus: 2.5"]
        );
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said() {
        for (bad, why) in [
            ("pools:\n- name: a\n- name: a\n", "pool a is named twice"),
            (
                "pools:\n- name: a\n  pools:\n  - {name: b, parent: c}\n",
                "pool b is written inside a",
            ),
            ("pools:\n- name: a\n  limits: 2\n", "unknown field `limits`"),
        ] {
            let refused = parse(bad).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
