//! Login, tokens, users.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use http::Method;
use nix::sys::termios::{self, LocalFlags, SetArg};
use wire::client::endpoint::Endpoint;
use wire::client::native::{Client, Patience, path};
use wire::client::trust::{authority_config, show_authority};
use wire::native::List;
use wire::native::access::{
    Binding, BindingRequest, Principal, PrincipalBind, PrincipalCreate, Role, Token, TokenCreate,
    TokenCreated,
};
use wire::native::system::{Info, WhoAmI};

use crate::app::App;
use crate::args::{Format, Global, LoginArgs, TokenCommand, UserCommand};
use crate::error::{Doing as _, Failure, Result};
use crate::output::{Printer, Table};
use crate::profile::{self, Login};
use crate::{exit, human};

pub(super) async fn login(global: &Global, args: &LoginArgs) -> Result<()> {
    let printer = Printer::new(global.no_color, global.quiet);
    let what = || format!("cannot log in to {}", args.url);
    let endpoint =
        Endpoint::parse(&args.url).map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
    let ca_pem = match &endpoint {
        Endpoint::Tls { .. } => trusted_ca(&endpoint, args).await?,
        Endpoint::Plain { .. } => String::new(),
        Endpoint::Unix(_) => {
            return Err(Failure::new(exit::USAGE, what())
                .why("a Unix socket needs no login")
                .hint(format!(
                    "use it at once: plimsoll --server {} pool ls",
                    args.url
                )));
        }
    };
    let token = token_text(args)?;
    let tls = match &endpoint {
        Endpoint::Tls { .. } => Some(
            authority_config(&ca_pem)
                .map_err(|error| Failure::new(exit::FAILED, what()).why(error.to_string()))?,
        ),
        Endpoint::Plain { .. } | Endpoint::Unix(_) => None,
    };
    let client = Client::new(endpoint.clone(), tls, Some(&token));
    let me: WhoAmI = client.get(&path(&["whoami"])).await.doing(what).map_err(|failure| {
        if failure.code == exit::REFUSED {
            failure.hint("check that the token is whole; an administrator makes one with `plimsoll token create`")
        } else {
            failure
        }
    })?;
    let file = profile::save(&Login {
        server: endpoint.to_string(),
        ca_pem,
        token,
    })?;
    printer.note(&format!(
        "Logged in to {endpoint} as {}; kept in {}",
        me.name,
        file.display()
    ));
    Ok(())
}

/// The installation's CA after a person or a hash has vouched for it; nothing secret has been sent before.
async fn trusted_ca(endpoint: &Endpoint, args: &LoginArgs) -> Result<String> {
    let what = || format!("cannot log in to {endpoint}");
    let authority = show_authority(endpoint)
        .await
        .map_err(wire::client::native::ClientError::from)
        .doing(what)?;
    match &args.ca_sha256 {
        Some(wanted) if wanted.to_ascii_lowercase().replace(':', "") == authority.sha256 => Ok(authority.pem),
        Some(_) => Err(Failure::new(exit::REFUSED, what())
            .why(format!("the server shows another CA: {}", authority.sha256))
            .hint("compare --ca-sha256 with what the administrator gave you; someone may be in between")),
        None if !std::io::stdin().is_terminal() || args.token_stdin => {
            Err(Failure::new(exit::REFUSED, what())
                .why("the server's CA is not known and nobody can be asked")
                .hint(format!("if it is the right one, add --ca-sha256 {}", authority.sha256)))
        }
        None => {
            let mut err = std::io::stderr();
            let _ = write!(
                err,
                "The server shows a CA that is not known here. Its SHA-256 is\n  {}\nIs that the one the administrator gave you? [y/N] ",
                authority.sha256
            )
            .and_then(|()| err.flush());
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).doing(what)?;
            if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
                Ok(authority.pem)
            } else {
                Err(Failure::new(exit::REFUSED, "nothing was sent").hint("ask the administrator for the CA's hash"))
            }
        }
    }
}

