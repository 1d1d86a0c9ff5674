//! Quantization from end to end: a float model and samples go in, a model that computes with integers comes out, and a
//! report that says what was measured.
//!
//! Comparisons with onnxruntime run where `ORT_DYLIB_PATH` names its library.

#![allow(clippy::unwrap_used)]

mod arrays;

use std::fs;
use std::path::{Path, PathBuf};

use arrays::write_npy;
use assert_cmd::Command;
use onnx_opt::ir::load::load;
use onnx_opt::ir::{ElementType, Model, NewNode, Tensor, export};
use onnx_opt::passes::testing::Fixture;
use onnx_opt::proto::{WriteOptions, read_file, write_file};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).display().to_string()
}

fn onnx_opt(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_onnx-opt")).args(arguments).assert()
}

/// A folder with a float model, samples for it, and room for a result.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(model: Model, samples: &[f32]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        write_file(export(&model), &place.path("m.onnx"), &WriteOptions::default()).unwrap();
        write_npy(&place.path("x.npy"), &[1, 3, 16, 16], samples);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Quantizes the model with more arguments and gives the report.
    fn quantized(&self, arguments: &[&str]) -> Value {
        let [model, result, samples] = ["m.onnx", "q.onnx", "x.npy"].map(|name| self.name(name));
        let mut all = vec![&*model, "-o", &result, "--json", "--quantize", "int8"];
        if !arguments.contains(&"--calibration") {
            all.extend(["--calibrate", &samples]);
        }
        all.extend(arguments);
        serde_json::from_slice(&onnx_opt(&all).success().get_output().stdout).unwrap()
    }

    fn result(&self) -> Model {
        load(read_file(&self.path("q.onnx")).unwrap()).unwrap()
    }
}

/// Three convolutions around a sum, and a classifier.
fn residual(opset: i64) -> Model {
    let mut f = Fixture::new(opset);
    let x = f.input("x", &[1, 3, 16, 16]);
    let conv = |f: &mut Fixture, x, shape: &[usize], name: &str| {
        let (weights, bias) = (f.weights(shape), f.weights(&shape[..1]));
        let node = NewNode::new("Conv", [x, weights, bias]).with("pads", vec![1i64; 4]);
        f.node(NewNode { name: Some(name.into()), ..node })
    };
    let stem = conv(&mut f, x, &[32, 3, 3, 3], "stem");
    let stem = f.op("Relu", &[stem]);
    let a = conv(&mut f, stem, &[32, 32, 3, 3], "stem_a");
    let a = f.op("Relu", &[a]);
    let b = conv(&mut f, a, &[32, 32, 3, 3], "stem_b");
    let sum = f.op("Add", &[b, stem]);
    let sum = f.op("Relu", &[sum]);
    let mean = f.op("GlobalAveragePool", &[sum]);
    let flat = f.op("Flatten", &[mean]);
    let (weights, bias) = (f.weights(&[10, 32]), f.weights(&[10]));
    let y = f.node(NewNode::new("Gemm", [flat, weights, bias]).with("transB", 1));
    f.with_output(y).into_model()
}

/// Scales the elements of a constant by their place.
fn scale_constant(f: &mut Fixture, node: &str, slot: usize, factor: &dyn Fn(usize) -> f32) {
    let value = f.graph.nodes().find(|(_, of)| of.name() == Some(node)).unwrap().1.input(slot).unwrap();
    let tensor = f.graph.constant(value).unwrap().clone();
    let mut values = tensor.to_f32().unwrap();
    values.iter_mut().enumerate().for_each(|(place, value)| *value *= factor(place));
    f.graph.set_constant(value, Tensor::from_f32(tensor.shape(), &values).unwrap()).unwrap();
}

const NUMBERS: [f32; 7] = [0.3, -1.2, 0.9, 2.0, -0.4, 0.1, -2.2];

fn note_of(report: &Value, words: &str) -> bool {
    report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains(words))
}

fn count(model: &Model, op_type: &str) -> usize {
    model.graph.nodes().filter(|(_, node)| node.is(op_type)).count()
}

