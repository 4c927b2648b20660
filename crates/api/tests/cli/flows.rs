//! What a user does, and what is shown.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use cli::exit;
use model::workload::{Hold, HoldKind};
use model::{HostId, WorkloadId};
use serde_json::Value;

use crate::server::{Rig, run_program};

/// Every test by name.
#[expect(
    clippy::type_complexity,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
pub(crate) const ALL: &[(&str, fn(&Rig))] = &[
    ("pools", pools),
    ("a_workloads_life", a_workloads_life),
    ("run_in_the_foreground", run_in_the_foreground),
    ("run_fails_clearly", run_fails_clearly),
    ("run_takes_dockers_flags", run_takes_dockers_flags),
    ("held_workloads_say_why", held_workloads_say_why),
    ("exec", exec),
    ("images", images),
    ("hosts", hosts),
    ("hosts_are_drained", hosts_are_drained),
    ("a_host_is_removed_knowingly", a_host_is_removed_knowingly),
    (
        "the_time_until_a_host_is_lost",
        the_time_until_a_host_is_lost,
    ),
    ("users_and_tokens", users_and_tokens),
    ("docker_env", docker_env),
    ("names_are_guessed", names_are_guessed),
    ("events_and_stats", events_and_stats),
    ("formats", formats),
    ("no_server", no_server),
    ("usage", usage),
    ("man_and_completions", man_and_completions),
];

/// Ids and ages differ from run to run.
fn redacted(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| {
                let hex = word.len() >= 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
                let age = word.len() <= 3
                    && word.ends_with('s')
                    && word[..word.len() - 1].parse::<u32>().is_ok();
                match (hex, age) {
                    (true, _) => "ID".to_owned(),
                    (_, true) => "AGE".to_owned(),
                    _ => word.to_owned(),
                }
            })
            .collect();
        out.push_str(&words.join(" "));
        out.push('\n');
    }
    out
}

fn pools(rig: &Rig) {
    let done = rig.run(&["pool", "create", "ci", "--parent", "team", "-l", "stage=ci"]);
    assert!(done.err.contains("plimsoll docker-env ci"), "{done:#?}");
    assert_eq!(done.ok(), "ci\n");
    assert_eq!(
        redacted(&rig.run(&["pool", "ls"]).ok()),
        "NAME PARENT RUNNING WORKLOADS IMAGES CPU MEMORY AGE\n\
         ci team 0 0 0 0 0 B AGE\n\
         team - 0 0 1 0 0 B AGE\n"
    );
    assert_eq!(rig.run(&["pool", "ls", "-q"]).ok(), "ci\nteam\n");
    rig.run(&[
        "pool",
        "update",
        "ci",
        "--allow-runtime",
        "runc",
        "--label-rm",
        "stage",
    ])
    .ok();
    let shown = rig.run(&["pool", "show", "ci"]).ok();
    assert!(
        shown.contains("runtimes runc") && !shown.contains("stage"),
        "{shown}"
    );
    let taken = rig.run(&["pool", "create", "ci"]).failed(exit::CONFLICT);
    assert!(
        taken.contains("cannot create pool \"ci\"") && taken.contains("why:"),
        "{taken}"
    );
    rig.run(&["pool", "rm", "ci"]).ok();
    assert_eq!(rig.run(&["pool", "ls", "-q"]).ok(), "team\n");
}

fn a_workloads_life(rig: &Rig) {
    let empty = rig.run(&["ps"]);
    assert!(empty.err.contains("plimsoll run IMAGE"), "{empty:#?}");
    let id = rig
        .run(&[
            "run", "-d", "--name", "web", "-p", "8080:80", "web:1", "serve",
        ])
        .ok();
    assert_eq!(id.trim().len(), 64);
    let listed = rig.run(&["ps"]).ok();
    assert!(
        listed.starts_with("ID             NAME   POOL   HOST     STATE"),
        "{listed}"
    );
    assert!(
        redacted(&listed).contains("ID web team host-1 running AGE web:1"),
        "{listed}"
    );
    rig.run(&["pause", "web"]).ok();
    assert!(rig.run(&["ps"]).ok().contains("paused"));
    rig.run(&["resume", "web"]).ok();
    rig.run(&["rename", "web", "front"]).ok();
    limits_change(rig, "front");
    let refused = rig.run(&["rm", "front"]).failed(exit::CONFLICT);
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(rig.run(&["stop", "front"]).ok(), "front\n");
    assert!(!rig.run(&["ps"]).ok().contains("front"));
    assert!(rig.run(&["ps", "-a"]).ok().contains("exited"));
    rig.run(&["start", "front"]).ok();
    rig.run(&["rm", "-f", &id.trim()[..12]]).ok();
    assert_eq!(rig.run(&["ps", "-aq"]).ok(), "");
}

