//! `If` in tract 0.23.9: where its first branch gives what tract takes for a constant, that becomes the result whatever
//! the condition says. What depends on the elements of a float input, tract takes for no constant.

use std::collections::HashSet;

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{ElementType, Graph, ValueId};

/// Operators whose results depend on the shapes of their operands alone.
const SHAPES: &[&str] = &["Shape", "Size"];

/// Whether the first branch of some `If` may give a constant.
pub fn may_give_constants(graph: &Graph) -> bool {
    varying(graph, &|_| false).is_none()
}

/// The values that vary with the elements of float inputs; `captured` tells whether a captured one does. `None` where
/// the first branch of an `If` gives one that may not.
fn varying(graph: &Graph, captured: &dyn Fn(usize) -> bool) -> Option<HashSet<ValueId>> {
    let mut known: HashSet<ValueId> = HashSet::new();
    for (id, value) in graph.values() {
        let varies = match value.producer() {
            Producer::Input { default: None } => graph.element(id).is_some_and(ElementType::is_float),
            Producer::Captured { index, .. } => captured(*index as usize),
            _ => false,
        };
        if varies {
            known.insert(id);
        }
    }
    for id in graph.topological_order().ok()? {
        let node = graph.node(id);
        let captured = |index: usize| node.captures().get(index).is_some_and(|value| known.contains(value));
        let mut varies = !SHAPES.iter().any(|op_type| node.is(op_type))
            && node.inputs().iter().flatten().any(|value| known.contains(value));
        let first = node.attributes().get("then_branch").and_then(|value| value.graphs().first());
        for body in node.bodies() {
            let inner = varying(body, &captured)?;
            if node.is("If") && first.is_some_and(|first| std::ptr::eq(first, body)) {
                if body.outputs().iter().any(|output| !inner.contains(&output.value)) {
                    return None;
                }
                varies = true;
            }
        }
        if varies {
            known.extend(node.outputs().iter().flatten());
        }
    }
    Some(known)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Context, NewNode, Tensor, Type};

    use super::*;

    /// y = condition ? op(x) + 1 : x
    fn refused(op_type: &str, element: ElementType) -> bool {
        let mut graph = Graph::new(Context::with_opset(17));
        let condition = graph.add_input("condition", Type::tensor(ElementType::Bool, []));
        let x = graph.add_input("x", Type::unranked(element));
        let body = |op_type: &str| {
            let mut body = Graph::new(graph.context().clone());
            let x = body.add_capture(0);
            let node = body.add_node(NewNode::new(op_type, [x])).unwrap();
            let one = body.add_constant(Tensor::scalar(element, 1.0).unwrap());
            let node = NewNode::new("Add", [body.node(node).output(0).unwrap(), one]);
            let node = body.add_node(node).unwrap();
            body.add_output("y", body.node(node).output(0).unwrap()).unwrap();
            body
        };
        let node = NewNode::new("If", [condition])
            .with("then_branch", body(op_type))
            .with("else_branch", body("Size"));
        let node = graph.add_node(NewNode { captures: vec![x], ..node }).unwrap();
        graph.add_output("y", graph.node(node).output(0).unwrap()).unwrap();
        may_give_constants(&graph)
    }

    #[test]
    fn what_varies_is_no_constant() {
        assert!(!refused("Abs", ElementType::Float));
        assert!(refused("Size", ElementType::Float));
        assert!(refused("Abs", ElementType::Int64));
    }
}
