//! The time, from the machine or, in tests and simulations, from tokio's own clock that can be paused.

use std::time::{SystemTime, UNIX_EPOCH};

use model::Timestamp;
use tokio::time::Instant;

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// A start on the wall clock, then tokio's clock.
    Tokio {
        /// Wall clock at the start.
        start: Timestamp,
        /// Tokio's clock at the start.
        instant: Instant,
    },
}

impl Clock {
    /// A clock that follows tokio's, starting at `start`.
    #[must_use]
    pub fn tokio(start: Timestamp) -> Self {
        Self::Tokio {
            start,
            instant: Instant::now(),
        }
    }

    /// Milliseconds since the start of the machine, counted on while it is suspended; never jumps. Only differences mean
    /// something.
    #[must_use]
    pub fn since_boot(&self) -> u64 {
        match self {
            Clock::System => wire::boot::millis(),
            // As if it had been up for an hour, so that there is a before.
            Clock::Tokio { instant, .. } => {
                3_600_000 + u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX >> 1)
            }
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Clock::Tokio { start, instant } => {
                start.plus_millis(i64::try_from(instant.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}
