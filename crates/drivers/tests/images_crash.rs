//! Kills, full disks and damaged files: what is visible afterwards is whole.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::driver::{ErrorClass, ImageStore};
use drivers::images::LocalImages;
use images_support::fake::{Fake, Reply};
use images_support::*;
use model::Digest;

const FILES: usize = 200;

fn many(seed: usize) -> Vec<u8> {
    (0..FILES)
        .fold(LayerTar::new().dir("d"), |t, n| {
            t.file(&format!("d/{seed}-{n}"), &[n.to_le_bytes()[0]; 3000])
        })
        .end()
}

fn layers() -> Vec<Vec<u8>> {
    (0..4).map(many).collect()
}

fn assert_whole(store: &LocalImages, id: &Digest) {
    let lower = store.lowerdirs(id).unwrap();
    assert_eq!(lower.len(), 4);
    for (seed, folder) in lower.iter().rev().enumerate() {
        for n in 0..FILES {
            assert_eq!(
                std::fs::read(folder.join(format!("d/{seed}-{n}"))).unwrap(),
                [n.to_le_bytes()[0]; 3000]
            );
        }
    }
    assert_eq!(store.verify(id).unwrap().len(), 0);
}

/// What a child of these tests does: `load FILE` or `pull REFERENCE` into a store. Does nothing in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(store) = std::env::var("PLIMSOLL_TEST_STORE") else {
        return;
    };
    let store = open(Path::new(&store));
    let result = match std::env::var("PLIMSOLL_TEST_LOAD") {
        Ok(file) => load(&store, std::fs::read(file).unwrap()).await.map(drop),
        Err(_) => pull(&store, &std::env::var("PLIMSOLL_TEST_PULL").unwrap(), None)
            .await
            .0
            .map(drop),
    };
    if let Err(error) = result {
        assert_eq!(
            std::env::var("PLIMSOLL_TEST_CLASS").as_deref(),
            Ok(&*format!("{:?}", error.class)),
            "{error}"
        );
        println!("failed as expected: {error}");
    }
}

fn spawn(store: &Path, what: (&str, &str)) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("PLIMSOLL_TEST_STORE", store)
        .env(what.0, what.1)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Counts what is below a folder that changes meanwhile.
