//! Operators that other networks have, and what stays.

use onnx_opt::ir::{Context, Dim, ElementType, Graph, Model, NewNode, Tensor, Type, ValueId, check};
use onnx_opt::passes::prune::{Options, Target, prune};
use onnx_opt::passes::testing::Fixture;

use super::{Layers, agree, exactly, halved};

#[test]
fn bodies_are_pruned_by_themselves() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 8]);
    let flag = f.typed_input("flag", ElementType::Bool, []);
    let body = |seed: usize| {
        let mut body = Fixture { graph: Graph::new(Context::with_opset(17)) };
        let x = body.graph.add_capture(0);
        let hidden = body.dense(x, 8, 16 + seed);
        let hidden = body.op("Tanh", &[hidden]);
        let y = body.dense(hidden, 16 + seed, 4);
        body.output("y", y);
        body.graph
    };
    let node = NewNode { captures: vec![x], ..NewNode::new("If", [flag]) };
    let y = f.node(node.with("then_branch", body(0)).with("else_branch", body(2)));
    assert!(f.graph.ty(y).is_some_and(|ty: &Type| ty.shape() == Some(&[2, 4].map(Dim::fixed)[..])));
    let model = f.with_output(y).into_model();
    let mut pruned = model.clone();
    let outcome = prune(&mut pruned, &Options::new(Target::Units(0.5))).unwrap();
    check(&pruned).unwrap();
    let left: Vec<usize> = outcome.groups.iter().map(|group| group.after).collect();
    assert_eq!(left, [8, 9]);
    assert!(outcome.after.parameters * 100 < outcome.before.parameters * 55);
    let reference = Model { graph: outcome.masked.unwrap(), ..model };
    agree("bodies", &reference, &pruned, 1e-5);
}

#[test]
fn slices_pads_and_tiles_of_channels() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 4, 4]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let bounds = |f: &mut Fixture, from: i64, to: i64| {
        let (starts, ends, axes) = (f.integers(&[from]), f.integers(&[to]), f.integers(&[1]));
        f.op("Slice", &[a, starts, ends, axes])
    };
    let (gate, value) = (bounds(&mut f, 0, 8), bounds(&mut f, -8, i64::MAX));
    let gate = f.op("Sigmoid", &[gate]);
    let product = f.op("Mul", &[gate, value]);
    let b = f.conv(product, &[8, 8, 3, 3], 1);
    let pads = f.integers(&[0, 4, 0, 0, 0, 4, 0, 0]);
    let padded = f.op("Pad", &[product, pads]);
    let repeats = f.integers(&[1, 2, 1, 1]);
    let tiled = f.op("Tile", &[b, repeats]);
    let sum = f.op("Add", &[padded, tiled]);
    let y = f.pooled(sum, 16, 10);
    halved("slices", f.with_output(y), 0.6);
}

#[test]
fn element_by_element_of_several_tensors() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let (a, b) = (f.conv(x, &[16, 3, 3, 3], 1), f.conv(x, &[16, 3, 1, 1], 1));
    let (slope, floor) = (f.weights(&[16, 1, 1]), f.weights(&[1, 16, 1, 1]));
    let a = f.op("PRelu", &[a, slope]);
    let b = f.op("Max", &[b, floor]);
    let greater = f.op("Greater", &[a, b]);
    let chosen = f.op("Where", &[greater, a, b]);
    let divisor = f.positive(16);
    let divisor = f.reshape(divisor, &[16, 1, 1]);
    let scaled = f.op("Div", &[chosen, divisor]);
    let c = f.conv(scaled, &[16, 16, 3, 3], 1);
    let y = f.pooled(c, 16, 10);
    exactly("several_tensors", f.with_output(y));
}

