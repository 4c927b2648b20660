//! What a cluster makes outside of its folder, and that nothing of it is left. The programs are stand-ins.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};

use super::plan::{Plan, host_address, server_address};
use super::processes::{MARK, Process};
use super::state::{self, State};
use super::{cgroups, processes, teardown, topology};

fn run(program: &str, arguments: &str) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Everything of this machine that carries the cluster's name.
fn traces(plan: &Plan) -> Vec<String> {
    let mut found = topology::namespaces(plan);
    for (program, arguments) in [("ip", "-br link"), ("nft", "list tables"), ("mount", "-l")] {
        let (_, text) = run(program, arguments);
        let folder = plan.folder.to_string_lossy().into_owned();
        let lines = text
            .lines()
            .filter(|line| line.contains(&plan.name()) || line.contains(&folder));
        found.extend(lines.map(str::to_owned));
    }
    found.extend(cgroups::pids(plan).iter().map(i32::to_string));
    let left = processes::find(plan, &Default::default());
    found.extend(
        left.iter()
            .map(|process| format!("process {}", process.pid)),
    );
    found
}

fn sleeper(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// Makes the network of a cluster of two hosts and programs that carry each of the marks.
fn bring_up(plan: &Plan) -> (State, Vec<Child>) {
    state::claim(plan).unwrap();
    let mut state = State {
        hosts: 2,
        underlay: topology::choose_underlay(plan).unwrap(),
        host_cpus: None,
        host_memory: None,
        programs: BTreeMap::new(),
    };
    for _ in 0..2 {
        // Twice: repeating it changes nothing.
        topology::make_bridge(plan, state.underlay).unwrap();
        topology::make_host(plan, state.underlay, 1).unwrap();
        topology::make_host(plan, state.underlay, 2).unwrap();
    }
    topology::check_underlay(plan, state.underlay).unwrap();
    let known = sleeper(Command::new("sleep").arg("601"));
    let marked = sleeper(Command::new("sleep").arg("602").env(MARK, &plan.folder));
    let namespace = format!("--net={}", topology::namespace_path(plan, 1).display());
    let inside = sleeper(Command::new("nsenter").args([&namespace, "sleep", "603"]));
    let grouped = sleeper(Command::new("sleep").arg("604"));
    for hierarchy in ["memory", "freezer", "unified"] {
        let folder = format!("/sys/fs/cgroup/{hierarchy}/plimsoll/{}/p/w", plan.cgroup(1));
        if fs::create_dir_all(&folder).is_ok() {
            fs::write(format!("{folder}/cgroup.procs"), grouped.id().to_string()).unwrap();
            let _ = fs::write(format!("{folder}/freezer.state"), "FROZEN");
        }
    }
    let mount = plan.folder.join("a mount");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&mount)
        .status();
    assert!(mounted.unwrap().success());
    let pid = i32::try_from(known.id()).unwrap();
    state
        .programs
        .insert("server".to_owned(), Process::of(pid).unwrap());
    state::write(plan, &state).unwrap();
    (state, vec![known, marked, inside, grouped])
}

fn reap(children: Vec<Child>) {
    for mut child in children {
        assert!(
            !child.wait().unwrap().success(),
            "it was killed, it did not end"
        );
    }
}

#[test]
fn a_cluster_is_made_and_no_trace_is_left() {
    let outer = tempfile::tempdir().unwrap();
    let plan = Plan::of(&outer.path().join("cluster")).unwrap();
    let bystander = sleeper(Command::new("sleep").arg("605").current_dir(outer.path()));
    let (state, children) = bring_up(&plan);
    let (host, server) = (
        host_address(state.underlay, 2),
        server_address(state.underlay),
    );
    let (reached, text) = run("busybox", &format!("ping -c 1 -W 5 {host}"));
    assert!(reached, "{text}");
    let inside = format!("netns exec {} busybox ping -c 1 -W 5 ", plan.namespace(1));
    for target in [host, server] {
        let (reached, text) = run("ip", &format!("{inside}{target}"));
        assert!(reached, "{text}");
    }
    teardown::down(&plan, false).unwrap();
    reap(children);
    assert_eq!(traces(&plan), Vec::<String>::new());
    assert_eq!(fs::read_dir(&plan.folder).unwrap().count(), 0);
    teardown::down(&plan, false).unwrap();
    let mut bystander = bystander;
    assert!(
        bystander.try_wait().unwrap().is_none(),
        "a stranger was killed"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_cluster_is_found_without_its_state_file_and_without_its_folder() {
    let outer = tempfile::tempdir().unwrap();
    let plan = Plan::of(&outer.path().join("cluster")).unwrap();
    let (_, mut children) = bring_up(&plan);
    fs::write(plan.folder.join("dev.json"), "{").unwrap();
    teardown::down(&plan, true).unwrap();
    // Only the state file knew the first one.
    children[0].kill().unwrap();
    reap(children);
    assert_eq!(traces(&plan), Vec::<String>::new());
    assert!(plan.folder.join("dev.json").exists(), "kept, as asked for");
    fs::remove_dir_all(&plan.folder).unwrap();
    teardown::down(&plan, false).unwrap();
    assert!(!plan.folder.exists());
}

#[test]
fn a_folder_with_something_else_in_it_is_neither_taken_nor_emptied() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("thesis"), "x").unwrap();
    let plan = Plan::of(outer.path()).unwrap();
    assert!(
        state::claim(&plan)
            .unwrap_err()
            .to_string()
            .contains("thesis")
    );
    teardown::down(&plan, false).unwrap();
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
}
