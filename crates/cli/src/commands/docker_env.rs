//! `docker-env`: what lets docker use a pool.
//!
//! On the server's machine the pool's Unix socket is enough; from elsewhere a client certificate is made and kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use http::Method;
use serde::{Deserialize, Serialize};
use wire::client::native::{Patience, path};
use wire::native::pool::{Credentials, CredentialsCreate, Pool};

use crate::app::App;
use crate::args::{DockerEnvArgs, Global};
use crate::error::{Doing as _, Failure, Result};
use crate::output::Printer;
use crate::{exit, human, profile};

/// Where docker finds the pool.
enum Access {
    Socket(String),
    Tls { endpoint: String, folder: PathBuf },
}

/// Beside the certificate files: whether they can be used again.
#[derive(Serialize, Deserialize)]
struct Kept {
    pool: String,
    endpoint: String,
    server: String,
    expires_ms: i64,
}

pub(super) async fn docker_env(app: &App, args: &DockerEnvArgs) -> Result<()> {
    let Some(name) = &args.pool_name else {
        return Ok(());
    };
    let found = app.client.get(&path(&["pools", name])).await;
    let pool: Pool = match found.doing(|| format!("cannot use docker with pool \"{name}\"")) {
        Ok(pool) => pool,
        Err(failure) => return Err(app.explain_pool(name, failure).await),
    };
    let local = app.client.endpoint().unix_path().is_some() && !args.tls;
    let access = match pool.docker_socket.clone().filter(|_| local) {
        Some(socket) => Access::Socket(socket),
        None => tls(app, &pool, args.days).await?,
    };
    match &args.context {
        Some(context) => make_context(app, context, &pool, &access),
        None => print(app, args, &pool, &access),
    }
}

/// Prints what takes the settings back.
pub(super) fn unset(global: &Global, args: &DockerEnvArgs) -> Result<u8> {
    let printer = Printer::new(global.no_color, global.quiet);
    let names = ["DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"];
    let text: String = names
        .iter()
        .map(|name| {
            if args.shell == "fish" {
                format!("set -e {name};\n")
            } else {
                format!("unset {name}\n")
            }
        })
        .collect();
    printer.print(&text).map(|()| exit::OK)
}

fn print(app: &App, args: &DockerEnvArgs, pool: &Pool, access: &Access) -> Result<()> {
    let fish = args.shell == "fish";
    let set = |name: &str, value: &str| {
        let value = quoted(value);
        if fish {
            format!("set -gx {name} {value};\n")
        } else {
            format!("export {name}={value}\n")
        }
    };
    let unset = |name: &str| {
        if fish {
            format!("set -e {name};\n")
        } else {
            format!("unset {name}\n")
        }
    };
    let mut text = match access {
        Access::Socket(socket) => {
            set("DOCKER_HOST", socket) + &unset("DOCKER_TLS_VERIFY") + &unset("DOCKER_CERT_PATH")
        }
        Access::Tls { endpoint, folder } => {
            set("DOCKER_HOST", endpoint)
                + &set("DOCKER_TLS_VERIFY", "1")
                + &set("DOCKER_CERT_PATH", &folder.to_string_lossy())
        }
    };
    if app.printer.terminal {
        let (how, back) = if fish {
            ("| source", "--unset --shell fish | source")
        } else {
            ("", "--unset")
        };
        text.push_str(&if fish {
            format!("# To use it: plimsoll docker-env {} --shell fish {how}\n# To go back: plimsoll docker-env {back}\n", pool.name)
        } else {
            format!(
                "# To use it: eval \"$(plimsoll docker-env {})\"\n# To go back: eval \"$(plimsoll docker-env {back})\"\n",
                pool.name
            )
        });
    }
    app.printer.print(&text)
}

/// A word for a shell: as it is, or in single quotes.
fn quoted(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '.' | '_' | '-' | '[' | ']');
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

async fn tls(app: &App, pool: &Pool, days: u32) -> Result<Access> {
    let folder = profile::folder()?.join("pools").join(&pool.name);
    let server = app.client.endpoint().to_string();
    if let Some(kept) = kept(&folder, pool, &server) {
        return Ok(Access::Tls {
            endpoint: kept.endpoint,
            folder,
        });
    }
    let body = CredentialsCreate {
        ttl_days: Some(days),
    };
    let make = path(&["pools", &pool.name, "credentials"]);
    let made = app
        .client
        .call(Method::POST, &make, Some(&body), Patience::Short)
        .await;
    let made: Credentials =
        made.doing(|| format!("cannot get a certificate for pool \"{}\"", pool.name))?;
    for (file, text) in [
        ("ca.pem", &made.ca_pem),
        ("cert.pem", &made.cert_pem),
        ("key.pem", &made.key_pem),
    ] {
        profile::write_private(&folder.join(file), text.as_bytes())?;
    }
    let kept = Kept {
        pool: pool.id.clone(),
        endpoint: made.endpoint.clone(),
        server,
        expires_ms: human::now_ms() + i64::from(days) * 86_400_000,
    };
    let kept = serde_json::to_vec_pretty(&kept).unwrap_or_default();
    profile::write_private(&folder.join("kept.json"), &kept)?;
    Ok(Access::Tls {
        endpoint: made.endpoint,
        folder,
    })
}

/// Credentials from before, if they are for the same pool of the same server and work for another day.
fn kept(folder: &Path, pool: &Pool, server: &str) -> Option<Kept> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(folder.join("kept.json")).ok()?).ok()?;
    let whole = ["ca.pem", "cert.pem", "key.pem"]
        .iter()
        .all(|file| folder.join(file).exists());
    let usable = kept.pool == pool.id
        && kept.server == server
        && kept.expires_ms > human::now_ms() + 86_400_000;
    (whole && usable).then_some(kept)
}

fn make_context(app: &App, context: &str, pool: &Pool, access: &Access) -> Result<()> {
    let endpoint = match access {
        Access::Socket(socket) => format!("host={socket}"),
        Access::Tls { endpoint, folder } => {
            let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
            format!(
                "host={endpoint},ca={},cert={},key={}",
                file("ca.pem"),
                file("cert.pem"),
                file("key.pem")
            )
        }
    };
    let description = format!("Plimsoll pool {}", pool.name);
    let docker = |verb: &str| {
        Command::new("docker")
            .args([
                "context",
                verb,
                context,
                "--description",
                &description,
                "--docker",
                &endpoint,
            ])
            .env_remove("DOCKER_HOST")
            .output()
            .map_err(|error| {
                Failure::new(exit::FAILED, "cannot run docker")
                    .why(error.to_string())
                    .hint("install Docker's client, or use the exports without --context")
            })
    };
    let mut done = docker("create")?;
    if String::from_utf8_lossy(&done.stderr).contains("already exists") {
        done = docker("update")?;
    }
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::new(
            exit::FAILED,
            format!("docker cannot make context \"{context}\""),
        )
        .why(why.trim()));
    }
    app.printer.line(context)?;
    app.printer.note(&format!(
        "Use it: docker --context {context} ps, or docker context use {context}"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_shells() {
        assert_eq!(quoted("unix:///run/a-b.sock"), "unix:///run/a-b.sock");
        assert_eq!(quoted("/a b/$(x)'y"), "'/a b/$(x)'\\''y'");
    }
}
