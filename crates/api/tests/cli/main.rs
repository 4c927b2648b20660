//! The user's program against the real API over a Unix socket, with scripted hosts behind it.
//!
//! This test runs itself again as the program: with [`AS_PROGRAM`] set it is nothing but the command line. So exit
//! codes, both output streams and standard input are those a user sees. It has its own `main`; an argument is a filter
//! on the names of tests.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod flows;
mod server;

use std::ffi::OsString;
use std::process::ExitCode;

/// Makes this binary the user's program.
const AS_PROGRAM: &str = "PLIMSOLL_TEST_AS_PROGRAM";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::var_os(AS_PROGRAM).is_some() {
        let args = std::env::args_os().skip(1);
        let args = [OsString::from("plimsoll")].into_iter().chain(args);
        let code = runtime.block_on(cli::run(args));
        // A thread may still be reading standard input.
        runtime.shutdown_background();
        return code;
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut count = 0;
    for (name, test) in flows::ALL {
        if filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
        {
            println!("test {name}");
            let rig = runtime.block_on(server::Rig::new());
            test(&rig);
            count += 1;
        }
    }
    println!("{count} passed");
    ExitCode::SUCCESS
}
