//! `events`: what happened and happens.

use http::Method;
use wire::client::native::{path, with_query};
use wire::native::event::Event;

use crate::app::App;
use crate::args::{EventsArgs, Format};
use crate::error::{Doing as _, Result};
use crate::human;
use crate::output::{document, visible};

pub(super) async fn events(app: &App, args: &EventsArgs) -> Result<()> {
    let now = human::now_ms();
    let mut path = path(&["events"]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path = with_query(std::mem::take(&mut path), name, &value);
        }
    };
    add("pool", app.named_pool().map(str::to_owned));
    add(
        "since_ms",
        args.since.map(|time| time.millis(now).to_string()),
    );
    add(
        "until_ms",
        args.until.map(|time| time.millis(now).to_string()),
    );
    add("follow", args.no_follow.then(|| "false".into()));
    let what = || "cannot show events".to_owned();
    let mut lines = app
        .client
        .lines::<(), Event>(Method::GET, &path, None)
        .await
        .doing(what)?;
    while let Some(event) = lines.next().await.doing(what)? {
        match args.output {
            Format::Table => app.printer.line(&line(&event))?,
            Format::Json => app
                .printer
                .line(&serde_json::to_string(&event).unwrap_or_default())?,
            Format::Yaml => app
                .printer
                .print(&format!("---\n{}", document(&event, Format::Yaml)?))?,
        }
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let pool = event.pool.as_ref().map_or("-", |pool| pool.name.as_str());
    let name = event
        .attributes
        .get("name")
        .cloned()
        .unwrap_or_else(|| human::short(&event.id));
    let more: Vec<String> = event
        .attributes
        .iter()
        .filter(|(key, _)| key.as_str() != "name")
        .map(|(key, value)| {
            if value.contains(char::is_whitespace) {
                format!("{key}=\"{value}\"")
            } else {
                format!("{key}={value}")
            }
        })
        .collect();
    let text = format!(
        "{:24}  {pool:12}  {:8}  {:12}  {name}  {}",
        event.time,
        event.subject,
        event.action,
        more.join(" ")
    );
    visible(text.trim_end())
}
