//! A small server for tests: TLS, joins, sessions, streams, blobs, renewals, as `wire::link` documents them.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    dead_code,
    unreachable_pub,
    reason = "shared by tests"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::clock::Clock;
use agent::fake::FakeHost;
use agent::{Agent, AgentConfig};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::{DesiredState, HostId, HostWorkload, Timestamp, TokenId, WorkloadId};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::link::*;

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const SECRET: &str = "5555555555555555555555555555555555555555555555555555555555555555";

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

pub struct Ca {
    pub issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test CA");
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    pub fn sha256(&self) -> String {
        hex::encode(sha2::Sha256::digest(&self.der))
    }

    pub fn sign(&self, csr_pem: &str, host: &HostId, lifetime: Duration) -> Identity {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let now = std::time::SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(2)).into();
        request.params.not_after = (now + lifetime).into();
        request.params.distinguished_name = rcgen::DistinguishedName::new();
        request
            .params
            .distinguished_name
            .push(rcgen::DnType::CommonName, host.as_str());
        Identity {
            host: host.clone(),
            certificate_pem: request.signed_by(&self.issuer).unwrap().pem(),
            ca_pem: self.pem.clone(),
        }
    }
}

/// One session as the server sees it.
pub struct ServerSession {
    pub hello: Hello,
    pub certificate: Vec<u8>,
    out: mpsc::Sender<Bytes>,
    pub incoming: mpsc::Receiver<FromHost>,
}

impl ServerSession {
    pub async fn say(&self, message: &ToHost) {
        self.out
            .send(encode_message(message).unwrap())
            .await
            .unwrap();
    }

    pub async fn desired(&self, update: DesiredUpdate) {
        self.say(&ToHost::Desired(update)).await;
    }

    pub async fn hear(&mut self) -> FromHost {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.incoming.recv())
                .await
                .expect("a message in time")
                .expect("an open session");
            if !matches!(message, FromHost::Heartbeat { .. }) {
                return message;
            }
        }
    }

    /// Waits for a report about a workload that satisfies the condition.
    pub async fn report(
        &mut self,
        id: &WorkloadId,
        done: impl Fn(Option<&model::TaskStatus>) -> bool,
    ) -> Option<model::TaskStatus> {
        loop {
            if let FromHost::Status { reports, .. } = self.hear().await
                && let Some(report) = reports
                    .into_iter()
                    .find(|r| r.id == *id && done(r.status.as_ref()))
            {
                return report.status;
            }
        }
    }
}

/// Both directions of a stream the host opened.
pub struct ServerStream {
    pub out: mpsc::Sender<Frame>,
    pub incoming: mpsc::Receiver<Frame>,
}

impl ServerStream {
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(DEADLINE, self.incoming.recv())
            .await
            .expect("a frame in time")
    }

    pub async fn reply(&mut self) -> StreamReply {
        self.next().await.unwrap().parse().unwrap()
    }

    /// Says that what came in is recorded.
    pub async fn recorded(&self) {
        let recorded = wire::link::ImportRecorded { revision: 1 };
        let frame = Frame::json(&recorded).unwrap();
        self.out.send(frame).await.unwrap();
    }

    /// Everything until the end, which must be a proper one.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.expect("an end");
            if frame.kind == FrameKind::End {
                return frames;
            }
            frames.push(frame);
        }
    }
}

struct Shared {
    ca: Arc<Ca>,
    host: HostId,
    lifetime: Mutex<Duration>,
    token_used: Mutex<bool>,
    sessions: mpsc::Sender<ServerSession>,
    streams: Mutex<HashMap<String, tokio::sync::oneshot::Sender<ServerStream>>>,
    blobs: Mutex<HashMap<String, Bytes>>,
    secrets_seen: Mutex<Vec<String>>,
    /// Only sessions with this certificate are taken.
    only: Mutex<Option<Vec<u8>>>,
    refused: tokio::sync::watch::Sender<u64>,
    leases: std::sync::atomic::AtomicBool,
    silent: std::sync::atomic::AtomicBool,
    /// The host was removed.
    removed: tokio::sync::watch::Sender<bool>,
}

