//! Dead code: nodes, constants and declarations that no output needs.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Graph, NodeId, ValueId};

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Removes nodes whose results nothing uses, and constants and declarations without a value.
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn doc(&self) -> &'static str {
        "Removes nodes and constants that no output needs"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
            let removed = graph.remove_dead(nodes, |_, _| {});
            let constants: Vec<ValueId> = graph
                .values()
                .filter(|(_, value)| matches!(value.producer(), Producer::Constant(_)))
                .map(|(id, _)| id)
                .collect();
            constants.into_iter().for_each(|constant| graph.remove_unused_constant(constant));
            graph.drop_stale_declarations();
            if removed > 0 {
                *statistics.fired.entry("dead_code").or_default() += removed;
            }
        });
    }
}
