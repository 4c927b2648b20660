//! The commands, one file per family.
//!
//! Start at [`execute`].

mod access;
mod apply;
mod docker_env;
mod drain;
mod events;
mod exec;
mod explain;
mod host;
mod image;
mod list;
mod logs;
mod pool;
mod pool_top;
mod run;
mod session;
mod slice;
mod spec;
mod stats;
mod system;
mod what_if;
mod workload;

use crate::app::App;
use crate::args::{Cli, Command};
use crate::error::Result;
use crate::exit;

/// Runs a command against a server; the exit code of `run` and `exec` is that of the program.
pub(crate) async fn execute(cli: Cli) -> Result<u8> {
    let global = cli.global;
    match cli.command {
        Command::Login(args) => access::login(&global, &args).await.map(|()| exit::OK),
        Command::Logout => access::logout(&global).map(|()| exit::OK),
        Command::Version { output } => system::version(&global, output.output).await,
        Command::DockerEnv(args) if args.unset => docker_env::unset(&global, &args),
        command => {
            let app = App::new(&global)?;
            with_app(&app, command).await
        }
    }
}

async fn with_app(app: &App, command: Command) -> Result<u8> {
    match command {
        Command::Pool(command) => pool::execute(app, *command).await,
        Command::Apply(args) => apply::apply(app, &args).await,
        Command::Installation(command) => system::installation(app, command).await,
        Command::Host(command) => host::execute(app, command).await,
        Command::Run(args) => return run::run(app, *args).await,
        Command::Ps(args) => workload::ps(app, &args).await,
        Command::Logs(args) => logs::logs(app, &args).await,
        Command::Exec(args) => return exec::exec(app, args).await,
        Command::Start(args) => workload::start(app, &args).await,
        Command::Stop(args) => workload::stop(app, &args, "stop").await,
        Command::Restart(args) => workload::stop(app, &args, "restart").await,
        Command::Kill(args) => workload::kill(app, &args).await,
        Command::Pause(args) => workload::plain(app, &args, "pause").await,
        Command::Resume(args) => workload::plain(app, &args, "resume").await,
        Command::Wait(args) => workload::wait(app, &args).await,
        Command::Rename { workload, name } => workload::rename(app, &workload, &name).await,
        Command::Update(args) => workload::update(app, &args).await,
        Command::Rm(args) => workload::rm(app, &args).await,
        Command::Inspect { names, output } => workload::inspect(app, &names, output).await,
        Command::Explain { workload, output } => {
            explain::explain(app, &workload, output.output).await
        }
        Command::Plan(args) => return what_if::plan(app, &args).await,
        Command::Events(args) => events::events(app, &args).await,
        Command::Stats(args) => stats::stats(app, &args).await,
        Command::Top(args) => stats::top(app, &args).await,
        Command::Image(command) => image::execute(app, command).await,
        Command::DockerEnv(args) => docker_env::docker_env(app, &args).await,
        Command::Token(command) => access::token(app, command).await,
        Command::User(command) => access::user(app, command).await,
        // Handled before a server is chosen.
        Command::Login(_)
        | Command::Logout
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::Version { .. } => Ok(()),
    }
    .map(|()| exit::OK)
}
