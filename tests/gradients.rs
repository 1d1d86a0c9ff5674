//! Every gradient against differences: the example of each operator, and whole models.
//!
//! Differences are of the model in double precision where an engine runs it so, else of sixth order over a wide step in
//! single precision. Gradients run in tract, and in onnxruntime where `ORT_DYLIB_PATH` names its library.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use onnx_opt::engine::{OrtExecutor, TractExecutor};
use onnx_opt::ir::engine::Executor;
use onnx_opt::ir::{ElementType, Model, Tensor, check, export, import};
use onnx_opt::passes::gradient::example::{Example, SEED, examples};
use onnx_opt::passes::gradient::{GradientOptions, Loss, Wrt, differentiate};
use onnx_opt::proto::{encode, read_file};
use onnx_opt::verify::inputs::{generate, input_specs, plans};

/// The largest error relative to a gradient, or to a part of the largest one where it is smaller: a hundredth, or a tenth
/// where differences are of single precision, which knows no more.
const TOLERANCE: f64 = 1e-3;

/// Inputs of so many elements are moved one by one; of larger ones, so many elements.
const MOVED: usize = 48;

type Inputs = Vec<(String, Tensor)>;

fn engines() -> Vec<Box<dyn Executor>> {
    let mut engines: Vec<Box<dyn Executor>> = vec![Box::new(TractExecutor::new())];
    match OrtExecutor::library(None) {
        Some(library) => engines.push(Box::new(OrtExecutor::new(&library).unwrap())),
        None => eprintln!("without onnxruntime: ORT_DYLIB_PATH is not set"),
    }
    engines
}

/// The results of a model as numbers, by name; the engine's words where it cannot run it.
fn run(engine: &dyn Executor, bytes: &[u8], inputs: &Inputs) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let results = engine.run(bytes, inputs).map_err(|error| error.to_string())?;
    Ok(results.into_iter().map(|(name, tensor)| (name, tensor.to_f64().unwrap())).collect())
}

/// Repeatable numbers that are no pattern.
fn seed(element: ElementType, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|place| ((place * 37 + 11) % 17) as f64 / 8.0 - 0.9375).collect();
    Tensor::from_f64(element, shape, &values).unwrap()
}

/// What is known of the gradient of each input: places and derivatives.
struct Differences {
    by_input: BTreeMap<String, Vec<(usize, f64)>>,
    /// The shape of the result.
    shape: Vec<usize>,
    /// The part of the largest derivative that smaller ones count as.
    floor: f64,
}

/// The derivatives of Σ seed·y by the elements of the floating-point inputs.
fn differences(engine: &dyn Executor, model: &Model, inputs: &Inputs) -> Result<Differences, String> {
    let bytes = encode(&export(model));
    let shape = engine.run(&bytes, inputs).map_err(|error| error.to_string())?[0].1.shape().to_vec();
    let weights = seed(ElementType::Double, &shape).to_f64().unwrap();
    let mut by_input = BTreeMap::new();
    for (index, (name, tensor)) in inputs.iter().enumerate() {
        if !tensor.element().is_float() {
            continue;
        }
        let values = tensor.to_f64().unwrap();
        let at = |place: usize, step: f64| -> Result<Vec<f64>, String> {
            let mut moved = values.clone();
            moved[place] += step;
            let mut inputs = inputs.clone();
            inputs[index].1 = Tensor::from_f64(tensor.element(), tensor.shape(), &moved).unwrap();
            Ok(run(engine, &bytes, &inputs)?.into_values().next().unwrap())
        };
        let change = |place: usize, step: f64| -> Result<f64, String> {
            let (above, below) = (at(place, step)?, at(place, -step)?);
            let terms = above.iter().zip(&below).zip(&weights).map(|((a, b), weight)| (a - b) * weight);
            Ok(terms.sum())
        };
        let stride = values.len().div_ceil(MOVED).max(1);
        let mut derivatives = Vec::new();
        for place in (0..values.len()).step_by(stride) {
            let derivative = if tensor.element() == ElementType::Double {
                let step = 1e-5;
                let near = change(place, step)? / (2.0 * step);
                // No multiple of it: those hit the grid of single precision alike.
                let other = 1.3717 * step;
                let far = change(place, other)? / (2.0 * other);
                if (near - far).abs() > 1e-5 * near.abs().max(1.0) {
                    return Err("it computes in single precision inside".to_owned());
                }
                near
            } else {
                let step = 1.0 / 16.0;
                let (near, middle, far) =
                    (change(place, step)?, change(place, 2.0 * step)?, change(place, 3.0 * step)?);
                // A step this wide may reach over a bend: one three times as wide then changes three times as much no
                // more, and the differences tell nothing.
                if (far - 3.0 * near).abs() > 0.03 * far.abs() + 1e-3 {
                    continue;
                }
                (45.0 * near - 9.0 * middle + far) / (60.0 * step)
            };
            derivatives.push((place, derivative));
        }
        by_input.insert(name.clone(), derivatives);
    }
    let double = inputs.iter().any(|(_, tensor)| tensor.element() == ElementType::Double);
    Ok(Differences { by_input, shape, floor: if double { 0.01 } else { 0.1 } })
}