fn limits_change(rig: &Rig, name: &str) {
    let spec = || -> serde_json::Value {
        let shown: serde_json::Value =
            serde_json::from_str(&rig.run(&["inspect", name]).ok()).unwrap();
        shown["items"][0]["spec"].clone()
    };
    let done = rig.run(&["update", "-m", "64m", "--cpus", "0.5", name]);
    assert_eq!(done.ok(), format!("{name}\n"));
    let limits = || spec()["task"]["resources"].clone();
    assert_eq!(limits()["memory_limit_bytes"], 64 << 20);
    assert_eq!(limits()["cpu_limit_millis"], 500);
    // What is not named stays.
    rig.run(&["update", "--pids-limit", "7", "--memory-swap", "-1", name])
        .ok();
    assert_eq!(limits()["memory_limit_bytes"], 64 << 20);
    assert_eq!(limits()["memory_swap_bytes"], -1);
    assert_eq!(limits()["pids_limit"], 7);
    let before = limits();
    rig.run(&["update", "--restart", "on-failure:3", name]).ok();
    let restart = &spec()["restart"];
    assert_eq!(restart["max_retries"], 3, "{restart}");
    assert_eq!(limits(), before);
    let nothing = rig.run(&["update", name]).failed(exit::USAGE);
    assert!(nothing.contains("--memory"), "{nothing}");
    let refused = rig.run(&["update", "-m", "1k", name]);
    assert_ne!(refused.code, i32::from(exit::OK), "{refused:#?}");
    assert!(
        refused
            .err
            .contains(&format!("cannot update workload \"{name}\"")),
        "{refused:#?}"
    );
}

fn run_in_the_foreground(rig: &Rig) {
    assert_eq!(
        rig.run(&["run", "--rm", "web:1", "echo", "hello"]).ok(),
        "hello\n"
    );
    assert_eq!(rig.run(&["run", "--rm", "web:1", "exit", "7"]).code, 7);
    assert_eq!(
        rig.run(&["run", "--name", "kept", "web:1", "echo", "again"])
            .ok(),
        "again\n"
    );
    assert_eq!(rig.run(&["logs", "kept"]).ok(), "again\n");
    let stamped = rig.run(&["logs", "-t", "kept"]).ok();
    assert!(stamped.ends_with("Z again\n"), "{stamped}");
    assert_eq!(rig.run(&["wait", "kept"]).ok(), "0\n");
    assert_eq!(rig.run(&["ps", "-a", "-q"]).ok().lines().count(), 1);
}

fn run_fails_clearly(rig: &Rig) {
    let failed = rig.run(&["run", "web:1", "nosuch"]);
    assert!((125..=127).contains(&failed.code), "{failed:#?}");
    assert!(
        failed.err.starts_with("error: cannot start workload"),
        "{failed:#?}"
    );
    let missing = rig
        .run(&["run", "registry.example/missing:1"])
        .failed(exit::RUN_FAILED);
    assert!(missing.contains("cannot pull image"), "{missing}");
    let never = rig
        .run(&["run", "--pull", "never", "registry.example/x:1"])
        .failed(exit::RUN_FAILED);
    assert!(never.contains("why:"), "{never}");
    let refused = rig
        .run(&["run", "--privileged", "web:1"])
        .failed(exit::RUN_FAILED);
    assert!(refused.contains("privileged"), "{refused}");
}

