//! What operators say of hosts, and what is said of what is on them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::events::{Event, Subject};
use control::maintenance::{DrainOptions, HostCondition, HostOutlook, HostUpdate, Outlook};
use control::testing::TestHost;
use control::{Caller, Control, ErrorKind, Kept};
use futures::StreamExt as _;
use model::rule::Rule;
use model::workload::{Hold, HoldKind};
use model::{Host, HostId, Name, PlacementSpec, PoolId, Workload, WorkloadId};
use serde_json::{Value, json};

struct World {
    control: Control,
    pool: PoolId,
    image: model::Digest,
    hosts: Vec<TestHost>,
}

/// Hosts `h1`, `h2` and so on, of 4 cores and 8 GiB each.
async fn world(hosts: usize) -> World {
    let control = Control::for_tests().await.unwrap();
    let mut connected = Vec::new();
    for number in 1..=hosts {
        connected.push(control.test_host(&format!("h{number}")).await.unwrap());
    }
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    World {
        control,
        pool,
        image,
        hosts: connected,
    }
}

fn admin() -> Caller {
    Caller::local_admin()
}

impl World {
    /// A workload on `h1`, of a specification with some fields replaced.
    async fn on_h1(&self, name: &str, fields: Value) -> WorkloadId {
        let mut spec = json!({
            "task": { "image": "web", "image_id": self.image, "args": ["sleep"] },
        });
        let mut task = json!({});
        for (key, value) in fields.as_object().unwrap() {
            if matches!(key.as_str(), "resources" | "mounts") {
                task[key] = value.clone();
            } else {
                spec[key] = value.clone();
            }
        }
        for (key, value) in task.as_object().unwrap() {
            spec["task"][key] = value.clone();
        }
        let spec = serde_json::from_value(spec).unwrap();
        let name = Some(Name::parse(name).unwrap());
        let made = self
            .control
            .workload_create(&admin(), &self.pool, name, spec)
            .await
            .unwrap();
        self.control
            .workload_start(&admin(), &self.pool, &made.id, Default::default())
            .await
            .unwrap();
        made.id.clone()
    }

    /// Everything but `h1` is out of use meanwhile.
    async fn only_h1(&self) {
        for host in &self.hosts[1..] {
            let id = host.id.as_str();
            self.control.host_cordon(&admin(), id).await.unwrap();
        }
    }

    async fn all(&self) {
        for host in &self.hosts[1..] {
            let id = host.id.as_str();
            self.control.host_uncordon(&admin(), id).await.unwrap();
        }
    }

    fn host(&self, name: &str) -> Kept<Host> {
        self.control.host_find(&admin(), name).unwrap()
    }

    fn outlook(&self, stop_rest: bool) -> HostOutlook {
        self.control
            .host_outlook(&admin(), "h1", stop_rest)
            .unwrap()
    }

    fn fates(&self, stop_rest: bool) -> BTreeMap<String, Outlook> {
        let outlook = self.outlook(stop_rest);
        let each = outlook.workloads.into_iter();
        each.map(|it| (it.workload.name.to_string(), it.outlook))
            .collect()
    }

    /// Waits until something is so.
    async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let so = async {
            while !is(self) {
                // tidy: sleep: pause of a poll loop
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), so).await;
        waited.unwrap_or_else(|_| panic!("not seen: {what}"));
    }

    async fn drain(&self, name: &str, options: DrainOptions) -> control::Result<Kept<Host>> {
        self.control.host_drain(&admin(), name, options).await
    }

    async fn hold(&self, id: &WorkloadId, kind: HoldKind) {
        let edit = |workload: &mut Workload| {
            workload.hold = Some(Hold {
                kind: kind.clone(),
                reason: "host h1 is in maintenance".into(),
                since: control::now(),
                not_before: control::now(),
                grace_seconds: 10,
            });
        };
        self.control.test_workload_edit(id, edit).await.unwrap();
    }

    /// What the controllers do at last: the workload is on another host, and the first one forgets it.
    async fn take_to(&self, id: &WorkloadId, to: &HostId) {
        let from = self.hosts[0].id.clone();
        let edit = |workload: &mut Workload| {
            workload.hold = None;
            workload.run += 1;
            workload.host = Some(to.clone());
            workload.placement = Some("host h1 is in maintenance; best of 2 hosts".into());
            workload.left.insert(from.clone(), control::now());
        };
        self.control.test_workload_edit(id, edit).await.unwrap();
    }

    /// All events from the beginning to the first one of an action.
    async fn events_until(&self, action: &str) -> Vec<Event> {
        let caller = admin();
        let events = self.control.events(&caller, None, Some(0), None).unwrap();
        let mut events = Box::pin(events);
        let mut seen: Vec<Event> = Vec::new();
        while seen.last().is_none_or(|last| last.action != action) {
            let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
            seen.push(
                next.unwrap_or_else(|_| panic!("no {action} after {seen:#?}"))
                    .unwrap(),
            );
        }
        seen
    }
}

