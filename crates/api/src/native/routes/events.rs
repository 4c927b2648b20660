//! What happened and happens.

use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::native::Problem;
use wire::native::event::Event;

use crate::native::extract::{Asked, By};
use crate::native::failure::Result;
use crate::native::table::Native;
use crate::native::{lines, to_native};

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only of this pool, by name or id.
    pool: Option<String>,
    /// Also what happened since then, milliseconds since the epoch.
    since_ms: Option<i64>,
    /// Only until then, milliseconds since the epoch.
    until_ms: Option<i64>,
    /// Go on as things happen.
    follow: bool,
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self {
            pool: None,
            since_ms: None,
            until_ms: None,
            follow: true,
        }
    }
}

#[utoipa::path(get, path = "/api/v1/events", tag = "system", operation_id = "event_list", params(EventsQuery), responses(
    (status = 200, description = "Events, one JSON document per line.", body = Event, content_type = "application/x-ndjson"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn list(
    State(native): State<Native>,
    By(caller): By,
    Asked(query): Asked<EventsQuery>,
) -> Result<Response> {
    let pool = match &query.pool {
        Some(pool) => Some(native.pool_id(&caller, pool)?),
        None => None,
    };
    let now = control::now().millis();
    // Without following, the past is all there is to say.
    let since = query.since_ms.or((!query.follow).then_some(0));
    let until = if query.follow {
        query.until_ms
    } else {
        Some(query.until_ms.map_or(now, |until| until.min(now)))
    };
    let events = native
        .control
        .events(&caller, pool.as_ref(), since, until)?;
    let control = native.control.clone();
    Ok(lines::lines(
        events.map(move |event| to_native::event(&control, &event)),
    ))
}