fn run_takes_dockers_flags(rig: &Rig) {
    let flags = [
        "run",
        "-d",
        "--name",
        "full",
        "-e",
        "A=1",
        "-e",
        "FROM_HERE",
        "-e",
        "NOT_HERE",
        "-w",
        "/srv",
        "-u",
        "1:2",
        "--memory",
        "128m",
        "--cpus",
        "0.5",
        "--restart",
        "on-failure:3",
        "-l",
        "k=v",
        "--hostname",
        "h",
        "-v",
        "data:/data:ro",
        "--tmpfs",
        "/run:size=1m",
        "--add-host",
        "db:10.0.0.1",
        "--cap-drop",
        "net_raw",
        "--ulimit",
        "nofile=64:128",
        "--read-only",
        "--init",
        "--stop-grace",
        "3s",
        "web:1",
        "serve",
        "--fast",
    ];
    rig.run(&flags).ok();
    let shown: Value = serde_json::from_str(&rig.run(&["inspect", "full"]).ok()).unwrap();
    let spec = &shown["items"][0]["spec"];
    let task = &spec["task"];
    assert_eq!(task["args"], serde_json::json!(["serve", "--fast"]));
    assert_eq!(
        spec["restart"],
        serde_json::json!({"policy": "on-failure", "max_retries": 3})
    );
    assert_eq!(task["resources"]["memory_limit_bytes"], 128 << 20);
    assert_eq!(task["resources"]["cpu_limit_millis"], 500);
    assert_eq!(task["stop_grace_seconds"], 3);
    let env = task["env"].to_string();
    assert!(
        env.contains("A=1") && env.contains("FROM_HERE=yes") && !env.contains("NOT_HERE"),
        "{env}"
    );
    assert_eq!(
        task["security"]["cap_drop"],
        serde_json::json!(["CAP_NET_RAW"])
    );
    rig.run(&["rm", "-f", "full"]).ok();
}

fn held_workloads_say_why(rig: &Rig) {
    let options = ["--queue", "--on-host-loss", "at-most-one", "--priority=-5"];
    let run = [
        &["run", "-d", "--name", "batch"],
        &options[..],
        &["web:1", "serve"],
    ]
    .concat();
    let id = rig.run(&run).ok();
    assert!(!rig.run(&["ps"]).ok().contains("REASON"));
    let id = WorkloadId::parse(id.trim()).unwrap();
    let hold = |kind: HoldKind| {
        let reason = format!(
            "team-b has reclaimed 2 GiB of memory{}",
            " at once".repeat(10)
        );
        let edited = rig.control.test_workload_edit(&id, |workload| {
            workload.hold = Some(Hold {
                kind: kind.clone(),
                reason: reason.clone(),
                since: control::now(),
                not_before: control::now(),
                grace_seconds: 10,
            });
        });
        rig.inside(edited).unwrap();
    };
    for (kind, word) in [
        (HoldKind::Queued, "queued"),
        (HoldKind::Parked, "parked"),
        (HoldKind::Moving, "moving"),
        (
            HoldKind::Awaiting {
                victims: BTreeSet::new(),
            },
            "waiting for room",
        ),
    ] {
        hold(kind);
        let listed = rig.run(&["ps"]).ok();
        assert!(
            redacted(&listed).contains(&format!("ID batch team host-1 {word} AGE web:1")),
            "{listed}"
        );
        assert!(listed.trim_end().ends_with('…'), "{listed}");
        let whole = rig.run(&["ps", "--no-trunc"]).ok();
        assert!(whole.trim_end().ends_with("at once at once"), "{whole}");
    }
    let shown: Value = serde_json::from_str(&rig.run(&["inspect", "batch"]).ok()).unwrap();
    let spec = &shown["items"][0]["spec"];
    assert_eq!(spec["on_host_loss"], "at-most-one");
    assert_eq!(spec["priority"], -5);
    let hold = &shown["items"][0]["hold"];
    assert_eq!(hold["kind"], "awaiting", "{hold}");
    assert!(hold["reason"].as_str().unwrap().starts_with("team-b has"));
    let edited = rig.control.test_workload_edit(&id, |workload| {
        workload.hold = None;
        let lost = HostId::parse(&"ab".repeat(8)).unwrap();
        workload.left.insert(lost, control::now());
    });
    rig.inside(edited).unwrap();
    let listed = rig.run(&["ps", "-a"]).ok();
    assert!(
        listed.contains("still to be removed from abababababab"),
        "{listed}"
    );
    rig.run(&["rm", "-f", "batch"]);
}

fn exec(rig: &Rig) {
    rig.run(&["run", "-d", "--name", "web", "web:1", "serve"])
        .ok();
    assert_eq!(rig.run(&["exec", "web", "ls", "-l"]).ok(), "ls -l\n");
    assert_eq!(
        rig.run_with(&["exec", "-i", "web", "cat"], "typed\n").ok(),
        "cat\ntyped\n"
    );
    rig.run(&["exec", "-d", "web", "true"]).ok();
    rig.run(&["stop", "web"]).ok();
    let stopped = rig.run(&["exec", "web", "true"]).failed(exit::CONFLICT);
    assert!(stopped.contains("plimsoll start web"), "{stopped}");
    rig.run(&["rm", "-f", "web"]).ok();
}

