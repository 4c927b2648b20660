//! The SQLite file and what happens around it: restart, locks, damage, newer programs, torn tails, a full disk.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/objects.rs"]
#[allow(dead_code, reason = "shared between test programs")]
mod objects;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use objects::*;
use store::{
    CommitError, ConfirmError, OpenError, Revision, SqliteOptions, Store, Transaction, open_sqlite,
};

fn small() -> SqliteOptions {
    SqliteOptions {
        reserve_bytes: 256 * 1024,
        wal_limit_bytes: 512 * 1024,
        ..SqliteOptions::default()
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

async fn put(store: &Arc<dyn Store>, called: &str, value: &str) -> Revision {
    let tx = Transaction::new().put(setting(called, value));
    store.commit(tx).await.unwrap()
}

#[tokio::test]
async fn a_restart_finds_everything_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut last = Revision::ZERO;
    for round in 0..5 {
        let store = open_sqlite(&path, small()).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.revision, last);
        assert_eq!(snapshot.settings().count(), round);
        assert!(store.watch(last).is_ok());
        let made = put(&store, &format!("s{round}"), "1").await;
        last = put(&store, &format!("s{round}"), "2").await;
        assert_eq!(last, made.next());
        let row = store
            .snapshot()
            .get(&setting_key(&format!("s{round}")))
            .cloned()
            .unwrap();
        assert_eq!((row.created, row.revision), (made, last));
        if round % 2 == 0 {
            store.close().await;
            assert!(!beside(&path, "-wal").exists(), "closing leaves one file");
        }
    }
    let store = open_sqlite(&path, small()).unwrap();
    let row = store.snapshot().get(&setting_key("s4")).cloned().unwrap();
    assert_eq!((row.created, row.revision), (Revision(9), Revision(10)));
}

#[tokio::test]
async fn deleting_all_does_not_bring_the_revision_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    put(&store, "a", "1").await;
    let last = store
        .commit(Transaction::new().delete(setting_key("a")))
        .await
        .unwrap();
    drop(store);
    assert_eq!(
        open_sqlite(&path, small()).unwrap().snapshot().revision,
        last
    );
}

#[tokio::test]
async fn a_second_server_is_refused_and_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    let Err(OpenError::InUse { pid, .. }) = open_sqlite(&path, small()) else {
        panic!("opened twice");
    };
    assert_eq!(pid, Some(std::process::id()));
    put(&store, "a", "1").await;
    store.close().await;
    assert!(open_sqlite(&path, small()).is_ok());
}

/// Opens and expects the text in the error; the file must stay as it is.
fn refused(path: &Path, text: &str) {
    let before = fs::read(path).unwrap();
    let Err(error) = open_sqlite(path, small()) else {
        panic!("opened");
    };
    assert!(error.to_string().contains(text), "{error}");
    assert!(fs::read(path).unwrap() == before, "the file was changed");
}

#[tokio::test]
async fn damage_is_told_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    fs::write(
        &path,
        "certainly no database, but longer than a header".repeat(100),
    )
    .unwrap();
    refused(&path, "restore it from a backup");
    fs::remove_file(&path).unwrap();
    let store = open_sqlite(&path, small()).unwrap();
    for at in 0..500 {
        put(&store, &format!("s{at}"), &"x".repeat(500)).await;
    }
    store.close().await;
    let whole = fs::read(&path).unwrap();
    let mut broken = whole.clone();
    broken[4096 * 10..4096 * 12].fill(0xA5);
    fs::write(&path, &broken).unwrap();
    refused(&path, "is damaged");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&path, "is damaged");
    fs::write(&path, &whole).unwrap();
    assert_eq!(
        open_sqlite(&path, small())
            .unwrap()
            .snapshot()
            .settings()
            .count(),
        500
    );
}

#[tokio::test]
async fn a_log_without_its_database_is_not_taken_for_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    put(&store, "a", "1").await;
    let log = fs::read(beside(&path, "-wal")).unwrap();
    drop(store);
    fs::remove_file(&path).unwrap();
    fs::write(beside(&path, "-wal"), &log).unwrap();
    let error = open_sqlite(&path, small()).err().unwrap();
    assert!(error.to_string().contains("-wal"), "{error}");
    assert!(fs::read(beside(&path, "-wal")).unwrap() == log);
}

