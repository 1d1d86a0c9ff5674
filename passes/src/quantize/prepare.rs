//! A float model as a target wants it before it is calibrated and quantized.

use onnx_opt_ir::{Attributes, ElementType, Model, Tensor};

use super::{Profile, QuantizeError};
use crate::opset::raise;
use crate::pass::for_each_graph;
use crate::rewrite::{
    ErrorClass, FunctionRule, Patch, Rewrite, Rewriter, Rule, Site, Statistics, ensure, found,
};
use crate::rules;

/// Rules that take normalizations and factors into the weights of what is quantized.
const FOLDS: [&str; 3] = ["convolution_batch_normalization", "convolution_scale", "convolution_shift"];

/// Raises the operator set as far as quantized operators need, takes apart what has no integer kernel while its parts
/// have, takes normalizations into weights, and lets activations follow what they can vanish into.
///
/// # Errors
/// If the operator set cannot be raised.
pub fn prepare(model: &mut Model, profile: &Profile) -> Result<Statistics, QuantizeError> {
    if model.graph.opset() < profile.opset() {
        raise(model, profile.opset())?;
    }
    let folds = rules::all().into_iter().filter(|rule| FOLDS.contains(&rule.name()));
    let mut rules: Vec<Box<dyn Rule>> = folds.collect();
    for rule in DECOMPOSITIONS {
        if rule.roots.iter().all(|root| profile.decompose.contains(*root)) {
            rules.push(Box::new(rule));
        }
    }
    if !profile.absorbs.is_empty() {
        rules.push(Box::new(ACTIVATION_FIRST));
    }
    let mut statistics = Statistics::default();
    for_each_graph(&mut model.graph, &mut |graph| {
        Rewriter::new(rules.iter().map(|rule| &**rule)).run(graph, &mut statistics);
    });
    model.graph.sort().map_err(|_| QuantizeError::Cycle)?;
    Ok(statistics)
}

const DECOMPOSITIONS: [FunctionRule; 2] = [
    FunctionRule {
        name: "hard_swish_parts",
        doc: "HardSwish(x) = x·(clip(x + 3, 0, 6)/6), whose parts have integer kernels.",
        class: ErrorClass::Rounding,
        since: 11,
        roots: &["HardSwish"],
        rewrite: hard_swish_parts,
    },
    FunctionRule {
        name: "hard_sigmoid_parts",
        doc: "HardSigmoid(x) = a·clip(x + b/a, 0, 1/a), whose parts have integer kernels.",
        class: ErrorClass::Rounding,
        since: 11,
        roots: &["HardSigmoid"],
        rewrite: hard_sigmoid_parts,
    },
];

/// clip(x + offset, 0, limit)·factor.
fn clipped(
    patch: &mut Patch,
    site: &Site<'_>,
    [offset, limit, factor]: [f64; 3],
) -> Result<crate::rewrite::Operand, crate::rewrite::Miss> {
    let x = site.input(0)?;
    ensure(site.graph.element(x) == Some(ElementType::Float), "it is not of single precision")?;
    let mut number = |value: f64| found(Tensor::scalar(ElementType::Float, value));
    let constants = [offset, 0.0, limit, factor].map(&mut number);
    let [offset, low, high, factor] = constants;
    let (offset, low, high, factor) =
        (patch.constant(offset?), patch.constant(low?), patch.constant(high?), patch.constant(factor?));
    let sum = patch.node("Add", [x.into(), offset], Attributes::new());
    let clip = patch.node("Clip", [sum, low, high], Attributes::new());
    Ok(patch.node("Mul", [clip, factor], Attributes::new()))
}

fn hard_swish_parts(site: &Site<'_>) -> Rewrite {
    let mut patch = Patch::new();
    let gate = clipped(&mut patch, site, [3.0, 6.0, 1.0 / 6.0])?;
    let product = patch.node("Mul", [site.input(0)?.into(), gate], Attributes::new());
    patch.replace(site.output()?, product);
    Ok(patch)
}

fn hard_sigmoid_parts(site: &Site<'_>) -> Rewrite {
    let node = site.node();
    let (slope, offset) = (f64::from(found(node.float("alpha"))?), f64::from(found(node.float("beta"))?));
    ensure(slope > 0.0 && slope.is_finite() && offset.is_finite(), "the slope is not positive")?;
    let mut patch = Patch::new();
    let gate = clipped(&mut patch, site, [offset / slope, 1.0 / slope, slope])?;
    patch.replace(site.output()?, gate);
    Ok(patch)
}

/// Operators that only move or choose elements, so that what is done to each may be done before.
const MOVES: &[&str] = &["Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

const ACTIVATION_FIRST: FunctionRule = FunctionRule {
    name: "relu_before_move",
    doc: "Relu(move(x)) = move(Relu(x)), where x comes from what the Relu can vanish into.",
    class: ErrorClass::Exact,
    since: 1,
    roots: &["Relu"],
    rewrite: relu_before_move,
};

fn relu_before_move(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let moved = site.input(0)?;
    let (_, node, _) = found(graph.producer(moved))?;
    let moves = MOVES.iter().any(|op_type| node.is(op_type)) && node.single_output() == Some(moved);
    ensure(moves && graph.is_inner(moved), "what it takes has other users")?;
    let x = found(node.input(0))?;
    ensure(graph.is_inner(x) && graph.producer(x).is_some(), "what moves has other users")?;
    let mut patch = Patch::new();
    let relu = patch.node("Relu", [x], Attributes::new());
    let operands = [relu].into_iter().chain(node.inputs().iter().skip(1).map(|&operand| operand.into()));
    let new = patch.node(node.op_type(), operands, node.attributes().clone());
    patch.replace(site.output()?, new);
    Ok(patch)
}
