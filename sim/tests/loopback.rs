//! A few seeds, small enough for every run of the tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use clap::Parser;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_seeds_hold() {
    for seed in 1..=3 {
        let seed = seed.to_string();
        let options = [
            "sim",
            "--seed",
            &seed,
            "--hosts",
            "3",
            "--operators",
            "4",
            "--steps",
            "15",
            "--faults",
            "25",
        ];
        sim::loopback::run(&sim::loopback::Options::parse_from(options))
            .await
            .unwrap();
    }
}
