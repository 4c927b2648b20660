//! Measures prepare + start + exit of `true` as the agent sees it: `task_start SHIM ROOT [COUNT] [PARALLEL]`.
//!
//! `task_start SHIM ROOT COUNT memory` starts COUNT tasks and prints what their shims take.
//!
//! ROOT is a folder with `bin/true` and `bin/sleep` in it. Prints the median and the slowest of each step in milliseconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use agent::driver::{TaskEvent, TaskPlan, TaskRuntime};
use anyhow::{Context, Result};
use drivers::oci::{OciConfig, OciRuntime};
use model::WorkloadId;
use serde_json::json;

fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

fn plan(number: u32, layer: &str, args: &[&str]) -> Result<TaskPlan> {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let digest = format!("sha256:{}", "0".repeat(64));
    let pool = model::PoolId::from_bytes(&[3; 32]);
    let workload = json!({
        "id": WorkloadId::from_bytes(&bytes).as_str(), "pool": pool.as_str(), "pool_name": "bench", "name": "box",
        "spec": {"task": {"image": "box", "image_id": digest, "args": args,
            "resources": {"memory_limit": 64 << 20, "pids_limit": 100}}},
        "image": {"id": digest, "pool": pool.as_str(),
            "content": {"config": digest, "config_bytes": 1, "layers": []},
            "config": {"platform": {"architecture": "amd64", "os": "linux"}}, "added_at": 0},
        "desired": {"state": "running"}, "run": 1,
    });
    let workload = Arc::new(serde_json::from_value(workload)?);
    Ok(TaskPlan {
        workload,
        attempt: 0,
        layers: vec![PathBuf::from(layer)],
        network: None,
        fence_until: None,
    })
}

async fn one(runtime: OciRuntime, plan: TaskPlan) -> Result<[f64; 4]> {
    let mut events = runtime.events();
    let begin = Instant::now();
    let ms = |begin: &Instant| begin.elapsed().as_secs_f64() * 1000.0;
    runtime.prepare(&plan).await?;
    let prepared = ms(&begin);
    runtime.start(&plan).await?;
    let started = ms(&begin);
    loop {
        match events.recv().await {
            Ok(TaskEvent::Changed(task))
                if task.id == plan.workload.id && task.status.phase.is_final() =>
            {
                break;
            }
            Ok(_) => {}
            Err(error) => return Err(error).context("events"),
        }
    }
    let ended = ms(&begin);
    runtime.remove(&plan.workload.id).await?;
    Ok([prepared, started - prepared, ended - started, ended])
}

async fn memory(runtime: &OciRuntime, root: &str, count: u32) -> Result<()> {
    let mut total = 0;
    let mut pids = Vec::new();
    for number in 0..count {
        let plan = plan(number, root, &["/bin/sleep", "1000"])?;
        runtime.prepare(&plan).await?;
        pids.push((
            runtime.start(&plan).await?.namespace_pid,
            plan.workload.id.clone(),
        ));
    }
    for pid in pids.iter().filter_map(|(pid, _)| *pid) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .context("no PSS")?;
        total += pss.trim().trim_end_matches(" kB").parse::<u32>()?;
    }
    println!(
        "{count} shims take {} KiB of memory each (PSS)",
        total / count
    );
    for (_, id) in &pids {
        runtime.kill(id).await?;
        while runtime.remove(id).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

#[expect(
    clippy::too_many_lines,
    reason = "like cases one after the other: longer than it is complex"
)]
async fn measure() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let shim = args
        .get(1)
        .context("usage: task_start SHIM ROOT [COUNT] [PARALLEL]")?;
    let root = args
        .get(2)
        .context("usage: task_start SHIM ROOT [COUNT] [PARALLEL]")?;
    let number = |at: usize, default: u32| args.get(at).map_or(Ok(default), |text| text.parse());
    let count = number(3, 50)?;
    let data = tempfile::tempdir()?;
    let host = format!("bench-{}", std::process::id());
    let config = OciConfig {
        data: data.path().to_owned(),
        shim: shim.into(),
        host: host.clone(),
        runtimes: [("runc".to_owned(), PathBuf::from("/usr/sbin/runc"))].into(),
    };
    let runtime = OciRuntime::open(config)?;
    one(runtime.clone(), plan(u32::MAX, root, &["/bin/true"])?).await?;
    if args.get(4).is_some_and(|mode| mode == "memory") {
        return memory(&runtime, root, count).await;
    }
    let parallel = number(4, 1)?;
    let begin = Instant::now();
    let mut times = Vec::new();
    for first in (0..count).step_by(parallel as usize) {
        let round = (first..count.min(first + parallel)).map(|number| {
            let plan = plan(number, root, &["/bin/true"]);
            let runtime = runtime.clone();
            async move { one(runtime, plan?).await }
        });
        for result in futures::future::join_all(round).await {
            times.push(result?);
        }
        if parallel == 1 {
            // As between two people's commands: the kernel has become quiet again.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    println!(
        "{count} tasks, {parallel} at a time, {:.0} ms in all",
        begin.elapsed().as_secs_f64() * 1000.0
    );
    for (index, name) in ["prepare", "start", "exit", "total"].iter().enumerate() {
        let mut column: Vec<f64> = times.iter().map(|time| time[index]).collect();
        column.sort_by(f64::total_cmp);
        let (median, last) = (column[column.len() / 2], column[column.len() - 1]);
        println!("{name:8} median {median:7.2} ms   slowest {last:7.2} ms");
    }
    use nix::sys::resource::{UsageWho, getrusage};
    for (name, who) in [
        ("agent", UsageWho::RUSAGE_SELF),
        ("shims", UsageWho::RUSAGE_CHILDREN),
    ] {
        let usage = getrusage(who)?;
        let ms = |time: nix::sys::time::TimeVal| {
            use nix::sys::time::TimeValLike;
            time.num_microseconds() as f64 / 1000.0 / f64::from(count + 1)
        };
        println!(
            "{name}    user {:.2} ms, system {:.2} ms per task",
            ms(usage.user_time()),
            ms(usage.system_time())
        );
    }
    drop(runtime);
    let cgroups = drivers::oci::cgroup::Cgroups::detect(&host)?;
    while cgroups.remove_all().is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(())
}
