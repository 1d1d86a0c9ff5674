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
            let mut counter = Counter { graph, symbolic: false };
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

    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.symbolic |= other.symbolic;
        self.loops |= other.loops;
        self.uncounted += other.uncounted;
    }
}

struct Counter<'a> {
    graph: &'a Graph,
    symbolic: bool,
}

impl Counter<'_> {
    /// `None` if a shape that is needed is not known.
    fn node(&mut self, node: &Node) -> Option<u64> {
        if self.graph.context().is_function(node.domain(), node.op_type()) {
            return None;
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
            "Attention" => self.attention(node),
            _ => Some(0),
        }
    }

    fn convolution(&mut self, places: ValueId, weight: ValueId) -> Option<u64> {
        let places = self.sizes(places)?;
        let spatial = places.get(2..)?.iter().copied().fold(*places.first()?, u64::saturating_mul);
        Some(spatial.saturating_mul(self.volume(weight)?))
    }

    /// QK^T and PV: each query of each head meets each key with all its features, and each value likewise.
    fn attention(&mut self, node: &Node) -> Option<u64> {
        let (query, key, value) =
            (self.sizes(node.input(0)?)?, self.sizes(node.input(1)?)?, self.sizes(node.input(2)?)?);
        let past = match node.input(4) {
            Some(past) => *self.sizes(past)?.get(2)?,
            None => 0,
        };
        let (batch, queries, keys, query_width, value_width) = match (&query[..], &key[..], &value[..]) {
            (&[batch, heads, queries, width], &[_, _, keys, _], &[_, _, _, value_width]) => {
                (batch, queries, keys, heads.saturating_mul(width), heads.saturating_mul(value_width))
            }
            (&[batch, queries, width], &[_, keys, _], &[_, _, value_width]) => {
                let heads = u64::try_from(node.int("q_num_heads")?).ok()?;
                let value_heads = u64::try_from(node.int("kv_num_heads")?).ok().filter(|&heads| heads > 0)?;
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
        for dim in shape {
            self.symbolic |= !dim.is_fixed();
            sizes.push(dim.evaluate(&|_| Some(1)).and_then(|size| u64::try_from(size).ok())?);
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

    use onnx_opt_ir::import;
    use onnx_opt_proto::read_file;

    use super::*;

    fn fixture(name: &str) -> Macs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        Macs::of(&import(read_file(&path).unwrap()).unwrap().graph)
    }

    #[test]
    fn a_convolution_meets_each_place_with_each_weight() {
        // pad_conv: [N, 3, 8, 8] and two convolutions; N counts as one.
        let macs = fixture("pad_conv.onnx");
        assert!(macs.symbolic && macs.count > 0 && macs.uncounted == 0, "{macs:?}");
    }

    #[test]
    fn functions_and_loops_are_said() {
        assert!(fixture("local_function.onnx").uncounted > 0);
        assert!(fixture("loop_capture.onnx").loops);
    }
}
