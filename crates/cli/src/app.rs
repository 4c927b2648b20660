//! What every command has: the client, the printer, and how a pool or workload is found.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use wire::client::endpoint::Endpoint;
use wire::client::native::{Client, ClientError, path};
use wire::client::trust::authority_config;
use wire::native::pool::Pool;
use wire::native::workload::Workload;
use wire::native::{List, ProblemKind};

use crate::args::Global;
use crate::error::{Doing as _, Failure, Result};
use crate::output::Printer;
use crate::{exit, human, profile};

/// Sockets of servers on this machine, tried in this order; the last one is that of `make demo`.
const LOCAL_SOCKETS: [&str; 2] = ["/var/lib/plimsoll/server.sock", "/run/plimsoll/server.sock"];

/// What every command has.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// The way to the server.
    pub client: Client,
    /// The way out.
    pub printer: Printer,
    pool: Option<String>,
}

/// A workload with the pool to look in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    /// Name or id of the pool.
    pub pool: String,
    /// Name or id of the workload.
    pub workload: String,
}

impl Located {
    /// Path of the workload, with further segments.
    #[must_use]
    pub(crate) fn path(&self, more: &[&str]) -> String {
        let mut segments = vec!["pools", &self.pool, "workloads", &self.workload];
        segments.extend_from_slice(more);
        path(&segments)
    }
}

impl App {
    /// Chooses the server: as asked, else where one is logged in, else that of this machine.
    pub(crate) fn new(global: &Global) -> Result<Self> {
        Ok(Self {
            client: client(global.server.as_deref())?,
            printer: Printer::new(global.no_color, global.quiet),
            pool: global.pool.clone(),
        })
    }

    /// The pool that was named, if one was.
    #[must_use]
    pub(crate) fn named_pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The pool to work in: the one named, else the only one.
    pub(crate) async fn pool(&self) -> Result<String> {
        if let Some(pool) = &self.pool {
            return Ok(pool.clone());
        }
        let pools: List<Pool> = self
            .client
            .get(&path(&["pools"]))
            .await
            .doing(|| "cannot list pools".into())?;
        match &pools.items[..] {
            [pool] => Ok(pool.name.clone()),
            [] => Err(Failure::new(exit::NOT_FOUND, "there is no pool to work in")
                .why("nobody has made one, or you may see none")
                .hint("plimsoll pool create NAME")),
            many => {
                let names: Vec<&str> = many.iter().map(|pool| pool.name.as_str()).collect();
                Err(Failure::new(exit::USAGE, "which pool?")
                    .why(format!("you may see several: {}", names.join(", ")))
                    .hint("name one with --pool or PLIMSOLL_POOL"))
            }
        }
    }

    /// Finds the pool of a workload: the one named (also as POOL/WORKLOAD), else wherever the reference fits once.
    pub(crate) async fn locate(&self, reference: &str) -> Result<Located> {
        let at = |pool: &str, workload: &str| Located {
            pool: pool.into(),
            workload: workload.into(),
        };
        if let Some((pool, workload)) = reference.split_once('/') {
            return Ok(at(pool, workload));
        }
        if let Some(pool) = &self.pool {
            return Ok(at(pool, reference));
        }
        let all: List<Workload> = self
            .client
            .get(&path(&["workloads"]))
            .await
            .doing(|| "cannot list workloads".into())?;
        let exact: Vec<&Workload> = all
            .items
            .iter()
            .filter(|it| it.name == reference || it.id == reference)
            .collect();
        let found = if exact.is_empty() {
            all.items
                .iter()
                .filter(|it| !reference.is_empty() && it.id.starts_with(reference))
                .collect()
        } else {
            exact
        };
        match found[..] {
            [one] => Ok(at(&one.pool.name, &one.id)),
            [] => Err(no_such(
                "workload",
                reference,
                all.items.iter().map(|it| it.name.as_str()),
            )),
            _ => {
                let names: Vec<String> = found
                    .iter()
                    .map(|it| format!("{}/{}", it.pool.name, it.name))
                    .collect();
                Err(
                    Failure::new(exit::CONFLICT, format!("which workload \"{reference}\"?"))
                        .why(format!("there are several: {}", names.join(", ")))
                        .hint("name the pool with --pool, or write POOL/WORKLOAD"),
                )
            }
        }
    }

