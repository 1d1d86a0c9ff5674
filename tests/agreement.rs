//! Random models compute at -O2 what they computed before, in tract. `PROPTEST_CASES` says how many.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use onnx_opt::engine::{TractEval, TractExecutor};
use onnx_opt::ir::engine::Executor;
use onnx_opt::ir::{Model, Tensor, export, random};
use onnx_opt::passes::exercise::reload;
use onnx_opt::passes::{PassContext, pipeline};
use onnx_opt::proto::{ModelProto, encode};
use onnx_opt::verify::compare::{OutputReport, compare};
use onnx_opt::verify::inputs::{InputSet, generate, input_specs, perturbed, plans};
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Largest difference over the range of an output.
const TOLERANCE: f64 = 1e-4;

/// The model of a seed as it is and at -O2.
fn models(seed: u64) -> (ModelProto, ModelProto) {
    let original = export(&random::model(seed));
    let mut model: Model = reload(&original).unwrap();
    let engine = TractEval::new();
    let context = PassContext { const_eval: Some(&engine), ..PassContext::default() };
    pipeline(2).run(&mut model, &context, |_, _| {}).unwrap();
    (original, export(&model))
}

/// The first output that differs, if one does; or why nothing can be said of a model.
fn difference(seed: u64) -> Result<Option<OutputReport>, String> {
    let (original, result) = models(seed);
    let specs = input_specs(&original.graph.clone().unwrap_or_default())?;
    let inputs = generate(&specs, &plans(&specs)[0], seed, &BTreeMap::new(), &BTreeMap::new())?;
    let run = |which: &str, model: &ModelProto, inputs: &InputSet| {
        let outputs = TractExecutor::new().run(&encode(model), inputs);
        outputs.map_err(|error| format!("{which}: {error}"))
    };
    let before = run("the original", &original, &inputs)?;
    let compared = |after: &[(String, Tensor)]| -> Vec<OutputReport> {
        assert_eq!(before.len(), after.len());
        let pairs = before.iter().zip(after);
        pairs.map(|((name, a), (_, b))| compare(name, a, b, Some(TOLERANCE))).collect()
    };
    let reports = compared(&run("the result", &result, &inputs)?);
    let Some(place) = reports.iter().position(|report| !report.within()) else { return Ok(None) };
    // Differences of what is nearly the same are rounding through and through.
    let moved = compared(&run("the original", &original, &perturbed(&inputs))?);
    let (found, own) = (&reports[place], &moved[place]);
    if found.mismatch.is_none() && 2.0 * own.max_relative_to_range >= found.max_relative_to_range {
        return Err("the original: moves as much when its inputs are rounded".to_owned());
    }
    Ok(Some(found.clone()))
}

#[test]
fn random_models_compute_the_same() {
    // The same models every time: whether the engine can run them is no matter of luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = Config { failure_persistence: None, ..Config::default() };
    let cases = config.cases as usize;
    let skipped = RefCell::new(Vec::new());
    let result = TestRunner::new_with_rng(config, rng).run(&any::<u64>(), |seed| match difference(seed) {
        Ok(None) => Ok(()),
        Ok(Some(report)) => Err(TestCaseError::fail(format!("seed {seed}: {report:?}"))),
        Err(reason) => {
            skipped.borrow_mut().push(format!("{seed}: {reason}"));
            Ok(())
        }
    });
    let skipped = skipped.into_inner();
    println!("{} of {cases} skipped:\n{}", skipped.len(), skipped.join("\n"));
    result.unwrap();
    assert!(skipped.len() * 4 < cases, "{} of {cases} skipped", skipped.len());
}
