//! Why a workload is where it is, or why it is pending.

use http::Method;
use wire::native::workload::{Explanation, HostVerdict};

use super::workload::ask;
use crate::app::App;
use crate::args::Format;
use crate::error::Result;
use crate::output::{Cell, Table, Tone};

pub(super) async fn explain(app: &App, reference: &str, format: Format) -> Result<()> {
    let at = app.locate(reference).await?;
    let what = format!("cannot explain workload \"{reference}\"");
    let request = (Method::GET, at.path(&["explain"]));
    let explained: Explanation = ask(app, &at, request, None::<&()>, what).await?;
    if format != Format::Table {
        return app.printer.value(&explained, format);
    }
    app.printer.line(&headline(&explained))?;
    app.printer
        .print(&table(&explained).text(app.printer.color))
}

/// Where it is, and where it would be placed now.
fn headline(explained: &Explanation) -> String {
    let is = match (&explained.host, &explained.placement) {
        (Some(host), Some(why)) => format!("on {host}: {why}"),
        (Some(host), None) => format!("on {host}"),
        (None, _) => "has no host".to_owned(),
    };
    let now = match &explained.chosen {
        Some(chosen) => format!("now it would be placed on {chosen}"),
        None => "no host fits now".to_owned(),
    };
    if explained.given_up.is_empty() {
        return format!("{is}; {now}");
    }
    format!("{is}; {now}, giving up {}", explained.given_up.join(", "))
}

fn table(explained: &Explanation) -> Table {
    let mut table = Table::new(&[
        "HOST", "VERDICT", "LOAD", "ALIKE", "FAILED", "GPU", "REASON",
    ]);
    let mut hosts: Vec<&HostVerdict> = explained.hosts.iter().collect();
    // Those that fit first, the best of them on top.
    hosts.sort_by(|a, b| {
        let key = |it: &HostVerdict| {
            let score = it.score.as_ref()?;
            Some((score.failures, score.zone_alike, score.host_alike))
        };
        let rest = |it: &HostVerdict| {
            it.score
                .as_ref()
                .map_or((0.0, 0.0), |s| (s.fragments, s.load))
        };
        a.score
            .is_none()
            .cmp(&b.score.is_none())
            .then_with(|| key(a).cmp(&key(b)))
            .then_with(|| {
                rest(a)
                    .partial_cmp(&rest(b))
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
    });
    for host in hosts {
        let chosen = explained.chosen.as_ref() == Some(&host.host);
        let cells = match &host.score {
            Some(score) => vec![
                host.host.clone().into(),
                Cell::new(if chosen { "chosen" } else { "fits" }, Tone::Good),
                format!("{:.3}", score.load).into(),
                format!("{}/{}", score.host_alike, score.zone_alike).into(),
                score.failures.to_string().into(),
                format!("{:+.3}", score.fragments).into(),
                String::new().into(),
            ],
            None => {
                let filter = host.filter.clone().unwrap_or_default();
                let none = || Cell::from("-");
                vec![
                    host.host.clone().into(),
                    Cell::new(filter, Tone::Warn),
                    none(),
                    none(),
                    none(),
                    none(),
                    host.reason.clone().unwrap_or_default().into(),
                ]
            }
        };
        table.row(cells);
    }
    table
}
