//! Convolutions take in what scales and shifts channels, before and after them, and convolutions of size one.
//!
//! Weights of Conv are `[outputs, inputs / group, kernel...]`, those of ConvTranspose `[inputs, outputs / group,
//! kernel...]`.

use onnx_opt_ir::{Attributes, Graph, Node, ValueId};

use super::facts::element;
use super::scaling::scaled;
use super::weights::{Affine, Channels, bias_values, dot, each_row, own_weight, product, repeated, rounded};
use crate::matrix::MAX_PRODUCT;
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

rules! {
    /// BatchNormalization(Conv(x, W, b)) = Conv(x, s·W, s·b + t), and the same of ConvTranspose.
    convolution_batch_normalization [rounding]:
        BatchNormalization(Conv(x, w, b?) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(ConvTranspose(x, w, b?) as y, const scale, const shift, const mean, const variance)
        => do |site| { take_in_after(site, y) };

    /// Conv(x, W, b)·s = Conv(x, s·W, s·b), and the same of division and of ConvTranspose.
    convolution_scale [rounding]:
        Mul(Conv(x, w, b?) as y, const c)
        | Mul(ConvTranspose(x, w, b?) as y, const c)
        | Div(Conv(x, w, b?) as y, const c)
        | Div(ConvTranspose(x, w, b?) as y, const c)
        => do |site| { take_in_after(site, y) };

    /// Conv(x, W, b) + t = Conv(x, W, b + t), and the same of subtraction and of ConvTranspose.
    convolution_shift [rounding]:
        Add(Conv(x, w, b?) as y, const c)
        | Add(ConvTranspose(x, w, b?) as y, const c)
        | Sub(Conv(x, w, b?) as y, const c)
        | Sub(ConvTranspose(x, w, b?) as y, const c)
        | Sub(const c, Conv(x, w, b?) as y)
        | Sub(const c, ConvTranspose(x, w, b?) as y)
        => do |site| { take_in_after(site, y) };

    /// Conv(BatchNormalization(x), W, b) = Conv(x, W·s, b + ΣW·t); a shift only where nothing is padded.
    batch_normalization_convolution [rounding]:
        Conv(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, w, b?)
        | ConvTranspose(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, w, b?)
        => do |site| { take_in_before(site, x, y) };

    /// Conv(x·s, W, b) = Conv(x, W·s, b), and the same of division and of ConvTranspose.
    scale_convolution [rounding]:
        Conv(Mul(x, const c) as y, w, b?)
        | ConvTranspose(Mul(x, const c) as y, w, b?)
        | Conv(Div(x, const c) as y, w, b?)
        | ConvTranspose(Div(x, const c) as y, w, b?)
        => do |site| { take_in_before(site, x, y) };

    /// Conv(x + t, W, b) = Conv(x, W, b + ΣW·t) where nothing is padded, and the same of subtraction.
    shift_convolution [rounding]:
        Conv(Add(x, const c) as y, w, b?)
        | Conv(Sub(x, const c) as y, w, b?)
        | Conv(Sub(const c, x) as y, w, b?)
        => do |site| { take_in_before(site, x, y) };

    /// Conv(Conv(x, V, a), W, b) = Conv(x, W·V, W·a + b) where one of the kernels has size one.
    convolution_convolution [rounding]: Conv(Conv(x, v, a?) as y, w, b?) => do |site| { compose(site, y) };
}

/// A Conv or ConvTranspose and its sizes.
struct Convolution<'a> {
    graph: &'a Graph,
    node: &'a Node,
    weight: ValueId,
    bias: Option<ValueId>,
    /// Of the weight.
    shape: Vec<usize>,
    transposed: bool,
    inputs: usize,
    outputs: usize,
    /// Elements of the kernel.
    places: usize,
    group: usize,
}

impl<'a> Convolution<'a> {
    fn read(graph: &'a Graph, node: &'a Node) -> Result<Self, Miss> {
        let weight = found(node.input(1))?;
        let shape = graph.fixed_shape(weight).ok_or("the shape of the weight is not known")?;
        let shape: Option<Vec<usize>> = shape.into_iter().map(|size| usize::try_from(size).ok()).collect();
        let group = node.int("group").and_then(|group| usize::try_from(group).ok());
        let (Some(shape), Some(group)) = (shape, group.filter(|&group| group > 0)) else {
            return Err("the sizes are out of range".into());
        };
        let [first, second, kernel @ ..] = &shape[..] else { return Err("the weight has no kernel".into()) };
        let transposed = node.is("ConvTranspose");
        let grouped = second.checked_mul(group).ok_or("the sizes are out of range")?;
        ensure(first.is_multiple_of(group), "the groups do not divide the channels")?;
        let (inputs, outputs) = if transposed { (*first, grouped) } else { (grouped, *first) };
        let places = kernel.iter().product();
        Ok(Self {
            graph,
            node,
            weight,
            bias: node.input(2),
            transposed,
            inputs,
            outputs,
            places,
            group,
            shape,
        })
    }

