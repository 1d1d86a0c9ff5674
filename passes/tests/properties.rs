//! What holds at every level, on random models and on the fixtures.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use onnx_opt_ir::random::model;
use onnx_opt_ir::{Model, export, load};
use onnx_opt_passes::exercise::{assert_same_interface, optimized, reload};
use onnx_opt_proto::{encode, read_file};

const SEEDS: u64 = 400;

/// Repeatable, done after one run, accepted again, and the interface as before.
fn hold(name: &str, model: &Model) {
    let original = export(model);
    assert!(encode(&optimized(model, 0)) == encode(&original), "{name}: level 0 changed something");
    for level in 1..=3 {
        let result = optimized(model, level);
        assert!(
            encode(&optimized(model, level)) == encode(&result),
            "{name}: level {level} is not repeatable"
        );
        assert_same_interface(&original, &result);
        let again = reload(&result).unwrap_or_else(|error| panic!("{name}, level {level}: {error}\n{model}"));
        let twice = optimized(&again, level);
        assert!(
            encode(&twice) == encode(&result),
            "{name}: level {level} has more to do in its result\n{again}\n{}",
            reload(&twice).unwrap()
        );
    }
}

#[test]
fn on_random_models() {
    for seed in 0..SEEDS {
        let model = reload(&export(&model(seed))).unwrap();
        hold(&format!("seed {seed}"), &model);
    }
}

#[test]
fn on_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        let model = load(read_file(&path).unwrap()).unwrap();
        // No pass touches a model that carries training information.
        if model.rest.training_info.is_empty() {
            hold(&path.display().to_string(), &model);
        }
    }
}
