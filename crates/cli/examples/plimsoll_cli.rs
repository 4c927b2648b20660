//! The user's commands alone, without server and agent: what the tests of this crate run.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os()).await
}
