//! Hosts and the tokens they join with.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use control::maintenance::DrainOptions;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::native::host::{DrainRequest, Host, JoinToken, JoinTokenCreate, Outlook, Update};
use wire::native::{List, Problem};

use super::ListQuery;
use crate::native::extract::{Asked, Body, By, OptionalBody, Segments};
use crate::native::failure::Result;
use crate::native::table::Native;
use crate::native::watch::watch;
use crate::native::{hosts, to_native};

/// Seconds a join token works unless asked otherwise: long enough to walk to the machine.
const JOIN_TOKEN_SECONDS: u64 = 3600;

/// How to remove a host.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Also if workloads are placed on it or have to be removed from it; they are forgotten with it.
    force: bool,
}

/// What becomes of what is on a host.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutlookQuery {
    /// As if what cannot move were stopped.
    stop_rest: bool,
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
            move || Ok(hosts::hosts(&native.control, &caller)?),
        ));
    }
    Ok(Json(List {
        items: hosts::hosts(&native.control, &caller)?,
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
    Ok(Json(hosts::whole_host(&native.control, &host)))
}

#[utoipa::path(patch, path = "/api/v1/hosts/{host}", tag = "hosts", operation_id = "host_update", request_body = Update,
    params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The changed host.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn update(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
    Body(body): Body<Update>,
) -> Result<Json<Host>> {
    let update = hosts::update(body);
    let host = native.control.host_update(&caller, &host, &update).await?;
    Ok(Json(hosts::whole_host(&native.control, &host)))
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
    let host = native.control.host_cordon(&caller, &host).await?;
    Ok(Json(hosts::whole_host(&native.control, &host)))
}

#[utoipa::path(post, path = "/api/v1/hosts/{host}/uncordon", tag = "hosts", operation_id = "host_uncordon",
    params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "New workloads are placed on it again; its maintenance is over.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn uncordon(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
) -> Result<Json<Host>> {
    let host = native.control.host_uncordon(&caller, &host).await?;
    Ok(Json(hosts::whole_host(&native.control, &host)))
}

#[utoipa::path(get, path = "/api/v1/hosts/{host}/drain", tag = "hosts", operation_id = "host_outlook",
    params(("host" = String, Path, description = "Name or id."), OutlookQuery), responses(
    (status = 200, description = "What becomes of everything on it when it is emptied, or has become of it; nothing is changed.",
        body = Outlook),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn outlook(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
    Asked(query): Asked<OutlookQuery>,
) -> Result<Json<Outlook>> {
    let outlook = native
        .control
        .host_outlook(&caller, &host, query.stop_rest)?;
    Ok(Json(hosts::outlook(&native.control, &outlook)))
}

#[utoipa::path(post, path = "/api/v1/hosts/{host}/drain", tag = "hosts", operation_id = "host_drain",
    request_body = DrainRequest, params(("host" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "It is in maintenance: nothing new is placed on it. Uncordon ends it.", body = Host),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn drain(
    State(native): State<Native>,
    By(caller): By,
    Segments(host): Segments<String>,
    OptionalBody(body): OptionalBody<DrainRequest>,
) -> Result<Json<Host>> {
    let options = DrainOptions {
        stop_rest: body.stop_rest,
        force: body.force,
    };
    let host = native.control.host_drain(&caller, &host, options).await?;
    Ok(Json(hosts::whole_host(&native.control, &host)))
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