    /// Numbers of the channels along the second axis of the weight, for every index of the first one: those of a group lie
    /// together.
    fn along_second(&self, channels: &[f64]) -> Vec<f64> {
        if self.group == 1 {
            return channels.to_vec();
        }
        let (second, rows) = (self.shape[1], self.shape[0] / self.group);
        let group = |group: usize| channels[group * second..(group + 1) * second].iter().copied();
        (0..self.group * rows).flat_map(|row| group(row / rows)).collect()
    }

    /// Its weight, multiplied along the channels of the results, or else of the operand, where factors are not all one.
    fn scaled_weight(&self, patch: &mut Patch, affine: &Affine, outputs: bool) -> Result<Operand, Miss> {
        if !affine.scales() {
            return Ok(self.weight.into());
        }
        let weight = own_weight(self.graph, self.weight)?;
        let scaled = if outputs == self.transposed {
            scaled(weight, self.places, &self.along_second(&affine.scale))
        } else {
            scaled(weight, self.shape[1] * self.places, &affine.scale)
        };
        Ok(patch.constant(scaled?))
    }

    /// A bias of the type of the weight.
    fn new_bias(&self, patch: &mut Patch, values: Vec<f64>) -> Result<Operand, Miss> {
        let element = element(self.graph, self.weight)?;
        Ok(patch.constant(rounded(element, &[self.outputs], values.into_iter())?))
    }

    /// Whether every result is a sum over all places of the kernel.
    fn is_unpadded(&self) -> bool {
        match self.node.string("auto_pad") {
            None | Some("NOTSET" | "") => {
                self.node.ints("pads").is_none_or(|pads| pads.iter().all(|&pad| pad == 0))
            }
            Some("VALID") => true,
            // As many results as strides fit into the input: a kernel of one element never leaves it.
            _ => self.places == 1,
        }
    }

    fn strides(&self) -> Vec<i64> {
        let ones = || vec![1; self.shape.len() - 2];
        self.node.ints("strides").map_or_else(ones, <[i64]>::to_vec)
    }
}

/// The root scales and shifts the result `y` of a convolution.
fn take_in_after(site: &Site<'_>, y: ValueId) -> Rewrite {
    let (_, node, _) = found(site.graph.producer(y))?;
    let convolution = Convolution::read(site.graph, node)?;
    let channels = Channels { rank: convolution.shape.len(), axis: 1, count: convolution.outputs };
    let affine = Affine::read(site.graph, site.node(), y, &channels)?;
    let mut patch = Patch::new();
    let weight = convolution.scaled_weight(&mut patch, &affine, true)?;
    let bias = if convolution.bias.is_some() || affine.shifts() {
        let values = bias_values(site.graph, convolution.bias, convolution.outputs)?;
        convolution.new_bias(&mut patch, affine.apply(&values))?
    } else {
        Operand::Absent
    };
    let inputs = [node.input(0).into(), weight, bias];
    let new = patch.node(node.op_type(), inputs, node.attributes().clone());
    crate::rewrite::language::finish(site, patch, new)
}

/// The producer of the operand `y` of the convolution at the root scales and shifts `x`.
fn take_in_before(site: &Site<'_>, x: ValueId, y: ValueId) -> Rewrite {
    let graph = site.graph;
    let (_, before, _) = found(graph.producer(y))?;
    let convolution = Convolution::read(graph, site.node())?;
    let channels = Channels::of(graph, x, 1, convolution.inputs)?;
    let affine = Affine::read(graph, before, x, &channels)?;
    if affine.shifts() {
        ensure(!convolution.transposed, "a transposed convolution does not sum over its whole kernel")?;
        ensure(convolution.is_unpadded(), "the padding is not shifted")?;
    }
    let mut patch = Patch::new();
    let weight = convolution.scaled_weight(&mut patch, &affine, false)?;
    let bias = if affine.shifts() {
        let tensor = graph.constant(convolution.weight).ok_or("the weight is not constant")?;
        let mut values = bias_values(graph, convolution.bias, convolution.outputs)?;
        let shifts = repeated(&convolution.along_second(&affine.shift), convolution.places);
        let row = convolution.shape[1] * convolution.places;
        let mut sums = values.iter_mut().zip(shifts.chunks(row.max(1)).cycle());
        each_row(tensor, row, &mut |row| {
            if let Some((value, shifts)) = sums.next() {
                *value += dot(row, shifts);
            }
        })?;
        convolution.new_bias(&mut patch, values)?
    } else {
        convolution.bias.into()
    };
    let new = patch.node(site.node().op_type(), [x.into(), weight, bias], site.node().attributes().clone());
    crate::rewrite::language::finish(site, patch, new)
}

