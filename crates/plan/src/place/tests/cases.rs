//! Each filter and score by itself.

use super::super::*;
use super::*;
use serde_json::json;

/// Places on hosts with these workloads; the host's name or why not.
fn put(hosts: &[Host], there: &[Workload], spec: &WorkloadSpec) -> Result<String, String> {
    let mut cluster = Cluster::new(hosts);
    for workload in there {
        cluster.workload_put(workload);
    }
    let pool = pool();
    let placement = place(&cluster, wanted(&pool, spec, 1));
    chosen(&placement, hosts).ok_or_else(|| placement.sentence())
}

fn on(host: &Host, number: u64, patch: serde_json::Value) -> Workload {
    workload(number, &spec(patch), &host.id)
}

#[test]
fn the_emptier_host_wins() {
    let hosts = [host(1), host(2)];
    let there = [on(&hosts[0], 1, json!({}))];
    assert_eq!(put(&hosts, &there, &spec(json!({}))).unwrap(), "h2");
}

#[test]
fn packing_takes_the_fuller_host() {
    let hosts = [host(1), host(2), host(3)];
    let there = [on(
        &hosts[1],
        1,
        json!({"task": {"resources": {"memory_limit": 1 << 30}}}),
    )];
    let spec = spec(json!({}));
    let mut cluster = Cluster::new(&hosts);
    cluster.workload_put(&there[0]);
    let pool = pool();
    let wanted = Wanted {
        policy: Policy::Pack,
        ..wanted(&pool, &spec, 1)
    };
    assert_eq!(
        chosen(&place(&cluster, wanted), &hosts).as_deref(),
        Some("h2")
    );
}

#[test]
fn an_image_that_is_there_outweighs_a_few_workloads() {
    let spec = spec(json!({}));
    let mut hosts = [host(1), host(2)];
    hosts[0].status.images.insert(spec.task.image_id.clone());
    let there: Vec<Workload> = (1..4).map(|n| workload(n, &spec, &hosts[0].id)).collect();
    let mut cluster = Cluster::new(&hosts);
    for workload in &there {
        cluster.workload_put(workload);
    }
    let pool = pool();
    let wanted = Wanted {
        image_bytes: 500 << 20,
        ..wanted(&pool, &spec, 1)
    };
    assert_eq!(
        chosen(&place(&cluster, wanted), &hosts).as_deref(),
        Some("h1")
    );
}

#[test]
fn nobody_fits_says_why_for_each() {
    let mut hosts = [host(1), host(2), host(3)];
    hosts[0].status.connected = false;
    hosts[2].cordoned = true;
    let spec = spec(json!({"task": {"resources": {"memory_limit": 9_u64 << 30}}}));
    assert_eq!(
        put(&hosts, &[], &spec).unwrap_err(),
        "no host fits (3 considered): h1 is not ready; h2 has 7782 MiB of memory free, 9216 MiB are requested; \
         h3 is cordoned"
    );
}

#[test]
fn in_a_large_cluster_refusals_are_counted() {
    let mut hosts: Vec<Host> = (1..=10).map(host).collect();
    for host in &mut hosts[..3] {
        host.cordoned = true;
    }
    let spec = spec(json!({"task": {"resources": {"memory_limit": 9_u64 << 30}}}));
    assert_eq!(
        put(&hosts, &[], &spec).unwrap_err(),
        "no host fits (10 considered): 7 without enough memory (h10 has 7782 MiB of memory free, 9216 MiB are \
         requested); 3 cordoned (h1 is cordoned)"
    );
}

#[test]
fn no_host_at_all_says_what_to_do() {
    assert_eq!(
        put(&[], &[], &spec(json!({}))).unwrap_err(),
        "there is no host: add one with `plimsoll host token` and `plimsoll agent`"
    );
}

#[test]
fn taken_ports_refuse() {
    let hosts = [host(1)];
    let port = json!({"ports": [{"port": 80, "protocol": "tcp", "host_port": 80}]});
    let there = [on(&hosts[0], 1, port.clone())];
    assert_eq!(
        put(&hosts, &there, &spec(port)).unwrap_err(),
        "no host fits (1 considered): h1 has port 80/tcp in use"
    );
}

