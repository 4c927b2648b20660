//! Durable commits: how many single objects per second, and how long one takes.
//!
//! Every commit replaces one workload (compare-and-swap on its revision) among a thousand. The peer in the same run is
//! what a program gets that writes the same bytes with one SQLite transaction per row at the same durability
//! (`synchronous=FULL`). All on a real file in the folder for temporary files (`TMPDIR`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::{Object, PoolId, Workload, WorkloadId};
use serde::Serialize;
use store::{SqliteOptions, Store, Transaction};

/// How long each case runs.
const DURATION: Duration = Duration::from_secs(3);

/// Objects in the store while it is measured.
const OBJECTS: u64 = 1000;

/// Figures of one case.
#[derive(Debug, Serialize)]
struct Case {
    name: &'static str,
    writers: usize,
    commits_per_second: u64,
    p50_us: u64,
    p99_us: u64,
    /// Mean number of transactions per sync.
    batch: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    object_bytes: usize,
    cases: Vec<Case>,
    /// SQLite with 64 writers over the peer.
    ratio_to_peer: f64,
}

/// Runs all cases and prints a table, or one JSON object.
///
/// # Errors
/// When the disk refuses.
pub fn run(json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let folder = Scratch::new()?;
    let mut cases = Vec::new();
    for (name, writers) in [("sqlite", 64), ("sqlite", 1)] {
        let path = folder.0.join(format!("{writers}.db"));
        let store = store::open_sqlite(path, SqliteOptions::default())?;
        cases.push(runtime.block_on(measure(name, &store, writers))?);
        runtime.block_on(store.close());
    }
    for (name, writers) in [("memory", 64), ("memory", 1)] {
        let store = store::open_memory();
        cases.push(runtime.block_on(measure(name, &store, writers))?);
    }
    cases.push(peer(&folder.0.join("peer.db"))?);
    let of = |name| cases.iter().find(|it| it.name == name);
    let ratio = match (of("sqlite"), of(PEER)) {
        (Some(own), Some(peer)) => own.commits_per_second as f64 / peer.commits_per_second as f64,
        _ => 0.0,
    };
    let report = Report {
        benchmark: "store",
        object_bytes: model::stored::encode(&object(0, 0)?)?.len(),
        ratio_to_peer: (ratio * 100.0).round() / 100.0,
        cases,
    };
    print(&report, json)
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!(
        "durable commits of one object of {} bytes",
        report.object_bytes
    );
    println!(
        "{:<30} {:>8} {:>12} {:>9} {:>9} {:>7}",
        "case", "writers", "commits/s", "p50 µs", "p99 µs", "batch"
    );
    for case in &report.cases {
        println!(
            "{:<30} {:>8} {:>12} {:>9} {:>9} {:>7.1}",
            case.name, case.writers, case.commits_per_second, case.p50_us, case.p99_us, case.batch
        );
    }
    println!(
        "sqlite with 64 writers: {} times the peer",
        report.ratio_to_peer
    );
    Ok(())
}

/// A folder that goes with the benchmark.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("plimsoll-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn id_bytes(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    // Spread like random ids, so that neighbours in time are no neighbours in the tree.
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bytes[..8].copy_from_slice(&spread.to_be_bytes());
    bytes
}

