//! Waiting for a condition instead of sleeping.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(30);

/// How long a condition may take on a busy machine of two cores.
const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until `look` gives a value; its error is what was seen instead.
///
/// # Panics
/// When the deadline passes, with the last error.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if started.elapsed() > DEADLINE => {
                panic!("{what}: not within {DEADLINE:?}; last seen: {last}")
            }
            // tidy: sleep: pause between two looks
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
