//! Pools.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use control::Caller;
use control::pools::{PoolCreate, PoolUpdate};
use http::StatusCode;
use wire::native::pool::{Create, Credentials, CredentialsCreate, Pool, Update};
use wire::native::pool_use::PoolUse;
use wire::native::{List, Problem};

use super::ListQuery;
use crate::native::extract::{Asked, Body, By, OptionalBody, Segments};
use crate::native::failure::Result;
use crate::native::table::Native;
use crate::native::watch::watch;
use crate::native::{from_native, slices, to_native};

/// Days a client certificate works unless asked otherwise: short enough to be forgotten without harm.
const CREDENTIALS_DAYS: u32 = 30;

impl Native {
    fn pool(&self, caller: &Caller, pool: &control::Kept<model::Pool>) -> Result<Pool> {
        let socket = self.config.pool_sockets.as_ref().map(|folder| {
            format!(
                "unix://{}",
                folder.join(format!("{}.sock", pool.name)).display()
            )
        });
        Ok(to_native::pool(&self.control, caller, pool, socket)?)
    }

    fn pools(&self, caller: &Caller) -> Result<Vec<Pool>> {
        let pools = self.control.pool_list(caller)?;
        pools.iter().map(|pool| self.pool(caller, pool)).collect()
    }
}

#[utoipa::path(get, path = "/api/v1/pool-use", tag = "pools", operation_id = "pool_use", responses(
    (status = 200, description = "What pools use and may use now, of those the caller may see.", body = List<PoolUse>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn uses(
    State(native): State<Native>,
    By(caller): By,
) -> Result<Json<List<PoolUse>>> {
    let uses = native.control.pool_uses(&caller)?;
    Ok(Json(List {
        items: uses
            .iter()
            .map(|it| slices::uses(&native.control, it))
            .collect(),
    }))
}

#[utoipa::path(get, path = "/api/v1/pools", tag = "pools", operation_id = "pool_list", params(ListQuery), responses(
    (status = 200, description = "Pools the caller may see.", body = List<Pool>),
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
            |pool: &Pool| &pool.id,
            move || native.pools(&caller),
        ));
    }
    Ok(Json(List {
        items: native.pools(&caller)?,
    })
    .into_response())
}

#[utoipa::path(post, path = "/api/v1/pools", tag = "pools", operation_id = "pool_create", request_body = Create, responses(
    (status = 201, description = "The new pool.", body = Pool),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn create(
    State(native): State<Native>,
    By(caller): By,
    Body(body): Body<Create>,
) -> Result<(StatusCode, Json<Pool>)> {
    let create = PoolCreate {
        name: from_native::name("name", &body.name)?,
        parent: body.parent,
        description: body.description,
        labels: body.labels,
        policy: from_native::policy(body.policy),
        slice: slices::from_wire(&body.slice)?,
    };
    let pool = native.control.pool_create(&caller, create).await?;
    Ok((StatusCode::CREATED, Json(native.pool(&caller, &pool)?)))
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}", tag = "pools", operation_id = "pool_show",
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The pool.", body = Pool),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn show(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
) -> Result<Json<Pool>> {
    let pool = native.control.pool_find(&caller, &pool)?;
    Ok(Json(native.pool(&caller, &pool)?))
}

#[utoipa::path(patch, path = "/api/v1/pools/{pool}", tag = "pools", operation_id = "pool_update", request_body = Update,
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The changed pool.", body = Pool),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn update(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Body(body): Body<Update>,
) -> Result<Json<Pool>> {
    let update = PoolUpdate {
        description: body.description,
        labels: body.labels,
        policy: body.policy.map(from_native::policy),
        slice: body.slice.as_ref().map(slices::from_wire).transpose()?,
        parent: body
            .parent
            .map(|parent| (!parent.is_empty()).then_some(parent)),
        revision: body.revision,
    };
    if body.dry_run {
        native.control.pool_update_check(&caller, &pool, &update)?;
        let pool = native.control.pool_find(&caller, &pool)?;
        return Ok(Json(native.pool(&caller, &pool)?));
    }
    let pool = native.control.pool_update(&caller, &pool, update).await?;
    Ok(Json(native.pool(&caller, &pool)?))
}

#[utoipa::path(delete, path = "/api/v1/pools/{pool}", tag = "pools", operation_id = "pool_remove",
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 204, description = "It is gone."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn remove(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
) -> Result<StatusCode> {
    native.control.pool_delete(&caller, &pool).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/credentials", tag = "pools", operation_id = "pool_credentials",
    request_body = CredentialsCreate, params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 201, description = "A client certificate for the pool's Docker endpoint; shown once.", body = Credentials),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn credentials(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    OptionalBody(body): OptionalBody<CredentialsCreate>,
) -> Result<(StatusCode, Json<Credentials>)> {
    let days = i64::from(body.ttl_days.unwrap_or(CREDENTIALS_DAYS));
    let made = native
        .control
        .pool_certificate(&caller, &pool, days)
        .await?;
    let credentials = Credentials {
        endpoint: made.endpoint,
        ca_pem: made.ca_pem,
        cert_pem: made.cert_pem,
        key_pem: made.key_pem,
    };
    Ok((StatusCode::CREATED, Json(credentials)))
}
