//! `If` with a condition that is always the same: the branch takes its place.

use onnx_opt_ir::{Dim, Graph, NodeId, ValueId};

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Replaces an `If` of known condition by the branch that it takes.
pub struct InlineIf;

impl Pass for InlineIf {
    fn name(&self) -> &'static str {
        "inline_if"
    }

    fn doc(&self) -> &'static str {
        "Replaces an If of known condition by its branch"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let inlined = inline_known(graph);
            if inlined > 0 {
                *statistics.fired.entry("inline_if").or_default() += inlined;
            }
        });
    }
}

/// Replaces each `If` of the graph itself whose condition is known now, and tells how many.
pub(crate) fn inline_known(graph: &mut Graph) -> usize {
    let nodes: Vec<NodeId> = graph.nodes().filter(|(_, node)| node.is("If")).map(|(id, _)| id).collect();
    // Indices of removed nodes are used again, but only by nodes of the branch: look before each step.
    nodes
        .into_iter()
        .filter(|&id| known_branch(graph, id).is_some_and(|branch| graph.inline_body(id, branch).is_ok()))
        .count()
}

/// The one element of a value, if it is known; a condition is 0 or 1.
pub(crate) fn known_integer(graph: &Graph, value: ValueId) -> Option<i64> {
    let [element] = graph.elements(value)?.try_into().ok()?;
    Dim::as_fixed(&element)
}

/// Which of its bodies, in the order of the attributes, an `If` always takes.
fn known_branch(graph: &Graph, id: NodeId) -> Option<usize> {
    let node = graph.get_node(id).filter(|node| node.is("If"))?;
    let wanted = match known_integer(graph, node.input(0)?)? {
        0 => "else_branch",
        _ => "then_branch",
    };
    let branches = node.attributes().iter().filter(|entry| !entry.value.graphs().is_empty());
    branches.into_iter().position(|entry| &*entry.name == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{Attributes, Context, ElementType, Graph, NewNode, Tensor};

    use super::*;
    use crate::testing::Fixture;

    /// `If(condition)` with `Relu(x)` in one branch and `Neg(x)` in the other.
    fn branches(f: &mut Fixture, condition: ValueId, x: ValueId) {
        let body = |op_type: &str| {
            let mut body = Graph::new(Context::with_opset(16));
            let captured = body.add_capture(0);
            let node = body.add_node(NewNode::new(op_type, [captured])).unwrap();
            let result = body.node(node).output(0).unwrap();
            body.add_output("result", result).unwrap();
            body
        };
        let attributes = Attributes::from_pairs([
            ("else_branch", body("Neg").into()),
            ("then_branch", body("Relu").into()),
        ]);
        let y = f.node(NewNode { attributes, captures: vec![x], ..NewNode::new("If", [condition]) });
        f.output("y", y);
    }

    fn run(f: &mut Fixture) -> Vec<String> {
        InlineIf.run(&mut f.graph, &PassContext::default(), &mut Statistics::default());
        f.operators()
    }

    #[test]
    fn the_taken_branch_takes_the_place() {
        for (condition, expected) in [(1.0, "Relu"), (0.0, "Neg")] {
            let mut f = Fixture::new(16);
            let x = f.input("x", &[2]);
            let condition = f.graph.add_constant(Tensor::scalar(ElementType::Bool, condition).unwrap());
            branches(&mut f, condition, x);
            assert_eq!(run(&mut f), [expected]);
            assert_eq!(f.graph.display_name(f.graph.outputs()[0].value), "y");
        }
    }

    #[test]
    fn an_unknown_condition_stays() {
        let mut f = Fixture::new(16);
        let x = f.input("x", &[2]);
        let condition = f.graph.add_input("c", onnx_opt_ir::Type::tensor(ElementType::Bool, []));
        branches(&mut f, condition, x);
        assert_eq!(run(&mut f), ["If"]);
    }
}