#[tokio::test]
async fn what_a_newer_program_wrote_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    put(&store, "a", "1").await;
    store.close().await;
    let change = |sql: &str| {
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap()
    };
    change("PRAGMA user_version = 2");
    refused(&path, "start the newer program");
    change("PRAGMA user_version = 1");
    change("UPDATE objects SET value = CAST('{\"v\":99,\"object\":{}}' AS BLOB)");
    let error = open_sqlite(&path, small()).err().unwrap();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("version 99"), "{cause}");
    change("PRAGMA application_id = 7");
    refused(&path, "another program");
}

#[tokio::test]
async fn the_log_stays_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    for at in 0..2000 {
        put(&store, &format!("s{}", at % 100), &"x".repeat(1000)).await;
    }
    let metrics = store.metrics();
    assert!(metrics.checkpoints > 3, "{metrics:?}");
    let length = fs::metadata(beside(&path, "-wal")).unwrap().len();
    assert!(length < 2 * small().wal_limit_bytes, "{length}");
    assert_eq!(
        (metrics.commits, metrics.commit_latency.count),
        (2000, metrics.batches)
    );
}

/// A database as a crash would leave it, with the log's length before the last transaction.
struct Crashed {
    database: Vec<u8>,
    log: Vec<u8>,
    before_last: usize,
    last: Revision,
}

async fn crashed(folder: &Path) -> Crashed {
    let path = folder.join("whole.db");
    let store = open_sqlite(&path, small()).unwrap();
    for at in 0..10 {
        put(&store, "a", &format!("{at} {}", "x".repeat(at * 300))).await;
    }
    let length = || fs::metadata(beside(&path, "-wal")).unwrap().len();
    let before_last = usize::try_from(length()).unwrap();
    let last = put(&store, "a", "the last").await;
    Crashed {
        database: fs::read(&path).unwrap(),
        log: fs::read(beside(&path, "-wal")).unwrap(),
        before_last,
        last,
    }
}

impl Crashed {
    /// Opens with this log; the last transaction must be there wholly or not at all.
    fn open(&self, path: &Path, log: &[u8]) -> bool {
        fs::write(path, &self.database).unwrap();
        fs::write(beside(path, "-wal"), log).unwrap();
        let options = SqliteOptions {
            reserve_bytes: 0,
            ..small()
        };
        let store = open_sqlite(path, options).unwrap();
        let snapshot = store.snapshot();
        let value = &snapshot.setting("a").unwrap().value().value;
        if snapshot.revision == self.last {
            assert_eq!(value, "the last");
            return true;
        }
        assert_eq!(
            snapshot.revision.next(),
            self.last,
            "more than the last was lost"
        );
        assert!(value.starts_with("9 "));
        false
    }
}

/// A folder in memory where there is one: the disk adds nothing here.
fn fast_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn a_tail_cut_at_any_byte_loses_at_most_what_was_not_acknowledged() {
    let folder = fast_folder();
    let crashed = crashed(folder.path()).await;
    let whole = crashed.log.len();
    let last_frame = whole - (4096 + 24);
    assert!(crashed.before_last <= last_frame);
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let (crashed, path) = (&crashed, folder.path().join(format!("{lane}.db")));
            scope.spawn(move || {
                for cut in (last_frame..whole).filter(|cut| cut % 2 == lane) {
                    assert!(!crashed.open(&path, &crashed.log[..cut]), "cut at {cut}");
                }
            });
        }
    });
    assert!(crashed.open(&folder.path().join("all.db"), &crashed.log));
}

#[tokio::test]
async fn a_flipped_bit_in_the_tail_is_noticed() {
    let folder = fast_folder();
    let crashed = crashed(folder.path()).await;
    let path = folder.path().join("flipped.db");
    for at in (crashed.before_last..crashed.log.len()).step_by(61) {
        let mut log = crashed.log.clone();
        log[at] ^= 0x10;
        assert!(!crashed.open(&path, &log), "flipped at {at}");
    }
}

/// Set in the process that has its own mounts.
#[tokio::test]
async fn after_the_database_has_failed_nothing_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_sqlite(&path, small()).unwrap();
    // More than SQLite keeps in memory, so that it has to read its file.
    for at in 0..2000 {
        put(&store, &format!("s{at}"), &value(at)).await;
    }
    store.confirm().await.unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    let mut failed = None;
    for at in 0..2000 {
        let tx = Transaction::new().put(setting(&format!("s{at}"), "changed"));
        if let Err(error) = store.commit(tx).await {
            failed = Some(error);
            break;
        }
    }
    let failed = failed.expect("a database without its file fails");
    assert!(matches!(failed, CommitError::Backend { .. }), "{failed}");
    let refused = store.confirm().await.unwrap_err();
    assert!(matches!(refused, ConfirmError::Broken), "{refused}");
}

