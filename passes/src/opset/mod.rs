//! Conversion to a later version of the default domain's operator set.
//!
//! A version at a time: what an operator became in a version is said once, by its adapter, and a node of opset 6 goes
//! through all that came since. An operator whose new version only allows more stays as it is; see [`step`].

mod activation;
mod attribute_operands;
mod axes;
mod broadcast;
mod early;
mod normalization;
mod resize;
mod softmax;
mod split;
mod step;
#[cfg(test)]
mod testing;

use onnx_opt_ir::schema;
use onnx_opt_ir::{CheckError, Graph, Model, NodeId, check};
use rustc_hash::FxHashSet;
use thiserror::Error;

use crate::pass::for_each_graph;
use step::{Step, unchanged};

/// The highest version that models are raised to: what adapters were written for.
pub const HIGHEST: i64 = 25;

/// Why a model keeps its operator set.
#[derive(Debug, Error)]
pub enum RaiseError {
    /// Conversions go upwards only.
    #[error("the model is of opset {from}, and operators are not converted down to opset {target}")]
    Lower {
        /// The version of the model.
        from: i64,
        /// The version asked for.
        target: i64,
    },
    /// No adapter knows that version.
    #[error("opset {0} is past {HIGHEST}, the highest that models are raised to")]
    TooHigh(i64),
    /// Training information names values of the graph.
    #[error("the model carries training information, whose names nothing may touch")]
    TrainingInfo,
    /// IR version 3 lists constants as inputs, which later versions do not.
    #[error("a body lists constants among its inputs, which later versions do not allow")]
    ListedConstants,
    /// A node means something that the next version cannot say.
    #[error("{op_type} `{node}` cannot follow to opset {opset}: {reason}")]
    Node {
        /// Name of the node, or of its first result.
        node: String,
        /// The operator.
        op_type: String,
        /// The first version that it cannot follow to.
        opset: i64,
        /// What is in the way.
        reason: String,
    },
    /// A function that no call gave way to its body holds an operator that became another.
    #[error("function `{function}` cannot follow to opset {target}: {op_type} became another operator")]
    Function {
        /// The function.
        function: String,
        /// The operator.
        op_type: String,
        /// The version asked for.
        target: i64,
    },
    /// The later version of an operator does not allow what the model gives it.
    #[error("opset {target} does not allow it: {source}")]
    Illegal {
        /// The version asked for.
        target: i64,
        /// What is not allowed.
        source: CheckError,
    },
}

/// Raises the default domain's operator set of a model, with its bodies and functions, to a version. Returns how many
/// nodes were put otherwise; if there is nothing to raise, none. Functions whose operators became others give way to
/// their bodies.
///
/// # Errors
/// If an operator cannot follow, or the version is lower than the model's own; the model is then unchanged.
pub fn raise(model: &mut Model, target: i64) -> Result<usize, RaiseError> {
    let Some(from) = model.graph.context().opset("").filter(|&from| from != target) else { return Ok(0) };
    if target < from {
        return Err(RaiseError::Lower { from, target });
    }
    if target > HIGHEST {
        return Err(RaiseError::TooHigh(target));
    }
    if !model.rest.training_info.is_empty() {
        return Err(RaiseError::TrainingInfo);
    }
    let mut raised = model.clone();
    // From version 4 on constants may be added.
    if raised.ir_version() < 4 && !raised.raise_ir_version() {
        return Err(RaiseError::ListedConstants);
    }
    if left_behind(&raised, target).is_some() {
        raised.inline_functions(&mut |_| {});
    }
    if let Some((function, op_type)) = left_behind(&raised, target) {
        return Err(RaiseError::Function { function, op_type, target });
    }
    let mut count = 0;
    for version in from + 1..=target {
        raised.set_opset(version);
        count += advance(&mut raised.graph, version, target)?;
    }
    // What was added has its place yet to find. A cycle was there before, and the check names it.
    let _ = raised.graph.sort();
    check(&raised).map_err(|source| RaiseError::Illegal { target, source })?;
    *model = raised;
    Ok(count)
}

/// A function, and an operator in it that is another one in that version.
fn left_behind(model: &Model, target: i64) -> Option<(String, String)> {
    let mut found = None;
    model.for_each_function_operator(&mut |operator| {
        let is_call = model.graph.context().is_function("", operator.op_type);
        let mut old = schema::lookup("", operator.op_type, operator.opset);
        for version in operator.opset + 1..=target {
            let new = schema::lookup("", operator.op_type, version);
            let same = match (old, new) {
                (Some(old), Some(new)) if std::ptr::eq(old, new) => true,
                (Some(old), Some(new)) => {
                    !has_adapter(operator.op_type, version)
                        && unchanged(old, new, &operator.attributes, operator.inputs, operator.outputs)
                            .is_ok_and(|defaults| defaults.is_empty())
                }
                _ => is_call,
            };
            if !same {
                found = Some((operator.function.to_owned(), operator.op_type.to_owned()));
            }
            old = new;
        }
    });
    found
}