fn count(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| {
            1 + if e.file_type().is_ok_and(|t| t.is_dir()) {
                count(&e.path())
            } else {
                0
            }
        })
        .sum()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_unpacking_leaves_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive.tar");
    let bytes = docker_archive(&[("x:1", layers())]);
    std::fs::write(&file, &bytes).unwrap();
    let id = Digest::parse(&format!("sha256:{}", sha(&config(&layers(), "x:1")))).unwrap();
    let mut seen = [0, 0];
    for step in 0..16 {
        let root = dir.path().join(format!("store{step}"));
        let mut child = spawn(&root, ("PLIMSOLL_TEST_LOAD", file.to_str().unwrap()));
        // From nothing at all to just after the end, in steps of what is on the disk.
        while child.try_wait().unwrap().is_none() && count(&root) < step * (4 * FILES + 20) / 14 {
            tokio::task::yield_now().await;
        }
        kill(child);
        let store = open(&root);
        let complete = store.complete().contains(&id);
        seen[usize::from(complete)] += 1;
        if complete {
            assert_whole(&store, &id);
        } else {
            assert!(store.lowerdirs(&id).is_err());
        }
        assert_eq!(names(&root, "tmp"), [""; 0]);
        assert_eq!(names(&root, "quarantine"), [""; 0]);
        load(&store, bytes.clone()).await.unwrap();
        assert_whole(&store, &id);
        assert_eq!(store.unreferenced().unwrap().len(), 0);
        store.drop_image(&id, &Default::default()).await.unwrap();
        assert_empty(&root).await;
    }
    assert!(seen[0] > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_pulling_leaves_no_half_image() {
    for hanging in 0..4 {
        let blob = gzip(&many(hanging));
        let path = format!("/v2/a/blobs/sha256:{}", sha(&blob));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let fake = Fake::start(move |seen| {
            (seen.path == path && counter.fetch_add(1, Ordering::SeqCst) == 0).then(|| {
                let mut reply = Reply::new(200, blob.clone());
                (reply.cut, reply.hang) = (Some(blob.len() / 2), true);
                reply
            })
        })
        .await;
        fake.put_image("a", "1", &layers());
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(dir.path(), ("PLIMSOLL_TEST_PULL", &fake.reference("a:1")));
        eventually("three layers are there and one hangs", || {
            asked.load(Ordering::SeqCst) == 1
                && std::fs::read_dir(dir.path().join("layers")).is_ok_and(|d| d.count() == 3)
        })
        .await;
        kill(child);
        let store = open(dir.path());
        assert!(store.complete().is_empty());
        assert_eq!(names(dir.path(), "tmp"), [""; 0]);
        // What was whole is kept, named as belonging to nobody, and used by the next pull.
        let left = store.unreferenced().unwrap();
        assert!(left.len() >= 6, "{left:?}");
        if hanging == 3 {
            // Deleted only by name.
            assert!(store.reclaim(&Default::default()).unwrap().is_empty());
            assert_eq!(store.reclaim(&left).unwrap(), left);
            assert_empty(dir.path()).await;
            continue;
        }
        let (image, _) = pull(&store, &fake.reference("a:1"), None).await;
        let id = image.unwrap().content.config;
        assert_whole(&store, &id);
        for seed in (0..4).filter(|s| *s != hanging) {
            assert_eq!(fake.asked(&sha(&gzip(&many(seed)))), 1);
        }
        store.drop_image(&id, &Default::default()).await.unwrap();
        assert_empty(dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive.tar");
    std::fs::write(&file, docker_archive(&[("x:1", layers())])).unwrap();
    let fake = Fake::start(|_| None).await;
    fake.put_image("a", "1", &layers());
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    for (size, what) in [
        ("1m", ("PLIMSOLL_TEST_LOAD", file.display().to_string())),
        ("5m", ("PLIMSOLL_TEST_LOAD", file.display().to_string())),
        (
            "5m,nr_inodes=300",
            ("PLIMSOLL_TEST_PULL", fake.reference("a:1")),
        ),
        ("2m", ("PLIMSOLL_TEST_PULL", fake.reference("a:1"))),
    ] {
        // A mount namespace of its own: the small disk goes with the child.
        let script = format!(
            "mount -t tmpfs -o size={size} none {at} && \"$0\" --exact child --nocapture && \
             find {at}/store -mindepth 2 -not -path '*/blobs/sha256'",
            at = mount.display()
        );
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env("PLIMSOLL_TEST_STORE", mount.join("store"))
            .env("PLIMSOLL_TEST_CLASS", format!("{:?}", ErrorClass::Full))
            .env(what.0, what.1)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{size}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            text.contains("failed as expected: no space left on the disk of the image store"),
            "{text}"
        );
        let left: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with(&mount.display().to_string()))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A store with one image; gives the image's digest, its store closed again.
async fn one_image(root: &Path) -> Digest {
    let store = open(root);
    load(&store, docker_archive(&[("x:1", layers())]))
        .await
        .unwrap()
        .remove(0)
        .content
        .config
}

fn layer_file(root: &Path, name: &str) -> PathBuf {
    root.join("layers").join(sha(&many(2))).join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_rebuilt_from_content() {
    for damage in [
        &b""[..],
        b"{",
        b"\0\0\0\0",
        b"{\"version\":1}",
        &[b'['; 3 << 20],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let id = one_image(dir.path()).await;
        std::fs::write(dir.path().join(format!("images/{}.json", id.hex())), damage).unwrap();
        std::fs::write(dir.path().join("images/stray"), "?").unwrap();
        let store = open(dir.path());
        assert!(store.complete().contains(&id));
        assert_whole(&store, &id);
        assert_eq!(names(dir.path(), "quarantine").len(), 2);
        drop(store);
        assert!(open(dir.path()).complete().contains(&id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_moved_away_and_made_anew_from_its_blob() {
    for damage in [
        "empty",
        "garbage",
        "no marker",
        "no folder",
        "other layer's",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let id = one_image(dir.path()).await;
        let marker = layer_file(dir.path(), "layer.json");
        match damage {
            "empty" => std::fs::write(&marker, "").unwrap(),
            "garbage" => std::fs::write(&marker, "\0\0{").unwrap(),
            "no marker" => std::fs::remove_file(&marker).unwrap(),
            "no folder" => std::fs::remove_dir_all(layer_file(dir.path(), "fs")).unwrap(),
            _ => drop(
                std::fs::copy(
                    dir.path()
                        .join("layers")
                        .join(sha(&many(1)))
                        .join("layer.json"),
                    &marker,
                )
                .unwrap(),
            ),
        }
        let store = open(dir.path());
        assert!(!store.complete().contains(&id), "{damage}");
        assert!(!names(dir.path(), "quarantine").is_empty());
        let config = std::fs::read(dir.path().join("blobs/sha256").join(id.hex())).unwrap();
        assert_eq!(sha(&config), id.hex());
        load(&store, docker_archive(&[("x:1", layers())]))
            .await
            .unwrap();
        assert_whole(&store, &id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blobs_are_noticed_but_do_not_stop_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let id = one_image(dir.path()).await;
    let blob = |n| dir.path().join("blobs/sha256").join(sha(&many(n)));
    std::fs::File::options()
        .write(true)
        .open(blob(0))
        .unwrap()
        .set_len(100)
        .unwrap();
    let mut text = std::fs::read(blob(1)).unwrap();
    text[1000] ^= 1;
    std::fs::write(blob(1), text).unwrap();
    let store = open(dir.path());
    assert_eq!(store.lowerdirs(&id).unwrap().len(), 4);
    assert!(!blob(0).exists(), "a cut blob is moved away");
    let digest = Digest::parse(&format!("sha256:{}", sha(&many(0)))).unwrap();
    assert_eq!(
        store
            .open_blob(&digest)
            .await
            .map(|_| ())
            .unwrap_err()
            .class,
        ErrorClass::NotFound
    );
    let wrong = store.verify(&id).unwrap();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    store.drop_image(&id, &Default::default()).await.unwrap();
    assert_eq!(names(dir.path(), "layers"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_drop_is_ended_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let id = one_image(dir.path()).await;
    let record = dir.path().join(format!("images/{}.json", id.hex()));
    std::fs::rename(&record, record.with_extension("dropping")).unwrap();
    std::fs::write(dir.path().join("tmp/7"), "left over").unwrap();
    drop(open(dir.path()));
    assert_empty(dir.path()).await;
}
