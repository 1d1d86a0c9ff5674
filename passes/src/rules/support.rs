//! Whether a replacement can stand in a place: what the opset and runtimes take, and what may disappear.

use onnx_opt_ir::schema::{self, TypeKind};
use onnx_opt_ir::{ElementType, Graph, NodeId, ValueId};

use crate::rewrite::{Miss, Site, ensure};

/// Operators without a definition by others in some versions that onnxruntime nevertheless has in double precision.
const DOUBLE: &[&str] = &[
    "LogSoftmax",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
    "Relu",
    "Sigmoid",
    "Softmax",
];

/// Whether `op_type` may take `value` as its first operand: the opset has the operator, its schema takes the element
/// type, and runtimes run it: in single precision they have a kernel; for other types not always, and then need the
/// standard's definition of the operator by other operators.
///
/// # Errors
/// What is missing.
pub(super) fn supports(site: &Site<'_>, op_type: &str, value: ValueId) -> Result<(), Miss> {
    let element = site.graph.element(value).ok_or("the element type is not known")?;
    let operator = schema::lookup("", op_type, site.graph.opset()).filter(|operator| !operator.deprecated);
    let operator = operator.ok_or_else(|| format!("the opset has no {op_type}"))?;
    let allowed = operator.input(0).is_some_and(|input| input.allows(TypeKind::Tensor(element)));
    let runs = element == ElementType::Float
        || operator.has_function
        || (element == ElementType::Double && DOUBLE.contains(&op_type));
    ensure(allowed && runs, &format!("{op_type} of {} is not supported", element.name()))
}

/// Whether results of `nodes` other than `result` are used by nothing but `nodes`, so that all may disappear once
/// `result` is replaced.
///
/// # Errors
/// If one has other users.
pub(super) fn enclosed(graph: &Graph, nodes: &[NodeId], result: ValueId) -> Result<(), Miss> {
    let stays = |value: ValueId| {
        value != result
            && (graph.is_output(value)
                || graph.is_pinned(value)
                || graph.consumers(value).any(|consumer| !nodes.contains(&consumer.node)))
    };
    let values = nodes.iter().filter_map(|&node| graph.get_node(node)).flat_map(|node| node.outputs());
    ensure(!values.flatten().any(|&value| stays(value)), "an inner result has other users")
}

/// The number that a constant of one element holds, where it cannot raise the rank of what it is combined with.
pub(super) fn scalar(graph: &Graph, value: ValueId, other: ValueId) -> Option<f64> {
    let tensor = graph.constant(value)?;
    let fits = tensor.rank() == 0 || graph.rank(other).is_some_and(|rank| tensor.rank() <= rank);
    if fits { tensor.single_f64() } else { None }
}

/// Whether a number read from a model is the one meant, given how coarsely its element type rounds and that it may
/// be a product of a few rounded ones.
pub(super) fn close(found: f64, meant: f64, element: Option<ElementType>) -> bool {
    let tolerance = match element {
        Some(ElementType::Bfloat16) => 1e-2,
        Some(ElementType::Float16) => 2e-3,
        _ => 1e-5,
    };
    (found - meant).abs() <= tolerance * meant.abs()
}
