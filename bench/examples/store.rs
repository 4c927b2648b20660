//! The store's benchmark alone: `cargo run --release -p bench --example store [-- --json]`.

#[path = "../src/store.rs"]
mod store_bench;

fn main() -> anyhow::Result<()> {
    store_bench::run(std::env::args().any(|it| it == "--json"))
}
