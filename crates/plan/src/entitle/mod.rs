//! What every pool may use at this moment, by demand; and how that is divided among its hosts.
//!
//! [`fair`] divides one amount; [`pools`] goes down the pool tree; [`hosts`] divides each pool's part among hosts;
//! [`shift`] carries a division over from one state to the next without ever passing the limit; [`lower`] makes of it
//! what one host is told; [`round`] does all of it.
//!
//! What always holds: whole numbers that add up exactly; the same input gives the same output.

pub mod fair;
pub mod hosts;
pub mod lower;
pub mod pools;
pub mod round;
pub mod shift;

#[cfg(test)]
mod properties;

pub use hosts::{Division, HostPart, Sample};
pub use pools::{Demand, Entitlement};