/// The operand `y` of the convolution at the root is a convolution: one for both.
fn compose(site: &Site<'_>, y: ValueId) -> Rewrite {
    let graph = site.graph;
    let (_, node, _) = found(graph.producer(y))?;
    let first = Convolution::read(graph, node)?;
    let second = Convolution::read(graph, site.node())?;
    ensure(first.group == 1 && second.group == 1, "the channels are grouped")?;
    ensure(first.outputs == second.inputs, "the channels differ")?;
    let (attributes, shape) = composed_window(&first, &second)?;
    let (outputs, inner, inputs) = (second.outputs, second.inputs, first.inputs);
    let places = first.places * second.places;
    let elements = [outputs, inputs, places].iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    let elements = elements.ok_or("the sizes are out of range")?;
    let (v, w) = (own_weight(graph, first.weight)?, own_weight(graph, second.weight)?);
    ensure(elements <= v.len() + w.len(), "the weights would grow")?;
    ensure(elements.saturating_mul(inner) <= MAX_PRODUCT, "composing the weights takes too long")?;

    let biases = if first.bias.is_some() || second.bias.is_some() {
        let inner_bias = bias_values(graph, first.bias, first.outputs)?;
        ensure(
            second.is_unpadded() || inner_bias.iter().all(|&value| value == 0.0),
            "the padding between the convolutions is not shifted",
        )?;
        let (mut values, mut output) = (bias_values(graph, second.bias, outputs)?, 0);
        let inner_bias = repeated(&inner_bias, second.places);
        each_row(w, inner_bias.len(), &mut |factors| {
            values[output] += dot(factors, &inner_bias);
            output += 1;
        })?;
        Some(values)
    } else {
        None
    };
    // Rows of one weight times numbers of the other: by output and place of the second kernel, and in a row by input
    // and place of the first. One of the kernels has one place.
    let row = inputs * first.places;
    let rows = outputs * second.places;
    let by_place = w.reshaped(&[outputs, inner, second.places]).and_then(|w| w.transposed(&[0, 2, 1]));
    let product = product(&found(by_place)?, v, [rows, inner, row])?;
    let ordered = (0..elements).map(|index| {
        let (output, rest) = (index / (row * second.places), index % (row * second.places));
        product[(output * second.places + rest % second.places) * row + rest / second.places]
    });
    let element = element(graph, second.weight)?;
    let mut patch = Patch::new();
    let weight = match second.places {
        1 => rounded(element, &shape, product.iter().copied()),
        _ => rounded(element, &shape, ordered),
    };
    let weight = patch.constant(weight?);
    let bias = match biases {
        Some(values) => second.new_bias(&mut patch, values)?,
        None => Operand::Absent,
    };
    let new = patch.node("Conv", [node.input(0).into(), weight, bias], attributes);
    crate::rewrite::language::finish(site, patch, new)
}

