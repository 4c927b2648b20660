//! The connection: options, time limits, and what its errors mean.

use std::time::Duration;

use etcd_client::{
    Certificate, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse, Identity,
    KvClient, TlsOptions, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchClient,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{EtcdOptions, keys::Keys};
use crate::error::Source;
use crate::{CommitError, OpenError};

/// Version of the layout this program writes, and the highest it reads.
const FORM: u32 = 1;

/// How long one call may take: longer than etcd's own limit of 5 s plus an election, so that etcd's answer is heard.
const CALL: Duration = Duration::from_secs(8);

/// Pause before a call that found no connection is made again: a refusal takes no time, and a member that restarts is
/// back within a second.
const NEXT_MEMBER: Duration = Duration::from_millis(20);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);

/// A silent member is noticed after this long (interval) plus this long (answer).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(3));

/// Longest answer. A page of a list or a batch of events holds at most some hundred objects of at most 1 MiB.
const ANSWER_BYTES: usize = 512 * 1024 * 1024;

/// Objects per page of a list.
pub(super) const PAGE: i64 = 256;

/// Certificates for `https` endpoints, PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Whom to believe.
    pub ca_pem: String,
    /// Own certificate and its key, if etcd asks for one.
    pub identity_pem: Option<(String, String)>,
    /// Name in etcd's certificate, if it differs from the endpoint's.
    pub server_name: Option<String>,
}

#[derive(Clone)]
pub(super) struct Client {
    kv: KvClient,
    watch: WatchClient,
    pub(super) endpoints: String,
}

impl Client {
    pub(super) async fn connect<E: AsRef<str>>(
        endpoints: &[E],
        options: &EtcdOptions,
    ) -> Result<Self, OpenError> {
        let endpoints: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
        let joined = endpoints.join(",");
        let connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            // A member cut off from the others ends its watches instead of falling silent.
            .with_require_leader(true);
        let connect = with_identity(connect, options);
        let failed = |source: Source| OpenError::Etcd {
            doing: "connect to",
            endpoints: joined.clone(),
            source,
        };
        let client = timeout(CALL, etcd_client::Client::connect(endpoints, Some(connect)))
            .await
            .map_err(|elapsed| failed(elapsed.into()))?
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(ANSWER_BYTES),
            watch: client
                .watch_client()
                .max_decoding_message_size(ANSWER_BYTES),
            endpoints: joined,
        })
    }

    pub(super) fn watch_client(&self) -> WatchClient {
        self.watch.clone()
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse, CallError> {
        call(|| {
            let (mut kv, txn) = (self.kv.clone(), txn.clone());
            async move { kv.txn(txn).await }
        })
        .await
    }

    pub(super) async fn get(
        &self,
        key: String,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, CallError> {
        call(|| {
            let (mut kv, key, options) = (self.kv.clone(), key.clone(), options.clone());
            async move { kv.get(key, options).await }
        })
        .await
    }

    pub(super) async fn put(&self, key: String) -> Result<i64, CallError> {
        let response = call(|| {
            let (mut kv, key) = (self.kv.clone(), key.clone());
            async move { kv.put(key, "", None).await }
        })
        .await?;
        Ok(response.header().map_or(0, |header| header.revision()))
    }

    /// Writes the version of the layout if there is none, else checks it.
    pub(super) async fn check_form(&self, keys: &Keys) -> Result<(), OpenError> {
        let key = keys.form();
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), FORM.to_string(), None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self
            .txn(txn)
            .await
            .map_err(|error| self.open_error("read the layout's version from", error.into()))?;
        if answer.succeeded() {
            return Ok(());
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => get
                .kvs()
                .first()
                .and_then(|kv| kv.value_str().ok()?.parse::<i64>().ok()),
            _ => None,
        });
        match found {
            Some(found) if found == i64::from(FORM) => Ok(()),
            found => Err(OpenError::TooNew {
                path: format!("etcd key {}", keys.form()).into(),
                found: found.unwrap_or(i64::MAX),
                known: i64::from(FORM),
            }),
        }
    }

    pub(super) fn open_error(&self, doing: &'static str, source: Source) -> OpenError {
        OpenError::Etcd {
            doing,
            endpoints: self.endpoints.clone(),
            source,
        }
    }
}

fn with_identity(mut connect: ConnectOptions, options: &EtcdOptions) -> ConnectOptions {
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password);
    }
    if let Some(tls) = &options.tls {
        let mut it = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
        if let Some((certificate, key)) = &tls.identity_pem {
            it = it.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            it = it.domain_name(name);
        }
        connect = connect.with_tls(it);
    }
    connect
}

/// Why a call to etcd failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No answer in time.
    #[error("no answer within {} s", CALL.as_secs())]
    Timeout,
    /// etcd or the connection says no.
    #[error(transparent)]
    Etcd(#[from] Error),
}

/// Makes a call. One that finds no connection is made again: the next one goes to another member.
async fn call<T, F>(make: impl Fn() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = Instant::now() + CALL;
    loop {
        let error = match timeout_at(until, make()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => CallError::Etcd(error),
            Err(_) => return Err(CallError::Timeout),
        };
        if !error.never_sent() || Instant::now() + NEXT_MEMBER >= until {
            return Err(error);
        }
        tokio::time::sleep(NEXT_MEMBER).await;
    }
}

impl CallError {
    /// Whether it is certain that no member saw the call: there was no connection to send it over. The client library
    /// says so in words only: these are what its connector calls the steps before a connection is there.
    pub(super) fn never_sent(&self) -> bool {
        let CallError::Etcd(Error::GRpcStatus(status)) = self else {
            return false;
        };
        let connecting = ["tcp connect error", "tcp open error", "dns error"];
        let message = status.message();
        connecting.iter().any(|step| message.starts_with(step))
    }

    /// Whether etcd refused for good, so that nothing was written; with the error to answer.
    pub(super) fn refusal(&self, endpoints: &str) -> Option<CommitError> {
        let CallError::Etcd(Error::GRpcStatus(status)) = self else {
            return None;
        };
        let message = status.message();
        if message.contains("database space exceeded") || message.contains("no space") {
            return Some(CommitError::Full {
                place: format!("etcd at {endpoints}"),
            });
        }
        if message.contains("request is too large") || message.contains("too many operations") {
            return Some(CommitError::TooLarge {
                what: "the request to etcd",
                size: usize::MAX,
                limit: crate::MAX_TRANSACTION_BYTES,
            });
        }
        None
    }
}