/// Takes the nodes of a graph and its bodies from the version before to this one, on the way to `target`.
fn advance(graph: &mut Graph, version: i64, target: i64) -> Result<usize, RaiseError> {
    let operators = schema::operators().iter();
    let changed =
        operators.filter(|operator| operator.domain.is_empty() && operator.since_version == version);
    let adapted = ADAPTERS.iter().filter(|(at, ..)| *at == version).flat_map(|(_, names, _)| *names);
    let changed: FxHashSet<&str> = changed.map(|operator| operator.op_type).chain(adapted.copied()).collect();
    let mut result = Ok(0);
    for_each_graph(graph, &mut |graph| {
        if let Ok(count) = result {
            result = advance_nodes(graph, &changed, version, target).map(|more| count + more);
        }
    });
    result
}

fn advance_nodes(
    graph: &mut Graph,
    changed: &FxHashSet<&str>,
    version: i64,
    target: i64,
) -> Result<usize, RaiseError> {
    let nodes: Vec<NodeId> = graph
        .nodes()
        .filter(|(_, node)| node.domain().is_empty() && !graph.context().is_function("", node.op_type()))
        .filter(|(_, node)| node.operator().is_none() || changed.contains(node.op_type()))
        .map(|(id, _)| id)
        .collect();
    let mut count = 0;
    for id in nodes {
        let mut step = Step { graph: &mut *graph, id, version, target };
        match step.take() {
            Ok(otherwise) => count += usize::from(otherwise),
            Err(reason) => {
                let (node, op_type) = step.describe();
                return Err(RaiseError::Node { node, op_type, opset: version, reason });
            }
        }
    }
    Ok(count)
}

/// Puts a node as the version at hand says it, or tells why it cannot.
type Adapter = fn(&mut Step<'_>) -> Result<(), String>;

/// What operators became in a version, where that is more than what [`unchanged`] sees.
#[rustfmt::skip]
const ADAPTERS: &[(i64, &[&str], Adapter)] = &[
    (2, &["GlobalLpPool", "LpPool"], early::norm_order),
    (2, &["Pad"], early::paddings),
    (2, &["Split"], split::without_operand),
    (3, &["GRU"], early::direction),
    (4, &["Concat"], early::concat_axis),
    (5, &["Reshape"], attribute_operands::reshape),
    (6, &["BatchNormalization"], early::consumed_inputs),
    (6, &["Cast"], early::cast_by_name),
    (6, &["Clip"], early::clip_without_bounds),
    (6, &["Tile"], early::tile),
    (7, &["Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"], broadcast::elementwise),
    (7, &["BatchNormalization"], normalization::inference_only),
    (7, &["Dropout"], normalization::dropout_inference_only),
    (7, &["Gemm"], broadcast::gemm),
    (7, &["PRelu"], broadcast::prelu),
    (7, &["GRU", "LSTM", "RNN"], early::output_sequence),
    (7, &["Upsample"], resize::upsample_scales),
    (9, &["BatchNormalization"], normalization::per_channel),
    (9, &["Scan"], early::scan_batch),
    (9, &["Upsample"], resize::upsample_operand),
    (10, &["Dropout"], normalization::dropout_mask),
    (10, &["Slice"], attribute_operands::slice),
    (10, &["TopK"], attribute_operands::top_k),
    (10, &["Upsample"], resize::upsample),
    (11, &["Clip"], attribute_operands::clip),
    (11, &["Pad"], attribute_operands::pad),
    (11, &["Resize"], resize::coordinates),
    (11, &["Scatter"], early::scatter),
    (11, &["Upsample"], resize::upsample),
    (12, &["Dropout"], attribute_operands::dropout),
    (13, &["Hardmax", "LogSoftmax", "Softmax"], softmax::one_axis),
    (13, &["ReduceSum", "Squeeze", "Unsqueeze"], axes::operand),
    (13, &["Resize"], resize::without_empty_operands),
    (13, &["Split"], split::operand),
    (14, &["BatchNormalization"], normalization::single_result),
    (16, &["RoiAlign"], resize::roi_coordinates),
    (18, &["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
           "ReduceProd", "ReduceSumSquare"], axes::operand),
    (18, &["Split"], split::number_of_results),
    (20, &["DFT"], attribute_operands::dft),
    (20, &["GridSample"], resize::grid_modes),
    (21, &["GroupNormalization"], normalization::group_per_channel),
    (25, &["Swish"], activation::swish),
];

fn adapter(op_type: &str, version: i64) -> Option<Adapter> {
    let mut found = ADAPTERS.iter().filter(|(at, names, _)| *at == version && names.contains(&op_type));
    found.next().map(|(.., adapter)| *adapter)
}

fn has_adapter(op_type: &str, version: i64) -> bool {
    adapter(op_type, version).is_some()
}
