//! Pulls from Debian's registry: plain, with TLS, with credentials.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::path::Path;
use std::process::Command;

use agent::driver::{ErrorClass, ImageStore};
use drivers::images::{Limits, LocalImages, RegistryOptions};
use images_support::fake::RealRegistry;
use images_support::*;

fn layers() -> Vec<Vec<u8>> {
    vec![
        LayerTar::new()
            .dir("bin")
            .file("bin/x", &[1; 100_000])
            .end(),
        LayerTar::new().file("y", b"y").end(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let registry = RealRegistry::start("", "", |_| {}).await;
    registry.push(&docker_archive(&[("web:1", layers())]), "team/web:1", &[]);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (image, lines) = pull(&store, &registry.reference("team/web:1"), None).await;
    let image = image.unwrap();
    assert!(!image.unchanged);
    assert_eq!(image.content.layers[0].diff_id.hex(), sha(&layers()[0]));
    assert!(
        image.content.layers[0].blob != image.content.layers[0].diff_id,
        "skopeo compresses"
    );
    for status in ["Pulling fs layer", "Download complete", "Pull complete"] {
        assert_eq!(
            lines.iter().filter(|l| l.ends_with(status)).count(),
            2,
            "{status}: {lines:?}"
        );
    }
    let lower = store.lowerdirs(&image.content.config).unwrap();
    assert_eq!(std::fs::read(lower[1].join("bin/x")).unwrap(), [1; 100_000]);

    let digest = registry.reference(&format!("team/web@{}", image.manifest.as_ref().unwrap()));
    assert_eq!(image.source.as_deref(), Some(digest.as_str()));
    let (again, lines) = pull(&store, &digest, None).await;
    assert!(again.unwrap().unchanged);
    assert_eq!(
        lines
            .iter()
            .filter(|l| l.ends_with("Already exists"))
            .count(),
        2,
        "{lines:?}"
    );

    let (missing, _) = pull(&store, &registry.reference("team/web:2"), None).await;
    let error = missing.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound);
    assert!(error.message.contains("team/web:2"), "{error}");
}

fn make_certificates(dir: &Path) {
    let mut ca_params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&ca_params, &ca_key);
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), leaf.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_needs_a_trusted_certificate() {
    let http = "  tls: {certificate: DIR/cert.pem, key: DIR/key.pem}\n";
    let registry = RealRegistry::start(http, "", make_certificates).await;
    registry.push(&docker_archive(&[("web:1", layers())]), "web:1", &[]);
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        let (result, _) = pull(&store, &registry.reference("web:1"), None).await;
        let error = result.unwrap_err();
        assert!(error.message.contains("certificate"), "{error}");
        assert_empty(dir.path()).await;
    }
    let options = RegistryOptions {
        extra_roots: vec![registry.dir.path().join("ca.pem")],
        ..Default::default()
    };
    let store = LocalImages::open(dir.path(), Limits::default(), options).unwrap();
    let (image, _) = pull(&store, &registry.reference("web:1"), None).await;
    assert_eq!(image.unwrap().content.layers.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_needed_even_for_what_is_here() {
    let top = "auth:\n  htpasswd: {realm: test, path: DIR/htpasswd}\n";
    let registry = RealRegistry::start("", top, |dir| {
        let output = Command::new("htpasswd")
            .args(["-Bbn", "ann", "secret"])
            .output()
            .unwrap();
        std::fs::write(dir.join("htpasswd"), output.stdout).unwrap();
    })
    .await;
    registry.push(
        &docker_archive(&[("web:1", layers())]),
        "web:1",
        &["--dest-creds", "ann:secret"],
    );
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let reference = registry.reference("web:1");
    for credentials in [None, Some(("ann", "wrong")), Some(("", ""))] {
        let (result, _) = pull(&store, &reference, credentials).await;
        let error = result.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
        assert!(!error.message.contains("wrong"), "{error}");
    }
    assert_empty(dir.path()).await;
    let (image, _) = pull(&store, &reference, Some(("ann", "secret"))).await;
    assert!(store.complete().contains(&image.unwrap().content.config));
    let (result, _) = pull(&store, &reference, None).await;
    assert_eq!(result.unwrap_err().class, ErrorClass::Unauthorized);
}
