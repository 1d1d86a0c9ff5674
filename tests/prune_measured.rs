//! Importance that is measured on samples, and recovery on them, on networks for which both are known.

#![allow(clippy::unwrap_used)]

mod arrays;

use arrays::write_npy;
use onnx_opt::calibrate::{CalibrateOptions, Measure};
use onnx_opt::engine::EngineChoice;
use onnx_opt::ir::{Model, NewNode, ValueId, check, export};
use onnx_opt::passes::prune::{
    Criterion, Given, Groups, Importance, Measured, Norm, Options, Target, couple, prune, recover,
};
use onnx_opt::passes::testing::Fixture;
use onnx_opt::session::Listener;
use onnx_opt::verify::{Status, VerifyOptions, verify};

struct Silent;

impl Listener for Silent {
    fn stage(&self, _: &'static str) {}
    fn after_pass(&self, _: &str, _: &Model) {}
}

const CRITERIA: [Criterion; 5] = [
    Criterion::Taylor,
    Criterion::Fisher,
    Criterion::Sensitivity,
    Criterion::Activation,
    Criterion::Reconstruction,
];

/// Random samples for a model, in an engine.
fn samples(model: &Model, engine: EngineChoice) -> Measure<'static> {
    let options = CalibrateOptions {
        engine,
        random: 96,
        program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
        ..CalibrateOptions::default()
    };
    Measure::new(&model.graph, &[], options, &Silent).unwrap()
}

/// The engines that are there.
fn engines() -> Vec<EngineChoice> {
    let onnxruntime = std::env::var_os("ORT_DYLIB_PATH").map(|_| EngineChoice::OnnxRuntime);
    [EngineChoice::Tract].into_iter().chain(onnxruntime).collect()
}

/// The scores of the only group of a model.
fn scores(model: &Model, criterion: Criterion, engine: EngineChoice) -> Vec<f64> {
    let totals = samples(model, engine);
    let groups = Groups::of(&model.graph, &couple(&model.graph));
    let measured = Measured { criterion, base: model, totals: &totals, recovers: false };
    let mut scores = measured.scores(&model.graph, &groups).unwrap();
    assert_eq!(scores.len(), 1);
    scores.remove(0)
}

fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}

/// Six units, each of which takes one of six inputs and gives one of six outputs, the later the more.
fn graded(activation: Option<&str>) -> Model {
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["batch", "6"]);
    let place = [3, 0, 5, 1, 4, 2];
    let (mut first, mut second) = (vec![0.0; 36], vec![0.0; 36]);
    for (unit, &rank) in place.iter().enumerate() {
        // So small that no class is certain.
        let size = 0.15 * f32::powi(1.6, rank);
        first[unit * 6 + unit] = size;
        second[unit * 6 + unit] = size;
    }
    let (first, second) = (f.floats(&[6, 6], &first), f.floats(&[6, 6], &second));
    let mut h = f.op("MatMul", &[x, first]);
    if let Some(activation) = activation {
        h = f.op(activation, &[h]);
    }
    let y = f.op("MatMul", &[h, second]);
    f.with_output(y).into_model()
}

#[test]
fn units_that_give_more_are_worth_more() {
    for engine in engines() {
        for activation in [None, Some("Relu")] {
            let model = graded(activation);
            for criterion in CRITERIA {
                let found = scores(&model, criterion, engine);
                // By reconstruction units are worth their share of what is given, whatever unit gives how much.
                assert_eq!(order(&found), [1, 3, 5, 0, 4, 2], "{criterion:?} in {engine:?}: {found:?}");
            }
        }
    }
}

