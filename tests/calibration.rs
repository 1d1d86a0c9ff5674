//! Calibration from end to end: a model runs in a process of its own, its values are observed, and files are kept.
//!
//! Comparisons with onnxruntime run where `ORT_DYLIB_PATH` names its library.

#![allow(clippy::unwrap_used)]

mod arrays;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrays::write_npy;
use assert_cmd::Command;
use onnx_opt::calibrate::{CalibrateError, CalibrateOptions, Calibration, calibrate, float_values};
use onnx_opt::engine::{EngineChoice, OrtExecutor};
use onnx_opt::ir::load::load;
use onnx_opt::ir::{Context, Dim, ElementType, Graph, Model, NewNode, Type};
use onnx_opt::passes::quantize::{Observer, Range};
use onnx_opt::proto::{ModelProto, OperatorSetIdProto, read_file};
use onnx_opt::session::Listener;
use predicates::prelude::*;
use serde_json::Value;

/// Remembers how far the work was said to be.
#[derive(Default)]
struct Heard(Mutex<Vec<(usize, usize)>>);

impl Listener for Heard {
    fn stage(&self, _: &'static str) {}
    fn progress(&self, done: usize, all: usize) {
        self.0.lock().unwrap().push((done, all));
    }
    fn after_pass(&self, _: &str, _: &Model) {}
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn model_of(name: &str) -> Model {
    load(read_file(&fixture(name)).unwrap()).unwrap()
}

fn options(engine: EngineChoice) -> CalibrateOptions {
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_onnx-opt")));
    CalibrateOptions { engine, program, ..CalibrateOptions::default() }
}

fn observe(model: &Model, data: &[PathBuf], engine: EngineChoice) -> Result<Calibration, CalibrateError> {
    calibrate(model, &float_values(&model.graph), data, &options(engine), &Heard::default())
}

/// `y = op(x)` with `x` of two numbers in a batch of one.
fn unary(op_type: &str) -> Model {
    let mut graph = Graph::new(Context::with_opset(17));
    let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::fixed(1), Dim::fixed(2)]));
    let node = graph.add_node(NewNode::new(op_type, [x])).unwrap();
    let y = graph.node(node).output(0).unwrap();
    let node = graph.add_node(NewNode::new("Neg", [y])).unwrap();
    let z = graph.node(node).output(0).unwrap();
    graph.add_output("z", z).unwrap();
    let rest = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..ModelProto::default()
    };
    Model { graph, rest, notes: vec![] }
}

#[test]
fn every_value_is_observed_on_every_sample() {
    let model = unary("Abs");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &[5, 2], &[0.0, -1.0, 2.0, 3.0, -8.0, 1.0, 0.0, 0.5, 0.25, -0.25]);
    let heard = Heard::default();
    let names = float_values(&model.graph);
    let found = calibrate(&model, &names, &[path], &options(EngineChoice::Tract), &heard).unwrap();
    assert_eq!((found.samples, found.random, &found.engines[..]), (5, false, &["tract".to_owned()][..]));
    let ranges = found.ranges(Observer::MinMax, ElementType::Uint8, false);
    let ends: Vec<Range> = ranges.into_values().collect();
    let range = |low, high| Range { low, high };
    // By name: the result of Abs has none but its number, then the input and the output.
    assert_eq!(ends, [range(0.0, 8.0), range(-8.0, 3.0), range(-8.0, 0.0)]);
    assert!(found.values.values().all(|statistics| statistics.elements() == 10 && statistics.zeros() == 2));
    let mut heard = heard.0.into_inner().unwrap();
    heard.sort_unstable();
    assert_eq!(heard, (1..=5).map(|done| (done, 5)).collect::<Vec<_>>());
}

#[test]
fn engines_agree() {
    if OrtExecutor::library(None).is_none() {
        eprintln!("skipped: ORT_DYLIB_PATH is not set");
        return;
    }
    for name in ["mnist_resnet", "transformer_block", "mobile_activations", "half"] {
        let model = model_of(&format!("{name}.onnx"));
        let data = ["", "2"].map(|set| fixture(&format!("{name}.feed{set}.npz")));
        let [tract, other] = [EngineChoice::Tract, EngineChoice::OnnxRuntime]
            .map(|engine| observe(&model, &data, engine).unwrap());
        assert_eq!((tract.samples, &tract.model), (other.samples, &other.model));
        let names = |found: &Calibration| found.values.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&tract), names(&other));
        for (name, statistics) in &tract.values {
            let (a, b) = (statistics.ends().unwrap(), other.values[name].ends().unwrap());
            let near = 2e-3 * (a.1.max(-a.0)) + 1e-6;
            assert!((a.0 - b.0).abs() <= near && (a.1 - b.1).abs() <= near, "{name}: {a:?} {b:?}");
            assert_eq!(statistics.elements(), other.values[name].elements(), "{name}");
        }
    }
}

#[test]
fn shards_merge_to_the_whole() {
    let model = model_of("mnist_resnet.onnx");
    let data = ["mnist_resnet.feed.npz", "mnist_resnet.feed2.npz"].map(fixture);
    let whole = observe(&model, &data, EngineChoice::Tract).unwrap();
    let mut merged = observe(&model, &data[..1], EngineChoice::Tract).unwrap();
    let second = observe(&model, &data[1..], EngineChoice::Tract).unwrap();
    merged.merge(&second).unwrap();
    assert_eq!(merged, whole);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calibration.json");
    whole.write(&file).unwrap();
    assert_eq!(Calibration::read(&file).unwrap(), whole);

    let other = observe(&unary("Abs"), &[], EngineChoice::Tract);
    assert!(matches!(other, Err(CalibrateError::NoData)));
}