#[test]
fn overcommit_of_a_host_makes_room() {
    let mut hosts = [host(1)];
    let spec = spec(json!({"task": {"resources": {"cpu_limit_millis": 5000}}}));
    assert!(
        put(&hosts, &[], &spec)
            .unwrap_err()
            .contains("has 3800m of CPU free, 5000m are")
    );
    hosts[0].overcommit.cpu_percent = 150;
    assert_eq!(put(&hosts, &[], &spec).unwrap(), "h1");
}

#[test]
fn a_host_rule_looks_at_labels_names_and_zones() {
    let mut hosts = [host(1), host(2), host(3)];
    hosts[0].labels.insert("disk".into(), "hdd".into());
    hosts[1].labels.insert("disk".into(), "ssd-fast".into());
    hosts[2].zone = "z".into();
    let label = json!({"of": "label", "key": "disk"});
    for (rule, expected) in [
        (
            json!({"attribute": label, "values": ["ssd*"]}),
            Ok("h2".to_owned()),
        ),
        (
            json!({"attribute": label, "values": ["hdd", "ssd*"], "matching": "not-in"}),
            Ok("h3".to_owned()),
        ),
        (
            json!({"attribute": {"of": "host"}, "values": ["h1"]}),
            Ok("h1".to_owned()),
        ),
        (
            json!({"attribute": {"of": "zone"}, "values": ["z"]}),
            Ok("h3".to_owned()),
        ),
        (
            json!({"attribute": {"of": "zone"}, "values": ["y"]}),
            Err(
                "no host fits (3 considered): h1 does not satisfy zone == y; h2 does not satisfy zone == y; h3 does \
                 not satisfy zone == y"
                    .to_owned(),
            ),
        ),
    ] {
        let spec = spec(json!({"placement": {"hosts": [rule.clone()]}}));
        assert_eq!(put(&hosts, &[], &spec), expected, "{rule}");
    }
}

#[test]
fn affinity_goes_where_the_label_is_and_anti_affinity_where_it_is_not() {
    let hosts = [host(1), host(2)];
    let db = on(&hosts[0], 1, json!({"labels": {"app": "db"}}));
    let to = json!({"what": "label", "key": "app", "value": "db"});
    let near = spec(json!({"placement": {"affinities": [{"to": to}]}}));
    let away = spec(json!({"placement": {"affinities": [{"to": to, "direction": "away"}]}}));
    assert_eq!(put(&hosts, std::slice::from_ref(&db), &near).unwrap(), "h1");
    assert_eq!(put(&hosts, std::slice::from_ref(&db), &away).unwrap(), "h2");
    assert!(
        put(&hosts, &[], &near).is_err(),
        "there is no such workload yet"
    );
}

#[test]
fn who_keeps_away_is_kept_away_from() {
    let hosts = [host(1), host(2)];
    let to = json!({"what": "label", "key": "app", "value": "noisy"});
    let shy = on(
        &hosts[1],
        1,
        json!({"placement": {"affinities": [{"to": to, "direction": "away"}]}}),
    );
    let noisy = spec(json!({"labels": {"app": "noisy"}}));
    let more: Vec<Workload> = (2..9).map(|n| on(&hosts[0], n, json!({}))).collect();
    let there: Vec<Workload> = std::iter::once(shy).chain(more).collect();
    assert_eq!(put(&hosts, &there, &noisy).unwrap(), "h1");
}

#[test]
fn affinities_do_not_reach_into_other_pools() {
    let hosts = [host(1), host(2)];
    let mut db = on(&hosts[0], 1, json!({"labels": {"app": "db"}}));
    db.pool = PoolId::from_bytes(&bytes(77));
    let label = json!({"what": "label", "key": "app", "value": "db"});
    let one = json!({"what": "workload", "id": db.id.as_str()});
    for to in [label, one] {
        let near = spec(json!({"placement": {"affinities": [{"to": to}]}}));
        assert!(put(&hosts, std::slice::from_ref(&db), &near).is_err());
    }
}

#[test]
fn soft_rules_are_given_up_last_first() {
    let mut hosts = [host(1), host(2)];
    hosts[0].labels.insert("a".into(), "1".into());
    hosts[1].labels.insert("b".into(), "1".into());
    let rule = |key: &str| json!({"attribute": {"of": "label", "key": key}, "values": ["1"], "strength": "should"});
    let first_a = spec(json!({"placement": {"hosts": [rule("a"), rule("b")]}}));
    let first_b = spec(json!({"placement": {"hosts": [rule("b"), rule("a")]}}));
    assert_eq!(put(&hosts, &[], &first_a).unwrap(), "h1");
    assert_eq!(put(&hosts, &[], &first_b).unwrap(), "h2");
    let cluster = Cluster::new(&hosts);
    let pool = pool();
    let placement = place(&cluster, wanted(&pool, &first_a, 1));
    assert_eq!(placement.given_up, ["label b == 1"]);
    assert!(placement.sentence().contains("given up: label b == 1"));
}