/// With one output its projections are ±1, and a network without activations is what it is to first order: of every sample
/// by itself, with its bias, what is found is exact.
#[test]
fn what_the_output_loses_by_taylor_is_exact() {
    let (rows, units) = (24, 5);
    let noise = |count: usize| (0..count).map(|at| ((at * 37 + 11) % 29) as f32 / 14.5 - 1.0).collect();
    let (samples, first, bias): (Vec<f32>, Vec<f32>, Vec<f32>) =
        (noise(rows * 3), noise(3 * units), noise(units));
    let second = [0.6, 0.8, -0.7, 0.9, 0.5];
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["batch", "3"]);
    let (w, b, v) =
        (f.floats(&[3, units], &first), f.floats(&[units], &bias), f.floats(&[units, 1], &second));
    let h = f.op("MatMul", &[x, w]);
    let h = f.op("Add", &[h, b]);
    let y = f.op("MatMul", &[h, v]);
    let model = f.with_output(y).into_model();

    let gives = |row: &[f32], unit: usize| -> f64 {
        let sum: f32 = row.iter().enumerate().map(|(input, x)| x * first[input * units + unit]).sum();
        f64::from((sum + bias[unit]) * second[unit])
    };
    let loss = |gone: &[usize]| -> f64 {
        let lost = |row: &[f32]| gone.iter().map(|&unit| gives(row, unit)).sum::<f64>();
        samples.chunks(3).map(|row| lost(row).powi(2)).sum()
    };

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &[rows, 3], &samples);
    for engine in engines() {
        let options = CalibrateOptions {
            engine,
            program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
            ..CalibrateOptions::default()
        };
        let totals = Measure::new(&model.graph, std::slice::from_ref(&path), options, &Silent).unwrap();
        let groups = Groups::of(&model.graph, &couple(&model.graph));
        let measured =
            Measured { criterion: Criterion::Taylor, base: &model, totals: &totals, recovers: false };
        let together = measured.scores(&model.graph, &groups).unwrap().remove(0);
        let rounds = together.iter().copied().fold(f64::INFINITY, f64::min)
            / (0..units).map(|unit| loss(&[unit])).fold(f64::INFINITY, f64::min);
        assert!((rounds - rounds.round()).abs() < 1e-4 && rounds > 0.5, "{rounds}");
        // Each is the one with which least is lost when those before it have gone.
        let mut gone = Vec::new();
        let mut most: f64 = 0.0;
        for unit in order(&together) {
            let with = |unit: usize| loss(&[&gone[..], &[unit]].concat()) - loss(&gone);
            let least =
                (0..units).filter(|unit| !gone.contains(unit)).map(with).fold(f64::INFINITY, f64::min);
            assert!((with(unit) - least).abs() < 1e-4 * loss(&[unit]), "{together:?}");
            most = most.max(with(unit));
            assert!((together[unit] / rounds / most - 1.0).abs() < 1e-4, "{unit} of {together:?}: {most}");
            gone.push(unit);
        }
        let alone: Vec<f64> = (0..units).map(|unit| loss(&[unit])).collect();
        assert_ne!(order(&together), order(&alone));
    }
}

#[test]
fn sequences_of_unknown_length_are_as_long_as_the_samples() {
    // Each unit takes one input and gives one output, the last the most.
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["steps", "batch", "3"]);
    let diagonal: Vec<f32> =
        (0..9).map(|place| if place % 4 == 0 { 0.1 * (1 + place / 4) as f32 } else { 0.0 }).collect();
    let (w, r) = (f.floats(&[1, 3, 3], &diagonal), f.floats(&[1, 3, 3], &[0.0; 9]));
    let h = f.node(NewNode::new("RNN", [x, w, r]).with("hidden_size", 3));
    let second = f.floats(&[3, 3], &diagonal);
    let y = f.op("MatMul", &[h, second]);
    let model = f.with_output(y).into_model();
    for engine in engines() {
        for criterion in [Criterion::Taylor, Criterion::Fisher] {
            let found = scores(&model, criterion, engine);
            assert_eq!(order(&found), [0, 1, 2], "{criterion:?} in {engine:?}: {found:?}");
        }
    }
}

#[test]
fn what_others_can_stand_in_for_is_worth_least() {
    // Units 0 and 3 give the same, and together more than the others.
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["batch", "3"]);
    let first = f.floats(&[3, 4], &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let second = f.floats(&[4, 2], &[3.0, 0.0, 1.0, 1.0, 0.0, 1.0, 3.0, 0.0]);
    let h = f.op("MatMul", &[x, first]);
    let y = f.op("MatMul", &[h, second]);
    let model = f.with_output(y).into_model();
    let found = scores(&model, Criterion::Reconstruction, EngineChoice::Tract);
    // Either can stand in for the other, and is worth most then.
    let (first, second) = (found[0].min(found[3]), found[0].max(found[3]));
    assert!([1, 2].iter().all(|&other| first < found[other] && found[other] < second), "{found:?}");
    let plain = Norm::L2.scores(&model.graph, &Groups::of(&model.graph, &couple(&model.graph))).unwrap();
    assert!(plain[0][0] > plain[0][1]);
}

