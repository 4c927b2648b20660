//! Tasks through the agent's trait, on a real kernel, as root.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "tests")]

mod oci_support;

use agent::driver::TaskRuntime;
use oci_support::Host;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_and_its_end_is_told() {
    let host = Host::new();
    let (code, output) = host
        .run_plain(&["sh", "-c", "echo hello; hostname; exit 3"], |_| {})
        .await;
    assert_eq!(code, 3, "{output}");
    assert!(output.starts_with("hello\n0000000107"), "{output}");
}
