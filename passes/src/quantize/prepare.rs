//! A float model as a target wants it before it is calibrated and quantized.

use onnx_opt_ir::{Attributes, ElementType, Model, Tensor};

use super::{Profile, QuantizeError};
use crate::opset::raise;
use crate::pass::for_each_graph;
use crate::rewrite::{
    ErrorClass, FunctionRule, Patch, Rewrite, Rewriter, Rule, Site, Statistics, ensure, found,
};
use crate::rules;
use crate::rules::facts::{axis, list};

/// Rules that take normalizations and factors into the weights of what is quantized.
const FOLDS: [&str; 3] = ["convolution_batch_normalization", "convolution_scale", "convolution_shift"];

/// The rules that make one operator of the parts of a LayerNormalization, and the first opset that has it.
const NORMALIZATIONS: [&str; 2] = ["layer_normalization", "layer_normalization_by_factor"];
const NORMALIZATION_OPSET: i64 = 17;

/// Raises the operator set as far as quantized operators need, and to at most `highest_opset` as far as a
/// LayerNormalization in parts does. Takes apart what has no integer kernel while its parts have, takes normalizations into
/// weights, and lets activations follow what they can vanish into.
///
/// # Errors
/// If the operator set cannot be raised.
pub fn prepare(
    model: &mut Model,
    profile: &Profile,
    highest_opset: i64,
) -> Result<Statistics, QuantizeError> {
    if model.graph.opset() < profile.opset() {
        raise(model, profile.opset())?;
    }
    join_normalizations(model, highest_opset);
    let mut rules = named(&FOLDS);
    for rule in DECOMPOSITIONS {
        if rule.roots.iter().all(|root| profile.decompose.contains(*root)) {
            rules.push(Box::new(rule));
        }
    }
    if !profile.absorbs.is_empty() {
        rules.push(Box::new(ACTIVATION_FIRST));
    }
    let statistics = apply(model, &rules);
    model.graph.sort().map_err(|_| QuantizeError::Cycle)?;
    Ok(statistics)
}

fn named(names: &[&str]) -> Vec<Box<dyn Rule>> {
    rules::all().into_iter().filter(|rule| names.contains(&rule.name())).collect()
}

fn apply(model: &mut Model, rules: &[Box<dyn Rule>]) -> Statistics {
    let mut statistics = Statistics::default();
    for_each_graph(&mut model.graph, &mut |graph| {
        Rewriter::new(rules.iter().map(|rule| &**rule)).run(graph, &mut statistics);
    });
    statistics
}

/// LayerNormalization in place of its parts: what comes out of it is known by its operator to be floats, with a scale for
/// each element that outliers can be taken out by.
fn join_normalizations(model: &mut Model, highest_opset: i64) {
    let mut joined = model.clone();
    if joined.graph.opset() < NORMALIZATION_OPSET
        && (highest_opset < NORMALIZATION_OPSET || raise(&mut joined, NORMALIZATION_OPSET).is_err())
    {
        return;
    }
    if !apply(&mut joined, &named(&NORMALIZATIONS)).fired.is_empty() {
        *model = joined;
    }
}