fn token_text(args: &LoginArgs) -> Result<String> {
    let what = || "cannot read the token".to_owned();
    let mut text = String::new();
    let stdin = std::io::stdin();
    if args.token_stdin || !stdin.is_terminal() {
        stdin.take(4096).read_to_string(&mut text).doing(what)?;
    } else {
        let _ = write!(std::io::stderr(), "Token: ").and_then(|()| std::io::stderr().flush());
        let before = termios::tcgetattr(stdin.as_fd())
            .map_err(std::io::Error::from)
            .doing(what)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &silent)
            .map_err(std::io::Error::from)
            .doing(what)?;
        let read = stdin.read_line(&mut text);
        // Echo comes back whatever the read said.
        let _ = termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &before);
        let _ = writeln!(std::io::stderr());
        read.doing(what)?;
    }
    let token = text.trim().to_owned();
    if token.is_empty() {
        return Err(Failure::new(exit::USAGE, "no token was given")
            .hint("an administrator makes one with `plimsoll token create --user NAME`"));
    }
    Ok(token)
}

pub(super) fn logout(global: &Global) -> Result<()> {
    let printer = Printer::new(global.no_color, global.quiet);
    if profile::forget()? {
        printer.note(
            "The login is forgotten here; `plimsoll token rm` makes a token useless everywhere.",
        );
    } else {
        printer.note("You were not logged in.");
    }
    Ok(())
}

#[expect(
    clippy::too_many_lines,
    reason = "like cases one after the other: longer than it is complex"
)]
pub(super) async fn token(app: &App, command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create {
            user,
            ttl,
            description,
            output,
        } => {
            let body = TokenCreate {
                description,
                ttl_seconds: ttl.map(|span| span.as_secs()),
            };
            let create = path(&["principals", &user, "tokens"]);
            let made = app
                .client
                .call(Method::POST, &create, Some(&body), Patience::Short)
                .await;
            let made: TokenCreated =
                made.doing(|| format!("cannot make a token for user \"{user}\""))?;
            match output.output {
                Format::Table => {
                    app.printer.line(&made.secret)?;
                    app.printer.note(&format!(
                        "It is not shown again. To use it: {}",
                        login_line(app).await
                    ));
                    Ok(())
                }
                format => app.printer.value(&made, format),
            }
        }
        TokenCommand::Ls { output } => {
            let list: List<Token> = app
                .client
                .get(&path(&["tokens"]))
                .await
                .doing(|| "cannot list tokens".into())?;
            print_list(
                app,
                output.output,
                &list,
                |it| it.id.clone(),
                |items| {
                    let mut table = Table::new(&["ID", "USER", "DESCRIPTION", "AGE", "EXPIRES"]);
                    let now = human::now_ms();
                    for it in items {
                        table.row(vec![
                            it.id.as_str().into(),
                            it.principal.name.as_str().into(),
                            it.description.as_str().into(),
                            human::age(&it.created_at, now).into(),
                            it.expires_at
                                .clone()
                                .unwrap_or_else(|| "never".into())
                                .into(),
                        ]);
                    }
                    (
                        table,
                        "No tokens. Make one: plimsoll token create --user NAME",
                    )
                },
            )
        }
        TokenCommand::Rm { tokens, yes } => {
            app.confirm(yes.yes, &format!("Remove {}?", tokens.join(", ")))?;
            for token in tokens {
                delete(app, &["tokens", &token], &format!("token \"{token}\"")).await?;
                app.printer.line(&token)?;
            }
            Ok(())
        }
    }
}

