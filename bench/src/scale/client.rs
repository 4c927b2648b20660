//! Whoever uses the API: over a Unix socket, as the command line does, each request on a connection of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Method;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use wire::client::endpoint::Endpoint;
use wire::client::native::{Client, Patience, path, with_query};

/// How long calls took, by kind.
#[derive(Clone, Default)]
pub(super) struct Times(Arc<Mutex<BTreeMap<&'static str, Vec<Duration>>>>);

impl Times {
    fn add(&self, kind: &'static str, took: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.entry(kind).or_default().push(took);
    }

    /// Kinds with sorted times; forgets them.
    pub(super) fn take(&self) -> BTreeMap<&'static str, Vec<Duration>> {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = std::mem::take(&mut *times);
        all.values_mut().for_each(|times| times.sort_unstable());
        all
    }
}

/// A user.
#[derive(Clone)]
pub(super) struct User {
    client: Client,
    pub(super) times: Times,
}

/// A workload that was made: its pool and its id.
pub(super) type Made = (usize, String);

impl User {
    /// A user of the server at a socket.
    ///
    /// # Errors
    /// When its path is not absolute.
    pub(super) fn new(socket: &str) -> Result<Self> {
        let endpoint = Endpoint::parse(socket)?;
        Ok(Self {
            client: Client::new(endpoint, None, None),
            times: Times::default(),
        })
    }

    /// Makes and starts a workload, until it runs.
    pub(super) async fn create_and_start(&self, pool: usize, number: u64) -> Result<Made> {
        let begun = Instant::now();
        let name = pool_name(pool);
        let body = json!({
            "name": format!("w{number}"),
            "spec": {
                "labels": { "app": format!("app-{}", number % 100) },
                "network": "bridge",
                "restart": { "policy": "always" },
                "task": {
                    "image": "web:1", "args": ["serve"],
                    "resources": { "request_cpu_millis": 50, "request_memory_bytes": 64 << 20 },
                },
            },
        });
        let at = path(&["pools", &name, "workloads"]);
        let made: Value = self
            .call(Method::POST, &at, Some(&body), Patience::Short)
            .await?;
        let created = Instant::now();
        let id = made["id"]
            .as_str()
            .context("no id in the answer")?
            .to_owned();
        let at = path(&["pools", &name, "workloads", &id, "start"]);
        let _: IgnoredAny = self.call(Method::POST, &at, None, Patience::Long).await?;
        self.times.add("create", created - begun);
        self.times
            .add("create and start until it runs", begun.elapsed());
        Ok((pool, id))
    }

    /// Kills and removes a workload.
    pub(super) async fn remove(&self, made: &Made) -> Result<()> {
        let begun = Instant::now();
        let at = path(&["pools", &pool_name(made.0), "workloads", &made.1]);
        let at = with_query(at, "force", "true");
        let _: IgnoredAny = self.call(Method::DELETE, &at, None, Patience::Long).await?;
        self.times.add("remove", begun.elapsed());
        Ok(())
    }

    /// Looks at one workload.
    pub(super) async fn inspect(&self, made: &Made) -> Result<()> {
        let at = path(&["pools", &pool_name(made.0), "workloads", &made.1]);
        self.read("inspect", &at).await
    }

    /// Lists the workloads of a pool.
    pub(super) async fn list(&self, pool: usize) -> Result<()> {
        let at = path(&["pools", &pool_name(pool), "workloads"]);
        self.read("list of a pool", &at).await
    }

    /// What all pools use.
    pub(super) async fn pool_use(&self) -> Result<()> {
        self.read("pool-use", &path(&["pool-use"])).await
    }

    async fn read(&self, kind: &'static str, at: &str) -> Result<()> {
        let begun = Instant::now();
        let _: IgnoredAny = self.call(Method::GET, at, None, Patience::Short).await?;
        self.times.add(kind, begun.elapsed());
        Ok(())
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        at: &str,
        body: Option<&Value>,
        patience: Patience,
    ) -> Result<T> {
        let answer = self.client.call(method.clone(), at, body, patience).await;
        answer.with_context(|| format!("{method} {at}"))
    }
}

/// The name of a pool.
pub(super) fn pool_name(number: usize) -> String {
    format!("team-{number}")
}