fn images(rig: &Rig) {
    let listed = rig.run(&["image", "ls"]).ok();
    assert!(listed.starts_with("IMAGE"), "{listed}");
    assert!(listed.contains("web:1"), "{listed}");
    assert!(listed.contains("HOSTS"), "{listed}");
    assert_eq!(
        rig.run(&["image", "pull", "registry.example/new:1"]).ok(),
        "registry.example/new:1\n"
    );
    rig.run(&["image", "tag", "web:1", "web:stable"]).ok();
    assert_eq!(
        rig.run(&["image", "rm", "web:stable"]).ok(),
        "untagged web:stable\n"
    );
    let gone = rig
        .run(&["image", "rm", "nosuch:9"])
        .failed(exit::NOT_FOUND);
    assert!(gone.contains("plimsoll image ls"), "{gone}");
    let archive = rig.folder().join("web.tar");
    rig.run(&["image", "save", "-O", archive.to_str().unwrap(), "web:1"])
        .ok();
    assert!(archive.exists());
    rig.run(&["image", "load", "-i", archive.to_str().unwrap()]);
}

fn hosts(rig: &Rig) {
    let listed = rig.run(&["host", "ls"]).ok();
    assert_eq!(
        redacted(&listed),
        "NAME STATE ZONE WORKLOADS CPU MEMORY HEARD ADDRESS\n\
         host-1 ready - 0 0/3.8 0 B/7.6 GiB now 127.0.0.1\n"
    );
    rig.run(&["host", "cordon", "host-1"]).ok();
    assert!(rig.run(&["host", "ls"]).ok().contains("cordoned"));
    rig.run(&["host", "uncordon", "host-1"]).ok();
    assert!(
        rig.run(&["host", "token", "--ttl", "10m"])
            .ok()
            .starts_with("plm1.")
    );
    rig.run(&["host", "show", "nosuch"]).failed(exit::NOT_FOUND);

    assert_eq!(
        rig.run(&["host", "label", "host-1", "disk=ssd", "rack=4"])
            .ok(),
        "host-1\n"
    );
    rig.run(&["host", "label", "host-1", "rack-"]).ok();
    rig.run(&["host", "overcommit", "host-1", "--cpu", "150%"])
        .ok();
    let shown = redacted(&rig.run(&["host", "show", "host-1"]).ok());
    assert!(shown.contains("Labels disk=ssd\n"), "{shown}");
    assert!(
        shown.contains("CPU 0 of 5.7 requested (4 less 0.2 reserve, 150 %)\n"),
        "{shown}"
    );
    rig.run(&["host", "label", "host-1", "rack"])
        .failed(exit::USAGE);
    rig.run(&["host", "overcommit", "host-1"])
        .failed(exit::USAGE);
    let zone = rig
        .run(&["host", "label", "host-1", "zone=b"])
        .failed(exit::FAILED);
    assert!(zone.contains("own attribute"), "{zone}");
}

fn hosts_are_drained(rig: &Rig) {
    let run = |name: &str, policy: &str| {
        let args = ["run", "-d", "--name", name, "--restart", policy];
        rig.run(&[&args, &["web:1", "serve"][..]].concat()).ok()
    };
    let web = run("web", "always");
    run("db", "no");
    let last = rig.run(&["host", "drain", "host-1"]).failed(exit::CONFLICT);
    assert!(
        last.contains("the last one") && last.contains("use --force"),
        "{last}"
    );
    let second = rig.inside(rig.control.test_host("host-2")).unwrap();
    let dry = rig.run(&["host", "drain", "host-1", "--dry-run"]);
    assert_eq!(dry.code, i32::from(exit::CONFLICT), "{dry:#?}");
    let table = redacted(&dry.out);
    assert!(table.starts_with("POOL WORKLOAD WHAT HAPPENS TO WHY\n"));
    assert!(table.contains("team web moves host-2\n"), "{table}");
    assert!(table.contains("team db stays - its files are"), "{table}");
    assert!(rig.run(&["host", "ls"]).ok().contains("ready"));
    let dry = ["host", "drain", "host-1", "--dry-run", "--stop-rest"];
    assert!(rig.run(&dry).ok().contains("is stopped"));

    let begun = rig.run(&["host", "drain", "host-1", "--detach"]);
    assert_eq!(begun.ok(), "host-1\n");
    assert!(rig.run(&["host", "ls"]).ok().contains("draining"));
    let late = rig
        .run(&["host", "drain", "host-1", "--timeout", "1s"])
        .failed(exit::FAILED);
    assert!(late.contains("is not empty after 1s"), "{late}");
    // The rest is the controllers' work.
    let (from, to) = (host_id(rig, "host-1"), second.id.clone());
    let web = WorkloadId::parse(web.trim()).unwrap();
    let moved = rig.control.test_workload_edit(&web, |it| {
        it.run += 1;
        it.host = Some(to.clone());
        it.left.insert(from.clone(), control::now());
    });
    rig.inside(moved).unwrap();
    let stuck = rig.run(&["host", "drain", "host-1"]).failed(exit::CONFLICT);
    assert!(
        stuck.contains("cannot be emptied")
            && stuck.contains("team/db: stays: its files")
            && stuck.contains("--stop-rest"),
        "{stuck}"
    );
    rig.run(&["stop", "db"]).ok();
    let done = rig.run(&["host", "drain", "host-1"]);
    assert!(
        done.err
            .contains("Nothing runs on host-1 any more: 1 not running"),
        "{done:#?}"
    );
    assert_eq!(done.ok(), "host-1\n");
    let shown = redacted(&rig.run(&["host", "show", "host-1"]).ok());
    assert!(
        shown.contains("State drained\n") && shown.contains("team db does not run"),
        "{shown}"
    );
    rig.run(&["host", "uncordon", "host-1"]).ok();
    assert!(!rig.run(&["host", "ls"]).ok().contains("drained"));
    rig.run(&["rm", "-f", "web", "db"]).ok();
}

