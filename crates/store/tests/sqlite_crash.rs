//! Kill -9 under write load: what was acknowledged is there, nothing is torn, revisions never go back.
//!
//! The parent starts this test binary again as a writer, kills it after some milliseconds and looks at what is left.
//! `PLIMSOLL_STORE_KILLS` sets the number of kills.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Object;
use model::object::Setting;
use store::{SqliteOptions, Store, Transaction, open_sqlite};

/// Names the database in the writer's environment; its presence makes the process a writer.
const WRITER: &str = "PLIMSOLL_STORE_CRASH_WRITER";

/// Databases written and killed side by side: the writers mostly wait for the disk.
const LANES: u64 = 4;

const WRITERS: u64 = 4;

fn setting(called: String, value: String) -> Object {
    let name = model::Name::parse(&called).unwrap();
    Object::Setting(Setting { name, value })
}

fn options() -> SqliteOptions {
    SqliteOptions {
        reserve_bytes: 64 * 1024,
        // Checkpoints have to be hit by kills too.
        wal_limit_bytes: 256 * 1024,
        ..SqliteOptions::default()
    }
}

/// Not a test of its own: the program that is killed.
#[test]
fn writer() {
    let Ok(path) = std::env::var(WRITER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open_sqlite(path, options()).unwrap();
        let tasks: Vec<_> = (0..WRITERS)
            .map(|at| write(Arc::clone(&store), at))
            .collect();
        futures::future::join_all(tasks).await;
    });
}

/// Writes pairs that must agree, each with a length that differs, and prints what was acknowledged.
async fn write(store: Arc<dyn Store>, at: u64) {
    let mine = |which: &str| format!("w{at}-{which}");
    let mut count: u64 = store
        .snapshot()
        .setting(&mine("a"))
        .map_or(0, |it| counted(&it.value));
    loop {
        count += 1;
        let value = format!("{count} {}", "x".repeat((count % 97) as usize * 40));
        let tx = Transaction::new()
            .put(setting(mine("a"), value.clone()))
            .put(setting(mine("b"), value))
            .put(setting(
                mine(&format!("n{}", count % 50)),
                count.to_string(),
            ))
            .delete(setting(mine(&format!("n{}", (count + 25) % 50)), String::new()).key());
        let revision = store.commit(tx).await.unwrap();
        // One write call per line: a line is whole or not there.
        let line = format!("ack {at} {count} {revision}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    }
}

fn counted(value: &str) -> u64 {
    value.split(' ').next().unwrap().parse().unwrap()
}

/// What the killed writers have acknowledged.
#[derive(Default)]
struct Acknowledged {
    counts: HashMap<u64, u64>,
    revision: u64,
    total: u64,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        // The test harness prints before the writer's first line, on the same line.
        let Some(start) = line.find("ack ") else {
            return;
        };
        let numbers: Vec<u64> = line[start + 4..]
            .split(' ')
            .filter_map(|it| it.parse().ok())
            .collect();
        let [writer, count, revision] = numbers[..] else {
            return;
        };
        self.counts.insert(writer, count);
        self.revision = self.revision.max(revision);
        self.total += 1;
    }
}

fn start(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
        .env(WRITER, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Milliseconds between 5 and 100, spread evenly and the same in every run.
fn patience(seed: u64) -> Duration {
    let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(5 + mixed % 96)
}

/// Starts a writer, kills it, and reads what it acknowledged.
fn write_and_kill(path: &Path, seed: u64, acknowledged: &mut Acknowledged) {
    let mut child = start(path);
    let output = BufReader::new(child.stdout.take().unwrap());
    let deadline = Instant::now() + patience(seed);
    // tidy: sleep: the kill comes at an arbitrary moment
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.code().is_none(),
        "the writer ended by itself: {status}"
    );
    let mut whole = String::new();
    let mut output = output;
    while output.read_line(&mut whole).unwrap() > 0 {
        if whole.ends_with('\n') {
            acknowledged.take(whole.trim_end());
        }
        whole.clear();
    }
}

/// Opens what is left and compares.
fn check(path: &Path, acknowledged: &Acknowledged, last: &mut u64) {
    let store = open_sqlite(path, options()).unwrap();
    let snapshot = store.snapshot();
    let revision = snapshot.revision.0;
    assert!(
        revision >= acknowledged.revision,
        "{revision} < {}",
        acknowledged.revision
    );
    assert!(
        revision >= *last,
        "the revision went back from {last} to {revision}"
    );
    *last = revision;
    for at in 0..WRITERS {
        let read = |which: &str| {
            let row = snapshot.setting(&format!("w{at}-{which}"))?;
            Some((row.value.clone(), row.revision()))
        };
        let (a, b) = (read("a"), read("b"));
        assert_eq!(a, b, "a torn transaction of writer {at}");
        let found = a.as_ref().map_or(0, |(value, _)| counted(value));
        let promised = acknowledged.counts.get(&at).copied().unwrap_or(0);
        assert!(
            found >= promised,
            "writer {at}: {promised} acknowledged, {found} found"
        );
        if found > 0 {
            let newest = read(&format!("n{}", found % 50)).map(|(value, _)| value);
            assert_eq!(newest, Some(found.to_string()));
            assert!(read(&format!("n{}", (found + 25) % 50)).is_none());
        }
        if let Some((value, _)) = a {
            assert_eq!(
                value,
                format!("{found} {}", "x".repeat((found % 97) as usize * 40))
            );
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let kills: u64 = std::env::var("PLIMSOLL_STORE_KILLS").map_or(1000, |it| it.parse().unwrap());
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            std::thread::spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let mut acknowledged = Acknowledged::default();
                let mut last = 0;
                let mut path = folder.path().join("0.db");
                for round in 0..kills / LANES {
                    // Now and then from the beginning, because making the database must survive a kill too.
                    if round % 25 == 0 {
                        path = folder.path().join(format!("{round}.db"));
                        (acknowledged.counts, acknowledged.revision, last) = Default::default();
                    }
                    write_and_kill(&path, round * LANES + lane, &mut acknowledged);
                    check(&path, &acknowledged, &mut last);
                }
                acknowledged.total
            })
        })
        .collect();
    let total: u64 = lanes.into_iter().map(|lane| lane.join().unwrap()).sum();
    println!("{kills} kills, {total} acknowledged transactions");
    assert!(total > kills, "too few writes to prove anything: {total}");
}
