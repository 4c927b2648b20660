//! Hosts and the tokens they join with.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use control::Caller;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::native::host::{Host, JoinToken, JoinTokenCreate};
use wire::native::{List, Problem};

use super::ListQuery;
use crate::native::extract::{Asked, By, OptionalBody, Segments};
use crate::native::failure::Result;
use crate::native::table::Native;
use crate::native::to_native;
use crate::native::watch::watch;

/// Seconds a join token works unless asked otherwise: long enough to walk to the machine.
const JOIN_TOKEN_SECONDS: u64 = 3600;

/// How to remove a host.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Also if workloads are placed on it; they are lost with it.
    force: bool,
}

impl Native {
    fn hosts(&self, caller: &Caller) -> Result<Vec<Host>> {
        let hosts = self.control.host_list(caller)?;
        Ok(hosts
            .iter()
            .map(|host| to_native::host(&self.control, host))
            .collect())
    }
}

#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", operation_id = "host_list", params(ListQuery), responses(
    (status = 200, description = "All hosts.", body = List<Host>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn list(
    State(native): State<Native>,
    By(caller): By,
    Asked(query): Asked<ListQuery>,
) -> Result<Response> {
    if query.watch {
        let control = native.control.clone();
        return Ok(watch(
            &control,
            |host: &Host| &host.id,
            move || native.hosts(&caller),
        ));
    }
    Ok(Json(List {
        items: native.hosts(&caller)?,
    })
    .into_response())
}

#[utoipa::path(get, path = "/api/v1/hosts/{host}", tag = "hosts", operation_id = "host_show",
    params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The host.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn show(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
) -> Result<Json<Host>> {
    let host = native.control.host_find(&caller, &host)?;
    Ok(Json(to_native::host(&native.control, &host)))
}

#[utoipa::path(delete, path = "/api/v1/hosts/{host}", tag = "hosts", operation_id = "host_remove",
    params(("host" = String, Path, description = "Name or id."), RemoveQuery), responses(
    (status = 204, description = "It is gone."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn remove(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
    Asked(query): Asked<RemoveQuery>,
) -> Result<StatusCode> {
    native
        .control
        .host_remove(&caller, &host, query.force)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/api/v1/hosts/{host}/cordon", tag = "hosts", operation_id = "host_cordon",
    params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "Nothing new is placed on it from now on.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn cordon(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
) -> Result<Json<Host>> {
    let host = native.control.host_cordon(&caller, &host, true).await?;
    Ok(Json(to_native::host(&native.control, &host)))
}

#[utoipa::path(post, path = "/api/v1/hosts/{host}/uncordon", tag = "hosts", operation_id = "host_uncordon",
    params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "New workloads are placed on it again.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn uncordon(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
) -> Result<Json<Host>> {
    let host = native.control.host_cordon(&caller, &host, false).await?;
    Ok(Json(to_native::host(&native.control, &host)))
}

#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "hosts", operation_id = "join_token_create",
    request_body = JoinTokenCreate, responses(
    (status = 201, description = "A one-time token; shown once.", body = JoinToken),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn token(
    State(native): State<Native>,
    By(caller): By,
    OptionalBody(body): OptionalBody<JoinTokenCreate>,
) -> Result<(StatusCode, Json<JoinToken>)> {
    let ttl = body.ttl_seconds.unwrap_or(JOIN_TOKEN_SECONDS);
    let (text, token) = native.control.host_token_create(&caller, ttl).await?;
    let token = JoinToken {
        token: text,
        id: token.id.to_string(),
        expires_at: to_native::time(token.expires_at),
    };
    Ok((StatusCode::CREATED, Json(token)))
}
