//! `run`: make, attach, start, wait; in the order that loses no output and no exit code.

use http::Method;
use wire::client::native::{ClientError, Patience, path, with_query};
use wire::native::ProblemKind;
use wire::native::workload::{Changed, StartRequest, WaitOutcome, Workload};

use crate::app::{App, Located};
use crate::args::{Pull, RunArgs};
use crate::commands::session::{self, Ended, Session};
use crate::commands::{image, spec, workload};
use crate::error::{Doing as _, Failure, Result};
use crate::exit;
use crate::terminal::DetachKeys;

/// Makes and starts a workload; the exit code is the program's unless it is left running.
pub(super) async fn run(app: &App, args: RunArgs) -> Result<u8> {
    match run_inner(app, &args).await {
        Ok(code) => Ok(code),
        // As Docker's: 125 says that the program never began. Usage and a missing server keep their own codes.
        Err(failure) if matches!(failure.code, exit::USAGE | exit::OK) => Err(failure),
        Err(failure) if matches!(failure.code, exit::RUN_NOT_EXECUTABLE | exit::RUN_NOT_FOUND) => {
            Err(failure)
        }
        Err(failure) => Err(Failure {
            code: exit::RUN_FAILED,
            ..failure
        }),
    }
}

async fn run_inner(app: &App, args: &RunArgs) -> Result<u8> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let pool = app.pool().await?;
    let workload = create(app, args, &pool).await?;
    let at = Located {
        pool,
        workload: workload.id.clone(),
    };
    if args.no_start {
        app.printer.line(&workload.id)?;
        return Ok(exit::OK);
    }
    if args.detach {
        start(app, args, &at, &workload.name).await?;
        app.printer.line(&workload.id)?;
        return Ok(exit::OK);
    }
    foreground(app, args, &at, &workload.name, keys).await
}

async fn foreground(
    app: &App,
    args: &RunArgs,
    at: &Located,
    name: &str,
    keys: DetachKeys,
) -> Result<u8> {
    // Both before the start: the attached stream begins with the first byte, and the wait cannot miss the end.
    let what = || format!("cannot attach to workload \"{name}\"");
    let mut attach = with_query(at.path(&["attach"]), "stdout", "true");
    attach = with_query(attach, "stderr", "true");
    attach = with_query(
        attach,
        "stdin",
        if args.interactive { "true" } else { "false" },
    );
    let duplex = app.client.upgrade(&attach).await.doing(what)?;
    let condition = if args.rm { "removed" } else { "next-exit" };
    let wait = with_query(at.path(&["wait"]), "condition", condition);
    let mut outcome = app
        .client
        .lines::<(), WaitOutcome>(Method::POST, &wait, None)
        .await
        .doing(what)?;
    let session = Session {
        duplex,
        tty: args.tty,
        stdin: args.interactive,
        keys,
        signals: Some((app.client.clone(), at.path(&["kill"]))),
    };
    let carried = tokio::spawn(session::carry(session));
    if let Err(failure) = start(app, args, at, name).await {
        // The terminal is put back before anything is said.
        carried.abort();
        let _ = carried.await;
        return Err(failure);
    }
    let ended = carried
        .await
        .map_err(|error| Failure::new(exit::FAILED, error.to_string()))??;
    session::flush();
    if ended == Ended::Detached {
        app.printer.note(&format!("\r\nLeft running: {name}"));
        return Ok(exit::OK);
    }
    let what = || format!("cannot learn how workload \"{name}\" ended");
    let outcome = outcome.next().await.doing(what)?;
    let outcome =
        outcome.ok_or_else(|| Failure::new(exit::FAILED, what()).why("the server said nothing"))?;
    if let Some(error) = outcome.error.filter(|error| !error.is_empty()) {
        return Err(begin_failure(name, &error));
    }
    Ok(program_code(outcome.exit_code))
}

/// The exit code of a program as this program's.
pub(super) fn program_code(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(exit::FAILED)
}

async fn create(app: &App, args: &RunArgs, pool: &str) -> Result<Workload> {
    let body = spec::create(args)?;
    let list = path(&["pools", pool, "workloads"]);
    let what = || format!("cannot make a workload from image \"{}\"", args.image);
    if args.pull == Pull::Always {
        image::pull_quietly(app, pool, &args.image).await?;
    }
    let made = app
        .client
        .call(Method::POST, &list, Some(&body), Patience::Short)
        .await;
    let made = match made {
        Err(ClientError::Refused(problem))
            if problem.kind == ProblemKind::NotFound && args.pull == Pull::Missing =>
        {
            if !image::missing(app, pool, &args.image).await {
                let failure = Err(ClientError::Refused(problem)).doing(what);
                return match failure {
                    Err(failure) => Err(app.explain_pool(pool, failure).await),
                    Ok(workload) => Ok(workload),
                };
            }
            app.printer.note(&format!(
                "Image {} is not in pool {pool} yet: pulling it",
                args.image
            ));
            image::pull_quietly(app, pool, &args.image).await?;
            app.client
                .call(Method::POST, &list, Some(&body), Patience::Short)
                .await
        }
        made => made,
    };
    match made.doing(what) {
        Ok(workload) => Ok(workload),
        Err(failure) => Err(app.explain_pool(pool, failure).await),
    }
}

async fn start(app: &App, args: &RunArgs, at: &Located, name: &str) -> Result<()> {
    let started = app
        .client
        .call(
            Method::POST,
            &at.path(&["start"]),
            Some(&StartRequest { queue: args.queue }),
            Patience::Long,
        )
        .await;
    let started: Result<Changed> = started.doing(|| format!("cannot start workload \"{name}\""));
    let Err(failure) = started else {
        if args.queue {
            workload::note_hold(app, at).await;
        }
        return Ok(());
    };
    let failure = with_program_code(failure);
    if !args.rm {
        let hint = format!("it is kept: plimsoll inspect {name}; plimsoll rm {name}");
        return Err(if failure.hint.is_empty() {
            failure.hint(hint)
        } else {
            failure
        });
    }
    let remove = with_query(at.path(&[]), "force", "true");
    // What cannot be removed now goes by its own --rm; the failure to start is what matters here.
    let _: std::result::Result<(), _> = app
        .client
        .call(Method::DELETE, &remove, None::<&()>, Patience::Short)
        .await;
    Err(failure)
}

fn begin_failure(name: &str, error: &str) -> Failure {
    with_program_code(
        Failure::new(exit::RUN_FAILED, format!("workload \"{name}\" did not run"))
            .why(error)
            .hint(format!(
                "see `plimsoll inspect {name}` and `plimsoll logs {name}`"
            )),
    )
}

/// Docker's codes for a program that could not be executed, told from what the runtime said.
fn with_program_code(failure: Failure) -> Failure {
    let why = failure.why.to_ascii_lowercase();
    let code = if why.contains("permission denied")
        || why.contains("is a directory")
        || why.contains("exec format")
    {
        exit::RUN_NOT_EXECUTABLE
    } else if why.contains("not found") && why.contains("executable")
        || why.contains("no such file or directory")
    {
        exit::RUN_NOT_FOUND
    } else {
        failure.code
    };
    Failure { code, ..failure }
}