    /// Adds "did you mean" to a workload that was not found in its pool.
    pub(crate) async fn explain(
        &self,
        located: &Located,
        error: ClientError,
        what: String,
    ) -> Failure {
        let kind = error.kind();
        let failure = match Err::<(), _>(error).doing(|| what) {
            Ok(()) => return Failure::silent(exit::OK),
            Err(failure) => failure,
        };
        if kind != Some(ProblemKind::NotFound) || !failure.hint.is_empty() {
            return failure;
        }
        let list = path(&["pools", &located.pool, "workloads"]);
        match self.client.get::<List<Workload>>(&list).await {
            Ok(all) => {
                let near = human::nearest(
                    &located.workload,
                    all.items.iter().map(|it| it.name.as_str()),
                );
                match near[..] {
                    [] => failure.hint(format!("see `plimsoll ps -a --pool {}`", located.pool)),
                    _ => failure.hint(format!("did you mean {}?", near.join(" or "))),
                }
            }
            Err(_) => self.explain_pool(&located.pool, failure).await,
        }
    }

    /// Adds "did you mean" to a pool that was not found.
    pub(crate) async fn explain_pool(&self, pool: &str, failure: Failure) -> Failure {
        if failure.code != exit::NOT_FOUND || !failure.hint.is_empty() {
            return failure;
        }
        let Ok(all) = self.client.get::<List<Pool>>(&path(&["pools"])).await else {
            return failure;
        };
        let near = human::nearest(pool, all.items.iter().map(|it| it.name.as_str()));
        match near[..] {
            [] if all.items.is_empty() => failure.hint("make one: plimsoll pool create NAME"),
            [] => failure.hint("see `plimsoll pool ls`"),
            _ => failure.hint(format!("did you mean {}?", near.join(" or "))),
        }
    }

    /// Asks on a terminal before data is lost; without a terminal the command line is taken at its word.
    pub(crate) fn confirm(&self, yes: bool, question: &str) -> Result<()> {
        if yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Ok(());
        }
        let mut err = std::io::stderr();
        // If the question cannot be shown, the answer read below is empty, which means no.
        let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .doing(|| "cannot read the answer".into())?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Failure::new(exit::FAILED, "nothing was changed").hint("answer y, or use --yes"))
        }
    }
}

fn no_such<'a>(noun: &str, reference: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let failure = Failure::new(exit::NOT_FOUND, format!("no such {noun}: {reference}"));
    match human::nearest(reference, known)[..] {
        [] => failure.hint("see `plimsoll ps -a`"),
        ref near => failure.hint(format!("did you mean {}?", near.join(" or "))),
    }
}

fn client(server: Option<&str>) -> Result<Client> {
    let usage = |error: &dyn std::error::Error| Failure::new(exit::USAGE, error.to_string());
    let token = std::env::var("PLIMSOLL_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let login = profile::load()?;
    let (endpoint, login) = match server {
        Some(text) => {
            let endpoint = Endpoint::parse(text).map_err(|error| usage(&error))?;
            let same =
                login.filter(|login| Endpoint::parse(&login.server).as_ref() == Ok(&endpoint));
            (endpoint, same)
        }
        None => match login {
            Some(login) => (
                Endpoint::parse(&login.server).map_err(|error| usage(&error))?,
                Some(login),
            ),
            None => (Endpoint::Unix(local_socket().into()), None),
        },
    };
    let tls = match (&endpoint, &login) {
        (Endpoint::Tls { .. }, Some(login)) => Some(
            authority_config(&login.ca_pem)
                .map_err(|error| usage(&error).hint(format!("plimsoll login {endpoint}")))?,
        ),
        (Endpoint::Tls { .. }, None) => {
            return Err(Failure::new(
                exit::REFUSED,
                format!("you are not logged in to {endpoint}"),
            )
            .hint(format!("plimsoll login {endpoint}")));
        }
        (Endpoint::Unix(_) | Endpoint::Plain { .. }, _) => None,
    };
    let token = token.or(login.map(|login| login.token));
    Ok(Client::new(endpoint, tls, token.as_deref()))
}

fn local_socket() -> &'static str {
    LOCAL_SOCKETS
        .into_iter()
        .find(|socket| Path::new(socket).exists())
        .unwrap_or(LOCAL_SOCKETS[0])
}
