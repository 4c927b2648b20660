//! What is asked of the cluster's own server.

use std::path::Path;

use anyhow::{Context, Result};
use http::Method;
use wire::client::endpoint::Endpoint;
use wire::client::native::{Client, Patience};
use wire::native::List;
use wire::native::host::{Host, JoinToken, JoinTokenCreate};

/// A token is used at once by a program that is started at once.
const TOKEN_SECONDS: u64 = 300;

/// The server of a cluster.
pub(super) struct Server {
    client: Client,
}

impl Server {
    /// By its socket.
    pub(super) fn new(socket: &Path) -> Self {
        let endpoint = Endpoint::Unix(socket.to_owned());
        Self {
            client: Client::new(endpoint, None, None),
        }
    }

    /// All hosts it knows.
    pub(super) async fn hosts(&self) -> Result<Vec<Host>> {
        let list: List<Host> = self
            .client
            .get("/api/v1/hosts")
            .await
            .context("ask the server for its hosts")?;
        Ok(list.items)
    }

    /// A token for one host to join with.
    pub(super) async fn join_token(&self) -> Result<String> {
        let request = JoinTokenCreate {
            ttl_seconds: Some(TOKEN_SECONDS),
        };
        let path = "/api/v1/join-tokens";
        let token: JoinToken = self
            .client
            .call(Method::POST, path, Some(&request), Patience::Short)
            .await
            .context("ask the server for a join token")?;
        Ok(token.token)
    }
}