const FULL_DISK: &str = "PLIMSOLL_STORE_FULL_DISK";

#[test]
fn a_full_disk_refuses_before_acknowledging_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    // In a mount namespace of its own: nothing is left behind, however it ends.
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_full_disk", "--nocapture"])
        .env(FULL_DISK, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Not a test of its own: runs inside the one above.
#[tokio::test]
async fn on_a_full_disk() {
    let Ok(folder) = std::env::var(FULL_DISK) else {
        return;
    };
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs", &folder])
        .status();
    assert!(mounted.unwrap().success());
    let path = Path::new(&folder).join("store.db");
    let written = fill_by_itself(&path).await;
    let written = after_restart(&path, written).await;
    filled_by_others(&path, written).await;
}

fn value(at: usize) -> String {
    format!("{at} {}", "x".repeat(3000))
}

/// Creates until refused. Returns what was acknowledged.
async fn fill(store: &Arc<dyn Store>, from: usize) -> usize {
    let mut at = from;
    loop {
        let tx = Transaction::new().create(setting(&format!("s{at}"), value(at)));
        match store.commit(tx).await {
            Ok(_) => at += 1,
            Err(CommitError::Full { .. }) => return at,
            Err(other) => panic!("{other:?}"),
        }
        assert!(at < 10_000, "never full");
    }
}

fn same(store: &Arc<dyn Store>, range: std::ops::Range<usize>) {
    let snapshot = store.snapshot();
    assert_eq!(snapshot.settings().count(), range.len());
    for at in range {
        assert_eq!(
            snapshot.setting(&format!("s{at}")).unwrap().value().value,
            value(at)
        );
    }
}

async fn fill_by_itself(path: &Path) -> usize {
    let store = open_sqlite(path, small()).unwrap();
    let written = fill(&store, 0).await;
    assert!(written > 300, "{written}");
    same(&store, 0..written);
    assert_eq!(store.metrics().full, 1);
    assert!(store.metrics().refused_full > 0);
    // Deleting and changing still work; making does not.
    store
        .commit(Transaction::new().delete(setting_key("s0")))
        .await
        .unwrap();
    put(&store, "s1", &value(1)).await;
    same(&store, 1..written);
    // What is there is known, whether or not there is room for more.
    store.confirm().await.unwrap();
    store.close().await;
    written
}

async fn after_restart(path: &Path, written: usize) -> usize {
    let store = open_sqlite(path, small()).unwrap();
    same(&store, 1..written);
    for at in 1..written / 2 {
        store
            .commit(Transaction::new().delete(setting_key(&format!("s{at}"))))
            .await
            .unwrap();
    }
    // Room inside the file is room: it can be written again.
    let deadline = Instant::now() + Duration::from_secs(30);
    while put_unless_full(&store, written).await.is_none() {
        assert!(Instant::now() < deadline, "still full");
        // tidy: sleep: pause between two looks
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    same(&store, written / 2..written + 1);
    store.close().await;
    written
}

async fn put_unless_full(store: &Arc<dyn Store>, at: usize) -> Option<Revision> {
    let tx = Transaction::new().create(setting(&format!("s{at}"), value(at)));
    match store.commit(tx).await {
        Ok(revision) => Some(revision),
        Err(CommitError::Full { .. }) => None,
        Err(other) => panic!("{other:?}"),
    }
}

async fn filled_by_others(path: &Path, written: usize) {
    let reserve = beside(path, "-reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), small().reserve_bytes);
    let filler = path.with_file_name("filler");
    {
        use std::io::Write;
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 512]).is_ok() {}
    }
    let store = open_sqlite(path, small()).unwrap();
    same(&store, written / 2..written + 1);
    for at in written / 2..written {
        store
            .commit(Transaction::new().delete(setting_key(&format!("s{at}"))))
            .await
            .unwrap();
    }
    assert!(!reserve.exists(), "the reserve was needed");
    fs::remove_file(&filler).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while put_unless_full(&store, written + 1).await.is_none() || !reserve.exists() {
        assert!(Instant::now() < deadline, "still full");
        // tidy: sleep: pause between two looks
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(
            store
                .commit(Transaction::new().delete(setting_key(&format!("s{}", written + 1))))
                .await,
        );
    }
    drop(store);
    same(&open_sqlite(path, small()).unwrap(), written..written + 2);
}
