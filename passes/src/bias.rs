//! The bias of a product: the constant that is added to what it gives.

use onnx_opt_ir::graph::{GraphError, Slot};
use onnx_opt_ir::{Graph, NodeId, Tensor, ValueId};

/// The constant vector of a size that is added to a value, with the node, its place there, and the sum.
pub(crate) fn added(graph: &Graph, value: ValueId, size: usize) -> Option<(ValueId, NodeId, usize, ValueId)> {
    if graph.is_output(value) {
        return None;
    }
    let mut consumers = graph.consumers(value);
    let (Some(only), None) = (consumers.next(), consumers.next()) else { return None };
    let (Slot::Input(slot), node) = (only.slot, graph.get_node(only.node)?) else { return None };
    let other = 1 - (slot as usize).min(1);
    let bias = node.input(other).filter(|_| node.is("Add"))?;
    let fits = graph.constant(bias).is_some_and(|bias| bias.shape() == [size]);
    fits.then_some((bias, only.node, other, node.single_output()?))
}

/// Gives a node a bias of its own, of the element type of `like`.
pub(crate) fn set_bias(
    graph: &mut Graph,
    node: NodeId,
    slot: usize,
    bias: &[f64],
    like: &Tensor,
) -> Result<(), GraphError> {
    let old = graph.node(node).input(slot);
    let tensor = Tensor::from_f64(like.element(), &[bias.len()], bias);
    let Some(tensor) = tensor else { return Ok(()) };
    let new = graph.add_constant(tensor);
    graph.set_input(node, slot, Some(new))?;
    if let Some(old) = old {
        graph.remove_unused_constant(old);
    }
    Ok(())
}