#[test]
fn like_workloads_are_spread_over_zones_then_hosts() {
    let mut hosts: Vec<Host> = (1..=6).map(host).collect();
    for (at, host) in hosts.iter_mut().enumerate() {
        // One zone has four hosts, the other two.
        host.zone = if at < 4 { "a".into() } else { "b".into() };
    }
    let mut cluster = Cluster::new(&hosts);
    let spec = spec(json!({"placement": {"spread": "web"}}));
    let pool = pool();
    let mut zones = BTreeMap::<String, u32>::new();
    let mut on_host = BTreeMap::<String, u32>::new();
    for number in 0..12 {
        let placement = place(&cluster, wanted(&pool, &spec, number));
        let id = placement.host.unwrap();
        let host = hosts.iter().find(|host| host.id == id).unwrap();
        *zones.entry(host.zone.clone()).or_default() += 1;
        *on_host.entry(host.name.to_string()).or_default() += 1;
        cluster.workload_put(&workload(number, &spec, &id));
    }
    assert_eq!(zones.values().copied().collect::<Vec<_>>(), [6, 6]);
    let counts: Vec<u32> = on_host.values().copied().collect();
    assert_eq!(counts[..4].iter().sum::<u32>(), 6);
    assert!(
        counts[..4].iter().all(|count| (1..=2).contains(count)),
        "{counts:?}"
    );
    assert_eq!(counts[4..], [3, 3]);
}

#[test]
fn where_the_image_failed_to_start_comes_last() {
    let hosts = [host(1), host(2)];
    let spec = spec(json!({}));
    let mut failed = workload(1, &spec, &hosts[0].id);
    failed.status.phase = model::Phase::Failed;
    failed.status.run = 1;
    let busy: Vec<Workload> = (2..5).map(|n| workload(n, &spec, &hosts[1].id)).collect();
    let there: Vec<Workload> = std::iter::once(failed).chain(busy).collect();
    assert_eq!(put(&hosts, &there, &spec).unwrap(), "h2");
}

#[test]
fn pools_can_be_confined_to_hosts_with_labels() {
    let mut hosts = [host(1), host(2)];
    hosts[1].labels.insert("team".into(), "finance".into());
    let cluster = Cluster::new(&hosts);
    let (pool, spec) = (pool(), spec(json!({})));
    let labels = BTreeMap::from([("team".to_owned(), "finance".to_owned())]);
    let none = BTreeMap::from([("nobody".to_owned(), "has".to_owned())]);
    for (labels, expected) in [(&labels, Some("h2")), (&none, None)] {
        let selectors = [labels.clone()];
        let wanted = Wanted {
            pool_hosts: &selectors,
            ..wanted(&pool, &spec, 1)
        };
        assert_eq!(
            chosen(&place(&cluster, wanted), &hosts).as_deref(),
            expected
        );
    }
}

#[test]
fn gpus_are_given_by_count_model_and_thousandths() {
    let mut hosts = [host(1), host(2), host(3)];
    hosts[1].status.facts.gpus = gpus(2, "T4", 2);
    hosts[2].status.facts.gpus = gpus(3, "A100", 1);
    let ask = |gpus: serde_json::Value| spec(json!({"task": {"gpus": gpus}}));
    let mut half = workload(1, &ask(json!({"count": 1, "millis": 500})), &hosts[2].id);
    half.gpus = vec![model::GpuShare {
        uuid: "GPU-3-0".into(),
        millis: 500,
        nodes: Vec::new(),
    }];
    for (request, expected) in [
        (json!({"count": 2}), Ok("h2")),
        (
            json!({"count": 1, "millis": 500, "models": ["A*"]}),
            Ok("h3"),
        ),
        (json!({"count": 1, "devices": ["GPU-2-1"]}), Ok("h2")),
        (
            json!({"count": 1, "millis": 501, "models": ["A100"]}),
            Err(
                "no host fits (3 considered): h1 has no GPU; h2 has no GPU of model A100; h3 has 0 GPUs with 501 \
                 thousandths free, 1 are requested",
            ),
        ),
        (
            json!({"count": 3}),
            Err(
                "no host fits (3 considered): h1 has no GPU; h2 has 2 GPUs, 3 are requested; h3 has 1 GPUs, 3 are \
                 requested",
            ),
        ),
    ] {
        let found = put(&hosts, std::slice::from_ref(&half), &ask(request.clone()));
        assert_eq!(
            found.as_deref().map_err(String::as_str),
            expected,
            "{request}"
        );
    }
}

