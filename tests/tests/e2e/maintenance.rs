//! A host is emptied in order: what can move runs elsewhere, the rest is named, stopped if asked for, and comes back.

use serde_json::Value;

use e2e::{Cluster, Pool, eventually, processes_with};

fn run(pool: &Pool, host: &str, name: &str, options: &[&str], sleep: &str) {
    let rule = format!("constraint:node==~{host}");
    let head = ["run", "-d", "--name", name, "-e", &rule];
    let tail = ["busybox", "sleep", sleep];
    pool.docker(&[&head, options, &tail].concat()).ok();
}

fn place(cluster: &Cluster, pool: &Pool, name: &str) -> String {
    let pool = pool.name.as_str();
    let text = cluster.plimsoll(&["inspect", "--pool", pool, name]).ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["items"][0]["host"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_host_is_emptied_for_maintenance_and_taken_into_use_again() {
    let cluster = Cluster::start(2).unwrap();
    let pool = cluster.pool("maintenance");
    // Both hosts have the image.
    run(&pool, "h1", "there", &["--restart", "always"], "86421");
    let always = ["--restart", "always"];
    run(
        &pool,
        "h2",
        "moves",
        &[&always[..], &["--init"]].concat(),
        "86422",
    );
    run(&pool, "h2", "stays", &["--init"], "86423");
    assert_eq!(place(&cluster, &pool, "moves"), "h2");

    let dry = cluster
        .plimsoll(&["host", "drain", "h2", "--dry-run"])
        .finish();
    assert_eq!(dry.code, Some(5), "{dry:?}");
    assert!(
        dry.stdout.contains("moves") && dry.stdout.contains("its files are on this host"),
        "{dry:?}"
    );
    assert_eq!(place(&cluster, &pool, "moves"), "h2", "only looked at");

    let stuck = cluster.plimsoll(&["host", "drain", "h2"]).finish();
    assert_eq!(stuck.code, Some(5), "{stuck:?}");
    assert!(
        stuck.stderr.contains("moves: moved to h1") && stuck.stderr.contains("--stop-rest"),
        "{stuck:?}"
    );
    assert_eq!(place(&cluster, &pool, "moves"), "h1");
    eventually("it runs once", || match processes_with("86422").len() {
        1 => Ok(()),
        count => Err(count),
    });
    assert_eq!(processes_with("86423").len(), 1, "nobody agreed to stop it");

    cluster
        .plimsoll(&["host", "drain", "h2", "--stop-rest"])
        .ok();
    assert_eq!(processes_with("86423").len(), 0);
    let listed = pool.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
    assert!(listed.ok().contains("(parked)"));
    let why = pool.inspect("stays", "{{.State.Error}}");
    assert_eq!(why.trim(), "parked: host h2 is in maintenance");
    let states = cluster.plimsoll(&["host", "ls"]).ok();
    assert!(states.contains("drained"), "{states}");

    // What does not run would be forgotten with the host.
    let refused = cluster.plimsoll(&["host", "rm", "h2"]).finish();
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(
        refused.stderr.contains("stays: does not run"),
        "{refused:?}"
    );

    cluster.plimsoll(&["host", "uncordon", "h2"]).ok();
    eventually("what was stopped runs again", || {
        match processes_with("86423").len() {
            1 => Ok(()),
            count => Err(count),
        }
    });
    assert_eq!(place(&cluster, &pool, "stays"), "h2");
    let events = cluster.plimsoll(&["events", "--no-follow"]).ok();
    for word in ["draining", "drained", "uncordoned", "moved", "parked"] {
        assert!(events.contains(word), "no {word}: {events}");
    }
}
