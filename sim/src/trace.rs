//! What happened, in order: a bounded tail for people and a hash of everything for comparison.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines kept.
const TAIL: usize = 50;

#[derive(Debug)]
struct Inner {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    began: Instant,
    print: bool,
}

/// Shared by all parts of a simulation.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    /// An empty trace, beginning now; with `print`, every line goes to standard error at once.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            tail: VecDeque::new(),
            began: Instant::now(),
            print,
        })))
    }

    /// Adds a line.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "{:>9.3} {}",
            inner.began.elapsed().as_secs_f64(),
            text.as_ref()
        );
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        inner.lines += 1;
        if inner.print {
            eprintln!("{line}");
        }
        if inner.tail.len() == TAIL {
            inner.tail.pop_front();
        }
        inner.tail.push_back(line);
    }

    /// Hash of all lines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tail.iter().cloned().collect()
    }
}
