//! A host that cannot be reached is not yet lost; of a lost one, what agreed to it goes on elsewhere, and after healing
//! nothing runs twice.

use std::time::{Duration, Instant};

use serde_json::Value;

use e2e::{Cluster, Pool, eventually, processes_with};

/// A workload as the server shows it.
fn shown(cluster: &Cluster, pool: &Pool, name: &str) -> Value {
    let text = cluster
        .plimsoll(&["inspect", "--pool", &pool.name, name])
        .ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["items"][0].clone()
}

fn host(cluster: &Cluster, pool: &Pool, name: &str) -> String {
    let shown = shown(cluster, pool, name);
    shown["host"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn state(cluster: &Cluster, name: &str) -> String {
    let text = cluster.plimsoll(&["host", "ls", "--output", "json"]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    let items = list["items"]
        .as_array()
        .or(list.as_array())
        .unwrap()
        .clone();
    let found = items.iter().find(|host| host["name"] == name).unwrap();
    found["state"].as_str().unwrap_or_default().to_owned()
}

/// One container on every host, so that each has the image.
fn everywhere(pool: &Pool) {
    for host in ["h1", "h2", "h3"] {
        let rule = format!("constraint:node=={host}");
        pool.docker(&["run", "--rm", "-e", &rule, "busybox", "true"])
            .ok();
    }
}

/// Waits until `moves` runs on another host.
fn runs_elsewhere(cluster: &Cluster, pool: &Pool, on: &str) {
    eventually("it runs on another host", || {
        let shown = shown(cluster, pool, "moves");
        let there = shown["host"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if there != on && shown["status"]["phase"] == "running" {
            Ok(())
        } else {
            Err(format!("{} on {there}", shown["status"]["phase"]))
        }
    });
}

fn removes_all(pool: &Pool, sleep: &str) {
    // What was moved can be removed as anything else.
    pool.docker(&["rm", "-f", "moves", "stays"]).ok();
    eventually("nothing of it is left", || {
        match processes_with(sleep).len() + processes_with("86412").len() {
            0 => Ok(()),
            count => Err(count),
        }
    });
}

#[test]
fn what_a_lost_host_ran_goes_on_elsewhere_and_nothing_runs_twice_after_healing() {
    let cluster = Cluster::start(3).unwrap();
    let pool = cluster.pool("loss");
    everywhere(&pool);
    // The time is unique, so that these processes can be told from all others.
    let sleep = "86411";
    pool.docker(&[
        "run",
        "-d",
        "--name",
        "moves",
        "--restart",
        "always",
        "busybox",
        "sleep",
        sleep,
    ])
    .ok();
    let on = host(&cluster, &pool, "moves");
    let rule = format!("constraint:node=={on}");
    pool.docker(&[
        "run", "-d", "--name", "stays", "-e", &rule, "busybox", "sleep", "86412",
    ])
    .ok();
    cluster.set_link(&on, false);
    let cut = Instant::now();
    eventually("the host is seen to be unreachable", || {
        match state(&cluster, &on) {
            state if state == "ready" => Err(state),
            _ => Ok(()),
        }
    });
    let noticed = cut.elapsed();
    assert_eq!(
        host(&cluster, &pool, "moves"),
        on,
        "unreachable is not lost"
    );
    runs_elsewhere(&cluster, &pool, &on);
    let replaced = cut.elapsed();
    assert!(
        replaced >= Duration::from_secs(9),
        "{replaced:?}: before the host could be lost"
    );
    assert_eq!(host(&cluster, &pool, "stays"), on, "nobody agreed to that");
    // Nothing was told to the cut-off host: it goes on there as well.
    assert_eq!(processes_with(sleep).len(), 2);
    cluster.set_link(&on, true);
    let healed = Instant::now();
    eventually("it runs once", || match processes_with(sleep).len() {
        1 => Ok(()),
        count => Err(count),
    });
    let once = healed.elapsed();
    assert_ne!(host(&cluster, &pool, "moves"), on);
    assert_eq!(
        processes_with("86412").len(),
        1,
        "what stayed was not touched"
    );
    eventually("the host is ready again", || match state(&cluster, &on) {
        state if state == "ready" => Ok(()),
        state => Err(state),
    });
    println!(
        "host loss: noticed after {:.1} s, replaced after {:.1} s, no duplicate {:.1} s after healing",
        noticed.as_secs_f64(),
        replaced.as_secs_f64(),
        once.as_secs_f64()
    );
    removes_all(&pool, sleep);
}

/// Waits until so many processes have an argument.
fn processes(argument: &str, wanted: usize) {
    eventually(&format!("{wanted} processes"), || {
        match processes_with(argument).len() {
            count if count == wanted => Ok(()),
            count => Err(count),
        }
    });
}

#[test]
fn what_must_never_run_twice_is_ended_by_the_cut_off_host_before_it_starts_elsewhere() {
    let cluster = Cluster::start(2).unwrap();
    let pool = cluster.pool("once");
    for host in ["h1", "h2"] {
        let rule = format!("constraint:node=={host}");
        pool.docker(&["run", "--rm", "-e", &rule, "busybox", "true"])
            .ok();
    }
    let sleep = "86413";
    let label = "com.plimsoll.on-host-loss=at-most-one";
    pool.docker(&[
        "run", "-d", "--name", "one", "--label", label, "busybox", "sleep", sleep,
    ])
    .ok();
    let on = host(&cluster, &pool, "one");
    cluster.set_link(&on, false);
    let cut = Instant::now();
    processes(sleep, 0);
    let ended = cut.elapsed();
    // From here to the start on the other host there is none, and never are there two.
    let most = std::cell::Cell::new(0);
    eventually("it runs on the other host", || {
        let count = processes_with(sleep).len();
        most.set(most.get().max(count));
        let there = host(&cluster, &pool, "one");
        if there != on && count == 1 {
            Ok(())
        } else {
            Err(format!("{count} on {there}"))
        }
    });
    let replaced = cut.elapsed();
    cluster.set_link(&on, true);
    eventually("the host is ready again", || match state(&cluster, &on) {
        state if state == "ready" => Ok(()),
        state => Err(state),
    });
    eventually("nothing is left to be removed there", || {
        let shown = shown(&cluster, &pool, "one");
        most.set(most.get().max(processes_with(sleep).len()));
        match shown["left"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            left => Err(left),
        }
    });
    assert_eq!(most.get(), 1);
    println!(
        "at most one: ended by its host after {:.1} s, started elsewhere after {:.1} s",
        ended.as_secs_f64(),
        replaced.as_secs_f64()
    );
    pool.docker(&["rm", "-f", "one"]).ok();
    processes(sleep, 0);
}
