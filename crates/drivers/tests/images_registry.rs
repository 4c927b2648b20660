//! Pulls from Debian's registry: plain, with TLS, with credentials.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::path::Path;
use std::process::Command;

use agent::driver::{Credentials, ErrorClass, ImageStore, LoginRequest};
use drivers::images::{Limits, LocalImages, Patience, RegistryOptions};
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
    // Only asked, nothing pulled.
    let login = async |username: &str, password: &str| {
        let request = LoginRequest {
            registry: registry.address(),
            credentials: Credentials {
                username: username.to_owned(),
                password: password.to_owned(),
            },
        };
        store.login(&request).await
    };
    login("ann", "secret").await.unwrap();
    for (username, password) in [("ann", "wrong"), ("", "")] {
        let error = login(username, password).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
        assert!(error.message.contains(&registry.address()), "{error}");
    }
}

/// A registry that takes connections and answers with `answer`, and then says nothing more but keeps them open.
async fn silent_registry(answer: &'static str) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                // TLS begins with byte 22; it is left without an answer, too.
                let read = stream.read(&mut request).await.unwrap_or(0);
                if request[..read].starts_with(b"GET") {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                // Until the client has given up.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_is_given_up() {
    for (answer, expected) in [
        ("", "no answer in time"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":",
            "it stopped sending",
        ),
    ] {
        let port = silent_registry(answer).await;
        let dir = tempfile::tempdir().unwrap();
        let brief = std::time::Duration::from_millis(150);
        let options = RegistryOptions {
            patience: Patience {
                connect: brief,
                answer: brief,
            },
            ..RegistryOptions::default()
        };
        let store = LocalImages::open(dir.path(), Limits::default(), options).unwrap();
        let (result, _) = pull(&store, &format!("127.0.0.1:{port}/web:1"), None).await;
        let error = result.unwrap_err();
        assert_eq!(error.class, ErrorClass::Failed, "{error}");
        assert!(error.message.contains(expected), "{error}");
        assert_empty(dir.path()).await;
    }
}
