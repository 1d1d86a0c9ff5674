//! Quantized models in the engines: near the float model, and the same in tract as in onnxruntime up to two steps of the
//! integers of their outputs. Tests of onnxruntime run where `ORT_DYLIB_PATH` names its library.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use onnx_opt::data::read_npz;
use onnx_opt::engine::{OrtExecutor, TractEval, TractExecutor};
use onnx_opt::ir::engine::Executor;
use onnx_opt::ir::{ElementType, Model, Tensor, check, export, import};
use onnx_opt::passes::quantize::{QuantizeOptions, QuantizeReport, Range, Ranges, insert, observed, prepare};
use onnx_opt::passes::{PassContext, Target, pipeline};
use onnx_opt::proto::{encode, read_file};

type Named = Vec<(String, Tensor)>;

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn feed(model: &Model, name: &str) -> Named {
    let graph = &model.graph;
    let expected = |name: &str| -> Option<ElementType> { graph.element(graph.value_by_name(name)?) };
    read_npz(BufReader::new(File::open(path(name)).unwrap()), &expected).unwrap()
}

fn optimize(model: &mut Model) {
    let engine = TractEval::new();
    let context = PassContext { const_eval: Some(&engine), ..PassContext::default() };
    pipeline(2).run(model, &context, |_, _| {}).unwrap();
}

/// Smallest and largest number of each observed value on these inputs.
fn ranges(model: &Model, names: impl IntoIterator<Item = String>, inputs: &[Named]) -> Ranges {
    let mut extended = model.clone();
    let outputs: Vec<String> =
        model.graph.outputs().iter().map(|output| model.graph.display_name(output.value)).collect();
    let names: Vec<String> = names.into_iter().collect();
    for name in &names {
        let value = extended.graph.value_by_name(name).unwrap();
        if !outputs.contains(name) && extended.graph.producer(value).is_some() {
            extended.graph.add_output(name, value).unwrap();
        }
    }
    let bytes = encode(&export(&extended));
    let mut ranges = Ranges::new();
    for inputs in inputs {
        let results = TractExecutor::new().run(&bytes, inputs).unwrap();
        for (name, tensor) in results.iter().chain(inputs).filter(|(name, _)| names.contains(name)) {
            let values = tensor.to_f32().unwrap();
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let range = ranges.entry(name.clone()).or_insert(Range { low, high });
            *range = Range { low: range.low.min(low), high: range.high.max(high) };
        }
    }
    ranges
}

/// A fixture quantized for a target, and the float model that it was.
fn quantized(name: &str, target: &str) -> (Model, Model, QuantizeReport, Vec<Named>) {
    let mut model = import(read_file(&path(&format!("{name}.onnx"))).unwrap()).unwrap();
    let feeds = ["feed", "feed2"].map(|feed_name| feed(&model, &format!("{name}.{feed_name}.npz"))).to_vec();
    let target = Target::named(target).unwrap();
    let profile = target.quantization().unwrap();
    optimize(&mut model);
    prepare(&mut model, &profile, target.highest_opset).unwrap();
    let document = export(&model).into();
    let mut model = import(document).unwrap();
    let float = model.clone();
    let options = QuantizeOptions::default();
    let names = observed(&model.graph, &profile, &options);
    let ranges = ranges(&model, names, &feeds);
    let report = insert(&mut model, &ranges, &profile, &options).unwrap();
    check(&model).unwrap();
    let before = model.graph.nodes().filter(|(_, node)| node.is("QuantizeLinear")).count();
    optimize(&mut model);
    check(&model).unwrap();
    let after = model.graph.nodes().filter(|(_, node)| node.is("QuantizeLinear")).count();
    assert_eq!(before, after, "{name} for {}: optimization keeps quantizers", target.name);
    (float, model, report, feeds)
}

const FIXTURES: [&str; 4] = ["mnist_resnet", "digits_cnn", "residual_block", "mobile_activations"];

/// Sum of squares of the first over that of the difference, in decibels.
fn sqnr(a: &[f32], b: &[f32]) -> f64 {
    let power =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let noise = power(&mut a.iter().zip(b).map(|(a, b)| a - b));
    10.0 * (power(&mut a.iter().copied()) / noise.max(1e-30)).log10()
}

#[test]
fn quantized_models_are_near_the_float_ones() {
    for name in FIXTURES {
        for target in Target::names() {
            let (float, integer, report, feeds) = quantized(name, target);
            let products = report.quantized.contains_key("Conv");
            assert!(products || !["mnist_resnet", "digits_cnn"].contains(&name), "{name} for {target}");
            let run =
                |model: &Model, inputs| TractExecutor::new().run(&encode(&export(model)), inputs).unwrap();
            for inputs in &feeds {
                for ((_, a), (_, b)) in run(&float, inputs).iter().zip(&run(&integer, inputs)) {
                    let ratio = sqnr(&a.to_f32().unwrap(), &b.to_f32().unwrap());
                    assert!(ratio > 15.0, "{name} for {target}: {ratio:.1} dB");
                }
            }
        }
    }
}

#[test]
fn tract_agrees_with_onnxruntime() {
    let Some(library) = OrtExecutor::library(None) else { return };
    let ort = OrtExecutor::new(&library).unwrap();
    for name in FIXTURES {
        for target in Target::names() {
            let (_, model, _, feeds) = quantized(name, target);
            let bytes = encode(&export(&model));
            for inputs in &feeds {
                let (a, b) =
                    (TractExecutor::new().run(&bytes, inputs).unwrap(), ort.run(&bytes, inputs).unwrap());
                for ((output, a), (_, b)) in a.iter().zip(&b) {
                    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
                    let low = b.iter().copied().fold(0f32, f32::min);
                    let step = (b.iter().copied().fold(0f32, f32::max) - low) / 255.0;
                    let apart = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(apart <= 2.0 * step, "{name} for {target}: `{output}` {} steps", apart / step);
                }
            }
        }
    }
}