fn update(labels: &[(&str, &str)]) -> HostUpdate {
    HostUpdate {
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..HostUpdate::default()
    }
}

#[tokio::test]
async fn labels_and_overcommit_are_changed_and_checked() {
    let w = world(1).await;
    let room = w.host("h1").room();
    let both = HostUpdate {
        cpu_percent: Some(150),
        ..update(&[("disk", "ssd"), ("rack", "4")])
    };
    let host = w.control.host_update(&admin(), "h1", &both).await.unwrap();
    assert_eq!(host.labels["disk"], "ssd");
    assert_eq!(host.room().cpu.0, room.cpu.0 * 3 / 2);
    assert_eq!(host.room().memory, room.memory);
    let removed = HostUpdate {
        labels_removed: BTreeSet::from(["rack".to_owned(), "never".to_owned()]),
        ..HostUpdate::default()
    };
    let host = w
        .control
        .host_update(&admin(), "h1", &removed)
        .await
        .unwrap();
    assert_eq!(host.labels.len(), 1);
    assert_eq!(host.overcommit.cpu_percent, 150, "what is not named stays");

    let both_ways = HostUpdate {
        labels_removed: BTreeSet::from(["disk".to_owned()]),
        ..update(&[("disk", "hdd")])
    };
    let too_much = HostUpdate {
        memory_percent: Some(1_000_000),
        ..HostUpdate::default()
    };
    for (bad, why) in [
        (update(&[("", "x")]), "cannot be a key"),
        (update(&[("a b", "x")]), "cannot be a key"),
        (update(&[("zone", "b")]), "own attribute"),
        (update(&[("disk", "a\nb")]), "control characters"),
        (both_ways, "set and removed"),
        (too_much, "from 10 % to 10000 %"),
    ] {
        let refused = w.control.host_update(&admin(), "h1", &bad).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(why), "{}", refused.message);
    }
    assert_eq!(w.host("h1").labels["disk"], "ssd");
}

