//! Whether a replacement can stand in a place: what the opset and runtimes take, and what may disappear.

use onnx_opt_ir::schema::{self, TypeKind};
use onnx_opt_ir::{ElementType, Graph, NodeId, ValueId};

use crate::rewrite::{Miss, Site, ensure};

/// Operators that onnxruntime has in double precision.
const DOUBLE: &[&str] = &[
    "GroupNormalization",
    "LogSoftmax",
    "LpNormalization",
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
/// type, and onnxruntime runs it, which it does less often than what the operator stands for.
///
/// # Errors
/// What is missing.
pub(super) fn supports(site: &Site<'_>, op_type: &str, value: ValueId) -> Result<(), Miss> {
    let element = site.graph.element(value).ok_or("the element type is not known")?;
    let operator = schema::lookup("", op_type, site.graph.opset()).filter(|operator| !operator.deprecated);
    let operator = operator.ok_or_else(|| format!("the opset has no {op_type}"))?;
    let allowed = operator.input(0).is_some_and(|input| input.allows(TypeKind::Tensor(element)));
    let runs = match op_type {
        // By the standard's definition, which it expands in this opset only.
        "Swish" => site.graph.opset() == 24,
        "DepthToSpace" | "SpaceToDepth" => matches!(element, ElementType::Float | ElementType::Double),
        "Clip" if element == ElementType::Double => site.graph.opset() >= 12,
        "Relu" if element.is_integer() => matches!(element, ElementType::Int8 | ElementType::Int32),
        _ => element != ElementType::Double || DOUBLE.contains(&op_type),
    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::Dim;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn what_runs() {
        let verdict = |opset, op_type: &str, element| {
            let mut f = Fixture::new(opset);
            let x = f.typed_input("x", element, [Dim::fixed(2)]);
            f.op("Identity", &[x]);
            let root = f.graph.nodes().next().unwrap().0;
            supports(&Site::new(&f.graph, root), op_type, x).is_ok()
        };
        use ElementType::{Double, Float, Float16, Int32, Int64};
        assert!(verdict(20, "Gelu", Float) && verdict(20, "Gelu", Float16) && !verdict(20, "Gelu", Double));
        assert!(!verdict(19, "Gelu", Float) && !verdict(20, "Gelu", Int64));
        assert!(verdict(14, "Relu", Int32) && !verdict(14, "Relu", Int64) && !verdict(13, "Relu", Int32));
        assert!(verdict(24, "Swish", Float) && !verdict(25, "Swish", Float));
        assert!(verdict(13, "Softmax", Double) && !verdict(13, "LeakyRelu", Double));
        assert!(verdict(12, "Clip", Double) && !verdict(11, "Clip", Double));
        assert!(verdict(12, "Clip", Int64) && !verdict(11, "Clip", Int64));
    }

    #[test]
    fn an_inner_result_that_is_used_stays() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[2]);
        let t = f.op("Neg", &[x]);
        let y = f.op("Abs", &[t]);
        let nodes: Vec<NodeId> = f.graph.nodes().map(|(id, _)| id).collect();
        f.output("y", y);
        assert!(enclosed(&f.graph, &nodes, y).is_ok() && enclosed(&f.graph, &nodes, t).is_err());
        f.op("Relu", &[t]);
        assert!(enclosed(&f.graph, &nodes, y).is_err());
    }
}
