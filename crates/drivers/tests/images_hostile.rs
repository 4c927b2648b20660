//! Registries that lie, break off, redirect or overwhelm.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::driver::{ErrorClass, ImageStore};
use drivers::images::{ImagesError, Limits, LocalImages};
use images_support::fake::{Fake, Reply};
use images_support::*;

fn noise(length: usize, mut seed: u32) -> Vec<u8> {
    let next = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn layer(seed: u32) -> Vec<u8> {
    LayerTar::new()
        .file(&format!("noise{seed}"), &noise(300_000, seed))
        .end()
}

fn blob_of(layer: &[u8]) -> String {
    sha(&gzip(layer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_blob_names_both_digests_and_leaves_nothing() {
    let target = blob_of(&layer(1));
    let path = format!("/v2/a/blobs/sha256:{target}");
    let length = gzip(&layer(1)).len();
    // Another layer of the same length, nonsense of the same length, and too much.
    let mut other = gzip(&layer(2));
    other.resize(length, 0);
    for wrong in [other, vec![9; length], vec![9; length + 1]] {
        let (path, served) = (path.clone(), wrong.clone());
        let fake =
            Fake::start(move |seen| (seen.path == path).then(|| Reply::new(200, served.clone())))
                .await;
        fake.put_image("a", "1", &[layer(1)]);
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (result, _) = pull(&store, &fake.reference("a:1"), None).await;
        let error = result.unwrap_err();
        match cause(&error) {
            ImagesError::DigestMismatch { .. } => {
                assert!(
                    error.message.contains(&target) && error.message.contains(&sha(&wrong)),
                    "{error}"
                );
            }
            ImagesError::SizeMismatch { .. } => assert_ne!(wrong.len(), length),
            other => panic!("{other}"),
        }
        assert!(store.complete().is_empty());
        assert_empty(dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_manifest_or_configuration_is_refused() {
    let fake = Fake::start(|_| None).await;
    let digest = fake.put_image("a", "1", &[layer(1)]);
    let config = sha(&config(&[layer(1)], "a:1"));
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fake.put(
        &format!("/v2/a/manifests/sha256:{digest}"),
        "application/vnd.oci.image.manifest.v1+json",
        b"{}".to_vec(),
    );
    let (result, _) = pull(&store, &fake.reference(&format!("a@sha256:{digest}")), None).await;
    assert!(result.unwrap_err().message.contains(&digest));
    let wrong = config_of_same_length();
    fake.put(&format!("/v2/a/blobs/sha256:{config}"), "x", wrong);
    let (result, _) = pull(&store, &fake.reference("a:1"), None).await;
    assert!(result.unwrap_err().message.contains(&config));
    assert_empty(dir.path()).await;
}

fn config_of_same_length() -> Vec<u8> {
    let mut text = config(&[layer(1)], "a:1");
    let last = text.len() - 1;
    text[last] = b' ';
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off() {
    for ranges in [true, false] {
        let tries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tries);
        let blob = gzip(&layer(1));
        let path = format!("/v2/a/blobs/sha256:{}", sha(&blob));
        let fake = Fake::start(move |seen| {
            if seen.path != path {
                return None;
            }
            let n = count.fetch_add(1, Ordering::SeqCst);
            let start = seen
                .headers
                .get("range")
                .map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
            let start = if ranges { start } else { 0 };
            let mut reply = Reply::new(if start > 0 { 206 } else { 200 }, &blob[start..]);
            if start > 0 {
                reply = reply.header(
                    "Content-Range",
                    format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()),
                );
            }
            // Three times it breaks off, once it is busy.
            match n {
                0 | 1 => reply.cut = Some(70_000 * (n + 1)),
                2 => return Some(Reply::new(503, "busy")),
                3 => reply.cut = Some(if ranges { 20_000 } else { 200_000 }),
                _ => {}
            }
            Some(reply)
        })
        .await;
        fake.put_image("a", "1", &[layer(1)]);
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (image, lines) = pull(&store, &fake.reference("a:1"), None).await;
        let image = image.unwrap();
        assert_eq!(tries.load(Ordering::SeqCst), 5, "{lines:?}");
        let lower = store.lowerdirs(&image.content.config).unwrap();
        assert_eq!(
            std::fs::read(lower[0].join("noise1")).unwrap(),
            noise(300_000, 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_is_given_up() {
    let path = format!("/v2/a/blobs/sha256:{}", blob_of(&layer(2)));
    let fake = Fake::start(move |seen| {
        (seen.path == path).then(|| {
            let mut reply = Reply::new(200, vec![0; 10]).header("Content-Length", "100000");
            reply.cut = Some(0);
            reply
        })
    })
    .await;
    fake.put_image("a", "1", &[layer(1), layer(2)]);
    let dir = tempfile::tempdir().unwrap();
    let store = LocalImages::open(
        dir.path(),
        Limits {
            attempts: 2,
            ..Limits::default()
        },
        Default::default(),
    )
    .unwrap();
    let (result, _) = pull(&store, &fake.reference("a:1"), None).await;
    let error = result.unwrap_err();
    assert_eq!(error.class, ErrorClass::Failed, "{error}");
    assert_eq!(fake.asked(&blob_of(&layer(2))), 2);
    assert!(store.complete().is_empty());
    assert_empty(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variant_for_this_machine_is_chosen() {
    let fake = Fake::start(|_| None).await;
    let amd = fake.put_image("a", "amd", &[layer(1)]);
    let arm = fake.put_image("a", "arm", &[layer(2)]);
    let entry = |digest: &str, arch: &str| {
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{digest}"),
            "size": 1, "platform": { "os": "linux", "architecture": arch } })
    };
    let index = |entries: serde_json::Value| {
        serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries })
            .to_string()
            .into_bytes()
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let both = fake.put_manifest(
        "a",
        "both",
        kind,
        index(serde_json::json!([
            entry(&arm, "arm64"),
            entry(&amd, "amd64")
        ])),
    );
    fake.put_manifest(
        "a",
        "none",
        kind,
        index(serde_json::json!([entry(&arm, "s390x")])),
    );
    let nested = fake.put_manifest(
        "a",
        "inner",
        kind,
        index(serde_json::json!([entry(&amd, "amd64")])),
    );
    fake.put_manifest(
        "a",
        "nested",
        kind,
        index(serde_json::json!([entry(&nested, "amd64")])),
    );
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (image, _) = pull(&store, &fake.reference("a:both"), None).await;
    let image = image.unwrap();
    let (mine, other) = if cfg!(target_arch = "x86_64") {
        (amd, 1)
    } else {
        (arm, 2)
    };
    assert_eq!(image.content.layers[0].diff_id.hex(), sha(&layer(other)));
    assert_eq!(image.manifest.unwrap().hex(), both);
    assert!(image.source.unwrap().ends_with(&mine));
    let (result, _) = pull(&store, &fake.reference("a:none"), None).await;
    assert!(result.unwrap_err().message.contains("linux/s390x"));
    let (result, _) = pull(&store, &fake.reference("a:nested"), None).await;
    assert_eq!(result.unwrap_err().class, ErrorClass::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn bad_documents_are_refused_clearly() {
    let fake = Fake::start(|_| None).await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let config = serde_json::json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2 });
    let layer = |digest: &str| serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 2 });
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let cases = [
        (
            "schema1",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            serde_json::json!({ "schemaVersion": 1, "fsLayers": [] }),
            "schema 1",
        ),
        (
            "both",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] }),
            "neither",
        ),
        (
            "lies",
            oci,
            serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] }),
            "but came as",
        ),
        (
            "path",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer("sha256:../../../../etc/passwd")] }),
            "hexadecimal",
        ),
        (
            "chart",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest, "size": 2 }, "layers": [] }),
            "helm",
        ),
        (
            "layers",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": vec![layer(&digest); 10_000] }),
            "number of layers",
        ),
        (
            "config",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": { "digest": digest, "size": 1_u64 << 40 }, "layers": [] }),
            "configuration",
        ),
        (
            "size",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [{ "digest": digest, "size": u64::MAX }, layer(&digest)] }),
            "the image is over",
        ),
        (
            "negative",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": { "digest": digest, "size": -1 }, "layers": [] }),
            "invalid manifest",
        ),
        (
            "foreign",
            oci,
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest, "size": 1 }] }),
            "foreign",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (tag, media_type, text, expected) in cases {
        fake.put_manifest("a", tag, media_type, text.to_string().into_bytes());
        let (result, _) = pull(&store, &fake.reference(&format!("a:{tag}")), None).await;
        let error = result.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid, "{tag}: {error}");
        assert!(error.message.contains(expected), "{tag}: {error}");
    }
    fake.put_manifest("a", "huge", oci, vec![b' '; 5 << 20]);
    let (result, _) = pull(&store, &fake.reference("a:huge"), None).await;
    assert!(matches!(
        cause(&result.unwrap_err()),
        ImagesError::TooLarge { .. }
    ));
    fake.put_manifest("a", "deep", oci, b"[".repeat(1 << 20));
    let (result, _) = pull(&store, &fake.reference("a:deep"), None).await;
    assert_eq!(result.unwrap_err().class, ErrorClass::Invalid);
    for bad in ["../../etc", "A", "a//b", ":tag", "a@sha256:zz", "a\0b"] {
        let (result, _) = pull(&store, bad, None).await;
        assert_eq!(result.unwrap_err().class, ErrorClass::Invalid, "{bad}");
    }
    assert_empty(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_but_not_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (realm, allowed) in [
        ("SELF/token", true),
        ("http://169.254.169.254/latest/meta-data/", false),
        ("http://[fe80::1]/", false),
        ("http://[::ffff:169.254.169.254]/", false),
        ("http://0.0.0.0:80/", false),
        ("http://2852039166/", false),
        ("file:///etc/shadow", false),
    ] {
        let own = Arc::new(std::sync::OnceLock::<u16>::new());
        let port = Arc::clone(&own);
        let fake = Fake::start(move |seen| {
            if seen.path.starts_with("/token?") {
                assert!(
                    seen.path.contains("scope=repository:a:pull")
                        && seen.path.contains("service=s%20x"),
                    "{}",
                    seen.path
                );
                assert!(seen.headers["authorization"].starts_with("Basic "));
                return Some(Reply::new(200, r#"{"access_token":"good"}"#));
            }
            if seen
                .headers
                .get("authorization")
                .is_some_and(|a| a == "Bearer good")
            {
                return None;
            }
            let realm = realm.replace("SELF", &format!("http://127.0.0.1:{}", port.get().unwrap()));
            Some(Reply::new(401, "").header(
                "WWW-Authenticate",
                format!("Bearer realm=\"{realm}\",service=\"s x\""),
            ))
        })
        .await;
        own.set(fake.port).unwrap();
        fake.put_image("a", "1", &[layer(1)]);
        let (result, _) = pull(&store, &fake.reference("a:1"), Some(("u", "p"))).await;
        match result {
            Ok(_) => assert!(allowed, "{realm}"),
            Err(error) => assert!(
                !allowed && error.class != ErrorClass::NotFound,
                "{realm}: {error}"
            ),
        }
    }
    let error = pull(&store, "169.254.169.254/x:1", None)
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(cause(&error), ImagesError::ForbiddenAddress { .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_carry_no_credentials_and_lead_nowhere_inside() {
    let storage = Fake::start(|seen| {
        seen.headers
            .contains_key("authorization")
            .then(|| Reply::new(400, "leaked"))
    })
    .await;
    storage.put_image("a", "1", &[layer(1)]);
    for (to, allowed) in [
        (format!("http://127.0.0.1:{}", storage.port), true),
        ("http://169.254.169.254".to_owned(), false),
        ("ftp://127.0.0.1".to_owned(), false),
        ("http://127.0.0.1:1".to_owned(), false),
    ] {
        let target = to.clone();
        let fake = Fake::start(move |seen| {
            if seen.path != "/v2/" && !seen.headers.contains_key("authorization") {
                return Some(Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
            }
            let blob = seen.path.contains("/blobs/");
            blob.then(|| Reply::new(307, "").header("Location", format!("{target}{}", seen.path)))
        })
        .await;
        fake.put_image("a", "1", &[layer(1)]);
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            attempts: 2,
            ..Limits::default()
        };
        let store = LocalImages::open(dir.path(), limits, Default::default()).unwrap();
        let (result, _) = pull(&store, &fake.reference("a:1"), Some(("u", "p"))).await;
        assert_eq!(result.is_ok(), allowed, "{to}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_pulled_at_once_share_their_layers() {
    let fake = Fake::start(|_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut tasks = Vec::new();
    for n in 0..6 {
        fake.put_image("a", &n.to_string(), &[layer(1), layer(2), layer(100 + n)]);
        let (store, reference) = (store.clone(), fake.reference(&format!("a:{n}")));
        tasks.push(tokio::spawn(async move {
            pull(&store, &reference, None).await.0
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(store.complete().len(), 6);
    for seed in [1, 2, 101, 105] {
        assert_eq!(fake.asked(&blob_of(&layer(seed))), 1, "layer {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_nothing_and_does_not_disturb_others() {
    let hanging = blob_of(&layer(2));
    let path = format!("/v2/a/blobs/sha256:{hanging}");
    let release = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&release);
    let fake = Fake::start(move |seen| {
        // The first request for the layer hangs in the middle; later ones are answered.
        (seen.path == path && asked.fetch_add(1, Ordering::SeqCst) == 0).then(|| {
            let mut reply = Reply::new(200, gzip(&layer(2)));
            (reply.cut, reply.hang) = (Some(100_000), true);
            reply
        })
    })
    .await;
    fake.put_image("a", "1", &[layer(1), layer(2)]);
    fake.put_image("a", "2", &[layer(1), layer(2), layer(3)]);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = {
        let (store, reference) = (store.clone(), fake.reference("a:1"));
        tokio::spawn(async move { pull(&store, &reference, None).await.0 })
    };
    eventually("the first layer is there", || {
        names(dir.path(), "layers").len() == 1
    })
    .await;
    eventually("the second hangs", || release.load(Ordering::SeqCst) == 1).await;
    let second = {
        let (store, reference) = (store.clone(), fake.reference("a:2"));
        tokio::spawn(async move { pull(&store, &reference, None).await.0 })
    };
    eventually("the second pull is on its way", || {
        names(dir.path(), "layers").len() == 2
    })
    .await;
    first.abort();
    let image = second.await.unwrap().unwrap();
    assert_eq!(store.complete().len(), 1);
    assert_eq!(store.lowerdirs(&image.content.config).unwrap().len(), 3);
    assert_eq!(
        fake.asked(&blob_of(&layer(1))),
        1,
        "the first pull's layer was kept for the second"
    );
    store
        .drop_image(&image.content.config, &Default::default())
        .await
        .unwrap();
    assert_empty(dir.path()).await;
}