#[tokio::test]
async fn a_host_joins_no_more_labels_than_there_may_be() {
    let w = world(1).await;
    let many: Vec<String> = (0..256).map(|number| format!("k{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
    let full = update(&many);
    w.control.host_update(&admin(), "h1", &full).await.unwrap();
    let one_more = update(&[("more", "v")]);
    let refused = w.control.host_update(&admin(), "h1", &one_more).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Invalid);
    // Another value for a label that is there is no further label.
    let same = update(&[("k0", "w")]);
    w.control.host_update(&admin(), "h1", &same).await.unwrap();
}

#[tokio::test]
async fn the_last_host_is_drained_by_force_only() {
    let w = world(2).await;
    w.drain("h1", DrainOptions::default()).await.unwrap();
    let host = w.host("h1");
    assert!(host.cordoned && host.drain.is_some());
    let refused = w.drain("h2", DrainOptions::default()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(
        refused.message.contains("the last one") && refused.message.contains("use force"),
        "{}",
        refused.message
    );
    assert!(
        w.host("h2").drain.is_none(),
        "a refusal has changed nothing"
    );
    let forced = DrainOptions {
        force: true,
        ..DrainOptions::default()
    };
    w.drain("h2", forced).await.unwrap();
    w.control.host_uncordon(&admin(), "h2").await.unwrap();
    let host = w.host("h2");
    assert!(!host.cordoned && host.drain.is_none());
}

#[tokio::test]
async fn maintenance_that_is_asked_for_again_keeps_its_beginning() {
    let w = world(2).await;
    let first = w.drain("h1", DrainOptions::default()).await.unwrap();
    let rest = DrainOptions {
        stop_rest: true,
        ..DrainOptions::default()
    };
    let second = w.drain("h1", rest).await.unwrap();
    let (first, second) = (first.drain.unwrap(), second.drain.unwrap());
    assert_eq!(first.since, second.since);
    assert!(!first.stop_rest && second.stop_rest);
}

#[tokio::test]
async fn an_outlook_says_of_each_workload_what_becomes_of_it() {
    let w = world(2).await;
    w.only_h1().await;
    let always = json!({ "restart": { "policy": "always" } });
    w.on_h1("web", always.clone()).await;
    w.on_h1("plain", json!({})).await;
    let volume = json!([{ "target": "/data", "source": { "type": "volume", "name": "" } }]);
    w.on_h1(
        "db",
        json!({ "restart": { "policy": "always" }, "mounts": volume }),
    )
    .await;
    let done = w.on_h1("done", json!({})).await;
    w.control
        .workload_stop(&admin(), &w.pool, &done, Default::default())
        .await
        .unwrap();
    // h2 is still out of use.
    let fates = w.fates(false);
    assert!(matches!(&fates["web"], Outlook::Waits(why) if why.contains("cordoned")));
    w.all().await;
    let fates = w.fates(false);
    assert_eq!(fates["web"], Outlook::Moves(w.hosts[1].id.clone()));
    assert!(matches!(&fates["plain"], Outlook::Stays(why) if why.contains("on-host-loss")));
    assert!(
        matches!(&fates["db"], Outlook::Stays(why) if why.contains("anonymous volume at /data"))
    );
    assert!(matches!(&fates["done"], Outlook::Idle(_)));
    assert!(matches!(&w.fates(true)["db"], Outlook::Stops(_)));
    assert_eq!(w.outlook(false).condition, HostCondition::Ready);
    assert!(w.host("h1").drain.is_none(), "looking changes nothing");
}

#[tokio::test]
async fn an_outlook_counts_room_once_only() {
    let w = world(2).await;
    let host = |rule: &str| PlacementSpec {
        hosts: vec![Rule::parse(rule).unwrap().about_hosts()],
        ..PlacementSpec::default()
    };
    // Two fit on a host.
    let big = |rule: &str| {
        json!({
            "restart": { "policy": "always" },
            "placement": host(rule),
            "resources": { "request": { "memory_bytes": 3_u64 << 30 } },
        })
    };
    for (name, rule) in [("a", "node==~h1"), ("b", "node==~h1"), ("c", "node==h2")] {
        w.on_h1(name, big(rule)).await;
    }
    let on_h1 = w.control.snapshot().workloads_on(&w.hosts[0].id).count();
    assert_eq!(on_h1, 2);
    let fates = w.fates(false);
    let moves = fates.values().filter(|it| matches!(it, Outlook::Moves(_)));
    assert_eq!(moves.count(), 1, "{fates:?}");
    let waits = fates
        .values()
        .filter(|it| matches!(it, Outlook::Waits(why) if why.contains("memory")));
    assert_eq!(waits.count(), 1, "{fates:?}");
}

#[tokio::test]
async fn a_host_is_drained_when_nothing_runs_there_any_more() {
    let w = world(2).await;
    w.only_h1().await;
    let id = w
        .on_h1("web", json!({ "restart": { "policy": "always" } }))
        .await;
    w.all().await;
    w.drain("h1", DrainOptions::default()).await.unwrap();
    assert_eq!(w.outlook(false).condition, HostCondition::Draining);
    w.hold(&id, HoldKind::Moving).await;
    assert_eq!(w.fates(false)["web"], Outlook::Moving);
    w.until("its end", |w| {
        let snapshot = w.control.snapshot();
        !snapshot.workload(&id).unwrap().status.phase.is_alive()
    })
    .await;
    assert_eq!(
        w.outlook(false).condition,
        HostCondition::Draining,
        "it has not arrived anywhere"
    );
    w.take_to(&id, &w.hosts[1].id).await;
    w.until("an empty host", |w| {
        w.outlook(false).condition == HostCondition::Drained
    })
    .await;
    assert!(w.fates(false).is_empty());
}

#[tokio::test]
async fn what_happens_to_hosts_and_workloads_is_told() {
    let mut w = world(2).await;
    w.only_h1().await;
    let id = w.on_h1("web", json!({})).await;
    w.all().await;
    w.drain("h1", DrainOptions::default()).await.unwrap();
    w.hold(&id, HoldKind::Moving).await;
    w.take_to(&id, &w.hosts[1].id).await;
    w.hold(&id, HoldKind::Parked).await;
    w.hold(&id, HoldKind::Queued).await;
    w.until("an empty host", |w| {
        w.outlook(false).condition == HostCondition::Drained
    })
    .await;
    let gone = w.hosts.remove(1);
    let gone_id = gone.id.clone();
    drop(gone);
    w.until("the end of the link", |w| !w.host("h2").status.connected)
        .await;
    w.control
        .test_host_edit(&gone_id, |host| {
            host.status.lost_at = Some(control::now());
        })
        .await
        .unwrap();
    let seen = w.events_until("lost").await;
    let of_hosts: Vec<(&str, &str)> = seen
        .iter()
        .filter(|event| event.subject == Subject::Host)
        .map(|event| (event.attributes["name"].as_str(), event.action.as_str()))
        .collect();
    assert_eq!(
        of_hosts,
        [
            ("h1", "joined"),
            ("h1", "connected"),
            ("h2", "joined"),
            ("h2", "connected"),
            ("h2", "cordoned"),
            ("h2", "uncordoned"),
            ("h1", "draining"),
            ("h1", "drained"),
            ("h2", "unreachable"),
            ("h2", "lost"),
        ]
    );
    let told = |action: &str| {
        let found = seen.iter().find(|event| event.action == action);
        found.unwrap_or_else(|| panic!("no {action}: {seen:#?}"))
    };
    for action in ["moving", "parked", "queued"] {
        let event = told(action);
        assert_eq!(event.attributes["reason"], "host h1 is in maintenance");
        assert_eq!(event.pool.as_ref(), Some(&w.pool));
    }
    let moved = &told("moved").attributes;
    assert_eq!((moved["from"].as_str(), moved["to"].as_str()), ("h1", "h2"));
    assert_eq!(
        moved["reason"],
        "host h1 is in maintenance; best of 2 hosts"
    );
}

#[tokio::test]
async fn the_time_until_a_loss_is_not_lowered_under_hosts_that_are_cut_off() {
    let mut w = world(2).await;
    let set = async |seconds: u32| {
        let settings = w
            .control
            .installation_update(&admin(), move |it| it.host_loss_seconds = seconds)
            .await;
        settings.map(|it| it.host_loss_seconds)
    };
    for bad in [0, 7, 86_401] {
        assert_eq!(set(bad).await.unwrap_err().kind, ErrorKind::Invalid);
    }
    assert_eq!(set(60).await.unwrap(), 60);
    assert_eq!(set(30).await.unwrap(), 30);
    drop(w.hosts.remove(1));
    w.until("the end of the link", |w| !w.host("h2").status.connected)
        .await;
    let refused = set(10).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("h2"), "{}", refused.message);
    assert_eq!(set(90).await.unwrap(), 90, "raising it harms nobody");
    w.control.host_remove(&admin(), "h2", false).await.unwrap();
    assert_eq!(set(10).await.unwrap(), 10);
}

#[tokio::test]
async fn a_host_with_workloads_is_removed_only_after_it_was_said_what_is_forgotten() {
    let w = world(2).await;
    w.only_h1().await;
    let web = w.on_h1("web", json!({})).await;
    let db = w.on_h1("db", json!({})).await;
    w.all().await;
    // The host cannot say that it has removed it: it is lost.
    let World {
        control,
        pool,
        hosts,
        ..
    } = w;
    let (h1, h2) = (hosts[0].id.clone(), hosts[1].id.clone());
    drop(hosts);
    control
        .test_host_edit(&h1, |host| host.status.lost_at = Some(control::now()))
        .await
        .unwrap();
    let refused = control.host_remove(&admin(), "h1", false).await;
    let message = refused.unwrap_err().message;
    assert!(
        message.contains("2 workloads (for example ")
            && message.contains("none that was there has been started elsewhere"),
        "{message}"
    );
    control
        .test_workload_edit(&web, |workload| {
            workload.host = Some(h2.clone());
            workload.left.insert(h1.clone(), control::now());
        })
        .await
        .unwrap();
    let refused = control.host_remove(&admin(), "h1", false).await;
    let message = refused.unwrap_err().message;
    assert!(
        message.contains("workload db, which would be forgotten")
            && message.contains("1 that was there has been started elsewhere"),
        "{message}"
    );
    control.host_remove(&admin(), "h1", true).await.unwrap();
    let snapshot = control.snapshot();
    assert!(snapshot.workload(&db).is_none());
    let web = snapshot.workload(&web).unwrap();
    assert!(web.left.is_empty() && web.pool == pool);
}

#[tokio::test]
async fn a_host_that_still_has_to_remove_something_is_not_just_forgotten() {
    let mut w = world(2).await;
    w.only_h1().await;
    let web = w.on_h1("web", json!({})).await;
    w.all().await;
    let (h1, h2) = (w.hosts[0].id.clone(), w.hosts[1].id.clone());
    drop(w.hosts.remove(0));
    w.until("the end of the link", |w| !w.host("h1").status.connected)
        .await;
    let edit = |workload: &mut Workload| {
        workload.host = Some(h2.clone());
        workload.left.insert(h1.clone(), control::now());
    };
    w.control.test_workload_edit(&web, edit).await.unwrap();
    let refused = w.control.host_remove(&admin(), "h1", false).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(
        refused
            .message
            .contains("cannot be reached and still has to remove what it has of 1 workload"),
        "{}",
        refused.message
    );
    w.control.host_remove(&admin(), "h1", true).await.unwrap();
    assert!(w.control.snapshot().workload(&web).unwrap().left.is_empty());
}

#[tokio::test]
async fn what_a_removed_hosts_workload_left_elsewhere_is_still_removed_there() {
    let mut w = world(2).await;
    w.only_h1().await;
    let web = w.on_h1("web", json!({})).await;
    w.all().await;
    let (h1, h2) = (w.hosts[0].id.clone(), w.hosts[1].id.clone());
    drop(w.hosts.remove(0));
    w.until("the end of the link", |w| !w.host("h1").status.connected)
        .await;
    let edit = |workload: &mut Workload| {
        workload.host = Some(h2.clone());
        workload.left.insert(h1.clone(), control::now());
    };
    w.control.test_workload_edit(&web, edit).await.unwrap();
    w.control.host_remove(&admin(), "h2", true).await.unwrap();
    let listed = w.control.workload_list(&admin(), &w.pool).unwrap();
    assert!(listed.is_empty(), "for its pool it is gone");
    let snapshot = w.control.snapshot();
    let host = snapshot.host(&h1).unwrap();
    let told = control::testing::document(&snapshot, &host);
    let wanted = told.workloads.get(&web).map(|it| it.desired);
    assert_eq!(wanted, Some(model::DesiredState::Removed));
    // Once that host is back and has removed it, nothing is known of it any more.
    w.hosts.push(w.control.test_host("h1").await.unwrap());
    w.until("the end of the record", |w| {
        w.control.snapshot().workload(&web).is_none()
    })
    .await;
}

#[tokio::test]
async fn only_those_who_manage_hosts_may() {
    let w = world(2).await;
    let developer = Caller::endpoint("dev".into(), w.pool.clone());
    let forbidden = |result: control::Result<()>| {
        assert_eq!(result.unwrap_err().kind, ErrorKind::Forbidden);
    };
    let (control, options) = (&w.control, DrainOptions::default());
    forbidden(
        control
            .host_drain(&developer, "h1", options)
            .await
            .map(drop),
    );
    forbidden(control.host_cordon(&developer, "h1").await.map(drop));
    forbidden(control.host_uncordon(&developer, "h1").await.map(drop));
    let nothing = HostUpdate::default();
    forbidden(
        control
            .host_update(&developer, "h1", &nothing)
            .await
            .map(drop),
    );
    forbidden(control.host_outlook(&developer, "h1", false).map(drop));
}
