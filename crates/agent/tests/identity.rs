//! Joining, and certificates that are renewed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use agent::identity::{IdentityError, IdentityFolder, JoinOptions, join};
use common::{Ca, DEADLINE, Host, SECRET, Server};
use wire::link::JoinTokenText;

fn folder(host: &Host) -> IdentityFolder {
    IdentityFolder::of(host.folder.path())
}

async fn try_join(host: &Host, servers: &[String], token: &str) -> Result<(), IdentityError> {
    let joined = join(&folder(host), servers, token, &JoinOptions::default()).await;
    joined.map(|_| ())
}

fn chain(error: &dyn std::error::Error) -> String {
    let inner = error.source().map(chain).unwrap_or_default();
    format!("{error}: {inner}")
}

#[tokio::test]
async fn the_key_stays_here_and_is_for_its_owner_only() {
    let server = Server::start().await;
    let host = Host::new();
    // Whoever cannot be reached is passed over.
    let servers = ["127.0.0.1:1".to_owned(), server.address.to_string()];
    try_join(&host, &servers, &server.token()).await.unwrap();
    let path = host.folder.path().join("identity/identity.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let credential = folder(&host).load().unwrap().unwrap();
    assert_eq!(credential.identity.host, server.host);
    assert!(credential.key_pem.contains("PRIVATE KEY"));
    assert!(!format!("{credential:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn the_secret_is_not_told_to_a_server_of_another_ca() {
    let server = Server::start().await;
    let host = Host::new();
    let token = JoinTokenText {
        ca_sha256: Ca::new().sha256(),
        id: model::TokenId::from_bytes(&[9; 32]),
        secret: SECRET.to_owned(),
    };
    let servers = [server.address.to_string()];
    let error = try_join(&host, &servers, &token.to_string())
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("does not show the CA that the join token names"),
        "{error:?}"
    );
    assert!(server.secrets_seen().is_empty());
    assert!(folder(&host).load().unwrap().is_none());
}

#[tokio::test]
async fn the_name_that_is_dialled_must_be_the_servers() {
    let server = Server::start().await;
    let host = Host::new();
    // The certificate is for 127.0.0.1 and localhost.
    let servers = [format!("127.0.0.2:{}", server.address.port())];
    let listener = tokio::net::TcpListener::bind(&servers[0]).await.unwrap();
    let address = server.address;
    let relay = tokio::spawn(async move {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
    });
    let error = try_join(&host, &servers, &server.token())
        .await
        .unwrap_err();
    assert!(matches!(error, IdentityError::Connect(_)), "{error:?}");
    assert!(server.secrets_seen().is_empty());
    relay.abort();
    let by_name = [format!("localhost:{}", server.address.port())];
    try_join(&host, &by_name, &server.token()).await.unwrap();
}

#[tokio::test]
async fn a_used_or_malformed_token_is_refused_with_its_reason() {
    let server = Server::start().await;
    let servers = [server.address.to_string()];
    try_join(&Host::new(), &servers, &server.token())
        .await
        .unwrap();
    let error = try_join(&Host::new(), &servers, &server.token())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("used already"), "{error}");
    let error = try_join(&Host::new(), &servers, "plm1.short")
        .await
        .unwrap_err();
    assert!(matches!(error, IdentityError::Token(_)));
}

#[tokio::test]
async fn a_damaged_identity_is_named() {
    let host = Host::new();
    std::fs::create_dir(host.folder.path().join("identity")).unwrap();
    std::fs::write(host.folder.path().join("identity/identity.json"), "{").unwrap();
    let error = finished(host.agent(&[])).await;
    assert!(chain(&error).contains("join again"), "{error:?}");
}

async fn finished(agent: agent::Agent) -> agent::AgentError {
    let run = agent.run(tokio_util::sync::CancellationToken::new());
    tokio::time::timeout(DEADLINE, run)
        .await
        .unwrap()
        .unwrap_err()
}

#[tokio::test]
async fn a_certificate_is_renewed_and_the_session_goes_on_with_it() {
    let server = Server::start().await;
    let host = Host::new();
    // Two thirds of it are over in a moment.
    server.lifetime(Duration::from_secs(2));
    host.join(&server).await;
    let old = folder(&host).load().unwrap().unwrap();
    server.lifetime(Duration::from_secs(3600));
    let _agent = host.run(&[&server]);
    let first = server.session().await;
    let second = server.session().await;
    assert_ne!(first.certificate, second.certificate);
    // The new one is kept once it was welcomed.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while folder(&host).load().unwrap().unwrap().key_pem == old.key_pem {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert!(
        !host
            .folder
            .path()
            .join("identity/identity-next.json")
            .exists()
    );
}

#[tokio::test]
async fn a_renewed_certificate_that_is_refused_gives_way_to_the_old_one() {
    let server = Server::start().await;
    let host = Host::new();
    server.lifetime(Duration::from_secs(4));
    host.join(&server).await;
    let old = folder(&host).load().unwrap().unwrap();
    server.lifetime(Duration::from_secs(3600));
    let _agent = host.run(&[&server]);
    let first = server.session().await;
    let mut refused = server.refused();
    server.only(Some(first.certificate.clone()));
    tokio::time::timeout(DEADLINE, refused.changed())
        .await
        .unwrap()
        .unwrap();
    let again = server.session().await;
    assert_eq!(again.certificate, first.certificate);
    assert_eq!(folder(&host).load().unwrap().unwrap().key_pem, old.key_pem);
}

#[tokio::test]
async fn a_server_of_another_ca_gets_no_session() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let other = Server::start_with(Arc::new(Ca::new()), "127.0.0.1:0").await;
    let agent = host.agent(&[&other]);
    let metrics = agent.metrics();
    let task = tokio::spawn(agent.run(tokio_util::sync::CancellationToken::new()));
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while metrics.session_failures.get() < 2 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert!(other.sessions.lock().await.try_recv().is_err());
    task.abort();
}
