//! The trace: what each VM wanted of CPU, five minutes at a time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::csv::read;

/// Length of a step, in seconds.
const STEP_SECONDS: i64 = 300;

/// A VM.
pub(super) struct Vm {
    /// Memory it has, in bytes.
    pub(super) memory: u64,
    /// What it wanted in each step, in MHz.
    pub(super) demand: Vec<u64>,
}

impl Vm {
    /// The most it ever wanted.
    pub(super) fn peak(&self) -> u64 {
        self.demand.iter().copied().max().unwrap_or(0)
    }
}

/// Reads `vms.csv` and `demand.csv.gz` of a folder; VMs by number, all with as many steps.
///
/// A line of the demand says what was wanted for some time up to a moment. A step has the value that holds at its end;
/// outside of all lines a VM wants nothing.
///
/// # Errors
/// When a file cannot be read, or names no VM.
pub(super) fn load(folder: &Path) -> Result<Vec<Vm>> {
    let table = read(&folder.join("vms.csv"))?;
    let mut lines: BTreeMap<u64, Vec<(i64, i64, u64)>> = BTreeMap::new();
    let mut memory: BTreeMap<u64, u64> = BTreeMap::new();
    for row in &table.rows {
        let id = table.number(row, "vm")?;
        lines.insert(id, Vec::new());
        memory.insert(id, table.number::<u64>(row, "memory_kib")? << 10);
    }
    let table = read(&folder.join("demand.csv.gz"))?;
    for row in &table.rows {
        let end: i64 = table.number(row, "time_s")?;
        let mhz: f64 = table.number(row, "cpu_mhz")?;
        let from = end - table.number::<i64>(row, "duration_s")?;
        let id: u64 = table.number(row, "vm")?;
        let of_vm = lines.get_mut(&id);
        let of_vm = of_vm.with_context(|| format!("vms.csv does not name VM {id}"))?;
        of_vm.push((from, end, mhz.round() as u64));
    }
    let ends = lines.values().flatten().map(|line| line.1);
    let begins = lines.values().flatten().map(|line| line.0);
    let (Some(begin), Some(end)) = (begins.min(), ends.max()) else {
        anyhow::bail!("the trace is empty");
    };
    let steps = (end - begin) / STEP_SECONDS;
    ensure!(steps > 1, "the trace is too short");
    let step_ends = (1..=steps).map(|step| begin + step * STEP_SECONDS);
    let vms = lines.into_iter().map(|(id, mut lines)| {
        lines.sort_unstable_by_key(|line| line.1);
        let at = |moment: i64| {
            let line = lines.get(lines.partition_point(|line| line.1 < moment));
            line.map_or(0, |line| if line.0 < moment { line.2 } else { 0 })
        };
        Vm {
            memory: memory.get(&id).copied().unwrap_or(0),
            demand: step_ends.clone().map(at).collect(),
        }
    });
    Ok(vms.collect())
}
