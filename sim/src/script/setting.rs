//! What a simulation begins with.

use model::slice::{Counted, HostLoss, Portion, Shares};
use model::{Amount, Percent, Slice};

use super::{POOLS, SERVERS, Size};
use crate::rng::Rng;

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Machine {
    /// One of some sizes.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        const CORES: [u64; 4] = [2, 4, 4, 8];
        let cores = CORES[rng.index(CORES.len())];
        Self {
            cpu_millis: cores * 1000,
            memory_mib: cores * 2048,
        }
    }
}

/// What a simulation begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Servers on one store.
    pub servers: usize,
    /// Machines of the hosts.
    pub machines: Vec<Machine>,
    /// After how many seconds a host is lost.
    pub host_loss_seconds: u32,
    /// Pools: the number of the one above, and what each may use. One that does not fit gets nothing.
    pub pools: Vec<(Option<usize>, Slice)>,
}

impl Setting {
    /// The setting of a seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let mut rng = Rng::new(seed, "setting");
        let pools = (0..POOLS)
            .map(|number| {
                let nested = number > 1 && rng.percent(50);
                let parent = nested.then(|| rng.index(number));
                (parent, slice(&mut rng))
            })
            .collect();
        Self {
            servers: 1 + rng.index(SERVERS),
            machines: (0..size.hosts).map(|_| Machine::any(&mut rng)).collect(),
            host_loss_seconds: loss_seconds(&mut rng),
            pools,
        }
    }
}

/// A time after which hosts are lost.
pub(super) fn loss_seconds(rng: &mut Rng) -> u32 {
    const SECONDS: [u32; 4] = [8, 10, 10, 20];
    SECONDS[rng.index(SECONDS.len())]
}

/// Something a pool may be given.
pub(super) fn slice(rng: &mut Rng) -> Slice {
    const LOSS: [Option<HostLoss>; 8] = [
        None,
        None,
        None,
        None,
        Some(HostLoss::Restart),
        Some(HostLoss::Restart),
        Some(HostLoss::Keep),
        Some(HostLoss::AtMostOne),
    ];
    let mut slice = Slice {
        cpu: portion(rng, 1000),
        memory: portion(rng, 1 << 30),
        on_host_loss: LOSS[rng.index(LOSS.len())],
        priority: i32::try_from(rng.below(3)).unwrap_or(0),
        ..Slice::default()
    };
    if rng.percent(15) {
        slice.quotas.insert(Counted::Workloads, 1 + rng.below(6));
    }
    slice
}

/// So much of one resource, in whole cores or GiB.
fn portion(rng: &mut Rng, unit: u64) -> Portion {
    let mut portion = Portion::default();
    if rng.percent(60) {
        portion.reservation = Some(amount(rng, unit, 6));
    }
    if rng.percent(25) {
        portion.limit = Some(amount(rng, unit, 10));
    }
    portion.expandable = rng.percent(85);
    if rng.percent(15) {
        portion.lendable = Some(Amount::Absolute(unit * rng.below(2)));
    }
    portion.shares = rng.percent(30).then(|| {
        const SHARES: [Shares; 3] = [Shares::Low, Shares::High, Shares::Number(500)];
        SHARES[rng.index(SHARES.len())]
    });
    portion
}

fn amount(rng: &mut Rng, unit: u64, most: u64) -> Amount {
    if rng.percent(25) {
        let tenths = 1 + rng.below(7);
        return Amount::Percent(Percent(u32::try_from(tenths * 1000).unwrap_or(0)));
    }
    Amount::Absolute(unit * (1 + rng.below(most)))
}
