//! Tasks through the built-in runtime, on a real kernel, as root.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Root, Shim, spec};

#[test]
fn a_program_runs_and_its_output_and_exit_code_are_known() {
    let root = Root::new();
    let (exit, output) = Shim::new().run(&root, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (exit.code, exit.signal, exit.oom, exit.run),
        (7, None, false, 1)
    );
    assert!(
        output.contains("out\n") && output.contains("err\n"),
        "{output}"
    );
}
