//! Archives into the store and out again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use agent::driver::{ErrorClass, ImageStore};
use images_support::*;

fn base() -> Vec<u8> {
    LayerTar::new()
        .dir("bin")
        .file("bin/x", b"#!x")
        .dir("etc")
        .file("etc/gone", b"1")
        .file("etc/kept", b"2")
        .end()
}

fn upper() -> Vec<u8> {
    LayerTar::new()
        .dir("etc")
        .file("etc/.wh.gone", b"")
        .dir("data")
        .file("data/.wh..wh..opq", b"")
        .end()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_archive_becomes_an_image_with_layers_top_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layers = vec![base(), upper()];
    let images = load(&store, docker_archive(&[("web:1", layers.clone())]))
        .await
        .unwrap();

    let [image] = images.as_slice() else {
        panic!("{images:?}")
    };
    assert_eq!(image.tags, ["docker.io/library/web:1"]);
    assert!(!image.unchanged);
    assert_eq!(image.config.cmd, ["/bin/x"]);
    assert_eq!(image.config.size_bytes, 5);
    assert_eq!(image.content.config.hex(), sha(&config(&layers, "web:1")));
    assert_eq!(image.content.layers[0].diff_id.hex(), sha(&layers[0]));

    let lower = store.lowerdirs(&image.content.config).unwrap();
    assert_eq!(lower.len(), 2);
    let whiteout = std::fs::symlink_metadata(lower[0].join("etc/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    assert_eq!(std::fs::read(lower[1].join("etc/gone")).unwrap(), b"1");
    assert_eq!(
        xattr::get(lower[0].join("data"), "trusted.overlay.opaque")
            .unwrap()
            .as_deref(),
        Some(&b"y"[..])
    );

    let again = load(&store, docker_archive(&[("web:1", layers)]))
        .await
        .unwrap();
    assert!(again[0].unchanged);
    assert_eq!(names(dir.path(), "tmp"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_a_restart_and_are_dropped_by_name_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let both = docker_archive(&[("a:1", vec![base(), upper()]), ("b:1", vec![base()])]);
    let images = load(&store, both).await.unwrap();
    assert!(matches!(
        drivers::images::LocalImages::open(dir.path(), Default::default(), Default::default()),
        Err(drivers::images::ImagesError::Locked(_))
    ));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.complete().len(), 2);

    let (a, b) = (&images[0].content, &images[1].content);
    let used = std::iter::once(a.config.clone()).collect();
    assert_eq!(
        store.drop_image(&a.config, &used).await.unwrap_err().class,
        ErrorClass::Conflict
    );
    store
        .drop_image(&a.config, &Default::default())
        .await
        .unwrap();
    store
        .drop_image(&a.config, &Default::default())
        .await
        .unwrap();
    assert!(
        store.lowerdirs(&b.config).unwrap()[0]
            .join("bin/x")
            .exists()
    );
    assert_eq!(names(dir.path(), "layers"), [b.layers[0].diff_id.hex()]);
    store
        .drop_image(&b.config, &Default::default())
        .await
        .unwrap();
    for folder in ["layers", "blobs/sha256", "images", "tmp", "quarantine"] {
        assert_eq!(names(dir.path(), folder), [""; 0], "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_diff_id_names_both_digests_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (real, promised) = (base(), upper());
    let config = config(std::slice::from_ref(&promised), "x");
    let manifest =
        serde_json::json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l/layer.tar"] }]);
    let bad = archive(&[
        ("c.json".to_owned(), config),
        ("l/layer.tar".to_owned(), real.clone()),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ]);
    let error = load(&store, bad).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid);
    assert!(
        error.message.contains(&sha(&real)) && error.message.contains(&sha(&promised)),
        "{error}"
    );
    for folder in ["layers", "blobs/sha256", "images", "tmp"] {
        assert_eq!(names(dir.path(), folder), [""; 0], "{folder}");
    }
}