#[test]
fn every_product_computes_with_integers_and_the_report_says_so() {
    let place = Place::new(residual(13), &NUMBERS);
    let report = place.quantized(&[]);
    let quantization = &report["quantization"];
    assert_eq!(quantization["quantized"]["Conv"], 3);
    assert_eq!((&quantization["scheme"], &quantization["samples"]), (&"int8".into(), &1.into()));
    assert_eq!(quantization["onnxruntime"]["kernels"]["QLinearConv"], 3, "{quantization:#}");
    let error = &quantization["error"];
    assert_eq!((&error["status"], &error["engine"]), (&"verified".into(), &"tract".into()));
    assert!(error["outputs"][0]["sqnr_db"].as_f64().unwrap() > 20.0, "{error:#}");
    if std::env::var_os("ORT_DYLIB_PATH").is_some() {
        let agreement = &quantization["agreement"];
        assert!(agreement["outputs"][0]["max_relative_to_range"].as_f64().unwrap() < 0.03, "{agreement:#}");
    }
    assert!(report["after"]["bytes"].as_u64() < report["before"]["bytes"].as_u64());
    let result = place.result();
    for value in [result.graph.inputs()[0].value, result.graph.outputs()[0].value] {
        assert_eq!(result.graph.element(value), Some(ElementType::Float));
    }
}

#[test]
fn the_table_says_what_was_measured() {
    let place = Place::new(residual(13), &NUMBERS);
    let [model, result, samples] = ["m.onnx", "q.onnx", "x.npy"].map(|name| place.name(name));
    let arguments = [&*model, "-o", &result, "--quantize", "int8", "--calibrate", &samples];
    onnx_opt(&[&arguments[..], &["--exclude", "stem_b", "--calibration-method", "minmax"]].concat())
        .success()
        .stdout(contains("quantized: int8 for onnx, ranges by min-max of 1 sample"))
        .stdout(contains("it is excluded").and(contains("stem_b")))
        .stdout(contains("QLinearConv"))
        .stdout(contains("against the original: ").and(contains("dB")));
}

#[test]
fn the_operator_set_is_raised_as_far_as_scales_by_channel_need() {
    let place = Place::new(residual(11), &NUMBERS);
    let report = place.quantized(&[]);
    assert!(note_of(&report, "raised from 11 to 13"), "{report:#}");
    assert_eq!(place.result().graph.opset(), 13);
}

#[test]
fn every_target_marks_integers_its_own_way() {
    for target in ["onnxruntime", "onnxruntime-arm", "tensorrt", "openvino", "qnn", "tract"] {
        let place = Place::new(residual(13), &NUMBERS);
        let report = place.quantized(&["--target", target]);
        assert!(report["quantization"]["quantized"]["Conv"].as_u64() > Some(0), "{target}: {report:#}");
        assert!(count(&place.result(), "QuantizeLinear") > 0, "{target}");
    }
}

#[test]
fn nodes_are_chosen_by_name_pattern_and_operator() {
    let place = Place::new(residual(13), &NUMBERS);
    let barred = |arguments: &[&str], reason: &str| -> Vec<String> {
        let report = place.quantized(arguments);
        let nodes = report["quantization"]["nodes"].as_array().unwrap().iter();
        let barred = nodes.filter(|node| node["operator"] == "Conv" && node["float"] == reason);
        barred.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
    };
    let excluded = |names: &str| barred(&["--exclude", names], "it is excluded");
    // A name is that node alone, though it begins others; as a pattern it is all of them.
    assert_eq!(excluded("stem"), ["stem"]);
    assert_eq!(excluded("^stem"), ["stem", "stem_a", "stem_b"]);
    assert_eq!(excluded("stem_a,stem_b"), ["stem_a", "stem_b"]);
    assert_eq!(barred(&["--nodes", "stem_."], "it is not among the nodes asked for"), ["stem"]);
    let others = "its operator is not among those asked for";
    assert_eq!(barred(&["--ops", "Gemm"], others).len(), 3);
    assert_eq!(barred(&["--ops", "Conv"], others).len(), 0);
}