#[test]
fn packing_leaves_whole_gpus_whole() {
    let mut hosts = [host(1), host(2)];
    hosts[0].status.facts.gpus = gpus(1, "T4", 2);
    hosts[1].status.facts.gpus = gpus(2, "T4", 2);
    let whole = spec(json!({"task": {"gpus": {"count": 1}}}));
    let third = spec(json!({"task": {"gpus": {"count": 1, "millis": 300}}}));
    let mut cluster = Cluster::new(&hosts);
    let pool = pool();
    // Whole ones are asked for here, so that a broken one is a loss.
    for (number, spec) in [&whole, &third, &third, &third].into_iter().enumerate() {
        let wanted = Wanted {
            policy: Policy::Pack,
            ..wanted(&pool, spec, 5)
        };
        let placement = place(&cluster, wanted);
        let mut placed = workload(number as u64, spec, placement.host.as_ref().unwrap());
        placed.gpus = placement.gpus;
        cluster.workload_put(&placed);
    }
    let free: Vec<u32> = cluster
        .hosts
        .iter()
        .flatten()
        .flat_map(|host| host.gpus.iter().map(|gpu| gpu.free))
        .collect();
    let whole_left = free.iter().filter(|free| **free == 1000).count();
    assert_eq!(
        (whole_left, free.iter().sum::<u32>()),
        (2, 2100),
        "{free:?}"
    );
}

#[test]
fn packing_leaves_gpus_the_cpu_they_are_used_with() {
    let mut hosts = [host(1), host(2)];
    hosts[0].status.facts.gpus = gpus(1, "T4", 2);
    hosts[1].status.facts.gpus = gpus(2, "T4", 2);
    hosts[1].status.facts.capacity.cpu = CpuMillis(16_000);
    let mut cluster = Cluster::new(&hosts);
    // A GPU is used with 1.5 cores here.
    let typical = spec(json!({"task": {
        "gpus": {"count": 1}, "resources": {"cpu_limit_millis": 1500},
    }}));
    let id = hosts[0].id.clone();
    let mut placed = workload(1, &typical, &id);
    placed.gpus = vec![model::GpuShare {
        uuid: "GPU-1-0".into(),
        millis: 1000,
        nodes: Default::default(),
    }];
    cluster.workload_put(&placed);
    let busy = spec(json!({"task": {"resources": {"cpu_limit_millis": 1500}}}));
    let pool = pool();
    let wanted = Wanted {
        policy: Policy::Pack,
        ..wanted(&pool, &busy, 5)
    };
    // The first host would be fuller, but its second GPU would have too little CPU.
    let placement = place(&cluster, wanted);
    assert_eq!(chosen(&placement, &hosts).as_deref(), Some("h2"));
}

#[test]
fn what_is_removed_leaves_nothing() {
    let hosts = [host(1)];
    let mut cluster = Cluster::new(&hosts);
    let spec = spec(json!({
        "labels": {"app": "web"},
        "ports": [{"port": 80, "protocol": "tcp", "host_port": 80}],
        "placement": {"spread": "web", "affinities": [
            {"to": {"what": "label", "key": "app", "value": "web"}, "direction": "away", "within": "zone"}
        ]},
        "task": {"resources": {"memory_limit": 1 << 30}},
    }));
    let placed = workload(1, &spec, &hosts[0].id);
    cluster.workload_put(&placed);
    cluster.workload_put(&placed);
    assert_eq!(cluster.workload_count(), 1);
    assert_eq!(cluster.host_of(&placed.id), Some(&hosts[0].id));
    assert!(cluster.terms.len() > 0);
    cluster.workload_remove(&placed.id);
    assert_eq!((cluster.workload_count(), cluster.terms.len()), (0, 0));
    let host = cluster.host(0).unwrap();
    assert_eq!(host.charged, Capacity::default());
    assert!(host.ports.is_empty());
}
