//! Channels of about the same range (cross-layer equalization, Nagel et al., 2019).
//!
//! Between two products a channel may be scaled by any s > 0, where what lies between only scales with it: the weights and
//! the bias that make it are divided by s, the weights that take it are multiplied by s. With r₁ and r₂ the largest
//! magnitudes of both, s = √(r₁/r₂) makes both √(r₁·r₂). Done for all pairs again and again, until nothing moves, it
//! takes chains of any length, depthwise convolutions among them.

use std::collections::BTreeSet;

use onnx_opt_ir::{Graph, GraphError, Node, NodeId, Tensor, ValueId};
use petgraph::unionfind::UnionFind;

/// Pairs are gone through so often at most, and until no channel is scaled by more than this.
const ROUNDS: usize = 40;
const STILL: f32 = 1e-3;

/// What scales with its operand, channel by channel.
const HOMOGENEOUS: &[&str] = &[
    "AveragePool",
    "Dropout",
    "Flatten",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LeakyRelu",
    "MaxPool",
    "Relu",
];

/// Where channels are equalized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Equalization {
    /// By what the power of the noise must fall between one pair of a chain at least, as far as steps of activations make
    /// it and weights tell.
    pub least_gain: f64,
}

impl Equalization {
    /// Wherever it can be.
    pub const EVERYWHERE: Self = Self { least_gain: 0.0 };
    /// Where noise falls by 12 dB or more: channels of a trained network are not as far apart as that, unless a tool or a
    /// training without normalization left them so. Up to there weights tell too little of activations.
    pub const WHERE_IT_PAYS: Self = Self { least_gain: 16.0 };
}

/// Scales the channels between products so that their weights have about the same ranges. Returns the number of pairs
/// of products that were.
///
/// # Errors
/// If the graph refuses another constant.
pub fn equalize(graph: &mut Graph, wanted: Equalization) -> Result<usize, GraphError> {
    let pairs = pairs(graph);
    let mut weights: Vec<Weights> = Vec::new();
    let mut indices = Vec::new();
    for (first, second, spread) in &pairs {
        let mut index = |id: NodeId| {
            let found = weights.iter().position(|known| known.node == id);
            found.or_else(|| {
                weights.push(Weights::of(graph, id)?);
                Some(weights.len() - 1)
            })
        };
        if let (Some(first), Some(second)) = (index(*first), index(*second)) {
            indices.push((first, second, *spread));
        }
    }
    // A chain goes as a whole: what a layer takes and makes is scaled together.
    let mut chains = UnionFind::new(weights.len());
    indices.iter().for_each(|&(first, second, _)| {
        chains.union(first, second);
    });
    let gains = |&&(first, second, spread): &&Pair| {
        wanted == Equalization::EVERYWHERE
            || gain(&weights[first], &weights[second], spread) >= wanted.least_gain
    };
    let gaining: BTreeSet<usize> = indices.iter().filter(gains).map(|pair| chains.find(pair.0)).collect();
    indices.retain(|pair| gaining.contains(&chains.find(pair.0)));
    balance(&mut weights, &indices);
    for (index, weights) in weights.iter().enumerate() {
        if gaining.contains(&chains.find(index)) {
            weights.write(graph)?;
        }
    }
    Ok(indices.len())
}

/// Places of the weights of two products, and how many inputs of the second there are for each channel of the first.
type Pair = (usize, usize, usize);

/// Scales channels until nothing moves.
fn balance(weights: &mut [Weights], pairs: &[Pair]) {
    for _ in 0..ROUNDS {
        let mut most = 1f32;
        for &(first, second, spread) in pairs {
            for channel in 0..weights[first].channels {
                let (made, taken) =
                    (weights[first].largest_made(channel), weights[second].largest_taken(channel, spread));
                let scale = (made / taken).sqrt();
                // A channel of zeros is neither made nor taken.
                if !(scale.is_finite() && scale > 0.0) {
                    continue;
                }
                weights[first].scale_made(channel, 1.0 / scale);
                weights[second].scale_taken(channel, spread, scale);
                most = most.max(scale).max(1.0 / scale);
            }
        }
        if most < 1.0 + STILL {
            break;
        }
    }
}