pub struct Server {
    pub address: SocketAddr,
    pub ca: Arc<Ca>,
    pub host: HostId,
    pub sessions: tokio::sync::Mutex<mpsc::Receiver<ServerSession>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Arc::new(Ca::new()), "127.0.0.1:0").await
    }

    pub async fn start_with(ca: Arc<Ca>, listen: &str) -> Self {
        let host = HostId::from_bytes(&[7; 32]);
        let key = rcgen::KeyPair::generate().unwrap();
        let params =
            rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let certificate = params.unwrap().signed_by(&key, &ca.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der.clone()).unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider.clone(),
        )
        .allow_unauthenticated()
        .build()
        .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate.der().clone(), ca.der.clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            ca: ca.clone(),
            host: host.clone(),
            lifetime: Mutex::new(Duration::from_secs(3600)),
            token_used: Mutex::default(),
            sessions: sender,
            streams: Mutex::default(),
            blobs: Mutex::default(),
            secrets_seen: Mutex::default(),
            only: Mutex::default(),
            refused: tokio::sync::watch::Sender::new(0),
            silent: std::sync::atomic::AtomicBool::new(false),
            leases: std::sync::atomic::AtomicBool::new(false),
            removed: tokio::sync::watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        let (accepting, stopped) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((tcp, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (acceptor, shared) = (acceptor.clone(), accepting.clone());
                let stopped = stopped.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let peer = tls
                        .get_ref()
                        .1
                        .peer_certificates()
                        .and_then(|c| c.first())
                        .map(|c| c.to_vec());
                    let service = hyper::service::service_fn(move |request| {
                        let (shared, peer) = (shared.clone(), peer.clone());
                        async move { Ok::<_, Infallible>(answer(shared, peer, request).await) }
                    });
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tls), service);
                    let _ = stopped.run_until_cancelled(connection).await;
                });
            }
        });
        Self {
            address,
            ca,
            host,
            sessions: tokio::sync::Mutex::new(sessions),
            shared,
            stop,
        }
    }

    pub fn token(&self) -> String {
        JoinTokenText {
            ca_sha256: self.ca.sha256(),
            id: TokenId::from_bytes(&[9; 32]),
            secret: SECRET.to_owned(),
        }
        .to_string()
    }

    pub fn secrets_seen(&self) -> Vec<String> {
        self.shared.secrets_seen.lock().unwrap().clone()
    }

    pub fn lifetime(&self, lifetime: Duration) {
        *self.shared.lifetime.lock().unwrap() = lifetime;
    }

    /// Refuses sessions with any other certificate from now on.
    pub fn only(&self, certificate: Option<Vec<u8>>) {
        *self.shared.only.lock().unwrap() = certificate;
    }

    /// Says from now on that the host was removed; sessions end when the test lets go of them.
    pub fn remove_host(&self) {
        self.shared.removed.send_replace(true);
    }

    /// Counts refused sessions.
    pub fn refused(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.refused.subscribe()
    }

    /// No heartbeats from now on.
    pub fn silence(&self, silent: bool) {
        self.shared
            .silent
            .store(silent, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether heartbeats are answered with leases from now on.
    pub fn lease(&self, leases: bool) {
        self.shared
            .leases
            .store(leases, std::sync::atomic::Ordering::Relaxed);
    }

    /// Cuts all connections and stops listening.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub fn add_blob(&self, digest: &model::Digest, bytes: Bytes) {
        let mut blobs = self.shared.blobs.lock().unwrap();
        blobs.insert(digest.to_string(), bytes);
    }

    /// The next session, greeted.
    pub async fn session(&self) -> ServerSession {
        let mut sessions = self.sessions.lock().await;
        let session = tokio::time::timeout(DEADLINE, sessions.recv())
            .await
            .expect("a session in time")
            .unwrap();
        session
            .say(&ToHost::Welcome {
                host: self.host.clone(),
                protocol: PROTOCOL_VERSION,
            })
            .await;
        session
    }

    pub async fn open(&self, session: &ServerSession, request: StreamRequest) -> ServerStream {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("stream-{number}");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.shared
            .streams
            .lock()
            .unwrap()
            .insert(id.clone(), sender);
        session.say(&ToHost::OpenStream { id, request }).await;
        tokio::time::timeout(DEADLINE, receiver)
            .await
            .unwrap()
            .unwrap()
    }
}

