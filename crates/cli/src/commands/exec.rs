//! `exec`: a further program in a running workload.

use http::Method;
use wire::client::native::{Patience, path, with_query};
use wire::native::workload::{Exec, ExecCreate, ExecCreated};

use crate::app::App;
use crate::args::ExecArgs;
use crate::commands::run::program_code;
use crate::commands::session::{self, Ended, Session};
use crate::commands::{spec, workload};
use crate::error::{Doing as _, Failure, Result};
use crate::exit;
use crate::terminal::{self, DetachKeys};

/// Runs a program; the exit code is its own.
pub(super) async fn exec(app: &App, args: ExecArgs) -> Result<u8> {
    match exec_inner(app, &args).await {
        Ok(code) => Ok(code),
        Err(failure) if failure.code == exit::FAILED => Err(Failure {
            code: exit::RUN_FAILED,
            ..failure
        }),
        Err(failure) => Err(failure),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "like cases one after the other: longer than it is complex"
)]
async fn exec_inner(app: &App, args: &ExecArgs) -> Result<u8> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let at = app.locate(&args.workload).await?;
    let body = ExecCreate {
        args: args.command.clone(),
        env: spec::env(&args.env, &[])?,
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        tty: args.tty,
        stdin: args.interactive,
        privileged: args.privileged,
    };
    let what = || {
        format!(
            "cannot run {} in workload \"{}\"",
            args.command[0], args.workload
        )
    };
    let made = workload::ask(
        app,
        &at,
        (Method::POST, at.path(&["exec"])),
        Some(&body),
        what(),
    )
    .await;
    let made: ExecCreated = made.map_err(|failure| {
        if failure.code == exit::CONFLICT && failure.why.contains("not running") {
            failure.hint(format!("plimsoll start {}", args.workload))
        } else {
            failure
        }
    })?;
    let start = path(&["pools", &at.pool, "execs", &made.id, "start"]);
    if args.detach {
        let start = with_query(start, "detach", "true");
        return app
            .client
            .call(Method::POST, &start, None::<&()>, Patience::Long)
            .await
            .doing(what)
            .map(|()| exit::OK);
    }
    let start = match terminal::size().filter(|_| args.tty) {
        Some((rows, columns)) => with_query(
            with_query(start, "rows", &rows.to_string()),
            "columns",
            &columns.to_string(),
        ),
        None => start,
    };
    let duplex = app.client.upgrade(&start).await.doing(what)?;
    let session = Session {
        duplex,
        tty: args.tty,
        stdin: args.interactive,
        keys,
        signals: None,
    };
    match session::carry(session).await? {
        Ended::Detached => Ok(exit::OK),
        Ended::Streams(Some(code)) => Ok(program_code(code)),
        Ended::Streams(None) => {
            let exec: Exec = app
                .client
                .get(&path(&["pools", &at.pool, "execs", &made.id]))
                .await
                .doing(|| "cannot learn how the program ended".into())?;
            Ok(exec.exit_code.map_or(exit::RUN_FAILED, program_code))
        }
    }
}