#[test]
fn a_calibration_is_as_good_as_its_samples() {
    let place = Place::new(residual(13), &NUMBERS);
    let [model, samples, calibration] = ["m.onnx", "x.npy", "c.json"].map(|name| place.name(name));
    // Without samples nothing is known of what weights are multiplied with.
    place.quantized(&["--rounding", "nearest"]);
    let from_samples = fs::read(place.path("q.onnx")).unwrap();
    onnx_opt(&["calibrate", &model, "--data", &samples, "-o", &calibration]).success();
    place.quantized(&["--calibration", &calibration]);
    assert_eq!(fs::read(place.path("q.onnx")).unwrap(), from_samples);
    let report = place.quantized(&["--calibration", &calibration, "--calibrate", &samples]);
    assert_eq!(report["quantization"]["error"]["runs"], 1);
    let [other, result] = [fixture("mnist_resnet.onnx"), place.name("o.onnx")];
    onnx_opt(&[&other, "-o", &result, "--quantize", "int8", "--calibration", &calibration])
        .failure()
        .code(1)
        .stderr(contains("is the calibration of another model"));
    assert!(!place.path("o.onnx").exists());
}

#[test]
fn pruning_comes_before_quantization_in_one_report() {
    let place = Place::new(residual(13), &NUMBERS);
    let report = place.quantized(&["--prune", "0.5"]);
    assert!(
        report["pruning"]["after"]["parameters"].as_u64()
            < report["pruning"]["before"]["parameters"].as_u64()
    );
    // What pruning changed is not held against integers.
    let error = &report["quantization"]["error"]["outputs"][0]["sqnr_db"];
    assert!(error.as_f64().unwrap() > 15.0, "{error}");
    assert!(report["pruning"]["error"]["outputs"][0]["sqnr_db"].as_f64() < error.as_f64());
}

/// Convolutions one behind the other, one of them depthwise, and a classifier; the channels between them are scaled by
/// powers of two, which changes no bit of the outputs.
fn scaled_apart(apart: bool) -> Model {
    let mut f = Fixture::new(13);
    let mut t = f.input("x", &[1, 3, 16, 16]);
    let power = |channel: usize| if apart { 2f32.powi((channel * 5 % 13) as i32 - 6) } else { 1.0 };
    let scaled = |f: &mut Fixture, shape: &[usize], factor: &dyn Fn(usize) -> f32| {
        let constant = f.weights(shape);
        let mut values = f.graph.constant(constant).unwrap().to_f32().unwrap();
        values.iter_mut().enumerate().for_each(|(place, value)| *value *= factor(place));
        f.floats(shape, &values)
    };
    for (channels, inputs, group) in [(16, 3, 1), (16, 1, 16), (24, 16, 1)] {
        let own = inputs * 9;
        let takes = |place: usize| match (inputs, group) {
            (3, _) => 1.0,
            (_, 1) => power(place / 9 % inputs),
            _ => power(place / 9),
        };
        let weights = scaled(&mut f, &[channels, inputs, 3, 3], &|place| power(place / own) / takes(place));
        let bias = scaled(&mut f, &[channels], &power);
        let node = NewNode::new("Conv", [t, weights, bias]).with("pads", vec![1i64; 4]);
        t = f.node(node.with("group", group as i64));
        t = f.op("Relu", &[t]);
    }
    t = f.op("GlobalAveragePool", &[t]);
    t = f.op("Flatten", &[t]);
    let weights = scaled(&mut f, &[10, 24], &|place| 1.0 / power(place % 24));
    let bias = f.weights(&[10]);
    let y = f.node(NewNode::new("Gemm", [t, weights, bias]).with("transB", 1));
    f.with_output(y).into_model()
}

