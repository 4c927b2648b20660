//! Containers: measures.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use control::LinkStream;
use http::{HeaderValue, header};
use model::{Timestamp, Workload};
use serde_json::{Map, Value, json};
use wire::link::TaskStats;

use super::containers::subject;
use super::failure::Result;
use super::reply;
use super::request::Call;
use super::to_docker::text::{NEVER, rfc3339};

/// `GET /containers/{id}/stats`.
pub(super) async fn stats(call: Call) -> Result<Response> {
    let workload = subject(&call)?;
    let follow = call.query.flag_or("stream", true);
    let one_shot = call.query.flag("one-shot");
    let name = format!("/{}", workload.name);
    if !workload.status.phase.is_alive() {
        return Ok(reply::ok(&idle(&workload)));
    }
    let mut stream = call
        .control
        .workload_stats(&call.caller, &call.pool, &workload.id, follow || !one_shot)
        .await?;
    let id = workload.id.to_string();
    if !follow {
        let first: TaskStats = stream.next_json().await?;
        let (previous, now) = if one_shot {
            (None, first)
        } else {
            // Shares of CPU time need two samples.
            match stream.next_json().await {
                Ok(second) => (Some(first), second),
                Err(_) => (None, first),
            }
        };
        return Ok(reply::ok(&sample(&id, &name, previous.as_ref(), &now)));
    }
    let mut response = Response::new(follow_body(stream, id, name));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn follow_body(stream: LinkStream, id: String, name: String) -> Body {
    let state = (stream, None::<TaskStats>, id, name);
    let lines = futures::stream::unfold(state, |(mut stream, previous, id, name)| async move {
        let now: TaskStats = stream.next_json().await.ok()?;
        let mut line = sample(&id, &name, previous.as_ref(), &now)
            .to_string()
            .into_bytes();
        line.push(b'\n');
        Some((
            Ok::<_, Infallible>(Bytes::from(line)),
            (stream, Some(now), id, name),
        ))
    });
    Body::from_stream(lines)
}

/// A container that does not run uses nothing.
fn idle(workload: &Workload) -> Value {
    let mut value = sample(
        workload.id.as_str(),
        &format!("/{}", workload.name),
        None,
        &TaskStats::default(),
    );
    value["read"] = json!(NEVER);
    value["memory_stats"] = json!({});
    value["pids_stats"] = json!({});
    value
}

fn sample(id: &str, name: &str, previous: Option<&TaskStats>, now: &TaskStats) -> Value {
    let mut memory: Map<String, Value> = now
        .memory_detail
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    // The client subtracts this from the use; version 1 of cgroups has the other name.
    for key in ["inactive_file", "total_inactive_file"] {
        memory.insert(key.to_owned(), json!(now.memory_inactive_file));
    }
    let (read, written) = now.block_io;
    json!({
        "id": id,
        "name": name,
        "read": rfc3339(Timestamp(now.read_ms)),
        "preread": previous.map_or_else(|| NEVER.to_owned(), |p| rfc3339(Timestamp(p.read_ms))),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {
            "current": now.pids,
            "limit": if now.pids_limit == 0 { u64::MAX } else { now.pids_limit },
        },
        "cpu_stats": cpu(now),
        "precpu_stats": previous.map_or_else(|| cpu(&TaskStats::default()), cpu),
        "memory_stats": {
            "usage": now.memory_usage,
            "max_usage": now.memory_max_usage,
            "stats": memory,
            "failcnt": now.memory_failcnt,
            "limit": now.memory_limit,
        },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                { "major": 0, "minor": 0, "op": "read", "value": read },
                { "major": 0, "minor": 0, "op": "write", "value": written },
            ],
            "io_serviced_recursive": null,
            "io_queue_recursive": null,
            "io_service_time_recursive": null,
            "io_wait_time_recursive": null,
            "io_merged_recursive": null,
            "io_time_recursive": null,
            "sectors_recursive": null,
        },
        "networks": networks(now),
    })
}

fn cpu(it: &TaskStats) -> Value {
    json!({
        "cpu_usage": {
            "total_usage": it.cpu_total_ns,
            "usage_in_kernelmode": it.cpu_system_ns,
            "usage_in_usermode": it.cpu_user_ns,
        },
        "system_cpu_usage": it.host_cpu_ns,
        "online_cpus": it.cpus,
        "throttling_data": {
            "periods": it.throttling.0,
            "throttled_periods": it.throttling.1,
            "throttled_time": it.throttling.2,
        },
    })
}

fn networks(it: &TaskStats) -> Value {
    let map = it
        .networks
        .iter()
        .map(|(name, n)| {
            let value = json!({
                "rx_bytes": n.rx.0, "rx_packets": n.rx.1, "rx_errors": n.rx.2, "rx_dropped": n.rx.3,
                "tx_bytes": n.tx.0, "tx_packets": n.tx.1, "tx_errors": n.tx.2, "tx_dropped": n.tx.3,
            });
            (name.clone(), value)
        })
        .collect();
    Value::Object(map)
}
