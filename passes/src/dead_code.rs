//! Dead code: nodes, results, constants and declarations that no output needs.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Graph, Node, NodeId, ValueId};

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Leaves out optional results at the end of the list that nothing uses, and tells how many.
fn leave_out_results(graph: &mut Graph) -> usize {
    let mut unused: Vec<(NodeId, usize)> = Vec::new();
    for (id, node) in graph.nodes() {
        let Some(operator) = node.operator().filter(|_| !stand_together(node)) else { continue };
        for (index, value) in node.outputs().iter().enumerate().skip(1).rev() {
            let optional = operator.output(index).is_some_and(|result| result.is_optional());
            let used = value.is_some_and(|value| graph.use_count(value) > 0 || graph.is_pinned(value));
            if !optional || used {
                break;
            }
            if value.is_some() {
                unused.push((id, index));
            }
        }
    }
    unused.into_iter().filter(|&(node, index)| graph.remove_output(node, index).is_ok()).count()
}

/// Whether results of the operator are there together or not at all.
fn stand_together(node: &Node) -> bool {
    // Before opset 14, more than one result of a BatchNormalization means training.
    matches!(node.op_type(), "Attention" | "BatchNormalization")
}

/// Removes nodes whose results nothing uses, and constants and declarations without a value.
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn doc(&self) -> &'static str {
        "Removes nodes, optional results and constants that no output needs"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
            let removed = graph.remove_dead(nodes, |_, _| {});
            let left_out = leave_out_results(graph);
            let constants: Vec<ValueId> = graph
                .values()
                .filter(|(_, value)| matches!(value.producer(), Producer::Constant(_)))
                .map(|(id, _)| id)
                .collect();
            constants.into_iter().for_each(|constant| graph.remove_unused_constant(constant));
            graph.drop_stale_declarations();
            if removed + left_out > 0 {
                *statistics.fired.entry("dead_code").or_default() += removed + left_out;
            }
        });
    }
}
