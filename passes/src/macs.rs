//! Multiply-accumulate operations of a run, from inferred shapes.

use onnx_opt_ir::{Graph, Node, ValueId};
use serde::Serialize;

/// Multiply-accumulates of one run of a model: convolutions, matrix products, recurrent layers and attention. Bodies
/// of loops count as one turn, an `If` as its dearer branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Macs {
    /// How many; sizes that are not known count as one.
    pub count: u64,
    /// Whether a size was not known.
    pub symbolic: bool,
    /// Whether there are loops, whose turns are not known.
    pub loops: bool,
    /// Nodes that were not counted because their shapes are not known, or that call a function of the model.
    pub uncounted: usize,
}

impl Macs {
    /// Those of a graph.
    pub fn of(graph: &Graph) -> Self {
        let mut total = Self::default();
        for (_, node) in graph.nodes() {
            let mut counter = Counter { graph, unknown: 1, left: &|_, _| None, symbolic: false };
            match counter.node(node) {
                Some(count) => total.count = total.count.saturating_add(count),
                None => total.uncounted += 1,
            }
            total.symbolic |= counter.symbolic;
            let bodies = node.bodies().map(Self::of);
            if node.is("If") {
                total.add(bodies.max_by_key(|body| body.count).unwrap_or_default());
            } else {
                total.loops |= node.is("Loop") || node.is("Scan");
                bodies.for_each(|body| total.add(body));
            }
        }
        total
    }

    /// Those of one node, bodies aside, where sizes that are not known are `unknown`, and `left` tells other sizes of
    /// axes than the graph: those after an edit that is not made yet. `None` where a shape is not known.
    pub fn of_node(
        graph: &Graph,
        node: &Node,
        unknown: i64,
        left: &dyn Fn(ValueId, usize) -> Option<u64>,
    ) -> Option<u64> {
        Counter { graph, unknown, left, symbolic: false }.node(node)
    }

    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.symbolic |= other.symbolic;
        self.loops |= other.loops;
        self.uncounted += other.uncounted;
    }
}

struct Counter<'a> {
    graph: &'a Graph,
    /// What sizes that are not known count as.
    unknown: i64,
    /// Other sizes than those of the graph.
    left: &'a dyn Fn(ValueId, usize) -> Option<u64>,
    symbolic: bool,
}