#[test]
fn equalization_brings_scaled_channels_back_under_one_scale_for_each_weight() {
    let sqnr = |apart: bool, arguments: &[&str]| {
        let place = Place::new(scaled_apart(apart), &NUMBERS);
        let report = place.quantized(arguments);
        report["quantization"]["error"]["outputs"][0]["sqnr_db"].as_f64().unwrap()
    };
    let (plain, apart) = (sqnr(false, &["--per-tensor"]), sqnr(true, &["--per-tensor"]));
    let back = sqnr(true, &["--per-tensor", "--equalize"]);
    assert!(apart < plain - 10.0, "{plain} {apart}");
    assert!(back > plain - 3.0, "{plain} {apart} {back}");
    // Where weights have many scales, nobody needs to ask.
    let [plain, usual, never] = [(false, &[][..]), (true, &[][..]), (true, &["--equalize=off"][..])]
        .map(|(apart, arguments)| sqnr(apart, arguments));
    assert!(never < plain - 10.0 && usual > plain - 3.0, "{plain} {usual} {never}");
}

#[test]
fn weights_are_rounded_so_that_results_stay() {
    let place = Place::new(residual(13), &NUMBERS);
    let sqnr = |way: &str| {
        let report = place.quantized(&["--rounding", way])["quantization"].clone();
        assert_eq!(report["rounding"], way);
        report["error"]["outputs"][0]["sqnr_db"].as_f64().unwrap()
    };
    let [nearest, gptq, adaround] = ["nearest", "gptq", "adaround"].map(sqnr);
    assert!(gptq > nearest + 1.0 && adaround > nearest + 1.0, "{nearest} {gptq} {adaround}");
}

#[test]
fn corrected_biases_take_back_what_integers_shift() {
    let place = Place::new(scaled_apart(false), &NUMBERS);
    let sqnr = |arguments: &[&str]| {
        let report = place.quantized(arguments);
        let corrected = report["quantization"]["corrected"]["biases"].as_u64();
        (report["quantization"]["error"]["outputs"][0]["sqnr_db"].as_f64().unwrap(), corrected)
    };
    let (plain, corrected) = (sqnr(&[]), sqnr(&["--bias-correction"]));
    assert!(corrected.0 > plain.0 + 6.0, "{plain:?} {corrected:?}");
    assert_eq!((plain.1, corrected.1), (None, Some(2)));
}

/// Five convolutions, with the channels between the second and the third scaled by powers of two.
fn sensitive() -> Model {
    let mut f = Fixture::new(13);
    let mut t = f.input("x", &[1, 3, 16, 16]);
    for (name, inputs) in [("a", 3), ("b", 32), ("c", 32), ("d", 32), ("e", 32)] {
        let (weights, bias) = (f.weights(&[32, inputs, 3, 3]), f.weights(&[32]));
        let node = NewNode::new("Conv", [t, weights, bias]).with("pads", vec![1i64; 4]);
        t = f.node(NewNode { name: Some(name.into()), ..node });
        t = f.op("Relu", &[t]);
    }
    let power = |channel: usize| 2f32.powi((channel * 5 % 13) as i32 - 6);
    scale_constant(&mut f, "b", 1, &|place| power(place / (32 * 9)));
    scale_constant(&mut f, "b", 2, &power);
    scale_constant(&mut f, "c", 1, &|place| 1.0 / power(place / 9 % 32));
    f.with_output(t).into_model()
}

#[test]
fn nodes_stay_floats_until_the_outputs_are_good_enough() {
    let place = Place::new(sensitive(), &NUMBERS);
    let report = place.quantized(&["--per-tensor", "--min-sqnr", "25"])["quantization"].clone();
    let mixed = &report["mixed"];
    assert!(mixed["all_db"].as_f64() < Some(15.0) && mixed["reached_db"].as_f64() >= Some(25.0), "{mixed:#}");
    // The sample is that which was measured.
    assert!(report["error"]["outputs"][0]["sqnr_db"].as_f64() >= Some(24.9), "{report:#}");
    let name = |of: &Value| of["node"].as_str().unwrap().to_owned();
    let floats: Vec<String> = mixed["floats"].as_array().unwrap().iter().map(name).collect();
    assert!(floats.iter().any(|name| ["b", "c"].contains(&name.as_str())), "{floats:?}");
    let nodes = report["nodes"].as_array().unwrap();
    let reason =
        |of: &Value| of["float"].as_str().is_some_and(|why| why.contains("with integers in it alone"));
    let explained = nodes.iter().filter(|of| floats.contains(&name(of)));
    assert!(explained.clone().count() == floats.len() && explained.clone().all(reason), "{report:#}");
    assert!(nodes.iter().any(|of| of["operator"] == "Conv" && of["float"].is_null()), "{report:#}");
    let least = place.quantized(&["--per-tensor", "--min-sqnr=-30"])["quantization"]["mixed"].clone();
    assert_eq!((&least["reached_db"], least["floats"].as_array().unwrap().len()), (&least["all_db"], 0));
}

