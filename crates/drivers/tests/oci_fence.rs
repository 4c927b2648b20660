//! Tasks that must not outlive their lease: their shims end them, with or without an agent.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "tests; each test program uses a part of the support"
)]

mod oci_support;

use agent::clock::Clock;
use agent::driver::TaskRuntime;
use model::Phase;
use oci_support::{Host, PATIENCE, ended};
use serde_json::json;

fn boot_ms() -> u64 {
    Clock::System.since_boot()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_ended_by_its_shim_and_the_next_agent_knows_why() {
    let mut host = Host::new();
    let mut plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    plan.fence_until = Some(boot_ms() + 60_000);
    host.start(&plan).await;
    let until = boot_ms() + 2_000;
    host.runtime.fence(&id, Some(until)).await.unwrap();
    // Another agent comes, and hears nothing that it could hand on.
    host.reopen();
    let mut events = host.runtime.events();
    let seen = host.runtime.observe().await.unwrap().remove(0);
    let end = match seen.status.phase {
        Phase::Running => ended(&mut events, &id).await.status,
        _ => seen.status,
    };
    assert!(boot_ms() >= until);
    assert_eq!((end.exit_code, end.fenced), (137, true));
    assert!(end.error.contains("one host only"), "{}", end.error);
    // And one that finds only what the shim left.
    host.reopen();
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(seen[0].status, end);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_may_run_anywhere_again_is_let_go_by_the_next_agent() {
    let mut host = Host::new();
    let mut plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    let until = boot_ms() + 6_000;
    plan.fence_until = Some(until);
    host.start(&plan).await;
    host.reopen();
    host.runtime.observe().await.unwrap();
    host.runtime.fence(&id, None).await.unwrap();
    let begin = std::time::Instant::now();
    while boot_ms() < until + 300 {
        assert!(begin.elapsed() < PATIENCE);
        // tidy: sleep: that nothing happens takes time to see
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(seen[0].status.phase, Phase::Running);
    let mut events = host.runtime.events();
    host.runtime.kill(&id).await.unwrap();
    assert!(!ended(&mut events, &id).await.status.fenced);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_task_is_ended_as_well() {
    let host = Host::new();
    let mut plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    plan.fence_until = Some(boot_ms() + 60_000);
    let mut events = host.runtime.events();
    host.start(&plan).await;
    host.runtime.pause(&id).await.unwrap();
    let until = Some(boot_ms() + 200);
    host.runtime.fence(&id, until).await.unwrap();
    let end = ended(&mut events, &id).await.status;
    assert_eq!((end.exit_code, end.fenced), (137, true));
    host.runtime.remove(&id).await.unwrap();
}

/// One that shares the host's process ids does not take its children along.
#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_the_task_is_left() {
    let host = Host::new();
    let script = "setsid sleep 1001 & setsid sleep 1002 & exec sleep 1003";
    let mut plan = host.plan(&["sh", "-c", script], |w| {
        w["spec"]["task"]["namespaces"] = json!({"host_pid": true});
    });
    assert!(plan.workload.spec.task.namespaces.host_pid);
    let id = plan.workload.id.clone();
    plan.fence_until = Some(boot_ms() + 60_000);
    let mut events = host.runtime.events();
    host.start(&plan).await;
    let top = host.runtime.top(&id, "").await.unwrap();
    assert!(top.rows.len() >= 2, "{top:?}");
    let until = Some(boot_ms() + 200);
    host.runtime.fence(&id, until).await.unwrap();
    assert!(ended(&mut events, &id).await.status.fenced);
    let cgroups = drivers::oci::cgroup::Cgroups::detect(&host.name).unwrap();
    let cgroup = cgroups.workload(&plan.workload);
    let begin = std::time::Instant::now();
    while !cgroup.processes().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?}", cgroup.processes());
        tokio::task::yield_now().await;
    }
    host.runtime.remove(&id).await.unwrap();
}
