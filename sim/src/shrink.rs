//! Finds a short script that still fails: leaves out ever smaller pieces for as long as the same thing fails.

use crate::batch;
use crate::run::{Options, Report};

/// Runs one shrinking may cost.
const RUNS: usize = 400;

/// The shortest failing run that was found.
///
/// # Errors
/// When simulations cannot be started.
pub fn shrink(options: &Options, report: &Report) -> anyhow::Result<(Options, Report)> {
    let Some(failure) = &report.failure else {
        return Ok((options.clone(), report.clone()));
    };
    let end = failure.step.map_or(options.size.steps, |step| step + 1);
    let mut kept: Vec<usize> = match &options.only {
        Some(only) => only.iter().copied().filter(|n| *n < end).collect(),
        None => (0..end).collect(),
    };
    let mut best = (options.clone(), report.clone());
    let mut piece = kept.len().div_ceil(2);
    let mut runs = 0;
    while piece > 0 && runs < RUNS {
        let mut at = 0;
        while at < kept.len() && runs < RUNS {
            let mut shorter = kept.clone();
            shorter.drain(at..(at + piece).min(kept.len()));
            let attempt = Options {
                only: Some(shorter.clone()),
                ..options.clone()
            };
            runs += 1;
            let result = batch::one(&attempt)?;
            let same = result
                .failure
                .as_ref()
                .is_some_and(|f| f.invariant == failure.invariant);
            if same {
                kept = shorter;
                best = (attempt, result);
            } else {
                at += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    Ok(best)
}