#[test]
fn planes_that_are_resized_and_padded() {
    for by_sizes in [false, true] {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 3, 8, 8]);
        let a = f.conv(x, &[16, 3, 3, 3], 1);
        let pool = NewNode::new("AveragePool", [a]).with("kernel_shape", vec![2, 2]);
        let down = f.node(pool.with("strides", vec![2, 2]));
        let low = f.conv(down, &[16, 16, 3, 3], 1);
        let list = match by_sizes {
            true => [None, Some(f.integers(&[1, 16, 8, 8]))],
            false => [Some(f.floats(&[4], &[1.0, 1.0, 2.0, 2.0])), None],
        };
        let inputs = [Some(low), None].into_iter().chain(list).collect();
        let resize = NewNode { inputs, ..NewNode::new("Resize", []) }.with("mode", "linear");
        let up = f.node(resize.with("coordinate_transformation_mode", "half_pixel"));
        let sum = f.op("Add", &[a, up]);
        let pads = f.integers(&[0, 0, 1, 2, 0, 0, 2, 1]);
        let padded = f.node(NewNode::new("Pad", [sum, pads]).with("mode", "reflect"));
        let b = f.conv(padded, &[16, 16, 3, 3], 1);
        let y = f.pooled(b, 16, 10);
        exactly("resized", f.with_output(y));
    }
}

#[test]
fn split_and_taken_by_index() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[32, 3, 3, 3], 1);
    let parts = f.split(a, 1, &[16, 16]);
    let gate = f.op("Sigmoid", &[parts[0]]);
    let product = f.op("Mul", &[gate, parts[1]]);
    // Channels in another order.
    let order: Vec<i64> = (0..16).map(|index| index * 5 % 16).collect();
    let order = f.integers(&order);
    let shuffled = f.node(NewNode::new("Gather", [product, order]).with("axis", 1));
    let b = f.conv(shuffled, &[16, 16, 3, 3], 1);
    let y = f.pooled(b, 16, 10);
    exactly("split", f.with_output(y));
}

/// Codes of activations, of all channels; codes of weights, by channel, of which one is of unsigned numbers.
#[test]
fn quantized_layers() {
    fn coded(f: &mut Fixture, x: ValueId) -> ValueId {
        let scale = f.scalar(0.05);
        let zero = f.graph.add_constant(Tensor::scalar(ElementType::Int8, 3.0).unwrap());
        let codes = f.op("QuantizeLinear", &[x, scale, zero]);
        f.op("DequantizeLinear", &[codes, scale, zero])
    }
    fn weight(f: &mut Fixture, shape: &[usize], zero: f64) -> ValueId {
        let count: usize = shape.iter().product();
        let codes: Vec<f64> = (0..count).map(|index| (index * 37 % 251) as f64 - 125.0).collect();
        let codes = f.graph.add_constant(Tensor::from_f64(ElementType::Int8, shape, &codes).unwrap());
        let scales: Vec<f32> = (0..shape[0]).map(|row| 0.002 + row as f32 * 1e-4).collect();
        let scales = f.floats(&shape[..1], &scales);
        let zeros = vec![zero; shape[0]];
        let zeros = f.graph.add_constant(Tensor::from_f64(ElementType::Int8, &shape[..1], &zeros).unwrap());
        f.node(NewNode::new("DequantizeLinear", [codes, scales, zeros]).with("axis", 0))
    }
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let mut h = coded(&mut f, x);
    for (shape, zero) in [([16, 3, 3, 3], 0.0), ([16, 16, 3, 3], 0.0), ([16, 16, 3, 3], 5.0)] {
        let (weight, bias) = (weight(&mut f, &shape, zero), f.weights(&shape[..1]));
        let conv = f.node(NewNode::new("Conv", [h, weight, bias]).with("pads", vec![1i64; 4]));
        let active = f.op("Sigmoid", &[conv]);
        h = coded(&mut f, active);
    }
    let y = f.pooled(h, 16, 10);
    exactly("quantized", f.with_output(y));
}

#[test]
fn what_shares_a_sum_stays() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let shares = f.node(NewNode::new("Softmax", [a]).with("axis", 1));
    let y = f.conv(shares, &[4, 16, 1, 1], 1);
    let mut model = f.with_output(y).into_model();
    let error = prune(&mut model, &Options::new(Target::Units(0.5))).unwrap_err().to_string();
    assert!(error.contains("Softmax") && error.contains("its elements share a sum"), "{error}");
}
