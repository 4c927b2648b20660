//! Time since the machine was started, counted on while it is suspended.
//!
//! Leases are measured with it, on both sides of a link: the clocks that programs usually measure with stand still in a
//! suspended machine, and what was promised for some seconds would be believed hours later. It never jumps, and it is the
//! same for all processes of a machine. A virtual machine that is stopped by its hypervisor cannot know of that time; no
//! clock of its own tells.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since the start of the machine. Only differences mean something.
///
/// Linux has had this clock since 2.6.39 and gives it to everybody; should it fail nevertheless, the answer is the end of
/// time, at which every lease is over.
#[must_use]
pub fn millis() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return u64::MAX;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds * 1000 + nanos / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let before = millis();
        assert!(before > 0 && before < u64::MAX);
        let mut rounds = 0_u32;
        while millis() == before {
            rounds += 1;
            assert!(rounds < u32::MAX, "it stands still");
        }
        assert!(millis() > before);
    }
}