/// A network whose units are pairs: the later of each gives a part of what the other does.
fn paired(kind: &str) -> Model {
    let mut f = Fixture::new(17);
    match kind {
        "linear" => {
            let x = f.symbolic_input("x", &["batch", "5"]);
            let (first, bias) = twins(&mut f, &[5, 4], 1);
            let (second, last) = (f.weights(&[8, 3]), f.weights(&[3]));
            let h = f.op("MatMul", &[x, first]);
            let h = f.op("Add", &[h, bias]);
            let h = f.op("Relu", &[h]);
            let h = f.op("MatMul", &[h, second]);
            let y = f.op("Add", &[h, last]);
            f.with_output(y).into_model()
        }
        // Units of a layer that give a tenth of what others give, to the layer itself and to what takes them.
        "LSTM" | "GRU" | "RNN" => {
            let gates = match kind {
                "LSTM" => 4,
                "GRU" => 3,
                _ => 1,
            };
            let x = f.symbolic_input("x", &["5", "batch", "3"]);
            let (w, b) = (alike(&mut f, &[gates, 4, 3]), alike(&mut f, &[2 * gates, 4, 1]));
            let r = alike(&mut f, &[gates, 4, 8]);
            let r = louder(&mut f, r, 2);
            let (w, r) = (shaped(&mut f, w, &[1, gates * 8, 3]), shaped(&mut f, r, &[1, gates * 8, 8]));
            let b = shaped(&mut f, b, &[1, gates * 16]);
            let node = NewNode::new(kind, [x, w, r, b]).with("hidden_size", 8);
            let node = if kind == "GRU" { node.with("linear_before_reset", 1) } else { node };
            let h = f.node(node);
            let second = f.weights(&[8, 3]);
            let second = louder(&mut f, second, 0);
            let y = f.op("MatMul", &[h, second]);
            f.with_output(y).into_model()
        }
        // One layer of units that are pairs behind another.
        "stacked" => {
            let x = f.symbolic_input("x", &["5", "batch", "3"]);
            let (first, bias) = twins(&mut f, &[3, 4], 1);
            let h = f.op("MatMul", &[x, first]);
            let h = f.op("Add", &[h, bias]);
            let h = f.op("Relu", &[h]);
            let (w, r, b) = (f.weights(&[2, 1, 8]), f.weights(&[2, 1, 1]), f.weights(&[2, 2]));
            let node = NewNode::new("RNN", [h, w, r, b]).with("hidden_size", 1);
            let y = f.node(node.with("direction", "bidirectional"));
            f.with_output(y).into_model()
        }
        // More columns than are fitted at once.
        "wide" => {
            let x = f.symbolic_input("x", &["batch", "5"]);
            let (first, second) = (twins(&mut f, &[5, 2400], 1).0, f.weights(&[4800, 3]));
            let h = f.op("MatMul", &[x, first]);
            let h = f.op("Relu", &[h]);
            let y = f.op("MatMul", &[h, second]);
            f.with_output(y).into_model()
        }
        "convolution" => {
            let x = f.symbolic_input("x", &["batch", "3", "7", "6"]);
            let (first, bias) = twins(&mut f, &[4, 3, 3, 3], 0);
            let second = f.weights(&[5, 8, 3, 3]);
            let h = f.node(NewNode::new("Conv", [x, first, bias]).with("pads", vec![1i64; 4]));
            let h = f.op("Relu", &[h]);
            let y = f.node(NewNode::new("Conv", [h, second]).with("strides", vec![2i64, 1]));
            f.with_output(y).into_model()
        }
        _ => {
            // The input goes around, and is added.
            let x = f.symbolic_input("x", &["batch", "3", "6", "6"]);
            let (first, bias) = twins(&mut f, &[4, 3, 1, 1], 0);
            let second = f.weights(&[3, 8, 1, 1]);
            let h = f.op("Conv", &[x, first, bias]);
            let h = f.op("Relu", &[h]);
            let h = f.op("Conv", &[h, second]);
            let y = f.op("Add", &[h, x]);
            f.with_output(y).into_model()
        }
    }
}

/// A constant of these sizes with twice as many units along axis 1, the later ones like the others.
fn alike(f: &mut Fixture, half: &[usize]) -> ValueId {
    let part = f.weights(half);
    let part = f.graph.constant(part).unwrap().to_f32().unwrap();
    let blocks = part.chunks(half[1] * half[2]).flat_map(|block| [block, block].concat());
    f.floats(&[half[0], 2 * half[1], half[2]], &blocks.collect::<Vec<f32>>())
}

/// A constant of which the later half along an axis is a tenth, the other half is 0.3 of what it was.
fn louder(f: &mut Fixture, value: ValueId, axis: usize) -> ValueId {
    let tensor = f.graph.constant(value).unwrap().clone();
    let (shape, inner) = (tensor.shape(), tensor.shape()[axis + 1..].iter().product::<usize>());
    let factor = |place: usize| if place / inner % shape[axis] < shape[axis] / 2 { 0.3 } else { 0.03 };
    let values: Vec<f32> =
        tensor.to_f32().unwrap().iter().enumerate().map(|(place, value)| value * factor(place)).collect();
    f.floats(shape, &values)
}

