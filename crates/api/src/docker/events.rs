//! `GET /events`.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use control::events::{Event, Subject};
use futures::StreamExt as _;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::containers::now;
use super::failure::Result;
use super::filters::Filters;
use super::request::Call;

const KNOWN: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Streams events as JSON lines.
pub(super) fn stream(call: &Call) -> Result<Response> {
    let filters = Filters::from_query(&call.query, &KNOWN)?;
    let now_ms = now().millis();
    let since = call.query.moment("since", now_ms)?;
    let until = call.query.moment("until", now_ms)?;
    let events = call
        .control
        .events(&call.caller, Some(&call.pool), since, until)?;
    let lines = events.filter_map(move |event| {
        let line = shown(&event, &filters).map(|value| {
            let mut bytes = value.to_string().into_bytes();
            bytes.push(b'\n');
            Ok::<_, Infallible>(Bytes::from(bytes))
        });
        std::future::ready(line)
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// Docker's form of an event; `None`: filtered out, or about something Docker does not know.
fn shown(event: &Event, filters: &Filters) -> Option<Value> {
    let kind = match event.subject {
        Subject::Workload => "container",
        Subject::Image => "image",
        Subject::Pool | Subject::Host => return None,
    };
    let text = |key: &str| event.attributes.get(key).map_or("", String::as_str);
    let action = match event.action.as_str() {
        name @ ("exec_create" | "exec_start") if !text("command").is_empty() => {
            format!("{name}: {}", text("command"))
        }
        name => name.to_owned(),
    };
    let is_container = kind == "container";
    let of = |wanted: &str, name: &str| event.id.starts_with(wanted) || name == wanted;
    let matches = filters.any("type", |wanted| wanted == kind)
        && filters.any("scope", |wanted| wanted == "local")
        && filters.any("event", |wanted| event.action == wanted || action == wanted)
        && filters.labels(&event.attributes)
        && filters.any("container", |wanted| {
            is_container && of(wanted, text("name"))
        })
        && filters.any("image", |wanted| {
            let name = if is_container {
                text("image")
            } else {
                text("name")
            };
            let bare = name.rsplit_once(':').map_or(name, |(bare, _)| bare);
            wanted == name || wanted == bare || (!is_container && event.id.starts_with(wanted))
        })
        && [
            "config", "daemon", "network", "node", "plugin", "secret", "service", "volume",
        ]
        .iter()
        .all(|name| filters.values(name).is_empty());
    if !matches {
        return None;
    }
    let mut attributes = event.attributes.clone();
    attributes.remove("command");
    let mut value = json!({
        "status": action,
        "id": event.id,
        "Type": kind,
        "Action": action,
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.time.millis() / 1000,
        "timeNano": event.time_ns,
    });
    if is_container {
        value["from"] = json!(text("image"));
    }
    Some(value)
}
