//! The targets over random bytes and over damaged seeds, without instrumentation.

use proptest::prelude::*;

use super::*;

/// Seeds with bytes changed, cut and doubled, and bytes from nowhere.
fn inputs(seeds: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let damaged = (
        0..seeds.len(),
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        any::<usize>(),
    )
        .prop_map(move |(seed, changes, cut)| {
            let mut bytes = seeds[seed].to_vec();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if cut % 3 == 0 {
                bytes.truncate(cut % (bytes.len() + 1));
            } else if cut % 3 == 1 {
                bytes.extend_from_slice(seeds[seed]);
            }
            bytes
        });
    prop_oneof![damaged, prop::collection::vec(any::<u8>(), 0..400)]
}

fn drive(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    for seed in target.seeds {
        (target.run)(seed);
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(512));
    runner
        .run(&inputs(target.seeds), |bytes| {
            (target.run)(&bytes);
            Ok(())
        })
        .unwrap();
}

macro_rules! driven {
    ($($test:ident => $name:literal),* $(,)?) => {
        $(#[test] fn $test() { drive($name); })*

        #[test]
        fn every_target_is_driven() {
            let driven = [$($name),*];
            for target in TARGETS {
                assert!(driven.contains(&target.name), "{} is not", target.name);
                assert!(!target.seeds.is_empty(), "{} has no seed", target.name);
            }
        }
    };
}

driven! {
    link_frames => "link-frame",
    link_messages => "link-message",
    join_tokens => "join-token",
    shim_frames => "shim-frame",
    shim_logs => "shim-log",
    names_and_references => "names",
    stored_objects => "stored",
    container_creates => "docker-create",
    docker_inputs => "docker-rest",
    image_documents => "image-documents",
    image_layers => "image-layer",
}