/// A constant of other sizes.
fn shaped(f: &mut Fixture, value: ValueId, sizes: &[usize]) -> ValueId {
    let values = f.graph.constant(value).unwrap().to_f32().unwrap();
    f.floats(sizes, &values)
}

/// A weight of twice as many units along an axis, and their bias: the later ones are a tenth of the others.
fn twins(f: &mut Fixture, half: &[usize], axis: usize) -> (ValueId, ValueId) {
    let doubled = |f: &mut Fixture, value: ValueId, axis: i64| {
        let part = f.graph.constant(value).unwrap().to_f32().unwrap();
        let shape = f.graph.constant(value).unwrap().shape().to_vec();
        let inner: usize = shape[axis as usize..].iter().product();
        let mut whole = shape;
        whole[axis as usize] *= 2;
        let mut values = Vec::new();
        for row in part.chunks(inner) {
            values.extend_from_slice(row);
            values.extend(row.iter().map(|value| value * 0.1));
        }
        f.floats(&whole, &values)
    };
    let (weight, bias) = (f.weights(half), f.weights(&half[axis..=axis]));
    (doubled(f, weight, axis as i64), doubled(f, bias, 0))
}

#[test]
fn what_is_left_makes_up_for_what_went() {
    for kind in ["linear", "wide", "convolution", "residual", "LSTM", "GRU", "RNN", "stacked"] {
        let in_turn = !["linear", "convolution", "residual"].contains(&kind);
        let left = if kind == "wide" { 2400 } else { 4 };
        for engine in engines() {
            for given in [Given::Recovered, Given::Original] {
                if in_turn && given == Given::Original {
                    continue;
                }
                let whole = paired(kind);
                let mut model = whole.clone();
                let outcome = prune(&mut model, &Options::new(Target::Units(0.5))).unwrap();
                assert_eq!(
                    outcome.groups.iter().map(|group| group.after).collect::<Vec<_>>(),
                    [left],
                    "{kind}"
                );
                let distance = |model: &Model, tolerance: f64| {
                    let options = VerifyOptions {
                        tolerance: Some(tolerance),
                        program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
                        ..VerifyOptions::default()
                    };
                    verify(&export(&whole), &export(model), &options).status
                };
                assert_ne!(distance(&model, 1e-2), Status::Verified, "{kind} is as it was");
                let totals = samples(&whole, engine);
                let found = recover(&mut model, &whole.graph, &outcome.kept, given, &totals).unwrap();
                check(&model).unwrap();
                assert!(found.products > 0 && found.passes > 0, "{kind}: {found:?}");
                let status = distance(&model, 1e-2);
                assert_eq!(status, Status::Verified, "{kind} in {engine:?}, {given:?}\n{model}");
            }
        }
    }
}

#[test]
fn channels_get_their_mean_and_variance_back() {
    // A transposed convolution is no product here; its operand has lost what it was the sum of.
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["batch", "3", "5", "5"]);
    let (first, bias) = twins(&mut f, &[4, 3, 1, 1], 0);
    let (second, scales) = (f.weights(&[8, 2, 2, 2]), [f.weights(&[2]), f.weights(&[2])]);
    let h = f.op("Conv", &[x, first, bias]);
    let h = f.node(NewNode::new("ConvTranspose", [h, second]).with("strides", vec![2i64, 2]));
    let mean = f.floats(&[2], &[0.1, -0.2]);
    let variance = f.floats(&[2], &[0.9, 1.2]);
    let h = f.op("Relu", &[h]);
    let y = f.op("BatchNormalization", &[h, scales[0], scales[1], mean, variance]);
    let whole = f.with_output(y).into_model();
    let mut model = whole.clone();
    let outcome = prune(&mut model, &Options::new(Target::Units(0.5))).unwrap();
    let totals = samples(&whole, EngineChoice::Tract);
    let found = recover(&mut model, &whole.graph, &outcome.kept, Given::Recovered, &totals).unwrap();
    assert_eq!((found.products, found.channels), (0, 2));
    check(&model).unwrap();
}

#[test]
fn steps_end_where_one_would() {
    for target in [Target::Units(0.5), Target::Macs(0.5)] {
        for steps in [1, 3] {
            let mut model = graded(Some("Relu"));
            let whole = model.clone();
            let totals = samples(&whole, EngineChoice::Tract);
            let importance =
                Measured { criterion: Criterion::Taylor, base: &whole, totals: &totals, recovers: false };
            let options = Options { importance: &importance, steps, ..Options::new(target) };
            let outcome = prune(&mut model, &options).unwrap();
            assert_eq!(outcome.groups[0].after, 3, "{target:?} in {steps}");
            check(&model).unwrap();
        }
    }
}
