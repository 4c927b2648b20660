//! Takes chance and the wall clock out of this thread.
//!
//! The program defines `getrandom` and `clock_gettime` itself. In a thread that has called [`Seeded::enter`] they
//! answer from a seed and from tokio's paused clock; everywhere else they ask the kernel. With that, identities,
//! the order of hash maps and the choices of tokio's `select!` follow from the seed too, without a word in the code
//! under test. The clocks that only go forward stand still with tokio's: work takes no time.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::rng::Rng;

/// Wall clock at the start of every simulation: 2026-01-01, in seconds since the epoch.
pub const START_SECONDS: u64 = 1_767_225_600;

/// Time since boot at the start of every simulation, in seconds.
const UP_SECONDS: u64 = 1_000_000;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Tokio is being asked for its time, which may ask for the machine's.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, the thread has neither chance nor wall clock.
#[derive(Debug)]
pub struct Seeded(());

impl Seeded {
    /// From now on everything follows from the seed. Call it before the thread makes its first hash map.
    #[must_use]
    pub fn enter(seed: u64) -> Self {
        STATE.set(Some(Rng::new(seed, "entropy").number()));
        Self(())
    }

    /// From now on the wall clock follows tokio's; call it inside the runtime.
    pub fn start_clock(&self) {
        BEGAN.set(Some(Instant::now()));
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        STATE.set(None);
        BEGAN.set(None);
    }
}

/// What a clock says in a simulation; `None`: the kernel knows.
fn simulated(clock: libc::clockid_t) -> Option<Duration> {
    STATE.get()?;
    let start = match clock {
        libc::CLOCK_REALTIME => START_SECONDS,
        // Tokio's clock begins at what this one says when it is made.
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => UP_SECONDS,
        _ => return None,
    };
    let passed = match BEGAN.get() {
        Some(began) if !ASKING.replace(true) => {
            let passed = began.elapsed();
            ASKING.set(false);
            passed
        }
        Some(_) | None => Duration::ZERO,
    };
    Some(Duration::from_secs(start) + passed)
}

fn next() -> Option<u64> {
    let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(Some(state));
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(z ^ (z >> 31))
}

#[expect(
    unsafe_code,
    reason = "takes the place of libc's function, which has this form"
)]
/// Random bytes: from the seed in a simulation, else from the kernel.
///
/// # Safety
/// `buffer` must be writable for `length` bytes, as for libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if STATE.get().is_none() {
        // SAFETY: the caller's buffer, handed on as it came.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return libc::ssize_t::try_from(got).unwrap_or(-1);
    }
    // SAFETY: the caller says that so many bytes are writable.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let number = next().unwrap_or(0).to_le_bytes();
        chunk.copy_from_slice(&number[..chunk.len()]);
    }
    libc::ssize_t::try_from(length).unwrap_or(libc::ssize_t::MAX)
}

#[expect(
    unsafe_code,
    reason = "takes the place of libc's function, which has this form"
)]
/// The time: from tokio's paused clock in a simulation, else from the kernel.
///
/// # Safety
/// `time` must be writable, as for libc's function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let Some(now) = simulated(clock) else {
        // SAFETY: the caller's pointer, handed on as it came.
        let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(done).unwrap_or(-1);
    };
    let value = libc::timespec {
        tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(now.subsec_nanos()),
    };
    // SAFETY: the caller says that it is writable.
    unsafe { time.write(value) };
    0
}
