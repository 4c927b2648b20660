//! The `plimsoll` program.
mod dev;
mod doctor;

fn main() {}