/// The largest relative error of gradients.
fn error(expected: &Differences, found: &BTreeMap<String, Vec<f64>>) -> f64 {
    let mut worst: f64 = 0.0;
    for (name, derivatives) in &expected.by_input {
        let gradient = &found[&format!("{name}.grad")];
        let largest = derivatives.iter().map(|(_, derivative)| derivative.abs()).fold(1e-4, f64::max);
        for (place, derivative) in derivatives {
            let difference = (gradient[*place] - derivative).abs();
            worst = worst.max(difference / derivative.abs().max(expected.floor * largest));
            if difference.is_nan() {
                return f64::INFINITY;
            }
        }
    }
    worst
}

/// The differences by the first engine that can take them, in double precision if one can.
fn reference(engines: &[Box<dyn Executor>], example: &Example) -> Result<(Differences, ElementType), String> {
    let mut words = Vec::new();
    for element in [ElementType::Double, ElementType::Float] {
        let (model, inputs) = example.forward(element);
        if check(&model).is_err() {
            continue;
        }
        // tract last: some of its operators are wrong.
        for engine in engines.iter().rev() {
            match differences(&**engine, &model, &inputs) {
                Ok(found) => return Ok((found, element)),
                Err(error) => words.push(error),
            }
        }
    }
    Err(words.join("; "))
}

#[test]
fn gradients_are_limits_of_differences() {
    let engines = engines();
    let mut wrong = Vec::new();
    let mut double = 0;
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    let examples = examples();
    for example in &examples {
        let (expected, element) = match reference(&engines, example) {
            Ok(found) => found,
            Err(words) => {
                // Without onnxruntime nobody may know.
                if engines.len() > 1 {
                    wrong.push(format!("{} does not run: {words}", example.name()));
                }
                continue;
            }
        };
        double += usize::from(element == ElementType::Double);
        let (model, mut inputs) = example.gradients(ElementType::Float).unwrap();
        inputs.push((SEED.to_owned(), seed(ElementType::Float, &expected.shape)));
        let bytes = encode(&export(&model));
        for engine in &engines {
            match run(&**engine, &bytes, &inputs) {
                Ok(found) => {
                    *runs.entry(engine.name()).or_default() += 1;
                    let error = error(&expected, &found);
                    if error > TOLERANCE {
                        wrong.push(format!("{} in {}: {error:.1e}", example.name(), engine.name()));
                    }
                }
                Err(words) if engine.name() == "tract" && tract_lacks(example) => {
                    eprintln!("{}: {words}", example.name());
                }
                Err(words) => wrong.push(format!("{} in {}: {words}", example.name(), engine.name())),
            }
        }
    }
    eprintln!("{} examples, {double} against double precision; runs: {runs:?}", examples.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model of the gradients of a fixture, in onnxruntime's or tract's hands, against differences of its own loss.
#[test]
fn losses_and_gradients_of_whole_models_agree() {
    let tract = TractExecutor::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for (name, wrt, loss) in [
        ("digits_cnn.onnx", Wrt::Inputs, Loss::Sum),
        ("digits_cnn.onnx", Wrt::Inputs, Loss::MeanSquaredError),
        ("digits_cnn.onnx", Wrt::Inputs, Loss::Kl { temperature: 2.0 }),
        ("digits_cnn.onnx", Wrt::Inputs, Loss::CrossEntropy),
        ("gelu_opset20.onnx", Wrt::Inputs, Loss::Sum),
    ] {
        let mut model = import(read_file(&folder.join(name)).unwrap()).unwrap();
        let options = GradientOptions { wrt, loss, outputs: Vec::new() };
        let found = differentiate(&mut model, &options).unwrap();
        let exported = export(&model);
        let specs = input_specs(exported.graph.as_ref().unwrap()).unwrap();
        let plan = &plans(&specs)[0];
        let mut inputs = generate(&specs, plan, 1, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        for (_, tensor) in inputs.iter_mut().filter(|(_, tensor)| !tensor.element().is_float()) {
            *tensor =
                Tensor::from_integers(tensor.element(), tensor.shape(), &vec![1; tensor.len()]).unwrap();
        }
        let bytes = encode(&exported);
        let at = |inputs: &Inputs| run(&tract, &bytes, inputs).unwrap();
        let gradients = at(&inputs);
        let parameter = &found.parameters[0];
        let index = inputs.iter().position(|(name, _)| *name == parameter.name).unwrap();
        // Along the gradient, the loss changes by its square: one direction tells of all elements.
        let gradient = &gradients[&parameter.gradient];
        let length = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert!(length > 1e-6, "{name}: {loss:?} has no gradient");
        let values = inputs[index].1.to_f64().unwrap();
        let moved = |step: f64| {
            let moved: Vec<f64> =
                values.iter().zip(gradient).map(|(value, slope)| value + step * slope / length).collect();
            let mut inputs = inputs.clone();
            inputs[index].1 = Tensor::from_f64(ElementType::Float, inputs[index].1.shape(), &moved).unwrap();
            at(&inputs)[&found.loss][0]
        };
        let step = 0.02;
        let (near, far) = (moved(step) - moved(-step), moved(2.0 * step) - moved(-2.0 * step));
        let slope = (8.0 * near - far) / (12.0 * step);
        assert!((slope - length).abs() < 0.01 * length, "{name}: {loss:?}: {slope} is not {length}");
    }
}

/// Examples of which tract runs not both the operator and its gradient; onnxruntime checks them.
const TRACT_LACKS: &[(&str, &str)] =
    &[("Celu", "alpha"), ("GRU", "backwards"), ("LSTM", "backwards"), ("RNN", "backwards")];

fn tract_lacks(example: &Example) -> bool {
    TRACT_LACKS.iter().any(|(op_type, words)| *op_type == example.op_type && *words == example.words)
}
