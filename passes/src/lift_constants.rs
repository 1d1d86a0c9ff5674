//! `Constant` nodes become initializers.

use onnx_opt_ir::{Graph, ValueId};

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Writes constants as initializers, except outputs of a graph, which need a node.
pub struct LiftConstants;

impl Pass for LiftConstants {
    fn name(&self) -> &'static str {
        "lift_constants"
    }

    fn doc(&self) -> &'static str {
        "Writes Constant nodes as initializers"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let values: Vec<ValueId> = graph.values().map(|(id, _)| id).collect();
            let lifted = values.into_iter().filter(|&value| graph.lift_constant(value)).count();
            if lifted > 0 {
                *statistics.fired.entry("lift_constants").or_default() += lifted;
            }
        });
    }
}
