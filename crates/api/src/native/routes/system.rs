//! The installation itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use wire::native::slice::Installation;
use wire::native::system::{Health, Info, Version, WhoAmI};
use wire::native::{Amount, Problem};

use crate::native::extract::{Body, By};
use crate::native::failure::{Failure, Result};
use crate::native::table::Native;
use crate::native::{exposition, slices};

#[utoipa::path(get, path = "/healthz", tag = "system", security(()), responses(
    (status = 200, description = "The process answers.", body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok".into(),
    })
}

#[utoipa::path(get, path = "/readyz", tag = "system", security(()), responses(
    (status = 200, description = "The store is open and requests are served.", body = Health)))]
pub(crate) async fn readyz(State(native): State<Native>) -> Json<Health> {
    // A server that has a snapshot has opened its store; it takes requests only after that.
    let _ = native.control.snapshot();
    Json(Health {
        status: "ok".into(),
    })
}

#[utoipa::path(get, path = "/api/v1/version", tag = "system", responses(
    (status = 200, description = "Version of the server.", body = Version),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn version(By(_caller): By) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").into(),
        api: "v1".into(),
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

#[utoipa::path(get, path = "/api/v1/whoami", tag = "system", responses(
    (status = 200, description = "Who the server takes the caller for.", body = WhoAmI),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn whoami(By(caller): By) -> Json<WhoAmI> {
    Json(WhoAmI { name: caller.name })
}

#[utoipa::path(get, path = "/api/v1/installation", tag = "system", operation_id = "installation_show", responses(
    (status = 200, description = "What holds for the whole installation.", body = Installation),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn installation(
    State(native): State<Native>,
    By(caller): By,
) -> Result<Json<Installation>> {
    let settings = native.control.installation_settings(&caller)?;
    Ok(Json(slices::installation_to_wire(&settings)))
}

#[utoipa::path(patch, path = "/api/v1/installation", tag = "system", operation_id = "installation_update",
    request_body = Installation, responses(
    (status = 200, description = "What holds now.", body = Installation),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn installation_update(
    State(native): State<Native>,
    By(caller): By,
    Body(body): Body<Installation>,
) -> Result<Json<Installation>> {
    let edit = slices::installation(&body)?;
    let settings = native.control.installation_update(&caller, edit).await?;
    Ok(Json(slices::installation_to_wire(&settings)))
}

#[utoipa::path(get, path = "/api/v1/info", tag = "system", responses(
    (status = 200, description = "The installation at a glance, as far as the caller may see it.", body = Info),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn info(State(native): State<Native>, By(caller): By) -> Result<Json<Info>> {
    let control = &native.control;
    let mut info = Info {
        caller: caller.name.clone(),
        address: control.config().address.clone(),
        ca_sha256: control.authority().ca_sha256(),
        ..Info::default()
    };
    for pool in control.pool_list(&caller)? {
        let usage = control.pool_usage(&caller, &pool.id)?;
        info.pools += 1;
        info.workloads += usage.workloads;
        info.running += usage.running;
    }
    // Who may not see hosts sees none here.
    for host in control.host_list(&caller).unwrap_or_default() {
        info.hosts += 1;
        info.hosts_ready += u64::from(control::Control::host_ready(&host));
        let capacity = host.status.facts.capacity;
        info.capacity = Amount {
            cpu_millis: info.capacity.cpu_millis + capacity.cpu.0,
            memory_bytes: info.capacity.memory_bytes + capacity.memory.0,
        };
    }
    Ok(Json(info))
}

#[utoipa::path(get, path = "/metrics", tag = "system", responses(
    (status = 200, description = "Counters and gauges in Prometheus' text format.", body = String, content_type = "text/plain"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn metrics(State(native): State<Native>, By(caller): By) -> Response {
    match exposition::metrics(&native.control, &caller) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => Failure::from(error).into_response(),
    }
}
