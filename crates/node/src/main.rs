//! The `plimsoll` program.
mod dev;

fn main() {}