fn host_id(rig: &Rig, name: &str) -> HostId {
    let host = rig.control.host_find(&control::Caller::local_admin(), name);
    host.unwrap().id.clone()
}

fn a_host_is_removed_knowingly(rig: &Rig) {
    let args = ["run", "-d", "--name", "db", "web:1", "serve"];
    rig.run(&args).ok();
    let refused = rig.run(&["host", "rm", "host-1"]).failed(exit::CONFLICT);
    for part in [
        "workload db, which would be forgotten",
        "Forgotten with host-1",
        "team/db: stays: its files are on this host",
        "use --force",
    ] {
        assert!(refused.contains(part), "no {part:?}: {refused}");
    }
    let removed = rig.run(&["host", "rm", "--force", "host-1"]);
    assert!(removed.err.contains("team/db: stays"), "{removed:#?}");
    assert_eq!(removed.ok(), "host-1\n");
    assert_eq!(rig.run(&["ps", "-aq"]).ok(), "");
}

fn the_time_until_a_host_is_lost(rig: &Rig) {
    let shown = rig.run(&["installation", "show"]).ok();
    assert!(
        redacted(&shown).contains("Host is lost after AGE"),
        "{shown}"
    );
    let changed = ["installation", "update", "--host-loss-after", "45s"];
    assert!(rig.run(&changed).ok().contains("45s"));
    let refused = ["installation", "update", "--host-loss-after", "1s"];
    let refused = rig.run(&refused).failed(exit::FAILED);
    assert!(refused.contains("from 8 to 86400"), "{refused}");
}

fn users_and_tokens(rig: &Rig) {
    rig.run(&["user", "create", "alice", "--role", "developer@team"])
        .ok();
    assert!(rig.run(&["user", "ls"]).ok().contains("developer@team"));
    let secret = rig
        .run(&[
            "token",
            "create",
            "--user",
            "alice",
            "--ttl",
            "1d",
            "--description",
            "ci",
        ])
        .ok();
    assert!(secret.starts_with("plmt."), "{secret}");
    let tokens = rig.run(&["token", "ls", "-q"]).ok();
    assert!(
        !rig.run(&["token", "ls", "-o", "json"])
            .ok()
            .contains(secret.trim())
    );
    rig.run(&["token", "rm", tokens.trim()]).ok();
    rig.run(&["user", "bind", "alice", "viewer@team"]).ok();
    rig.run(&["user", "rm", "alice"]).ok();
    rig.run(&["user", "create", "bob", "--role", "king@team"])
        .failed(exit::USAGE);
}