/// The command a person with a token types.
async fn login_line(app: &App) -> String {
    match app.client.get::<Info>(&path(&["info"])).await {
        Ok(info) => {
            format!(
                "plimsoll login https://{} --ca-sha256 {}",
                info.address, info.ca_sha256
            )
        }
        Err(_) => "plimsoll login URL".into(),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "like cases one after the other: longer than it is complex"
)]
pub(super) async fn user(app: &App, command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Create {
            name,
            roles,
            output,
        } => {
            let body = PrincipalCreate {
                name: name.clone(),
                bindings: requests(roles),
            };
            let made = app
                .client
                .call(
                    Method::POST,
                    &path(&["principals"]),
                    Some(&body),
                    Patience::Short,
                )
                .await;
            let made: Principal = made.doing(|| format!("cannot make user \"{name}\""))?;
            match output.output {
                Format::Table => {
                    app.printer.line(&made.name)?;
                    app.printer
                        .note(&format!("Next: plimsoll token create --user {}", made.name));
                    Ok(())
                }
                format => app.printer.value(&made, format),
            }
        }
        UserCommand::Ls { output } => {
            let list: List<Principal> = app
                .client
                .get(&path(&["principals"]))
                .await
                .doing(|| "cannot list users".into())?;
            print_list(
                app,
                output.output,
                &list,
                |it| it.name.clone(),
                |items| {
                    let mut table = Table::new(&["NAME", "ROLES", "AGE"]);
                    let now = human::now_ms();
                    for it in items {
                        let roles: Vec<String> = it.bindings.iter().map(binding_text).collect();
                        let roles = if roles.is_empty() {
                            "-".into()
                        } else {
                            roles.join(", ")
                        };
                        table.row(vec![
                            it.name.as_str().into(),
                            roles.into(),
                            human::age(&it.created_at, now).into(),
                        ]);
                    }
                    (
                        table,
                        "No users. Make one: plimsoll user create NAME --role ROLE@POOL",
                    )
                },
            )
        }
        UserCommand::Bind { user, roles } => {
            let body = PrincipalBind {
                bindings: requests(roles),
            };
            let bind = path(&["principals", &user, "bindings"]);
            let bound = app
                .client
                .call(Method::PUT, &bind, Some(&body), Patience::Short)
                .await;
            let bound: Principal = bound.doing(|| format!("cannot bind user \"{user}\""))?;
            app.printer.line(&bound.name)
        }
        UserCommand::Rm { users, yes } => {
            app.confirm(
                yes.yes,
                &format!("Remove {} with all tokens?", users.join(", ")),
            )?;
            for user in users {
                delete(app, &["principals", &user], &format!("user \"{user}\"")).await?;
                app.printer.line(&user)?;
            }
            Ok(())
        }
    }
}

async fn delete(app: &App, segments: &[&str], what: &str) -> Result<()> {
    let gone = app
        .client
        .call(
            Method::DELETE,
            &path(segments),
            None::<&()>,
            Patience::Short,
        )
        .await;
    gone.doing(|| format!("cannot remove {what}"))
}

fn print_list<T: serde::Serialize>(
    app: &App,
    format: Format,
    list: &List<T>,
    name: impl Fn(&T) -> String,
    table: impl Fn(&[T]) -> (Table, &'static str),
) -> Result<()> {
    if app.printer.quiet {
        return app.printer.print(
            &list
                .items
                .iter()
                .map(|it| name(it) + "\n")
                .collect::<String>(),
        );
    }
    if format != Format::Table {
        return app.printer.value(list, format);
    }
    let (table, empty) = table(&list.items);
    app.printer.print(&table.text(app.printer.color))?;
    if table.is_empty() {
        app.printer.note(empty);
    }
    Ok(())
}

fn requests(roles: Vec<crate::args::Binding>) -> Vec<BindingRequest> {
    roles
        .into_iter()
        .map(|it| BindingRequest {
            role: it.role,
            pool: it.pool,
        })
        .collect()
}

fn binding_text(binding: &Binding) -> String {
    let role = match binding.role {
        Role::Admin => "admin",
        Role::PoolAdmin => "pool-admin",
        Role::Developer => "developer",
        Role::Viewer => "viewer",
    };
    match &binding.pool {
        Some(pool) => format!("{role}@{}", pool.name),
        None => role.to_owned(),
    }
}