/// By what the power of the noise between two products falls where each channel is scaled once, as far as weights tell.
/// Steps are as wide as the largest channel is, and meet all weights that take channels: (max a)²·Σ|w|², where a channel is
/// about as large as its weights' norm and its bias. Every weight is looked at once: most networks stay as they are.
fn gain(first: &Weights, second: &Weights, spread: usize) -> f64 {
    let taken = second.magnitudes_taken(spread);
    let (mut largest, mut power) = ([0f64; 2], [0f64; 2]);
    for (channel, taken) in taken.iter().enumerate() {
        let scale = f64::from(first.largest_made(channel) / taken.largest).sqrt();
        let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
        let size = first.size_of(channel);
        largest = [largest[0].max(size), largest[1].max(size / scale)];
        power = [power[0] + taken.power, power[1] + taken.power * scale.powi(2)];
    }
    (largest[0] / largest[1]).powi(2) * power[0] / power[1]
}

/// Of the weights that take a channel.
#[derive(Clone, Default)]
struct Magnitude {
    largest: f32,
    /// The sum of squares.
    power: f64,
}

/// Pairs of products with nothing between them but what scales, and how many inputs of the second there are for each
/// channel of the first.
fn pairs(graph: &Graph) -> Vec<(NodeId, NodeId, usize)> {
    let mut pairs = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let Some(made) = Weights::of(graph, id) else { continue };
        let Some(mut value) = graph.node(id).single_output() else { continue };
        while graph.is_inner(value) {
            let Some(consumer) = graph.consumers(value).next() else { break };
            let next = graph.node(consumer.node);
            if next.input(0) == Some(value)
                && let Some(taken) = Weights::of(graph, consumer.node)
            {
                if taken.inputs.is_multiple_of(made.channels) && is_by_channel(graph, next, value) {
                    pairs.push((id, consumer.node, taken.inputs / made.channels));
                }
                break;
            }
            let passes = HOMOGENEOUS.iter().any(|name| next.is(name))
                && (!next.is("Flatten") || next.int("axis") == Some(1));
            match next.single_output().filter(|_| passes) {
                Some(result) => value = result,
                None => break,
            }
        }
    }
    pairs
}

/// Whether a product takes channels where another gives them: along the second axis, which for matrices is the last.
fn is_by_channel(graph: &Graph, node: &Node, operand: ValueId) -> bool {
    node.is("Conv") || graph.rank(operand) == Some(2)
}

/// Weights of a product, which may be scaled by channel.
struct Weights {
    node: NodeId,
    values: Vec<f32>,
    shape: Vec<usize>,
    bias: Option<(Vec<f32>, Vec<usize>)>,
    channels: usize,
    inputs: usize,
    /// Distance of the weights of two channels, and of two inputs.
    strides: [usize; 2],
    /// Groups of a convolution.
    groups: usize,
}

