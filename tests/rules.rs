//! Every rule computes what it replaced, and what Transposes move through computes what it did: their examples, before
//! and after, in an engine.

#![allow(clippy::unwrap_used)]

use onnx_opt::ir::{Model, export};
use onnx_opt::passes::layout::{Layout, examples};
use onnx_opt::passes::rewrite::{ErrorClass, Statistics};
use onnx_opt::passes::rules;
use onnx_opt::passes::testing::Fixture;
use onnx_opt::passes::{Pass, PassContext};
use onnx_opt::verify::{Status, VerifyOptions, verify};

/// Rules with examples that tract cannot run, or examples of Transposes, and why; onnxruntime checks them where
/// `ORT_DYLIB_PATH` names it.
const TRACT_LACKS: &[(&str, &str)] = &[
    ("attributes", "its Slice of attributes wants all axes"),
    ("parts", "its CumSum wants an axis without dimensions"),
    ("label_encoder_of_label_encoder", "it has no LabelEncoder"),
    ("optional_element", "it has no optional values"),
    ("optional_presence", "it has no optional values"),
    ("sequence_concat", "it has no sequences"),
    ("sequence_concat_back", "it has no sequences"),
    ("sequence_length", "it has no sequences"),
    ("sequence_member", "it has no sequences"),
    ("sequence_part", "it has no sequences"),
    ("swish", "it ignores alpha"),
];

/// Whether nobody can tell whether the results of a rule or an example stay, for a reason that is known.
fn is_excused(which: &str, status: &Status) -> bool {
    let lacking = TRACT_LACKS.iter().any(|(name, _)| *name == which);
    lacking && std::env::var_os("ORT_DYLIB_PATH").is_none() && matches!(status, Status::NotVerifiable { .. })
}

#[test]
fn results_stay() {
    let program = assert_cmd::cargo::cargo_bin!("onnx-opt");
    let mut wrong = Vec::new();
    for rule in rules::all() {
        for example in rules::examples().into_iter().filter(|example| example.rule == rule.name()) {
            let original: Model = example.fires.clone().into_model();
            let mut rewritten: Fixture = example.fires;
            rewritten.rewrite([&*rule]);
            // Exact rules are held to a bit of slack for the engine's own fusions, others to rounding.
            let tolerance = match rule.class() {
                ErrorClass::Exact => 1e-7,
                ErrorClass::Rounding => 1e-5,
                ErrorClass::Approximate => 1e-2,
            };
            let options = VerifyOptions {
                tolerance: Some(tolerance),
                program: Some(program.to_path_buf()),
                ..VerifyOptions::default()
            };
            let report = verify(&export(&original), &export(&rewritten.into_model()), &options);
            if report.status != Status::Verified && !is_excused(rule.name(), &report.status) {
                wrong.push(format!("{}: {:?}", rule.name(), report.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn results_stay_where_transposes_move() {
    let program = assert_cmd::cargo::cargo_bin!("onnx-opt");
    let mut wrong = Vec::new();
    for example in examples::examples() {
        let original: Model = example.graph.clone().into_model();
        let mut moved: Fixture = example.graph;
        let layout = Layout { class: ErrorClass::Rounding };
        layout.run(&mut moved.graph, &PassContext::default(), &mut Statistics::default());
        let options = VerifyOptions {
            tolerance: Some(1e-5),
            program: Some(program.to_path_buf()),
            ..VerifyOptions::default()
        };
        let report = verify(&export(&original), &export(&moved.into_model()), &options);
        if report.status != Status::Verified && !is_excused(example.name, &report.status) {
            wrong.push(format!("{}: {:?}", example.name, report.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
