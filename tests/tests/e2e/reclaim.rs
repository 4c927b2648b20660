//! What a pool lent it gets back: memory by parking borrowers, who start again when there is room.

use serde_json::Value;

use e2e::{Cluster, Pool, eventually};

/// A hog of so many MiB: the end of a long input is kept in memory while nobody reads it.
fn hog(pool: &Pool, name: &str, mib: u32, options: &[&str]) {
    let script = format!("head -c {mib}m /dev/zero | tail -c {mib}m | sleep 86421");
    let mut run = vec!["run", "-d", "--name", name];
    run.extend(options);
    run.extend(["busybox", "sh", "-c", &script]);
    pool.docker(&run).ok();
}

fn hold(cluster: &Cluster, pool: &Pool, name: &str) -> String {
    let text = cluster
        .plimsoll(&["inspect", "--pool", &pool.name, name])
        .ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["items"][0]["hold"]["kind"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

fn is(cluster: &Cluster, pool: &Pool, name: &str, wanted: &str) {
    eventually(&format!("{name} is {wanted}"), || {
        match hold(cluster, pool, name) {
            kind if kind == wanted => Ok(()),
            kind => Err(kind),
        }
    });
}

#[test]
fn borrowed_memory_goes_back_to_its_owner_and_the_borrower_comes_back() {
    // 768 MiB, of which 256 are the host's reserve.
    let cluster = Cluster::start_with(1, &["--host-memory", "768MiB"]).unwrap();
    let (owner, borrower) = (cluster.pool("owner"), cluster.pool("borrower"));
    let line = ["pool", "update", &owner.name, "--reserve-memory", "300MiB"];
    cluster.plimsoll(&line).ok();
    hog(&borrower, "hog", 380, &[]);
    hog(&owner, "mine", 200, &["--memory-reservation", "32m"]);
    is(&cluster, &borrower, "hog", "parked");
    eventually("it has ended, and says why", || {
        match borrower.inspect("hog", "{{.State.Running}} {{.State.Error}}") {
            state if state.starts_with("false") && state.contains("memory") => Ok(()),
            state => Err(state),
        }
    });
    assert_eq!(owner.inspect("mine", "{{.State.Running}}"), "true");
    owner.docker(&["rm", "-f", "mine"]).ok();
    is(&cluster, &borrower, "hog", "none");
    eventually("the borrower runs again", || {
        match borrower.inspect("hog", "{{.State.Running}}") {
            running if running == "true" => Ok(()),
            running => Err(running),
        }
    });
}

#[test]
fn a_start_inside_its_reservation_makes_borrowers_go() {
    let cluster = Cluster::start_with(1, &["--host-memory", "1280MiB"]).unwrap();
    let (owner, borrower) = (cluster.pool("owner"), cluster.pool("borrower"));
    let line = ["pool", "update", &owner.name, "--reserve-memory", "800MiB"];
    cluster.plimsoll(&line).ok();
    let options = ["--memory", "600m"];
    for name in ["first", "second"] {
        let mut run = vec!["run", "-d", "--name", name];
        run.extend(options);
        run.extend(["--stop-timeout", "1", "busybox", "sleep", "86422"]);
        // 1 GiB is there for pools: the second one does not fit any more.
        let ran = borrower.docker(&run);
        if name == "first" {
            ran.ok();
        } else {
            let refused = ran.fails();
            assert!(refused.contains("memory"), "{refused}");
        }
    }
    owner
        .docker(&[
            "run", "-d", "--name", "mine", "--memory", "700m", "busybox", "sleep", "86422",
        ])
        .ok();
    assert_eq!(owner.inspect("mine", "{{.State.Running}}"), "true");
    is(&cluster, &borrower, "first", "parked");
}