async fn answer(
    shared: Arc<Shared>,
    peer: Option<Vec<u8>>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    if path != "/link/v1/join" && peer.is_none() {
        return status(401, "no certificate");
    }
    if path == "/link/v1/join" {
        return join(&shared, request).await;
    }
    if path == "/link/v1/renew" {
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let renew: RenewRequest = serde_json::from_slice(&bytes).unwrap();
        let lifetime = *shared.lifetime.lock().unwrap();
        let identity = shared.ca.sign(&renew.csr_pem, &shared.host, lifetime);
        return http::Response::new(full(serde_json::to_vec(&identity).unwrap()));
    }
    if path == "/link/v1/session" {
        let peer = peer.unwrap();
        if *shared.removed.borrow() {
            shared.refused.send_modify(|n| *n += 1);
            return status(410, "this host was removed");
        }
        let only = shared.only.lock().unwrap().clone();
        if only.is_some_and(|only| only != peer) {
            shared.refused.send_modify(|n| *n += 1);
            return status(403, "this certificate is not known");
        }
        return session(shared, peer, request).await;
    }
    if let Some(id) = path.strip_prefix("/link/v1/streams/") {
        let Some(waiting) = shared.streams.lock().unwrap().remove(id) else {
            return status(404, "no such stream");
        };
        return stream(waiting, request);
    }
    if let (Some(digest), &http::Method::GET) = (path.strip_prefix("/link/v1/blobs/"), &method) {
        return match shared.blobs.lock().unwrap().get(digest) {
            Some(bytes) => http::Response::new(full(bytes.clone())),
            None => status(404, "no host has this blob"),
        };
    }
    status(404, "no such path")
}

fn status(code: u16, message: &str) -> http::Response<Body> {
    let json = serde_json::json!({ "message": message }).to_string();
    let mut response = http::Response::new(full(json));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

async fn join(shared: &Shared, request: http::Request<Incoming>) -> http::Response<Body> {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let join: JoinRequest = serde_json::from_slice(&bytes).unwrap();
    let token = JoinTokenText::parse(&join.token).unwrap();
    shared
        .secrets_seen
        .lock()
        .unwrap()
        .push(token.secret.clone());
    if token.secret != SECRET {
        return status(403, "this join token is not known");
    }
    if std::mem::replace(&mut *shared.token_used.lock().unwrap(), true) {
        return status(409, "this join token was used already");
    }
    let lifetime = *shared.lifetime.lock().unwrap();
    let identity = shared.ca.sign(&join.csr_pem, &shared.host, lifetime);
    http::Response::new(full(serde_json::to_vec(&identity).unwrap()))
}

async fn session(
    shared: Arc<Shared>,
    certificate: Vec<u8>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let mut body = request.into_body();
    let mut buffer = BytesMut::new();
    let hello = loop {
        if let Some(message) = decode_message::<FromHost>(&mut buffer).unwrap() {
            let FromHost::Hello(hello) = message else {
                return status(400, "hello comes first");
            };
            break hello;
        }
        let Some(Ok(piece)) = body.frame().await else {
            return status(400, "no hello");
        };
        buffer.extend_from_slice(&piece.into_data().unwrap_or_default());
    };
    let (out, mut to_host) = mpsc::channel::<Bytes>(64);
    let (feed, incoming) = mpsc::channel(1024);
    let (answer, answering) = (out.clone(), shared.clone());
    tokio::spawn(async move {
        loop {
            while let Some(message) = decode_message::<FromHost>(&mut buffer).unwrap() {
                let leases = answering.leases.load(std::sync::atomic::Ordering::Relaxed);
                if let FromHost::Heartbeat { number } = &message
                    && leases
                {
                    let (number, fresh_ms) = (*number, Some(0));
                    let lease = ToHost::Heartbeat { number, fresh_ms };
                    let _ = answer.send(encode_message(&lease).unwrap()).await;
                }
                if feed.send(message).await.is_err() {
                    return;
                }
            }
            let Some(Ok(piece)) = body.frame().await else {
                return;
            };
            buffer.extend_from_slice(&piece.into_data().unwrap_or_default());
        }
    });
    let (beat, beating) = (out.clone(), shared.clone());
    let mut removed = shared.removed.subscribe();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(HEARTBEAT_SECONDS));
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = removed.wait_for(|removed| *removed) => return,
            }
            if beating.silent.load(std::sync::atomic::Ordering::Relaxed) {
                continue;
            }
            let message = encode_message(&ToHost::Heartbeat {
                number: 0,
                fresh_ms: None,
            })
            .unwrap();
            if beat.send(message).await.is_err() {
                return;
            }
        }
    });
    let opened = ServerSession {
        hello,
        certificate,
        out,
        incoming,
    };
    if shared.sessions.send(opened).await.is_err() {
        return status(503, "nobody listens");
    }
    let stream = futures::stream::poll_fn(move |cx| to_host.poll_recv(cx));
    let stream = futures::StreamExt::map(stream, |b| Ok(BodyFrame::data(b)));
    http::Response::new(StreamBody::new(stream).boxed_unsync())
}