const DECOMPOSITIONS: [FunctionRule; 3] = [
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
    FunctionRule {
        name: "mean_of_places",
        doc: "The mean over all axes past the second is GlobalAveragePool, which has an integer kernel.",
        class: ErrorClass::Rounding,
        since: 1,
        roots: &["ReduceMean"],
        rewrite: mean_of_places,
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

/// ReduceMean over axes 2.. of x, [N, C, H, W...], gives [N, C, 1, 1...] or, without the axes, [N, C]. One that belongs to
/// a normalization stays, which runtimes know as a whole.
fn mean_of_places(site: &Site<'_>) -> Rewrite {
    let (graph, node, x) = (site.graph, site.node(), site.input(0)?);
    ensure(graph.element(x) == Some(ElementType::Float), "it is not of single precision")?;
    let rank = found(graph.rank(x))?;
    ensure(rank > 3, "there are no places")?;
    let squared = graph.producer(x).is_some_and(|(_, from, _)| from.is("Pow"));
    let mut users = graph.consumers(site.output()?);
    let centred = users.any(|user| graph.node(user.node).is("Sub"));
    ensure(!squared && !centred, "it belongs to a normalization")?;
    let axes = list(graph, node, "axes", 1)?.unwrap_or_default();
    let mut axes = axes.into_iter().map(|place| axis(place, rank)).collect::<Result<Vec<usize>, _>>()?;
    axes.sort_unstable();
    ensure(axes.iter().copied().eq(2..rank), "it is not over all places")?;
    let mut patch = Patch::new();
    let mut mean = patch.node("GlobalAveragePool", [x], Attributes::new());
    if node.int("keepdims") == Some(0) {
        mean = patch.node("Flatten", [mean], Attributes::new());
    }
    patch.replace(site.output()?, mean);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{NewNode, ValueId};

    use super::*;
    use crate::target::Target;
    use crate::testing::Fixture;

    /// The operators of a graph of one operator on x, [1, 4, 8, 8], as onnxruntime wants them, with gates in parts.
    fn prepared(opset: i64, build: impl Fn(&mut Fixture, ValueId) -> ValueId) -> Vec<String> {
        let mut f = Fixture::new(opset);
        let x = f.input("x", &[1, 4, 8, 8]);
        let y = build(&mut f, x);
        let mut model = f.with_output(y).into_model();
        let mut profile = Target::named("onnxruntime").unwrap().quantization().unwrap();
        profile.decompose.extend(["HardSwish", "HardSigmoid"].map(str::to_owned));
        prepare(&mut model, &profile, 27).unwrap();
        onnx_opt_ir::check(&model).unwrap();
        let order = model.graph.topological_order().unwrap();
        order.into_iter().map(|id| model.graph.node(id).op_type().to_owned()).collect()
    }

    #[test]
    fn gates_become_their_parts() {
        assert_eq!(prepared(14, |f, x| f.op("HardSwish", &[x])), ["Add", "Clip", "Mul", "Mul"]);
        assert_eq!(prepared(14, |f, x| f.op("HardSigmoid", &[x])), ["Add", "Clip", "Mul"]);
        let falling = |f: &mut Fixture, x| f.node(NewNode::new("HardSigmoid", [x]).with("alpha", -0.2f32));
        assert_eq!(prepared(14, falling), ["HardSigmoid"]);
    }

    #[test]
    fn a_mean_over_all_places_is_a_pool() {
        let mean = |axes: &'static [i64], keep: i64| {
            move |f: &mut Fixture, x| {
                f.node(NewNode::new("ReduceMean", [x]).with("axes", axes).with("keepdims", keep))
            }
        };
        assert_eq!(prepared(13, mean(&[2, 3], 1)), ["GlobalAveragePool"]);
        assert_eq!(prepared(13, mean(&[-1, -2], 0)), ["GlobalAveragePool", "Flatten"]);
        assert_eq!(prepared(13, mean(&[1, 2, 3], 1)), ["ReduceMean"]);
        assert_eq!(prepared(13, mean(&[3], 1)), ["ReduceMean"]);
        let centred = |f: &mut Fixture, x| {
            let mean = f.node(NewNode::new("ReduceMean", [x]).with("axes", vec![2i64, 3]));
            f.op("Sub", &[x, mean])
        };
        assert_eq!(prepared(13, centred), ["ReduceMean", "Sub"]);
    }

    #[test]
    fn an_activation_goes_before_what_moves_elements() {
        let pool =
            |f: &mut Fixture, x| f.node(NewNode::new("MaxPool", [x]).with("kernel_shape", vec![2i64, 2]));
        let behind = |f: &mut Fixture, x| {
            let t = f.op("Sigmoid", &[x]);
            let t = pool(f, t);
            f.op("Relu", &[t])
        };
        assert_eq!(prepared(13, behind), ["Sigmoid", "Relu", "MaxPool"]);
        let alone = |f: &mut Fixture, x| {
            let t = pool(f, x);
            f.op("Relu", &[t])
        };
        assert_eq!(prepared(13, alone), ["MaxPool", "Relu"]);
    }

    #[test]
    fn parts_of_a_normalization_are_one_operator() {
        let parts = |f: &mut Fixture, x| {
            let mean = f.node(NewNode::new("ReduceMean", [x]).with("axes", vec![-1i64]));
            let centred = f.op("Sub", &[x, mean]);
            let two = f.scalar(2.0);
            let squared = f.op("Pow", &[centred, two]);
            let variance = f.node(NewNode::new("ReduceMean", [squared]).with("axes", vec![-1i64]));
            let epsilon = f.scalar(1e-5);
            let sum = f.op("Add", &[variance, epsilon]);
            let deviation = f.op("Sqrt", &[sum]);
            let t = f.op("Div", &[centred, deviation]);
            let scale = f.weights(&[8]);
            f.op("Mul", &[t, scale])
        };
        assert_eq!(prepared(14, parts), ["LayerNormalization"]);
    }

    #[test]
    fn normalizations_go_into_weights() {
        let build = |f: &mut Fixture, x| {
            let weights = f.weights(&[4, 4, 1, 1]);
            let t = f.op("Conv", &[x, weights]);
            let [scale, bias, mean] = [f.weights(&[4]), f.weights(&[4]), f.weights(&[4])];
            let variance = f.floats(&[4], &[1.0, 2.0, 0.5, 0.7]);
            f.op("BatchNormalization", &[t, scale, bias, mean, variance])
        };
        assert_eq!(prepared(9, build), ["Conv"]);
    }
}
