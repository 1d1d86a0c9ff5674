//! The engines against each other on the fixtures, and the child process that verifies.
//!
//! Comparisons with onnxruntime run where `ORT_DYLIB_PATH` names its library.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onnx_opt::engine::{OrtExecutor, TractExecutor};
use onnx_opt::ir::engine::{EngineError, Executor};
use onnx_opt::passes::testing::Fixture;
use onnx_opt::proto::{ModelProto, encode, read_file};
use onnx_opt::verify::compare::compare;
use onnx_opt::verify::inputs::{generate, input_specs, plans};
use onnx_opt::verify::{EngineChoice, Status, VerifyOptions, verify};

/// A fixture with its external data inside.
fn fixture(name: &str) -> ModelProto {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    onnx_opt::ir::export(&onnx_opt::ir::import(read_file(&path).unwrap()).unwrap())
}

fn options() -> VerifyOptions {
    VerifyOptions {
        engine: EngineChoice::Tract,
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_onnx-opt"))),
        time_limit: Duration::from_secs(120),
        ..VerifyOptions::default()
    }
}

#[test]
fn tract_agrees_with_onnxruntime() {
    let Some(library) = OrtExecutor::library(None) else {
        eprintln!("skipped: ORT_DYLIB_PATH is not set");
        return;
    };
    let reference = OrtExecutor::new(&library).unwrap();
    let tract = TractExecutor::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".onnx"))
        .collect();
    names.sort();
    let mut compared = 0;
    for name in names {
        let model = fixture(&name);
        let Ok(specs) = input_specs(model.graph.as_ref().unwrap()) else { continue };
        let bytes = encode(&model);
        for plan in &plans(&specs)[..2] {
            let inputs = generate(&specs, plan, 1, &BTreeMap::new(), &BTreeMap::new()).unwrap();
            let Ok(expected) = reference.run(&bytes, &inputs) else { continue };
            match tract.run(&bytes, &inputs) {
                Ok(found) => {
                    compared += 1;
                    for ((output, a), (_, b)) in expected.iter().zip(&found) {
                        // tract multiplies by the reciprocal of a scale: now and then a step apart.
                        let tolerance = name.starts_with("qdq").then_some(0.01);
                        let report = compare(output, a, b, tolerance);
                        assert!(report.within(), "{name}: {report:?}");
                    }
                }
                // What tract cannot run it must say by name, not fail at.
                Err(error) => {
                    eprintln!("{name}: {error}");
                    assert!(matches!(error, EngineError::Unsupported { .. }), "{name}: {error}");
                }
            }
        }
    }
    assert!(compared >= 20, "{compared}");
}

#[test]
fn a_child_process_judges() {
    let model = fixture("residual_block.onnx");
    let mut other = model.clone();
    // Another name of the graph is another file and the same function.
    other.graph.as_mut().unwrap().name = Some("renamed".into());
    let report = verify(&model, &other, &options());
    assert_eq!((report.status, report.engine.as_str(), report.runs), (Status::Verified, "tract", 2));
    assert!(report.outputs.iter().all(|output| output.equal_bits));

    let graph = other.graph.as_mut().unwrap();
    let weight = graph.initializer.iter_mut().find(|tensor| tensor.data_type() == 1).unwrap();
    let mut raw = weight.raw_data.take().unwrap().to_vec();
    raw[..4].copy_from_slice(&100f32.to_le_bytes());
    weight.raw_data = Some(raw.into());
    let report = verify(&model, &other, &options());
    assert!(matches!(report.status, Status::Failed { .. }), "{:?}", report.status);
}

#[test]
fn what_cannot_be_verified_says_why() {
    let model = fixture("loop_capture.onnx");
    let mut other = model.clone();
    other.doc_string = Some("another file".into());
    let Status::NotVerifiable { reason } = verify(&model, &other, &options()).status else { panic!() };
    assert!(reason.contains("Loop"), "{reason}");
    if OrtExecutor::library(None).is_some() {
        let report = verify(&model, &other, &VerifyOptions { engine: EngineChoice::Auto, ..options() });
        assert_eq!((report.status, report.engine.as_str()), (Status::Verified, "onnxruntime"));
    }
}

#[test]
fn a_child_that_cannot_allocate_is_no_failure() {
    // One result of 2 GiB: past what the allocator may have set aside before the limit.
    let mut f = Fixture::new(13);
    let x = f.input("x", &[1]);
    let shape = f.integers(&[1 << 29]);
    let y = f.op("Expand", &[x, shape]);
    let model = onnx_opt::ir::export(&f.with_output(y).into_model());
    let mut other = model.clone();
    other.doc_string = Some("another file".into());
    let report = verify(&model, &other, &VerifyOptions { memory_limit: 64 << 20, ..options() });
    let Status::NotVerifiable { reason } = report.status else { panic!("{:?}", report.status) };
    assert!(reason.contains("failed to allocate"), "{reason}");
}

#[test]
fn random_outputs_are_not_compared() {
    if OrtExecutor::library(None).is_none() {
        eprintln!("skipped: ORT_DYLIB_PATH is not set");
        return;
    }
    let model = fixture("duplicates.onnx");
    let mut other = model.clone();
    // The place of a node in the graph is its seed.
    let nodes = &mut other.graph.as_mut().unwrap().node;
    nodes.retain(|node| !["Exp", "Log"].contains(&node.op_type()));
    let report = verify(&model, &other, &VerifyOptions { engine: EngineChoice::OnnxRuntime, ..options() });
    assert_eq!(report.status, Status::Verified);
}