fn stream(
    waiting: tokio::sync::oneshot::Sender<ServerStream>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let mut body = request.into_body();
    let (out, mut to_host) = mpsc::channel::<Frame>(8);
    let (feed, incoming) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        while let Some(Ok(piece)) = body.frame().await {
            buffer.extend_from_slice(&piece.into_data().unwrap_or_default());
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                if feed.send(frame).await.is_err() {
                    return;
                }
            }
        }
    });
    let _ = waiting.send(ServerStream { out, incoming });
    let stream = futures::stream::poll_fn(move |cx| to_host.poll_recv(cx));
    let stream = futures::StreamExt::map(stream, |f| Ok(BodyFrame::data(f.encode())));
    http::Response::new(StreamBody::new(stream).boxed_unsync())
}

/// A host with its agent.
pub struct Host {
    pub folder: tempfile::TempDir,
    pub fake: Arc<FakeHost>,
}

pub fn now() -> Timestamp {
    Clock::System.now()
}

impl Host {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            fake: FakeHost::new(Clock::System),
        }
    }

    pub async fn join(&self, server: &Server) {
        let folder = agent::identity::IdentityFolder::of(self.folder.path());
        let servers = [server.address.to_string()];
        agent::identity::join(&folder, &servers, &server.token(), &Default::default())
            .await
            .unwrap();
    }

    pub fn agent(&self, servers: &[&Server]) -> Agent {
        let config = AgentConfig {
            data_dir: self.folder.path().to_owned(),
            servers: servers.iter().map(|s| s.address.to_string()).collect(),
            facts: model::HostFacts::default(),
            sync: true,
            clock: Clock::System,
        };
        Agent::new(config, self.fake.drivers())
    }

    /// Runs the agent until the returned guard is dropped, as if it were killed then.
    pub fn run(&self, servers: &[&Server]) -> Running {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(self.agent(servers).run(shutdown.clone()));
        Running { task, shutdown }
    }
}

pub struct Running {
    pub task: tokio::task::JoinHandle<Result<agent::Ended, agent::AgentError>>,
    pub shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn workload(n: u8, command: &[&str], desired: DesiredState, run: u64) -> HostWorkload {
    let json = serde_json::json!({
        "id": WorkloadId::from_bytes(&[n; 32]),
        "pool": model::PoolId::from_bytes(&[1; 32]),
        "pool_name": "team",
        "name": format!("w{n}"),
        "spec": {
            "task": {
                "image": "web",
                "image_id": format!("sha256:{}", "a".repeat(64)),
                "args": command,
            },
        },
        "image": {
            "id": format!("sha256:{}", "a".repeat(64)),
            "pool": model::PoolId::from_bytes(&[1; 32]),
            "content": {
                "config": format!("sha256:{}", "a".repeat(64)),
                "config_bytes": 10,
                "layers": [],
            },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
            "added_at": 0,
        },
        "desired": desired,
        "run": run,
    });
    serde_json::from_value(json).unwrap()
}

pub fn whole(generation: u64, workloads: &[HostWorkload]) -> DesiredUpdate {
    DesiredUpdate {
        base: None,
        generation,
        upsert: workloads
            .iter()
            .map(|w| (w.id.clone(), Arc::new(w.clone())))
            .collect(),
        ..DesiredUpdate::default()
    }
}
