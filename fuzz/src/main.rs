//! All targets behind libFuzzer; `PLIMSOLL_FUZZ` names the one to run.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use plimsoll_fuzz::{TARGETS, Target};

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("PLIMSOLL_FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("PLIMSOLL_FUZZ names no target: {name:?}"))
    })
}

fuzz_target!(|data: &[u8]| (target().run)(data));