#[test]
fn a_value_that_is_no_number_is_named_with_its_sample() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &[3, 2], &[1.0, 2.0, 3.0, -1.0, 1.0, 1.0]);
    let model = unary("Log");
    let log = model.graph.nodes().find(|(_, node)| node.is("Log")).unwrap().1.output(0).unwrap();
    let error = observe(&model, &[path], EngineChoice::Tract).unwrap_err();
    let CalibrateError::NotANumber { name, sample } = &error else { panic!("{error}") };
    assert_eq!(*name, model.graph.display_name(log));
    assert!(sample.ends_with("x.npy (2 of 3)"), "{sample}");
}

#[test]
fn infinities_do_not_end_a_range() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &[2, 2], &[1.0, 0.0, f32::MIN_POSITIVE, std::f32::consts::E]);
    let found = observe(&unary("Log"), &[path], EngineChoice::Tract).unwrap();
    let log = found.values.values().find(|statistics| statistics.infinities() == 1);
    let (low, high) = log.unwrap().ends().unwrap();
    assert!((-88.0..-87.0).contains(&low) && (high - 1.0).abs() < 1e-6);
}

#[test]
fn names_are_held_against_the_model() {
    let model = model_of("mnist_resnet.onnx");
    let one = |name: &str| BTreeSet::from([name.to_owned()]);
    let data = [fixture("mnist_resnet.feed.npz")];
    let options = options(EngineChoice::Tract);
    let error = calibrate(&model, &one("nothing"), &data, &options, &Heard::default()).unwrap_err();
    assert!(matches!(error, CalibrateError::NoSuchValue { .. }), "{error}");
    let input = model.graph.display_name(model.graph.inputs()[0].value);
    let found = calibrate(&model, &one(&input), &data, &options, &Heard::default()).unwrap();
    assert_eq!(found.values.keys().collect::<Vec<_>>(), [&input]);
    let error = calibrate(&model, &BTreeSet::new(), &data, &options, &Heard::default()).unwrap_err();
    assert!(matches!(error, CalibrateError::NoValues), "{error}");
}

#[test]
fn a_tensor_that_fits_no_input_is_refused_before_anything_runs() {
    let model = unary("Abs");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &[1, 3], &[0.0; 3]);
    let error = observe(&model, &[path], EngineChoice::Tract).unwrap_err();
    assert!(error.to_string().contains("x.npy"), "{error}");
}

/// The program in a folder with these fixtures.
fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("onnx-opt").unwrap();
    command.current_dir(folder).env_remove("ORT_DYLIB_PATH").arg("calibrate").args(arguments);
    command
}

fn place(fixtures: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in fixtures {
        fs::copy(fixture(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn the_command_writes_merges_and_shows() {
    let folder = place(&["mnist_resnet.onnx", "mnist_resnet.feed.npz", "mnist_resnet.feed2.npz"]);
    let folder = folder.path();
    let run = |arguments: &[&str]| program(folder, arguments).assert().success();
    run(&["mnist_resnet.onnx", "--data", "mnist_resnet.feed.npz"])
        .stdout(predicate::str::contains("mnist_resnet.calibration.json: "))
        .stdout(predicate::str::contains("on 2 samples, run by tract"));
    run(&["mnist_resnet.onnx", "--data", "mnist_resnet.feed2.npz", "-o", "b.json", "-q"]).stdout("");
    run(&["--merge", "mnist_resnet.calibration.json", "b.json", "-o", "all.json"])
        .stdout(predicate::str::contains("on 7 samples"));
    let shown = run(&["--inspect", "all.json", "--calibration-method", "entropy", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!((&shown["samples"], &shown["observer"]), (&7.into(), &"entropy".into()));
    let values = shown["values"].as_object().unwrap();
    assert!(values.len() > 5 && values.values().all(|value| value["range"][1].is_number()));
    run(&["--inspect", "all.json"])
        .stdout(predicate::str::is_match("value +elements +smallest +largest").unwrap());
    run(&["mnist_resnet.onnx", "--random", "2", "--as-is", "-o", "random.json"])
        .stdout(predicate::str::contains("warning: samples were random"));

    let refused = |arguments: &[&str], words: &str, code: i32| {
        program(folder, arguments).assert().code(code).stderr(predicate::str::contains(words));
    };
    refused(&["--merge", "all.json", "random.json", "-o", "c.json"], "they are of different models", 1);
    refused(&["mnist_resnet.onnx"], "there are no data to calibrate on", 1);
    refused(&["mnist_resnet.onnx", "--data", "nowhere"], "nowhere: cannot read", 1);
    refused(
        &["mnist_resnet.onnx", "--data", "mnist_resnet.feed.npz", "--values", "nil"],
        "no value `nil`",
        1,
    );
    refused(&["mnist_resnet.onnx", "--random", "1", "--engine", "onnxruntime"], "not known", 1);
    refused(&["--merge", "all.json"], "--output", 2);
    refused(&["mnist_resnet.onnx", "--data", "x", "--calibration-method", "luck"], "expected one of", 2);
    fs::write(folder.join("later.json"), r#"{"format": "onnx-opt calibration", "version": 99}"#).unwrap();
    refused(&["--inspect", "later.json"], "version 99", 1);
    for nonsense in ["", "{}", "[1]", r#"{"format": "onnx-opt calibration", "version": 1}"#] {
        fs::write(folder.join("nonsense.json"), nonsense).unwrap();
        refused(&["--inspect", "nonsense.json"], "nonsense.json: is no calibration", 1);
    }
    let names: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let written =
        ["all.json", "b.json", "later.json", "mnist_resnet.calibration.json", "nonsense.json", "random.json"];
    assert_eq!(names, written.map(str::to_owned).into());
}
