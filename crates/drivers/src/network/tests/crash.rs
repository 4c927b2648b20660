//! The agent dies at any step: the next start finds and mends everything, and nothing leaks.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent::driver::Prepared;

use super::super::BridgeNetwork;
use super::super::namespace::Namespace;
use super::world::{Inside, World, in_host, ip, run, workload};
use super::{port, reaches, serve};

/// Links of workloads on the host's side.
fn links() -> BTreeSet<String> {
    let text = ip("-o link show type veth");
    let names = text
        .lines()
        .filter_map(|line| line.split([':', '@', ' ']).nth(2));
    names
        .filter(|name| name.starts_with("plw"))
        .map(str::to_owned)
        .collect()
}

/// Elements of all our sets and maps.
fn elements() -> usize {
    let text = run("nft", "-j list ruleset");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = document["nftables"].as_array().unwrap().iter();
    let kinds = entries.filter_map(|entry| entry.get("set").or(entry.get("map")));
    kinds
        .map(|set| set["elem"].as_array().map_or(0, Vec::len))
        .sum()
}

/// Exactly the attached workloads have links and elements.
fn assert_nothing_leaked(world: &World, network: &BridgeNetwork) {
    let attached = world
        .block_on(agent::driver::NetworkDriver::attached(network))
        .unwrap();
    let expected: BTreeSet<String> = attached
        .values()
        .map(|attachment| attachment.status.ip.parse::<Ipv4Addr>().unwrap())
        .map(|address| format!("plw{:08x}", u32::from(address)))
        .collect();
    assert_eq!(links(), expected);
    let ports: usize = attached
        .values()
        .map(|attachment| attachment.status.ports.len())
        .sum();
    assert_eq!(elements(), attached.len() * 3 + ports);
}

#[test]
fn every_step_of_attaching_and_detaching_can_be_the_last() {
    in_host(|world| {
        let inside = Inside::new();
        let mut web = workload(1, 1);
        web.spec.ports = vec![port(80, Some(8080))];
        let wanted = web.spec.ports.clone();
        let mut addresses = BTreeSet::new();
        for step in 0..7 {
            let network = world.open();
            assert_nothing_leaked(world, &network);
            let shared = &network.shared;
            let namespace = Namespace::of(&inside.prepared).unwrap();
            if step < 4 {
                let record = shared.begin(&web, &wanted).unwrap();
                addresses.insert(record.address.unwrap());
                if step > 0 {
                    shared.add_elements(&record).unwrap();
                }
                if step > 1 {
                    shared.plug(record.address.unwrap(), &namespace).unwrap();
                }
                if step > 2 {
                    shared.ledger().set_complete(&web.id, true).unwrap();
                }
            }
            // After the third step it is attached and survives restarts; then it is taken back step by step.
            let record = shared.ledger().get(&web.id).cloned();
            if step == 4 {
                assert!(record.is_some_and(|record| record.complete), "it survives");
                assert_eq!(
                    world
                        .attach(&network, &web, &inside)
                        .unwrap()
                        .status
                        .ports
                        .len(),
                    1
                );
            } else if let (5, Some(record)) = (step, record) {
                shared.ledger().set_complete(&web.id, false).unwrap();
                shared.remove_elements(&record).unwrap();
                // The last step before the link would go.
                shared.ledger().forget(&web.id).unwrap();
            }
        }
        let network = world.open();
        assert_nothing_leaked(world, &network);
        assert!(links().is_empty());
        assert_eq!(addresses.len(), 4, "what was given back rests");
    });
}

/// Not a test of its own: what the next one kills. It attaches and detaches as fast as it can.
#[test]
fn victim() {
    let Ok(task) = std::env::var("NETWORK_TEST_VICTIM") else {
        return;
    };
    let (folder, rest) = task.split_once('|').unwrap();
    let (pid, start_time) = rest.split_once('|').unwrap();
    let prepared = Prepared {
        pid: pid.parse().unwrap(),
        start_time: start_time.parse().unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let network = BridgeNetwork::open(super::super::NetworkConfig::new(folder)).unwrap();
    let mut web = workload(7, 1);
    web.spec.ports = vec![port(80, None), port(81, None)];
    loop {
        use agent::driver::NetworkDriver as _;
        runtime
            .block_on(network.attach(&web, Some(&prepared)))
            .unwrap();
        runtime.block_on(network.detach(&web.id)).unwrap();
    }
}

#[test]
fn a_killed_agent_leaks_nothing() {
    in_host(|world| {
        let bystander = Inside::new();
        let _server = bystander.run(|| serve("0.0.0.0:80"));
        let network = world.open();
        let kept = world.attach(&network, &workload(1, 1), &bystander).unwrap();
        drop(network);
        for round in 0..25_u64 {
            let inside = Inside::new();
            let Prepared { pid, start_time } = inside.prepared;
            let task = format!("{}|{pid}|{start_time}", world.folder.path().display());
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "network::tests::crash::victim"])
                .env("NETWORK_TEST_VICTIM", task)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // tidy: sleep: the moment of the kill is the point of the test; nothing is waited for.
            std::thread::sleep(Duration::from_millis(30 + round * 7 % 60));
            victim.kill().unwrap();
            victim.wait().unwrap();
            let network = world.open();
            let seven = world.block_on(agent::driver::NetworkDriver::detach(
                &network,
                &workload(7, 1).id,
            ));
            seven.unwrap();
            let again = world.attach(&network, &workload(1, 1), &bystander).unwrap();
            assert_eq!(again, kept, "who was attached stays so");
            drop(network);
            let network = world.open();
            assert_nothing_leaked(world, &network);
        }
        let ip: Ipv4Addr = kept.status.ip.parse().unwrap();
        let other = Inside::new();
        let network = world.open();
        world.attach(&network, &workload(2, 1), &other).unwrap();
        assert!(reaches(&other, ip));
    });
}

#[test]
fn a_damaged_record_is_put_aside_and_its_address_is_not_given_out() {
    in_host(|world| {
        let network = world.open();
        let inside = Inside::new();
        let lost = world.attach(&network, &workload(1, 1), &inside).unwrap();
        drop(network);
        let folder = world.folder.path().join("attachments");
        let path = folder.join(workload(1, 1).id.as_str());
        for content in ["", "{", "null"] {
            std::fs::write(&path, content).unwrap();
            let network = world.open();
            assert!(path.with_extension("unreadable").exists());
            assert_eq!(links().len(), 1, "a link that may be in use stays");
            let other = world
                .attach(&network, &workload(2, 1), &Inside::new())
                .unwrap();
            assert_ne!(other.status.ip, lost.status.ip);
            world.detach(&network, &workload(2, 1));
        }
    });
}
