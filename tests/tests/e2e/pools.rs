//! Pools with a line, through the unmodified docker client: refusals that name who ran out, live changes, files, and
//! what happens when a host goes.

use e2e::{Cluster, Pool};
use serde_json::Value;

/// Makes a pool with an image in it.
fn pool(cluster: &Cluster, name: &str, options: &[&str]) -> Pool {
    let mut command = vec!["pool", "create", name];
    command.extend(options);
    cluster.plimsoll(&command).ok();
    let pool = Pool::of_server(cluster.data(), name);
    pool.load("busybox");
    pool
}

fn run(pool: &Pool, name: &str, memory: &str) -> e2e::Run {
    pool.docker(&[
        "run", "-d", "--name", name, "-m", memory, "busybox", "sleep", "1000",
    ])
}

fn shown(cluster: &Cluster, pool: &str) -> Value {
    let text = cluster.plimsoll(&["pool", "show", pool, "-o", "json"]).ok();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn pools_are_held_to_their_line_and_refusals_name_who_ran_out() {
    let cluster = Cluster::start(2).unwrap();
    cluster
        .plimsoll(&["pool", "create", "company", "--limit-memory", "300MiB"])
        .ok();
    let inside = ["--parent", "company"];
    let finance = pool(&cluster, "finance", &inside);
    let crm = pool(
        &cluster,
        "crm",
        &["--parent", "company", "--limit-memory", "200MiB"],
    );
    assert_eq!(
        crm.docker(&["info", "--format", "{{.MemTotal}}"])
            .ok()
            .trim(),
        (200 << 20).to_string()
    );

    run(&finance, "f1", "128m").ok();
    run(&finance, "f2", "128m").ok();
    let refused = run(&crm, "c1", "128m").fails();
    assert!(
        refused.contains(
            "pool company (above crm) has not enough memory left: 128MiB wanted, 256MiB of the limit of 300MiB in use"
        ),
        "{refused}"
    );

    cluster
        .plimsoll(&["pool", "update", "company", "--limit-memory", "600MiB"])
        .ok();
    crm.docker(&["start", "c1"]).ok();
    let refused = run(&crm, "c2", "128m").fails();
    assert!(
        refused.contains("pool crm has not enough memory left: 128MiB wanted, 128MiB of the limit of 200MiB in use"),
        "{refused}"
    );

    cluster
        .plimsoll(&["pool", "update", "crm", "--quota", "workloads=2"])
        .ok();
    let refused = crm
        .docker(&["create", "--name", "c3", "busybox", "true"])
        .fails();
    assert!(
        refused.contains("pool crm has its quota of 2 workloads used up"),
        "{refused}"
    );
    assert_eq!(
        shown(&cluster, "company")["standing"]["memory"]["used"],
        384 << 20
    );
    let tree = cluster.plimsoll(&["pool", "show", "company"]).ok();
    assert!(
        tree.contains("  finance") && tree.contains("  crm"),
        "{tree}"
    );

    files_change_pools(&cluster);
    a_cordoned_host_marks_pools(&cluster);
    cluster.down().unwrap();
}

fn files_change_pools(cluster: &Cluster) {
    let file = cluster.data().join("pools.yaml");
    std::fs::write(
        &file,
        "pools:\n- name: company\n  memory: {limit: 700MiB}\n  pools:\n  - name: audit\n    cpu: {limit: 0.5, shares: low}\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let planned = cluster.plimsoll(&["apply", "-f", file, "--dry-run"]).ok();
    assert_eq!(
        planned,
        "~ company\n    - memory.limit: 600MiB\n    + memory.limit: 700MiB\n+ audit\n    + parent: company\n    \
         + cpu.limit: 0.5\n    + cpu.shares: low"
    );
    assert_eq!(
        shown(cluster, "company")["slice"]["memory"]["limit"],
        "600MiB"
    );
    assert_eq!(cluster.plimsoll(&["apply", "-f", file]).ok(), planned);
    assert_eq!(shown(cluster, "audit")["standing"]["cpu"]["limit"], 500);
    let again = cluster.plimsoll(&["apply", "-f", file]).ok();
    assert_eq!(again, "  company unchanged\n  audit unchanged");
}

fn a_cordoned_host_marks_pools(cluster: &Cluster) {
    let total = shown(cluster, "company")["standing"]["cpu"]["ceiling"]
        .as_u64()
        .unwrap();
    let most = format!("{}m", total * 3 / 4);
    cluster
        .plimsoll(&["pool", "create", "big", "--reserve-cpu", &most])
        .ok();
    let refused = cluster
        .plimsoll(&["pool", "create", "more", "--reserve-cpu", &most])
        .fails();
    assert!(
        refused.contains("cannot be reserved: the installation has"),
        "{refused}"
    );
    let hosts = cluster.plimsoll(&["host", "ls", "-q"]).ok();
    let host = hosts.lines().last().unwrap();
    cluster.plimsoll(&["host", "cordon", host]).ok();
    assert_eq!(
        shown(cluster, "big")["standing"]["cpu"]["missing"],
        total / 4
    );
    let marked = cluster.plimsoll(&["pool", "show", "big"]).ok();
    assert!(marked.contains("over-committed: "), "{marked}");
    cluster.plimsoll(&["host", "uncordon", host]).ok();
    assert_eq!(shown(cluster, "big")["standing"]["cpu"]["missing"], 0);
}
