//! Networks that take images.

use onnx_opt::ir::NewNode;
use onnx_opt::passes::testing::Fixture;

use super::{Layers, exactly};

#[test]
fn residual() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let stem = f.conv(x, &[16, 3, 3, 3], 1);
    let stem = f.op("Relu", &[stem]);
    let a = f.conv(stem, &[16, 16, 3, 3], 1);
    let a = f.op("Relu", &[a]);
    let b = f.conv(a, &[16, 16, 3, 3], 1);
    let sum = f.op("Add", &[b, stem]);
    let sum = f.op("Relu", &[sum]);
    let y = f.pooled(sum, 16, 10);
    let outcome = exactly("residual", f.with_output(y));
    assert_eq!(outcome.groups.len(), 2, "{:?}", outcome.groups);
    assert_eq!(outcome.layers.iter().map(|layer| layer.after[0]).collect::<Vec<_>>(), [8, 8, 8, 10]);
}

#[test]
fn vgg_with_flatten() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 3, 8, 8]);
    let a = f.conv(x, &[8, 3, 3, 3], 1);
    let a = f.op("Relu", &[a]);
    let a = f.node(NewNode::new("MaxPool", [a]).with("kernel_shape", vec![2, 2]).with("strides", vec![2, 2]));
    let b = f.conv(a, &[12, 8, 3, 3], 1);
    let b = f.op("Relu", &[b]);
    let flat = f.op("Flatten", &[b]);
    let hidden = f.dense(flat, 12 * 16, 32);
    let hidden = f.op("Relu", &[hidden]);
    let y = f.dense(hidden, 32, 10);
    exactly("vgg", f.with_output(y));
}

#[test]
fn flatten_of_channels_behind() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 3, 4, 4]);
    let a = f.conv(x, &[8, 3, 3, 3], 1);
    let behind = f.transpose(a, &[0, 2, 3, 1]);
    let flat = f.reshape(behind, &[2, -1]);
    let y = f.dense(flat, 8 * 16, 10);
    exactly("flatten_behind", f.with_output(y));
}

#[test]
fn inverted_residual() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let stem = f.conv(x, &[16, 3, 3, 3], 1);
    let wide = f.conv(stem, &[64, 16, 1, 1], 1);
    let wide = f.op("Relu", &[wide]);
    let deep = f.conv(wide, &[64, 1, 3, 3], 64);
    let deep = f.op("Relu", &[deep]);
    let narrow = f.conv(deep, &[16, 64, 1, 1], 1);
    let sum = f.op("Add", &[stem, narrow]);
    let y = f.pooled(sum, 16, 10);
    exactly("inverted_residual", f.with_output(y));
}

#[test]
fn squeeze_and_excite_with_silu() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let gate = f.op("Sigmoid", &[a]);
    let a = f.op("Mul", &[a, gate]);
    let mean = f.node(NewNode::new("ReduceMean", [a]).with("axes", vec![2, 3]));
    let squeezed = f.conv(mean, &[4, 16, 1, 1], 1);
    let squeezed = f.op("Relu", &[squeezed]);
    let excited = f.conv(squeezed, &[16, 4, 1, 1], 1);
    let excited = f.op("Sigmoid", &[excited]);
    let scaled = f.op("Mul", &[a, excited]);
    let b = f.conv(scaled, &[16, 16, 3, 3], 1);
    let y = f.pooled(b, 16, 10);
    exactly("squeeze_excite", f.with_output(y));
}

#[test]
fn u_net() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[8, 3, 3, 3], 1);
    let a = f.op("Relu", &[a]);
    let down =
        f.node(NewNode::new("MaxPool", [a]).with("kernel_shape", vec![2, 2]).with("strides", vec![2, 2]));
    let low = f.conv(down, &[16, 8, 3, 3], 1);
    let (weight, bias) = (f.weights(&[16, 8, 2, 2]), f.weights(&[8]));
    let up = f.node(NewNode::new("ConvTranspose", [low, weight, bias]).with("strides", vec![2, 2]));
    let both = f.node(NewNode::new("Concat", [a, up]).with("axis", 1));
    let b = f.conv(both, &[8, 16, 3, 3], 1);
    let b = f.op("Relu", &[b]);
    let y = f.conv(b, &[3, 8, 1, 1], 1);
    exactly("u_net", f.with_output(y));
}

#[test]
fn dense_net() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let mut all = f.conv(x, &[8, 3, 3, 3], 1);
    for layer in 0..3 {
        let channels = 8 + 4 * layer;
        let a = f.batch_norm(all, channels);
        let a = f.op("Relu", &[a]);
        let new = f.conv(a, &[4, channels, 3, 3], 1);
        all = f.node(NewNode::new("Concat", [all, new]).with("axis", 1));
    }
    let y = f.pooled(all, 20, 10);
    exactly("dense_net", f.with_output(y));
}

