//! The weights of a graph: constants that operators multiply by, or look up rows in.

use std::sync::Arc;

use onnx_opt_ir::graph::{Producer, Slot};
use onnx_opt_ir::{ElementType, Graph, Node, NodeId, Tensor, ValueId};
use rustc_hash::FxHashMap;

use super::super::QuantizeOptions;
use super::layout::Layout;
use crate::rewrite::place;

/// How an operator takes a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub layout: Layout,
    /// The axis that sums run along, where it is one.
    pub summed: Option<usize>,
    /// The axis that channels lie along, where it is one.
    pub channels: Option<usize>,
}

/// A weight with those who use it.
pub(super) struct Weight {
    pub value: ValueId,
    pub tensor: Arc<Tensor>,
    pub taken: Taken,
    /// Nodes that take it as a weight.
    pub users: Vec<NodeId>,
    /// Whether all take it as the right one of two matrices, whose columns are the channels.
    pub is_right_matrix: bool,
}

/// The weights of a graph in its order, bodies not counted, and nodes whose weights stay, with the reason.
pub(super) fn find(graph: &Graph, options: &QuantizeOptions) -> (Vec<Weight>, Vec<(NodeId, String)>) {
    let (mut weights, mut refused) = (Vec::<Weight>::new(), Vec::new());
    let mut known: FxHashMap<ValueId, usize> = FxHashMap::default();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        for &slot in slots(node) {
            let Some(value) = node.input(slot) else { continue };
            // Where two activations are multiplied there are no weights.
            let Some(tensor) = graph.constant(value) else { continue };
            let taken = match options.refusal(node, &place(graph, node)) {
                Some(reason) => Err(reason.to_owned()),
                None => taken(graph, node, slot, tensor, value),
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(reason) => {
                    refused.push((id, reason));
                    continue;
                }
            };
            let product = matches!(node.op_type(), "MatMul" | "Gemm") && slot == 1;
            let is_right_matrix = product && tensor.rank() == 2 && taken.layout.outer == 1;
            let index = *known.entry(value).or_insert_with(|| {
                let tensor = tensor.clone();
                weights.push(Weight { value, tensor, taken, users: Vec::new(), is_right_matrix });
                weights.len() - 1
            });
            weights[index].users.push(id);
            weights[index].is_right_matrix &= is_right_matrix;
        }
    }
    for weight in &mut weights {
        weight.is_right_matrix &= graph.use_count(weight.value) == weight.users.len();
    }
    (weights, refused)
}

/// The operands of a node that may be weights.
fn slots(node: &Node) -> &'static [usize] {
    if node.operator().is_none() || !node.domain().is_empty() {
        return &[];
    }
    match node.op_type() {
        "MatMul" | "Gemm" => &[0, 1],
        "Conv" | "ConvTranspose" => &[1],
        "Gather" => &[0],
        "GRU" | "LSTM" | "RNN" => &[1, 2],
        _ => &[],
    }
}

fn taken(graph: &Graph, node: &Node, slot: usize, tensor: &Tensor, value: ValueId) -> Result<Taken, String> {
    if tensor.element() != ElementType::Float {
        return Err(format!("its weights are {}", tensor.element()));
    }
    if !matches!(graph.get_value(value).map(|value| value.producer()), Some(Producer::Constant(_))) {
        return Err("its weights lie outside of the body that it is in".to_owned());
    }
    if graph.is_output(value) || graph.is_pinned(value) {
        return Err("its weights are an output, or have an annotation".to_owned());
    }
    if graph.consumers(value).any(|user| !matches!(user.slot, Slot::Input(_))) {
        return Err("a body reads its weights".to_owned());
    }
    let shape = tensor.shape();
    let rank = shape.len();
    if rank < 2 || tensor.is_empty() {
        return Err("its weights are no matrix".to_owned());
    }
    let along = |axis: usize| Layout {
        outer: shape[..axis].iter().product(),
        length: shape[axis],
        inner: shape[axis + 1..].iter().product(),
    };
    // Channels lie along one axis where all others but the summed one have one place.
    let one = |summed: usize| {
        let mut long = (0..rank).filter(|&axis| axis != summed && shape[axis] > 1);
        let first = long.next().or((0..rank).find(|&axis| axis != summed));
        first.filter(|_| long.next().is_none())
    };
    let by_axis = |axis: usize| Taken { layout: along(axis), summed: Some(axis), channels: one(axis) };
    let by_first = || {
        let layout = Layout { outer: shape[0], length: shape[1..].iter().product(), inner: 1 };
        let summed = (1..rank).find(|&axis| shape[axis] == layout.length);
        Taken { layout, summed, channels: Some(0) }
    };
    let transposed = |name: &str| node.int(name) == Some(1);
    Ok(match (node.op_type(), slot) {
        ("MatMul", 0) => by_axis(rank - 1),
        ("MatMul", _) => by_axis(rank - 2),
        ("Gemm", 0) => by_axis(usize::from(!transposed("transA"))),
        ("Gemm", _) => by_axis(usize::from(transposed("transB"))),
        ("ConvTranspose", _) => by_axis(0),
        ("Gather", _) if node.int("axis") != Some(0) => {
            return Err("it looks up along an axis that is not the first".to_owned());
        }
        ("GRU" | "LSTM" | "RNN", _) => by_axis(rank - 1),
        _ => by_first(),
    })
}
