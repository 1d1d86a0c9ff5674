//! Networks that take sequences: attention, embeddings, recurrent layers.

use onnx_opt::ir::{ElementType, NewNode, Tensor, ValueId};
use onnx_opt::passes::testing::Fixture;

use super::{Layers, exactly, halved};

#[test]
fn attention_heads() {
    // Separate products.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 5, 16]);
    let heads: Vec<ValueId> = (0..3)
        .map(|_| {
            let a = f.linear(x, 16, 16);
            let a = f.reshape(a, &[2, 5, 4, 4]);
            f.transpose(a, &[0, 2, 1, 3])
        })
        .collect();
    let y = f.attended(heads[0], heads[1], heads[2]);
    let y = f.transpose(y, &[0, 2, 1, 3]);
    let y = f.reshape(y, &[0, 0, 16]);
    let y = f.linear(y, 16, 16);
    let outcome = exactly("separate", f.with_output(y));
    assert_eq!((outcome.groups[0].before, outcome.groups[0].after, outcome.groups[0].block), (4, 2, 4));

    // One product, taken apart by index.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 5, 16]);
    let all = f.linear(x, 16, 48);
    let all = f.reshape(all, &[2, 5, 3, 4, 4]);
    let all = f.transpose(all, &[2, 0, 3, 1, 4]);
    let parts: Vec<ValueId> = (0..3)
        .map(|index| {
            let index = f.graph.add_constant(Tensor::scalar(ElementType::Int64, f64::from(index)).unwrap());
            f.op("Gather", &[all, index])
        })
        .collect();
    let y = f.attended(parts[0], parts[1], parts[2]);
    let y = f.transpose(y, &[0, 2, 1, 3]);
    let y = f.reshape(y, &[2, 5, -1]);
    let y = f.linear(y, 16, 16);
    exactly("merged", f.with_output(y));

    // One product, split; each key head serves two query heads.
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 5, 16]);
    let all = f.linear(x, 16, 32);
    let parts = f.split(all, -1, &[16, 8, 8]);
    let q = f.reshape(parts[0], &[2, 5, 4, 4]);
    let q = f.transpose(q, &[0, 2, 1, 3]);
    let shared: Vec<ValueId> = parts[1..]
        .iter()
        .map(|&part| {
            let part = f.reshape(part, &[2, 5, 2, 4]);
            let part = f.transpose(part, &[0, 2, 1, 3]);
            let (axes, sizes) = (f.integers(&[2]), f.integers(&[2, 2, 2, 5, 4]));
            let part = f.op("Unsqueeze", &[part, axes]);
            let part = f.op("Expand", &[part, sizes]);
            f.reshape(part, &[2, 4, 5, 4])
        })
        .collect();
    let y = f.attended(q, shared[0], shared[1]);
    let y = f.transpose(y, &[0, 2, 1, 3]);
    let y = f.reshape(y, &[2, 5, 16]);
    let y = f.linear(y, 16, 16);
    let outcome = exactly("shared_heads", f.with_output(y));
    assert_eq!((outcome.groups[0].before, outcome.groups[0].after), (2, 1));
}

#[test]
fn attention_operator() {
    let mut f = Fixture::new(23);
    let x = f.input("x", &[2, 5, 16]);
    let (q, k, v) = (f.linear(x, 16, 32), f.linear(x, 16, 16), f.linear(x, 16, 16));
    let node = NewNode::new("Attention", [q, k, v]).with("q_num_heads", 8).with("kv_num_heads", 4);
    let y = f.node(node);
    let y = f.linear(y, 32, 16);
    exactly("attention_operator", f.with_output(y));
}

#[test]
fn transformer_block_with_an_embedding() {
    let mut f = Fixture::new(17);
    let ids = f.typed_input("ids", ElementType::Int64, [2, 5].map(onnx_opt::ir::Dim::fixed));
    let table = f.weights(&[50, 16]);
    let x = f.op("Gather", &[table, ids]);
    let normal = f.layer_norm(x, 16);
    let wide = f.linear(normal, 16, 64);
    let wide = f.op("Relu", &[wide]);
    let narrow = f.linear(wide, 64, 16);
    let sum = f.op("Add", &[x, narrow]);
    let normal = f.layer_norm(sum, 16);
    let y = f.linear(normal, 16, 50);
    let outcome = halved("embedding", f.with_output(y), 0.55);
    assert!(
        outcome.masked.is_none() && outcome.approximate.iter().any(|reason| reason.contains("LayerNorm"))
    );
}