#[test]
fn channel_shuffle() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 4, 4]);
    let stem = f.conv(x, &[24, 3, 3, 3], 1);
    let a = f.conv(stem, &[24, 12, 1, 1], 2);
    let apart = f.reshape(a, &[1, 2, 12, 4, 4]);
    let swapped = f.transpose(apart, &[0, 2, 1, 3, 4]);
    let shuffled = f.reshape(swapped, &[1, 24, 4, 4]);
    let deep = f.conv(shuffled, &[24, 1, 3, 3], 24);
    let b = f.conv(deep, &[24, 12, 1, 1], 2);
    let sum = f.op("Add", &[b, stem]);
    let y = f.pooled(sum, 24, 10);
    exactly("channel_shuffle", f.with_output(y));
}

#[test]
fn grouped_convolution() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 4, 4]);
    let stem = f.conv(x, &[24, 3, 3, 3], 1);
    let a = f.conv(stem, &[24, 6, 3, 3], 4);
    let a = f.op("Relu", &[a]);
    let y = f.pooled(a, 24, 10);
    exactly("grouped", f.with_output(y));

    // More groups than channels in each: whole groups go.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 4, 4]);
    let stem = f.conv(x, &[24, 3, 3, 3], 1);
    let a = f.conv(stem, &[24, 2, 3, 3], 12);
    let (weight, bias) = (f.weights(&[24, 2, 2, 2]), f.weights(&[24]));
    let up = f
        .node(NewNode::new("ConvTranspose", [a, weight, bias]).with("group", 12).with("strides", vec![2, 2]));
    let y = f.pooled(up, 24, 10);
    exactly("many_groups", f.with_output(y));
}

#[test]
fn depth_to_space() {
    for mode in ["DCR", "CRD"] {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 3, 4, 4]);
        let a = f.conv(x, &[32, 3, 3, 3], 1);
        let up = f.node(NewNode::new("DepthToSpace", [a]).with("blocksize", 2).with("mode", mode));
        let b = f.conv(up, &[8, 8, 3, 3], 1);
        let down = f.node(NewNode::new("SpaceToDepth", [b]).with("blocksize", 2));
        let y = f.conv(down, &[3, 32, 1, 1], 1);
        exactly(mode, f.with_output(y));
    }
    // The same as a Reshape, a Transpose and a Reshape.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 4, 4]);
    let a = f.conv(x, &[32, 3, 3, 3], 1);
    let apart = f.reshape(a, &[1, 8, 2, 2, 4, 4]);
    let swapped = f.transpose(apart, &[0, 1, 4, 2, 5, 3]);
    let up = f.reshape(swapped, &[1, 8, 8, 8]);
    let y = f.conv(up, &[3, 8, 1, 1], 1);
    exactly("pixel_shuffle", f.with_output(y));
}

#[test]
fn batch_normalization_that_stands_alone() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let stem = f.conv(x, &[16, 3, 3, 3], 1);
    let a = f.batch_norm(stem, 16);
    let a = f.op("Relu", &[a]);
    let b = f.conv(a, &[16, 16, 3, 3], 1);
    let b = f.batch_norm(b, 16);
    let sum = f.op("Add", &[b, stem]);
    let y = f.pooled(sum, 16, 10);
    exactly("batch_normalization", f.with_output(y));
}

#[test]
fn instance_and_group_normalization() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let (scale, bias) = (f.positive(16), f.weights(&[16]));
    let a = f.op("InstanceNormalization", &[a, scale, bias]);
    let b = f.conv(a, &[16, 16, 3, 3], 1);
    let y = f.pooled(b, 16, 10);
    exactly("instance_normalization", f.with_output(y));

    let mut f = Fixture::new(21);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let (scale, bias) = (f.positive(16), f.weights(&[16]));
    let a = f.node(NewNode::new("GroupNormalization", [a, scale, bias]).with("num_groups", 4));
    let b = f.conv(a, &[16, 16, 3, 3], 1);
    let y = f.pooled(b, 16, 10);
    exactly("group_normalization", f.with_output(y));

    // As it is exported where there is no such operator.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[1, 3, 8, 8]);
    let a = f.conv(x, &[16, 3, 3, 3], 1);
    let apart = f.reshape(a, &[0, 4, -1]);
    let (ones, zeros) = (f.floats(&[4], &[1.0; 4]), f.floats(&[4], &[0.0; 4]));
    let normal = f.op("InstanceNormalization", &[apart, ones, zeros]);
    let whole = f.reshape(normal, &[1, 16, 8, 8]);
    let (scale, bias) = (f.weights(&[16, 1, 1]), f.weights(&[16, 1, 1]));
    let a = f.op("Mul", &[whole, scale]);
    let a = f.op("Add", &[a, bias]);
    let b = f.conv(a, &[16, 16, 3, 3], 1);
    let y = f.pooled(b, 16, 10);
    exactly("group_normalization_spelled_out", f.with_output(y));
}