impl Weights {
    fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let weight = node.input(1)?;
        let tensor = graph.constant(weight)?;
        let values = tensor.to_f32()?;
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let shape = tensor.shape().to_vec();
        let groups = if node.is("Conv") { usize::try_from(node.int("group")?).ok()? } else { 1 };
        let (channels, inputs, strides) = match node.op_type() {
            "Conv" if node.is("Conv") => {
                let [channels, inputs, places @ ..] = &shape[..] else { return None };
                let places: usize = places.iter().product();
                (*channels, inputs * groups, [inputs * places, places])
            }
            "Gemm" if node.is("Gemm") && node.int("transA") != Some(1) => {
                let &[rows, columns] = &shape[..] else { return None };
                match node.int("transB") {
                    Some(1) => (rows, columns, [columns, 1]),
                    _ => (columns, rows, [1, columns]),
                }
            }
            "MatMul" if node.is("MatMul") && graph.rank(node.input(0)?) == Some(2) => {
                let &[rows, columns] = &shape[..] else { return None };
                (columns, rows, [1, columns])
            }
            _ => return None,
        };
        let bias = match node.input(2) {
            Some(bias) => {
                let tensor = graph.constant(bias)?;
                let values = tensor.to_f32()?;
                (values.len() == channels).then_some((values, tensor.shape().to_vec()))?.into()
            }
            None => None,
        };
        (channels > 0 && inputs > 0 && channels.is_multiple_of(groups)).then_some(())?;
        Some(Self { node: id, values, shape, bias, channels, inputs, strides, groups })
    }

    /// Indices of the weights that make a channel.
    fn made(&self, channel: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.values.len() / self.channels;
        let [start, step] = match self.strides {
            [1, columns] => [channel, columns],
            [row, _] => [channel * row, 1],
        };
        (0..count).map(move |place| start + place * step)
    }

    /// Indices of the weights that take an input.
    fn taken(&self, input: usize) -> impl Iterator<Item = usize> + use<> {
        let by_group = self.channels / self.groups;
        let own = self.inputs / self.groups;
        let (first, place) = (input / own * by_group, input % own);
        let [row, column] = self.strides;
        let places = match self.strides {
            [1, _] => 1,
            [_, places] => places,
        };
        (first..first + by_group)
            .flat_map(move |channel| (0..places).map(move |at| channel * row + place * column + at))
    }

    fn largest_made(&self, channel: usize) -> f32 {
        self.made(channel).map(|index| self.values[index].abs()).fold(0.0, f32::max)
    }

    fn largest_taken(&self, channel: usize, spread: usize) -> f32 {
        let inputs = channel * spread..(channel + 1) * spread;
        inputs.flat_map(|input| self.taken(input)).map(|index| self.values[index].abs()).fold(0.0, f32::max)
    }

    /// Those of the weights that take each channel, in the order that they lie in.
    fn magnitudes_taken(&self, spread: usize) -> Vec<Magnitude> {
        let (own, by_group) = (self.inputs / self.groups, self.channels / self.groups);
        let mut found = vec![Magnitude::default(); self.inputs / spread];
        for (index, value) in self.values.iter().enumerate() {
            let input = match self.strides {
                [1, columns] => index / columns,
                [row, places] => index / row / by_group * own + index % row / places,
            };
            let taken = &mut found[input / spread];
            taken.largest = taken.largest.max(value.abs());
            taken.power += f64::from(*value).powi(2);
        }
        found
    }

    /// How large a channel is, where inputs have a variance of 1.
    fn size_of(&self, channel: usize) -> f64 {
        let power: f64 = self.made(channel).map(|index| f64::from(self.values[index]).powi(2)).sum();
        power.sqrt() + self.bias.as_ref().map_or(0.0, |(bias, _)| f64::from(bias[channel]).abs())
    }

    fn scale_made(&mut self, channel: usize, factor: f32) {
        self.made(channel).for_each(|index| self.values[index] *= factor);
        if let Some((bias, _)) = &mut self.bias {
            bias[channel] *= factor;
        }
    }

    fn scale_taken(&mut self, channel: usize, spread: usize, factor: f32) {
        for input in channel * spread..(channel + 1) * spread {
            self.taken(input).for_each(|index| self.values[index] *= factor);
        }
    }

    fn write(&self, graph: &mut Graph) -> Result<(), GraphError> {
        let constants = [
            Tensor::from_f32(&self.shape, &self.values),
            self.bias.as_ref().and_then(|(bias, shape)| Tensor::from_f32(shape, bias)),
        ];
        for (slot, tensor) in (1..).zip(constants) {
            match (graph.node(self.node).input(slot), tensor) {
                (Some(value), Some(tensor)) if graph.is_inner(value) => graph.set_constant(value, tensor)?,
                // What others read too stays as it is for them.
                (Some(_), Some(tensor)) => {
                    let own = graph.add_constant(tensor);
                    graph.set_input(self.node, slot, Some(own))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::testing::Fixture;

    /// A convolution, a depthwise one and a matrix product, with activations between them.
    fn network(activation: &str) -> Fixture {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1, 3, 8, 8]);
        let (w, b) = (f.weights(&[8, 3, 3, 3]), f.weights(&[8]));
        let t = f.op("Conv", &[x, w, b]);
        let t = f.op(activation, &[t]);
        let (w, b) = (f.weights(&[8, 1, 3, 3]), f.weights(&[8]));
        let t = f.node(NewNode::new("Conv", [t, w, b]).with("group", 8));
        let t = f.op("Relu", &[t]);
        let t = f.op("Flatten", &[t]);
        let (w, b) = (f.weights(&[5, 8 * 16]), f.weights(&[5]));
        let y = f.node(NewNode::new("Gemm", [t, w, b]).with("transB", 1));
        f.with_output(y)
    }

    fn weights(graph: &Graph) -> Vec<Weights> {
        let order = graph.topological_order().unwrap();
        order.into_iter().filter_map(|id| Weights::of(graph, id)).collect()
    }

    /// What each channel of a layer contributes to each channel of the next, by the largest weights: equalization keeps it.
    fn gains(layers: &[Weights]) -> Vec<f32> {
        let of = |channel: usize| {
            let dw = layers[1].largest_made(channel);
            let bias =
                layers[0].bias.as_ref().unwrap().0[channel] * dw * layers[2].largest_taken(channel, 16);
            [layers[0].largest_made(channel) * dw * layers[2].largest_taken(channel, 16), bias]
        };
        (0..8).flat_map(of).collect()
    }

    #[test]
    fn channels_that_were_scaled_apart_are_of_one_range_again() {
        let mut f = network("Relu");
        // By powers of two, so that the function is the same to the bit.
        let mut layers = weights(&f.graph);
        for channel in 0..8 {
            let [first, second] =
                [channel * 5 % 13, channel * 7 % 11].map(|power| 2f32.powi(power as i32 - 6));
            layers[0].scale_made(channel, first);
            layers[1].scale_taken(channel, 1, 1.0 / first);
            layers[1].scale_made(channel, second);
            layers[2].scale_taken(channel, 16, 1.0 / second);
        }
        let before = gains(&layers);
        layers.iter().for_each(|layer| layer.write(&mut f.graph).unwrap());
        assert_eq!(equalize(&mut f.graph, Equalization::EVERYWHERE).unwrap(), 2);
        let layers = weights(&f.graph);
        for (before, after) in before.iter().zip(gains(&layers)) {
            assert!((before - after).abs() <= 1e-4 * before.abs().max(1e-3), "{before} {after}");
        }
        for channel in 0..8 {
            let ranges = [
                layers[0].largest_made(channel),
                layers[1].largest_made(channel),
                layers[2].largest_taken(channel, 16),
            ];
            let (least, most) =
                (ranges.iter().copied().fold(f32::MAX, f32::min), ranges.iter().copied().fold(0.0, f32::max));
            assert!(most / least < 1.01, "{channel}: {ranges:?}");
        }
    }

    #[test]
    fn channels_are_scaled_where_much_noise_goes() {
        let mut f = network("Relu");
        assert_eq!(equalize(&mut f.graph, Equalization::WHERE_IT_PAYS).unwrap(), 0);
        let mut layers = weights(&f.graph);
        layers[0].scale_made(3, 64.0);
        layers[1].scale_taken(3, 1, 1.0 / 64.0);
        layers.iter().for_each(|layer| layer.write(&mut f.graph).unwrap());
        // The whole chain.
        assert_eq!(equalize(&mut f.graph, Equalization::WHERE_IT_PAYS).unwrap(), 2);
    }

    #[test]
    fn what_does_not_scale_stands_between() {
        let before = network("Sigmoid");
        let mut f = before.clone();
        assert_eq!(equalize(&mut f.graph, Equalization::EVERYWHERE).unwrap(), 1);
        let (before, after) = (weights(&before.graph), weights(&f.graph));
        assert_eq!(before[0].values, after[0].values);
        assert_ne!(before[2].values, after[2].values);
    }

    #[test]
    fn a_constant_of_two_layers_is_scaled_for_one() {
        let mut f = network("Sigmoid");
        let convolutions: Vec<NodeId> =
            f.graph.nodes().filter(|(_, node)| node.is("Conv")).map(|(id, _)| id).collect();
        let shared = f.graph.node(convolutions[0]).input(2);
        f.graph.set_input(convolutions[1], 2, shared).unwrap();
        let before = weights(&f.graph)[0].bias.clone();
        assert_eq!(equalize(&mut f.graph, Equalization::EVERYWHERE).unwrap(), 1);
        let after = weights(&f.graph);
        assert_eq!(after[0].bias, before);
        assert_ne!(after[1].bias, before);
    }

    #[test]
    fn what_others_read_too_is_not_scaled() {
        let mut f = network("Relu");
        let read = f.result_of("Relu");
        f.output("also", read);
        assert_eq!(equalize(&mut f.graph, Equalization::EVERYWHERE).unwrap(), 1);
    }
}