#[test]
fn more_than_integers_can_give_is_refused() {
    let place = Place::new(residual(13), &NUMBERS);
    let [model, result, samples] = ["m.onnx", "q.onnx", "x.npy"].map(|name| place.name(name));
    onnx_opt(&[&model, "-o", &result, "--quantize", "int8", "--calibrate", &samples, "--min-sqnr", "300"])
        .failure()
        .code(1)
        .stderr(contains("no integers are left where outputs are to have 300 dB").and(contains("less")));
    assert!(!place.path("q.onnx").exists());
}

#[test]
fn nodes_are_listed_by_what_integers_cost_in_them() {
    let place = Place::new(sensitive(), &NUMBERS);
    let [model, samples] = ["m.onnx", "x.npy"].map(|name| place.name(name));
    let all = ["sensitivity", &model, "--calibrate", &samples, "--per-tensor"];
    let report = onnx_opt(&[&all[..], &["--json"]].concat()).success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let nodes = report["nodes"].as_array().unwrap();
    let worst: Vec<&str> = nodes[..2].iter().map(|of| of["node"].as_str().unwrap()).collect();
    assert!(worst.contains(&"b") && worst.contains(&"c"), "{report:#}");
    let ratios: Vec<f64> = nodes.iter().filter_map(|of| of["sqnr_db"].as_f64()).collect();
    assert!(ratios.is_sorted() && ratios.len() >= 4, "{report:#}");
    assert!(report["all_db"].as_f64().unwrap() < ratios[0] + 1.0, "{report:#}");
    onnx_opt(&all).success().stdout(contains("alone on integers").and(contains("Conv")));
    onnx_opt(&[&all[..], &["--time", "0"]].concat()).success().stdout(contains("there was no time for"));
}

#[test]
fn outliers_go_into_weights_where_products_take_a_normalization() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 16, 16]);
    // One element in sixteen is far larger than the others.
    let scale: Vec<f32> = (0..16).map(|place| if place == 5 { 60.0 } else { 1.0 }).collect();
    let (scale, bias) = (f.floats(&[16], &scale), f.weights(&[16]));
    let t = f.node(NewNode::new("LayerNormalization", [x, scale, bias]));
    let weights = f.weights(&[16, 64]);
    let mut even = f.graph.constant(weights).unwrap().to_f32().unwrap();
    even[5 * 64..6 * 64].iter_mut().for_each(|value| *value /= 60.0);
    let weights = f.floats(&[16, 64], &even);
    let y = f.op("MatMul", &[t, weights]);
    let place = Place::new(f.with_output(y).into_model(), &NUMBERS);
    let report = |arguments: &[&str]| place.quantized(arguments)["quantization"].clone();
    let (plain, smooth) = (report(&["--smooth-quant=off"]), report(&[]));
    assert_eq!((&plain["smoothed"], &smooth["smoothed"]), (&Value::Null, &1.into()));
    let sqnr = |report: &Value| report["error"]["outputs"][0]["sqnr_db"].as_f64().unwrap();
    assert!(sqnr(&smooth) > sqnr(&plain) + 6.0, "{} {}", sqnr(&plain), sqnr(&smooth));
}

