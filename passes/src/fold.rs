//! Constants out of shape arithmetic: integer tensors that inference knows element by element.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Dim, Graph, Tensor, ValueId};

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Replaces values whose elements are all known numbers by constants.
pub struct FoldShapes;

/// The longest vector that becomes a constant: longer than any shape, short enough not to make the file larger.
const MAX_ELEMENTS: usize = 32;

impl Pass for FoldShapes {
    fn name(&self) -> &'static str {
        "fold_shapes"
    }

    fn doc(&self) -> &'static str {
        "Replaces shape arithmetic with known results by constants"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let values: Vec<ValueId> = graph.values().map(|(id, _)| id).collect();
            for value in values {
                let Some(tensor) = known_tensor(graph, value) else { continue };
                let constant = graph.add_constant(tensor);
                if graph.replace_all_uses(value, constant).is_ok() {
                    *statistics.fired.entry("fold_shapes").or_default() += 1;
                }
                graph.remove_unused_constant(constant);
                let producer = graph.producer(value).map(|(node, ..)| node);
                graph.remove_dead(producer, |_, _| {});
            }
        });
    }
}

/// The tensor that a node always gives, if inference knows all its elements.
fn known_tensor(graph: &Graph, value: ValueId) -> Option<Tensor> {
    let known = graph.get_value(value)?;
    if !matches!(known.producer(), Producer::Node { .. }) || graph.use_count(value) == 0 {
        return None;
    }
    let elements = known.elements()?;
    if elements.len() > MAX_ELEMENTS {
        return None;
    }
    let integers: Vec<i64> = elements.iter().map(Dim::as_fixed).collect::<Option<_>>()?;
    let shape: Vec<usize> = graph
        .fixed_shape(value)?
        .into_iter()
        .map(|size| usize::try_from(size).ok())
        .collect::<Option<_>>()?;
    Tensor::from_integers(graph.element(value)?, &shape, &integers)
}
