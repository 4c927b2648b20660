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

use ::store::{SqliteOptions, Store, Transaction};

use crate::Options;
use crate::report::{Promise, Report};

/// How long each case runs.
const DURATION: Duration = Duration::from_secs(3);

/// Objects in the store while it is measured.
const OBJECTS: u64 = 1000;

/// What is promised with 64 writers on SQLite.
const PROMISED_PER_SECOND: f64 = 20_000.0;

/// Figures of one case.
struct Case {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Mean number of transactions per sync.
    batch: f64,
}

/// Runs all cases.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn run(_: &Options) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let folder = Scratch::new()?;
    let mut report = Report::new("store");
    let object_bytes = model::stored::encode(&object(0, 0)?)?.len();
    report.add("object", object_bytes as f64, "B");
    let open = |writers: usize| -> Result<Case> {
        let path = folder.0.join(format!("{writers}.db"));
        let store = ::store::open_sqlite(path, SqliteOptions::default())?;
        let case = runtime.block_on(measure(&store, writers))?;
        runtime.block_on(store.close());
        Ok(case)
    };
    let many = open(64)?;
    report.promise(
        "sqlite, 64 writers",
        many.per_second,
        "/s",
        Promise::AtLeast(PROMISED_PER_SECOND),
    );
    add_rest(&mut report, "sqlite, 64 writers", &many);
    add(&mut report, "sqlite, 1 writer", &open(1)?);
    for (name, writers) in [("memory, 64 writers", 64), ("memory, 1 writer", 1)] {
        let case = runtime.block_on(measure(&::store::open_memory(), writers))?;
        add(&mut report, name, &case);
    }
    let peer = peer(&folder.0.join("peer.db"))?;
    add(&mut report, "peer: one transaction per row", &peer);
    report.add(
        "64 writers over the peer",
        many.per_second / peer.per_second,
        "x",
    );
    Ok(report)
}

fn add(report: &mut Report, name: &str, case: &Case) {
    report.add(name, case.per_second, "/s");
    add_rest(report, name, case);
}

fn add_rest(report: &mut Report, name: &str, case: &Case) {
    report.add(format!("{name}, p50"), case.p50_us, "us");
    report.add(format!("{name}, p99"), case.p99_us, "us");
    report.add(format!("{name}, transactions per sync"), case.batch, "");
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
        gpus: Vec::new(),
        endpoints: Vec::new(),
        hold: None,
        left: Default::default(),
        displaced: Default::default(),
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

async fn measure(store: &Arc<dyn Store>, writers: usize) -> Result<Case> {
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
    Ok(case(latencies, took, batch))
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
    Ok(case(latencies, started.elapsed(), 1.0))
}

fn case(mut latencies: Vec<Duration>, took: Duration, batch: f64) -> Case {
    latencies.sort_unstable();
    let percentile = |part: usize| {
        let at = latencies.len() * part / 100;
        latencies.get(at).map_or(0.0, |it| it.as_micros() as f64)
    };
    Case {
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        p50_us: percentile(50),
        p99_us: percentile(99),
        batch,
    }
}