fn docker_env(rig: &Rig) {
    assert_eq!(
        rig.run(&["docker-env", "team"]).ok(),
        "export DOCKER_HOST=unix:///run/pools/team.sock\nunset DOCKER_TLS_VERIFY\nunset DOCKER_CERT_PATH\n"
    );
    let tls = rig.run(&["docker-env", "--tls", "team"]).ok();
    assert!(
        tls.starts_with("export DOCKER_HOST=tcp://127.0.0.1:7440\n"),
        "{tls}"
    );
    let folder = rig.folder().join(".plimsoll/pools/team");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        let mode = std::fs::metadata(folder.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let first = std::fs::read(folder.join("cert.pem")).unwrap();
    assert_eq!(rig.run(&["docker-env", "--tls", "team"]).ok(), tls);
    assert_eq!(
        std::fs::read(folder.join("cert.pem")).unwrap(),
        first,
        "the certificate is used again"
    );
    let unset = rig.run(&["docker-env", "--unset"]).ok();
    assert!(unset.contains("unset DOCKER_HOST\n"), "{unset}");
}

fn names_are_guessed(rig: &Rig) {
    rig.run(&["run", "-d", "--name", "frontend", "web:1", "serve"])
        .ok();
    let message = rig.run(&["stop", "frontned"]).failed(exit::NOT_FOUND);
    assert!(message.contains("did you mean frontend?"), "{message}");
    let message = rig
        .run(&["logs", "--pool", "team", "frontedn"])
        .failed(exit::NOT_FOUND);
    assert!(message.contains("did you mean frontend?"), "{message}");
    let message = rig.run(&["pool", "show", "taem"]).failed(exit::NOT_FOUND);
    assert!(message.contains("did you mean team?"), "{message}");
    rig.run(&["pool", "create", "other"]).ok();
    let message = rig.run(&["run", "web:1"]).failed(exit::USAGE);
    assert!(
        message.contains("other, team") && message.contains("--pool"),
        "{message}"
    );
    rig.run(&["rm", "-f", "team/frontend"]).ok();
}

fn events_and_stats(rig: &Rig) {
    rig.run(&["run", "-d", "--name", "web", "web:1", "serve"])
        .ok();
    let events = rig.run(&["events", "--no-follow"]).ok();
    assert!(
        events.contains("create") && events.contains("start"),
        "{events}"
    );
    assert!(rig.run(&["top", "web"]).ok().starts_with("PID"));
    rig.run(&["rm", "-f", "web"]).ok();
}

fn formats(rig: &Rig) {
    let json: Value = serde_json::from_str(&rig.run(&["pool", "ls", "-o", "json"]).ok()).unwrap();
    assert_eq!(json["items"][0]["name"], "team");
    let yaml = rig.run(&["pool", "ls", "-o", "yaml"]).ok();
    assert!(yaml.starts_with("items:\n- id: "), "{yaml}");
    let version: Value = serde_json::from_str(&rig.run(&["version", "-o", "json"]).ok()).unwrap();
    assert_eq!(version["server"]["api"], "v1");
}

fn no_server(rig: &Rig) {
    let nowhere = format!("unix://{}/nothing.sock", rig.folder().display());
    let done = run_program(&["--server", &nowhere, "ps"], rig.folder(), "");
    let message = done.failed(exit::UNREACHABLE);
    assert!(
        message.contains("why:") && message.contains("plimsoll dev up"),
        "{message}"
    );
    let remote = run_program(&["--server", "https://localhost:1", "ps"], rig.folder(), "");
    assert!(
        remote
            .failed(exit::REFUSED)
            .contains("plimsoll login https://localhost:1")
    );
    let login = run_program(
        &["login", "--token-stdin", "https://127.0.0.1:1"],
        rig.folder(),
        "x",
    );
    login.failed(exit::UNREACHABLE);
    let plain = run_program(&["login", "http://example.com"], rig.folder(), "x");
    assert!(plain.failed(exit::USAGE).contains("https://"));
}

fn usage(rig: &Rig) {
    for args in [
        &["pool"][..],
        &["nosuch"],
        &["run", "-p", "x", "web:1"],
        &["logs"],
        &["ps", "-o", "xml"],
    ] {
        assert_eq!(rig.run(args).code, i32::from(exit::USAGE), "{args:?}");
    }
    let help = rig.run(&["--help"]).ok();
    for code in [
        "  3    the thing does not exist",
        "  125  run, exec: Plimsoll itself failed",
    ] {
        assert!(help.contains(code), "{help}");
    }
}

fn man_and_completions(rig: &Rig) {
    let folder = rig.folder().join("man");
    rig.run(&["man", folder.to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(folder.join("plimsoll-pool-create.1")).unwrap();
    assert!(page.contains("Examples"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            rig.run(&["completion", shell]).ok().contains("docker-env"),
            "{shell}"
        );
    }
}