#[test]
fn recurrent_layers() {
    // (operator, gates, directions)
    for (op_type, gates, directions) in
        [("LSTM", 4, 1), ("LSTM", 4, 2), ("GRU", 3, 1), ("GRU", 3, 2), ("RNN", 1, 1), ("RNN", 1, 2)]
    {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[5, 2, 8]);
        let (w, r) = (f.weights(&[directions, gates * 12, 8]), f.weights(&[directions, gates * 12, 12]));
        let b = f.weights(&[directions, 2 * gates * 12]);
        let direction = if directions == 2 { "bidirectional" } else { "forward" };
        let node = NewNode::new(op_type, [x, w, r, b]).with("hidden_size", 12).with("direction", direction);
        let y = f.node(node);
        let y = f.transpose(y, &[0, 2, 1, 3]);
        let y = f.reshape(y, &[5, 2, -1]);
        let y = f.linear(y, 12 * directions, 6);
        exactly(op_type, f.with_output(y));
    }
}

/// As exporters write them: the first state is filled with zeros, its size taken from the input.
#[test]
fn recurrent_layers_with_a_first_state() {
    let mut f = Fixture::new(17);
    let x = f.symbolic_input("x", &["steps", "batch", "8"]);
    let sizes = f.op("Shape", &[x]);
    let one = f.integers(&[1]);
    let batch = f.op("Gather", &[sizes, one]);
    let hidden = f.integers(&[12]);
    let shape = f.node(NewNode::new("Concat", [one, batch, hidden]).with("axis", 0));
    let zero = std::sync::Arc::new(Tensor::from_f32(&[1], &[0.0]).unwrap());
    let zeros = f.node(NewNode::new("ConstantOfShape", [shape]).with("value", zero));
    let (w, r) = (f.weights(&[1, 48, 8]), f.weights(&[1, 48, 12]));
    let node = NewNode {
        inputs: vec![Some(x), Some(w), Some(r), None, None, Some(zeros), Some(zeros)],
        ..NewNode::new("LSTM", []).with("hidden_size", 12)
    };
    let y = f.node(node);
    let directions = f.integers(&[1]);
    let y = f.op("Squeeze", &[y, directions]);
    let y = f.linear(y, 12, 6);
    exactly("first_state", f.with_output(y));
}

/// Units of one layer are what the next one takes; peepholes and the last state go with them.
#[test]
fn recurrent_layers_behind_each_other() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[5, 2, 8]);
    let parameters = [f.weights(&[1, 36, 8]), f.weights(&[1, 36, 12]), f.weights(&[1, 72])];
    let node = NewNode::new("GRU", [x, parameters[0], parameters[1], parameters[2]]);
    let y = f.node(node.with("hidden_size", 12).with("linear_before_reset", 1));
    let directions = f.integers(&[1]);
    let y = f.op("Squeeze", &[y, directions]);
    let parameters =
        [f.weights(&[2, 40, 12]), f.weights(&[2, 40, 10]), f.weights(&[2, 80]), f.weights(&[2, 30])];
    let mut inputs = vec![Some(y), Some(parameters[0]), Some(parameters[1]), Some(parameters[2])];
    inputs.extend([None, None, None, Some(parameters[3])]);
    let node = NewNode { inputs, outputs: 2, ..NewNode::new("LSTM", []) };
    let id = f.graph.add_node(node.with("hidden_size", 10).with("direction", "bidirectional")).unwrap();
    let [Some(all), Some(last)] = f.graph.node(id).outputs()[..] else { panic!("two results") };
    let all = f.transpose(all, &[0, 2, 1, 3]);
    let all = f.reshape(all, &[5, 2, 20]);
    let all = f.linear(all, 20, 6);
    let last = f.transpose(last, &[1, 0, 2]);
    let last = f.reshape(last, &[2, 20]);
    let last = f.dense(last, 20, 6);
    let y = f.op("Add", &[all, last]);
    let outcome = exactly("behind_each_other", f.with_output(y));
    assert_eq!(outcome.groups.iter().map(|group| group.after).collect::<Vec<_>>(), [6, 5]);
}

/// Products of two activations: features of queries go with those of keys, features of values by themselves.
#[test]
fn attention_of_one_head() {
    let mut f = Fixture::new(17);
    let x = f.input("x", &[2, 5, 16]);
    let (q, k, v) = (f.linear(x, 16, 16), f.linear(x, 16, 24), f.linear(x, 16, 24));
    let keys = f.linear(k, 24, 16);
    let keys = f.transpose(keys, &[0, 2, 1]);
    let scores = f.op("MatMul", &[q, keys]);
    let weights = f.node(NewNode::new("Softmax", [scores]).with("axis", -1));
    let y = f.op("MatMul", &[weights, v]);
    let y = f.linear(y, 24, 16);
    let outcome = exactly("one_head", f.with_output(y));
    assert_eq!(outcome.groups.iter().map(|group| group.after).collect::<Vec<_>>(), [8, 12, 12]);
}

#[test]
fn root_mean_square_normalization() {
    let mut f = Fixture::new(23);
    let x = f.input("x", &[2, 5, 16]);
    let wide = f.linear(x, 16, 32);
    let scale = f.positive(32);
    let normal = f.op("RMSNormalization", &[wide, scale]);
    let y = f.linear(normal, 32, 16);
    let outcome = halved("root_mean_square", f.with_output(y), 0.55);
    assert!(outcome.masked.is_none());
}