/// Attributes and shape of the weight of the composition.
fn composed_window(
    first: &Convolution<'_>,
    second: &Convolution<'_>,
) -> Result<(Attributes, Vec<usize>), Miss> {
    let with_kernel = |of: &Convolution<'_>| {
        let mut shape = vec![second.outputs, first.inputs];
        shape.extend(&of.shape[2..]);
        shape
    };
    if second.places == 1 && second.is_unpadded() {
        let mut attributes = first.node.attributes().clone();
        let strides = second.strides();
        if strides.iter().any(|&stride| stride != 1) {
            let named = matches!(first.node.string("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER"));
            ensure(!named, "the padding depends on the strides")?;
            let products = first.strides().iter().zip(&strides).map(|(a, b)| a.checked_mul(*b)).collect();
            let products: Option<Vec<i64>> = products;
            attributes.set("strides", products.ok_or("the strides are out of range")?);
        }
        return Ok((attributes, with_kernel(first)));
    }
    let plain = first.places == 1 && first.is_unpadded() && first.strides().iter().all(|&stride| stride == 1);
    ensure(plain, "neither kernel has size one, or it skips or pads")?;
    Ok((second.node.attributes().clone(), with_kernel(second)))
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use super::batch_normalization::batch_normalization;
    use crate::testing::{Example, Fixture};

    // A convolution of 4 to 6 channels in 2 groups, with a bias, padded by one unless told otherwise.
    let convolve = |f: &mut Fixture, op: &str, x: ValueId, pad: i64| {
        let w = f.weights(if op == "Conv" { &[6, 2, 3, 3] } else { &[4, 3, 3, 3] });
        let b = f.weights(&[6]);
        f.node(NewNode::new(op, [x, w, b]).with("group", 2).with("pads", vec![pad; 4]))
    };
    let mut examples = Vec::new();
    for op in ["Conv", "ConvTranspose"] {
        examples.push(Example::new("convolution_batch_normalization", |fires| {
            let mut f = Fixture::new(15);
            let x = f.symbolic_input("x", &["n", "4", "5", "5"]);
            let t = convolve(&mut f, op, x, 1);
            let y = batch_normalization(&mut f, t, 6);
            // A result that leaves the graph must stay.
            if !fires {
                f.output("t", t);
            }
            f.with_output(y)
        }));
        for (shape, miss) in
            [(&[6, 1, 1][..], &[6, 1, 5][..]), (&[1, 6, 1, 1], &[1, 1, 6, 1, 1]), (&[], &[5])]
        {
            for arithmetic in ["Mul", "Div", "Add", "Sub"] {
                let rule = match arithmetic {
                    "Mul" | "Div" => "convolution_scale",
                    _ => "convolution_shift",
                };
                examples.push(Example::new(rule, |fires| {
                    let mut f = Fixture::new(13);
                    let x = f.input("x", &[2, 4, 5, 5]);
                    let t = convolve(&mut f, op, x, 1);
                    let shape = if fires { shape } else { miss };
                    let c = f.floats(
                        shape,
                        &(0..shape.iter().product()).map(|i| i as f32 + 0.5).collect::<Vec<_>>(),
                    );
                    let y = f.op(arithmetic, &[t, c]);
                    f.with_output(y)
                }));
            }
        }
        // Scaling commutes with padding, shifting does not.
        examples.push(Example::new("scale_convolution", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 4, 5, 5]);
            let c = f.floats(&[4, 1, 1], &[0.5, 1.5, -2.0, 3.0]);
            let t = f.op(if fires { "Mul" } else { "Add" }, &[c, x]);
            let y = convolve(&mut f, op, t, 1);
            f.with_output(y)
        }));
        examples.push(Example::new("scale_convolution", |fires| {
            let mut f = Fixture::new(13);
            // With one channel, the constant would make it four.
            let x = f.input("x", &[2, if fires { 4 } else { 1 }, 5, 5]);
            let c = f.floats(&[1, 4, 1, 1], &[0.5, 1.5, -2.0, 3.0]);
            let t = f.op("Div", &[x, c]);
            let y = convolve(&mut f, op, t, 1);
            f.with_output(y)
        }));
    }
    examples.extend([
        Example::new("convolution_shift", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 4, 5, 5]);
            let w = f.weights(&[3, 4, 1, 1]);
            let t = f.op("Conv", &[x, w]);
            let c = if fires { f.weights(&[3, 1, 1]) } else { f.input("c", &[3, 1, 1]) };
            let y = f.op("Sub", &[c, t]);
            f.with_output(y)
        }),
        // A weight that others use would be there twice.
        Example::new("convolution_scale", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 4, 5, 5]);
            let w = f.weights(&[4, 4, 1, 1]);
            let t = f.op("Conv", &[x, w]);
            let c = f.weights(&[4, 1, 1]);
            let t = f.op("Mul", &[t, c]);
            let other = if fires { f.weights(&[4, 4, 1, 1]) } else { w };
            let t = f.op("Relu", &[t]);
            let y = f.op("Conv", &[t, other]);
            f.with_output(y)
        }),
        Example::new("batch_normalization_convolution", |fires| {
            let mut f = Fixture::new(15);
            let x = f.input("x", &[2, 4, 5, 5]);
            let t = batch_normalization(&mut f, x, 4);
            let y = convolve(&mut f, "Conv", t, if fires { 0 } else { 1 });
            f.with_output(y)
        }),
    ]);
    for op in ["Add", "Sub"] {
        for first in [true, false] {
            examples.push(Example::new("shift_convolution", |fires| {
                let mut f = Fixture::new(13);
                let x = f.input("x", &[2, 4, 5, 5]);
                let c = f.floats(&[4, 1, 1], &[0.5, 1.5, -2.0, 3.0]);
                let t = f.op(op, &if first { [c, x] } else { [x, c] });
                let w = f.weights(&[6, 2, 3, 3]);
                let padding = if fires { "VALID" } else { "SAME_UPPER" };
                let y = f.node(NewNode::new("Conv", [t, w]).with("group", 2).with("auto_pad", padding));
                f.with_output(y)
            }));
        }
    }
    // Sizes of the kernels, strides of the second, padding of the first and second.
    for (first, second, stride, pads) in [(1, 1, 2, [0, 0]), (3, 1, 2, [1, 0]), (1, 3, 2, [0, 0])] {
        examples.push(Example::new("convolution_convolution", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3, 7, 8]);
            // Through a waist of two channels the composition would be bigger.
            let inner = if fires { 8 } else { 1 };
            let (v, a) = (f.weights(&[inner, 3, first, first]), f.weights(&[inner]));
            let (w, b) = (f.weights(&[4, inner, second, second]), f.weights(&[4]));
            let t = f.node(NewNode::new("Conv", [x, v, a]).with("pads", vec![pads[0]; 4]));
            let node = NewNode::new("Conv", [t, w, b]).with("pads", vec![pads[1]; 4]);
            let y = f.node(node.with("strides", vec![stride; 2]));
            f.with_output(y)
        }));
    }
    // The bias of the first would have to reach into the padding of the second.
    examples.push(Example::new("convolution_convolution", |fires| {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[2, 3, 7, 8]);
        let (v, a) = (f.weights(&[8, 3, 1, 1]), f.weights(&[8]));
        let w = f.weights(&[4, 8, 3, 3]);
        let t = if fires { f.op("Conv", &[x, v]) } else { f.op("Conv", &[x, v, a]) };
        let y = f.node(NewNode::new("Conv", [t, w]).with("pads", vec![1; 4]));
        f.with_output(y)
    }));
    examples
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{Dim, ElementType, NewNode, Tensor};

    use super::*;
    use crate::testing::Fixture;

    fn scaled_by(element: ElementType, factor: f64) -> Fixture {
        let mut f = Fixture::new(22);
        let x = f.typed_input("x", element, [1, 1, 4, 4].map(Dim::fixed));
        let w = f.graph.add_constant(Tensor::from_f64(element, &[1, 1, 1, 1], &[100.0]).unwrap());
        let c = f.graph.add_constant(Tensor::scalar(element, factor).unwrap());
        let t = f.op("Conv", &[x, w]);
        let y = f.op("Mul", &[t, c]);
        f.with_output(y)
    }

    #[test]
    fn weights_keep_their_type_and_range() {
        for element in [ElementType::Float16, ElementType::Bfloat16, ElementType::Float, ElementType::Double]
        {
            assert_eq!(scaled_by(element, 2.0).rewritten(rules()), ["Conv"], "{element}");
        }
        assert_eq!(scaled_by(ElementType::Float16, 1000.0).rewritten(rules()), ["Conv", "Mul"]);
    }

    #[test]
    fn chains_follow_step_by_step() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1, 2, 4, 4]);
        let w = f.weights(&[3, 2, 3, 3]);
        let mut t = f.op("Conv", &[x, w]);
        for op in ["Mul", "Add", "Div", "Sub"] {
            let c = f.weights(&[3, 1, 1]);
            t = f.op(op, &[t, c]);
        }
        assert_eq!(f.with_output(t).rewritten(rules()), ["Conv"]);
    }

    #[test]
    fn a_bias_joins_a_computed_weight() {
        let mut f = Fixture::new(13);
        let (x, w) = (f.input("x", &[1, 2, 4, 4]), f.input("w", &[3, 2, 3, 3]));
        let c = f.weights(&[3, 1, 1]);
        let t = f.op("Conv", &[x, w]);
        let t = f.op("Add", &[t, c]);
        let y = f.op("Mul", &[t, c]);
        assert_eq!(f.with_output(y).rewritten(rules()), ["Conv", "Mul"]);
    }

    #[test]
    fn before_version_7_an_attribute_says_where_a_constant_lies() {
        let mut f = Fixture::new(6);
        let x = f.input("x", &[1, 2, 4, 4]);
        let (w, c) = (f.weights(&[3, 2, 3, 3]), f.weights(&[3]));
        let t = f.op("Conv", &[x, w]);
        let y = f.node(NewNode::new("Mul", [t, c]).with("broadcast", 1).with("axis", 1));
        assert_eq!(f.with_output(y).rewritten(rules()), ["Conv"]);
    }
}