impl Counter<'_> {
    /// `None` if a shape that is needed is not known.
    fn node(&mut self, node: &Node) -> Option<u64> {
        if self.graph.context().is_function(node.domain(), node.op_type()) {
            return None;
        }
        if (node.domain(), node.op_type()) == ("com.microsoft", "MultiHeadAttention") {
            return self.attention(node, 6);
        }
        if node.operator().is_none() || !node.domain().is_empty() {
            return Some(0);
        }
        match node.op_type() {
            // Every weight meets every place of the output; [M, C/group, k...].
            "Conv" | "ConvInteger" => self.convolution(node.output(0)?, node.input(1)?),
            "QLinearConv" => self.convolution(node.output(0)?, node.input(3)?),
            // Every weight meets every place of the input; [C, M/group, k...].
            "ConvTranspose" => self.convolution(node.input(0)?, node.input(1)?),
            "MatMul" | "MatMulInteger" | "QLinearMatMul" => {
                let inner = *self.sizes(node.input(0)?)?.last()?;
                Some(self.volume(node.output(0)?)?.saturating_mul(inner))
            }
            "Gemm" => {
                let inner = *self.sizes(node.input(0)?)?.get(usize::from(node.int("transA") != Some(1)))?;
                Some(self.volume(node.output(0)?)?.saturating_mul(inner))
            }
            // All input and recurrent weights meet each step of each sequence of the batch.
            "LSTM" | "GRU" | "RNN" => {
                let steps = self.sizes(node.input(0)?)?.iter().take(2).copied().fold(1, u64::saturating_mul);
                let weights = self.volume(node.input(1)?)?.saturating_add(self.volume(node.input(2)?)?);
                Some(steps.saturating_mul(weights))
            }
            "Attention" => self.attention(node, 4),
            _ => Some(0),
        }
    }

    fn convolution(&mut self, places: ValueId, weight: ValueId) -> Option<u64> {
        let places = self.sizes(places)?;
        let spatial = places.get(2..)?.iter().copied().fold(*places.first()?, u64::saturating_mul);
        Some(spatial.saturating_mul(self.volume(weight)?))
    }

    /// QK^T and PV: each query of each head meets each key with all its features, and each value likewise. Operand `past`
    /// holds keys that were there before.
    fn attention(&mut self, node: &Node, past: usize) -> Option<u64> {
        let (query, key, value) =
            (self.sizes(node.input(0)?)?, self.sizes(node.input(1)?)?, self.sizes(node.input(2)?)?);
        let past = match node.input(past) {
            Some(past) => *self.sizes(past)?.get(2)?,
            None => 0,
        };
        let (batch, queries, keys, query_width, value_width) = match (&query[..], &key[..], &value[..]) {
            (&[batch, heads, queries, width], &[_, _, keys, _], &[_, _, _, value_width]) => {
                (batch, queries, keys, heads.saturating_mul(width), heads.saturating_mul(value_width))
            }
            (&[batch, queries, width], &[_, keys, _], &[_, _, value_width]) => {
                let heads = |name: &str| {
                    let heads = node.int(name).or_else(|| node.int("num_heads"))?;
                    u64::try_from(heads).ok().filter(|&heads| heads > 0)
                };
                let (heads, value_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
                (batch, queries, keys, width, heads.saturating_mul(value_width / value_heads))
            }
            _ => return None,
        };
        let pairs = batch.saturating_mul(queries).saturating_mul(keys.saturating_add(past));
        Some(pairs.saturating_mul(query_width.saturating_add(value_width)))
    }

    fn sizes(&mut self, value: ValueId) -> Option<Vec<u64>> {
        let shape = self.graph.shape(value)?;
        let mut sizes = Vec::with_capacity(shape.len());
        for (axis, dim) in shape.iter().enumerate() {
            self.symbolic |= !dim.is_fixed();
            let own = || dim.evaluate(&|_| Some(self.unknown)).and_then(|size| u64::try_from(size).ok());
            sizes.push((self.left)(value, axis).or_else(own)?);
        }
        Some(sizes)
    }

    fn volume(&mut self, value: ValueId) -> Option<u64> {
        Some(self.sizes(value)?.into_iter().fold(1, u64::saturating_mul))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use onnx_opt_ir::{Context, Dim, ElementType, NewNode, Type, import};
    use onnx_opt_proto::read_file;

    use super::*;

    fn fixture(name: &str) -> Macs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        Macs::of(&import(read_file(&path).unwrap()).unwrap().graph)
    }

    /// One node on inputs of these shapes, the rest of its results unnamed.
    fn node(op_type: &str, attributes: &[(&str, i64)], shapes: &[&[i64]]) -> u64 {
        let (domain, op_type) = op_type.split_once(':').unwrap_or(("", op_type));
        let mut graph = Graph::new(Context::with_opset(23));
        let inputs: Vec<ValueId> = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| {
                let sizes = shape.iter().map(|&size| Dim::fixed(size));
                graph.add_input(&format!("x{index}"), Type::tensor(ElementType::Float, sizes))
            })
            .collect();
        let new = NewNode { domain: domain.to_owned(), ..NewNode::new(op_type, inputs) };
        let new = attributes.iter().fold(new, |new, &(name, value)| new.with(name, value));
        graph.add_node(new).unwrap();
        let macs = Macs::of(&graph);
        assert!(!macs.symbolic && macs.uncounted == 0, "{macs:?}");
        macs.count
    }

    #[test]
    fn products_by_hand() {
        // 2 images, 8 channels out of 3/1, 5x5 places (no padding), 3x3 weights.
        assert_eq!(node("Conv", &[], &[&[2, 3, 7, 7], &[8, 3, 3, 3]]), 2 * 25 * 8 * 3 * 9);
        assert_eq!(node("Conv", &[("group", 4)], &[&[1, 4, 7, 7], &[8, 1, 3, 3]]), 25 * 8 * 9);
        assert_eq!(node("ConvTranspose", &[], &[&[1, 3, 4, 4], &[3, 8, 2, 2]]), 16 * 3 * 8 * 4);
        assert_eq!(node("MatMul", &[], &[&[2, 5, 3], &[3, 7]]), 2 * 5 * 3 * 7);
        assert_eq!(node("Gemm", &[("transA", 1), ("transB", 1)], &[&[3, 5], &[7, 3]]), 5 * 3 * 7);
        let lstm: &[&[i64]] = &[&[6, 2, 3], &[1, 16, 3], &[1, 16, 4]];
        assert_eq!(node("LSTM", &[("hidden_size", 4)], lstm), 6 * 2 * 16 * (3 + 4));
        let heads: &[&[i64]] = &[&[1, 4, 5, 8], &[1, 2, 7, 8], &[1, 2, 7, 6]];
        assert_eq!(node("Attention", &[], heads), 5 * 7 * 4 * (8 + 6));
        let flat: &[&[i64]] = &[&[1, 5, 32], &[1, 7, 16], &[1, 7, 12]];
        assert_eq!(node("Attention", &[("q_num_heads", 4), ("kv_num_heads", 2)], flat), 5 * 7 * 4 * (8 + 6));
        let beside: &[&[i64]] = &[&[1, 5, 32], &[1, 7, 32], &[1, 7, 24]];
        let attention = node("com.microsoft:MultiHeadAttention", &[("num_heads", 4)], beside);
        assert_eq!(attention, 5 * 7 * 4 * (8 + 6));
        assert_eq!(node("Relu", &[], &[&[2, 3]]), 0);
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(fixture("local_function.onnx").uncounted > 0);
        assert!(fixture("loop_capture.onnx").loops);
        let open = fixture("pad_conv.onnx");
        assert!(open.symbolic && open.count > 0 && open.uncounted == 0, "{open:?}");
    }
}
