//! What would become of everything if something changed.

use http::Method;
use wire::client::native::{Patience, path};
use wire::native::pool::Pool;
use wire::native::what_if::{Fate, Outcome, WhatIf};

use super::slice;
use crate::app::App;
use crate::args::{Format, PlanArgs};
use crate::error::{Doing as _, Failure, Result};
use crate::exit;
use crate::output::{Cell, Table, Tone};

/// Asks, and prints the answer; the exit code says whether everything would be fine.
pub(super) async fn plan(app: &App, args: &PlanArgs) -> Result<u8> {
    let asked = assumption(app, args).await?;
    let answered = app
        .client
        .call(
            Method::POST,
            &path(&["plan"]),
            Some(&asked),
            Patience::Short,
        )
        .await;
    let outcome: Outcome = answered.doing(|| "cannot plan that".into())?;
    match args.output.output {
        Format::Table => print(app, &outcome)?,
        format => app.printer.value(&outcome, format)?,
    }
    Ok(if outcome.fine {
        exit::OK
    } else {
        exit::CONFLICT
    })
}

async fn assumption(app: &App, args: &PlanArgs) -> Result<WhatIf> {
    if let Some(host) = &args.without_host {
        return Ok(WhatIf::WithoutHost {
            host: host.clone(),
            drained: args.drained,
        });
    }
    if let (Some(count), Some(like)) = (args.add, &args.like) {
        let at = app.locate(like).await?;
        return Ok(WhatIf::Add {
            count,
            pool: at.pool.clone(),
            like: at.workload.clone(),
        });
    }
    let Some(name) = app.named_pool() else {
        return Err(Failure::new(exit::USAGE, "nothing is assumed")
            .hint("use --without-host HOST, --add N --like WORKLOAD, or --pool POOL with the slice it would have"));
    };
    let found = app.client.get(&path(&["pools", name])).await;
    let pool: Pool = found.doing(|| format!("cannot plan with pool \"{name}\""))?;
    Ok(WhatIf::Pool {
        pool: pool.name,
        slice: Box::new(slice::changed(&pool.slice, &args.slice)?),
    })
}

fn print(app: &App, outcome: &Outcome) -> Result<()> {
    let mut table = Table::new(&["WHAT", "WORKLOAD", "POOL", "FROM", "TO", "WHY"]);
    for (what, tone, fates) in [
        ("placed", Tone::Good, &outcome.placed),
        ("stays", Tone::Plain, &outcome.stay),
        ("parked", Tone::Warn, &outcome.parked),
        ("refused", Tone::Bad, &outcome.refused),
    ] {
        for fate in fates {
            table.row(row(what, tone, fate));
        }
    }
    if !table.is_empty() {
        app.printer.print(&table.text(app.printer.color))?;
    }
    for line in &outcome.lines {
        let pool = if line.pool.is_empty() {
            "the installation".to_owned()
        } else {
            format!("pool {}", line.pool)
        };
        let text = if line.what == "above-limit" {
            format!(
                "{pool} would be {} of {} above its limit: what runs goes on, nothing more starts",
                line.amount, line.key
            )
        } else {
            format!(
                "{pool} would lack {} of the {} reserved in it",
                line.amount, line.key
            )
        };
        app.printer.line(&text)?;
    }
    app.printer.line(&sum(outcome))
}

fn row(what: &str, tone: Tone, fate: &Fate) -> Vec<Cell> {
    let or_dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".into());
    let name = if fate.workload.is_empty() {
        "(of another pool)".to_owned()
    } else {
        fate.workload.clone()
    };
    vec![
        Cell::new(what, tone),
        name.into(),
        fate.pool.clone().into(),
        or_dash(fate.from.as_ref()).into(),
        or_dash(fate.to.as_ref()).into(),
        fate.reason.clone().into(),
    ]
}

/// The answer in one line.
fn sum(outcome: &Outcome) -> String {
    let mut parts = vec![format!("{} placed", outcome.placed.len())];
    for (count, word) in [
        (outcome.stay.len(), "stay"),
        (outcome.parked.len(), "parked"),
        (outcome.refused.len(), "refused"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let fine = if outcome.fine {
        "nothing would be missing"
    } else {
        "not everything would be as it should"
    };
    format!("{}; {fine} (nothing was changed)", parts.join(", "))
}