#[test]
fn random_samples_come_with_a_warning() {
    let place = Place::new(residual(13), &NUMBERS);
    let [model, result] = ["m.onnx", "q.onnx"].map(|name| place.name(name));
    onnx_opt(&[&model, "-o", &result, "--quantize", "int8"])
        .success()
        .stdout(contains("calibrated on random samples"));
}

#[test]
fn a_model_without_integer_kernels_stays_as_it_is_and_is_told() {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[1, 3, 16, 16]);
    let y = f.op("Softmax", &[x]);
    let place = Place::new(f.with_output(y).into_model(), &NUMBERS);
    let report = place.quantized(&[]);
    assert!(note_of(&report, "nothing was quantized"), "{report:#}");
    assert_eq!(report["quantization"]["no_kernel"]["Softmax"], 1);
    assert_eq!(count(&place.result(), "QuantizeLinear"), 0);
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_written() {
    let place = Place::new(residual(13), &NUMBERS);
    write_npy(&place.path("nan.npy"), &[1, 3, 16, 16], &[1.0, f32::NAN]);
    write_npy(&place.path("small.npy"), &[1, 3, 8], &NUMBERS);
    fs::create_dir(place.path("empty")).unwrap();
    fs::create_dir(place.path("names")).unwrap();
    write_npy(&place.path("names/x.npy"), &[1, 3, 16, 16], &NUMBERS);
    write_npy(&place.path("names/z.npy"), &[1, 3, 16, 16], &NUMBERS);
    fs::write(place.path("c.json"), "{}").unwrap();
    let [model, result, samples] = ["m.onnx", "q.onnx", "x.npy"].map(|name| place.name(name));
    let at = |name: &str| place.name(name);
    let wrong: [(&[&str], i32, &str); 16] = [
        (&["--calibrate", &at("nowhere")], 1, "nowhere: cannot read"),
        (&["--calibrate", &at("empty")], 1, "empty: holds no data"),
        (&["--calibrate", &at("names")], 1, "there is no input `z`"),
        (&["--calibrate", &at("small.npy")], 1, "input `x` is"),
        (&["--calibrate", &at("nan.npy")], 1, "value `x` is NaN on"),
        (&["--calibration", &at("c.json")], 1, "is no calibration"),
        (&["--calibrate", &samples, "--exclude", "stam_b"], 2, "did you mean `stem_b`"),
        (&["--calibrate", &samples, "--nodes", "("], 2, "no node is called `(`"),
        (&["--calibrate", &samples, "--ops", "Softmax"], 2, "has no integer kernel for `Softmax`"),
        (&["--calibrate", &samples, "--calibration-method", "best"], 2, "expected one of min-max"),
        (&["--calibrate", &samples, "--target", "abacus"], 2, "abacus"),
        (&["--calibrate", &samples, "--rounding", "hqq"], 2, "--rounding hqq is for schemes of weights only"),
        (&["--calibration", &at("c.json"), "--bias-correction"], 2, "measures on samples"),
        (&["--calibration", &at("c.json"), "--equalize"], 2, "cannot be used with"),
        (&["--calibrate", &samples, "--smooth-quant=2"], 2, "expected a number from 0 to 1"),
        (&["--calibrate", &samples, "--block-size", "32"], 2, "--block-size is for schemes of weights only"),
    ];
    for (arguments, code, message) in wrong {
        let all = [&[&*model, "-o", &result, "--quantize", "int8"], arguments].concat();
        onnx_opt(&all).failure().code(code).stderr(contains(message));
        assert!(!place.path("q.onnx").exists(), "{arguments:?}");
    }
    for option in ["--per-tensor", "--equalize", "--smooth-quant", "--bias-correction"] {
        let weights = [&*model, "-o", &result, "--quantize", "int8-weights", option];
        onnx_opt(&weights).failure().code(2).stderr(contains(format!("{option} is for int8 only")));
    }
    onnx_opt(&[&model, "--calibrate", &samples]).failure().code(2).stderr(contains("--quantize"));
    onnx_opt(&[&model, "--quantize", "int7"]).failure().code(2).stderr(contains("int8"));
}