/// A workload like many: some labels, environment and limits.
fn object(number: u64, run: u64) -> Result<Object> {
    let spec = serde_json::json!({
        "labels": { "app": "web", "com.docker.compose.project": "shop", "com.docker.compose.service": "web" },
        "task": {
            "image": "docker.io/library/web:1.2.3",
            "image_id": format!("sha256:{}", "a".repeat(64)),
            "args": ["nginx", "-g", "daemon off;"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
        },
    });
    Ok(Object::Workload(Workload {
        id: WorkloadId::from_bytes(&id_bytes(number)),
        pool: PoolId::from_bytes(&id_bytes(number % 10)),
        name: model::Name::parse(&format!("shop-web-{number}"))?,
        spec: serde_json::from_value(spec)?,
        desired: model::DesiredState::Running,
        run,
        host: None,
        placement: None,
        status: Default::default(),
        created_at: model::Timestamp(1_700_000_000_000),
    }))
}

async fn fill(store: &Arc<dyn Store>) -> Result<()> {
    for from in (0..OBJECTS).step_by(50) {
        let mut tx = Transaction::new();
        for number in from..from + 50 {
            tx = tx.create(object(number, 0)?);
        }
        store.commit(tx).await?;
    }
    Ok(())
}

async fn measure(name: &'static str, store: &Arc<dyn Store>, writers: usize) -> Result<Case> {
    fill(store).await?;
    let before = store.metrics();
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = Arc::clone(store);
            tokio::spawn(
                async move { write(&*store, writer as u64, writers as u64, started).await },
            )
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let took = started.elapsed();
    let after = store.metrics();
    ensure!(
        after.conflicts == 0,
        "writers met, although each has its own objects"
    );
    let batches = after.batches - before.batches;
    let batch = (after.commits - before.commits) as f64 / batches.max(1) as f64;
    Ok(case(name, writers, latencies, took, batch))
}

/// Replaces its own objects in turn until time is up; returns how long each took.
async fn write(
    store: &dyn Store,
    writer: u64,
    writers: u64,
    started: Instant,
) -> Result<Vec<Duration>> {
    let own: Vec<u64> = (0..OBJECTS)
        .filter(|number| number % writers == writer)
        .collect();
    let mut latencies = Vec::new();
    let mut objects = Vec::new();
    for number in &own {
        objects.push((object(*number, 0)?, None));
    }
    while started.elapsed() < DURATION {
        let at = latencies.len() % objects.len();
        let (object, revision) = &mut objects[at];
        if let Object::Workload(workload) = object {
            workload.run += 1;
        }
        let begun = Instant::now();
        let read = match revision {
            Some(revision) => *revision,
            None => {
                store
                    .snapshot()
                    .get(&object.key())
                    .context("filled")?
                    .revision
            }
        };
        *revision = Some(
            store
                .commit(Transaction::new().update(read, object.clone()))
                .await?,
        );
        latencies.push(begun.elapsed());
        // In memory nothing ever waits: the other writers have to be let in.
        tokio::task::yield_now().await;
    }
    Ok(latencies)
}

const PEER: &str = "peer: one row per transaction";

/// The same bytes by one connection with one transaction per row.
fn peer(path: &Path) -> Result<Case> {
    let connection = rusqlite::Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB NOT NULL)")?;
    let mut put = connection.prepare("INSERT OR REPLACE INTO objects VALUES (?1, ?2)")?;
    let mut latencies = Vec::new();
    let mut rows = Vec::new();
    for number in 0..OBJECTS {
        let object = object(number, 1)?;
        rows.push((object.key().to_string(), model::stored::encode(&object)?));
    }
    let started = Instant::now();
    while started.elapsed() < DURATION {
        let (key, value) = &rows[latencies.len() % rows.len()];
        let begun = Instant::now();
        put.execute((key, value))?;
        latencies.push(begun.elapsed());
    }
    Ok(case(PEER, 1, latencies, started.elapsed(), 1.0))
}

fn case(
    name: &'static str,
    writers: usize,
    mut latencies: Vec<Duration>,
    took: Duration,
    batch: f64,
) -> Case {
    latencies.sort_unstable();
    let percentile = |part: usize| {
        let at = latencies.len() * part / 100;
        latencies.get(at).map_or(0, |it| it.as_micros() as u64)
    };
    Case {
        name,
        writers,
        commits_per_second: (latencies.len() as f64 / took.as_secs_f64()) as u64,
        p50_us: percentile(50),
        p99_us: percentile(99),
        batch: (batch * 10.0).round() / 10.0,
    }
}
