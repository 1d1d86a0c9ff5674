//! Graphs with Transposes that move, and what is left of them.

use onnx_opt_ir::{NewNode, ValueId};

use crate::testing::Fixture;

/// A graph and its operators after the pass.
pub struct Example {
    /// What it shows.
    pub name: &'static str,
    /// The graph.
    pub graph: Fixture,
    /// The operators that are left, in some order.
    pub left: &'static [&'static str],
}

const NHWC: [i64; 4] = [0, 2, 3, 1];
const NCHW: [i64; 4] = [0, 3, 1, 2];

fn transpose(f: &mut Fixture, x: ValueId, perm: &[i64]) -> ValueId {
    f.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
}

fn axes(f: &mut Fixture, op_type: &str, x: ValueId, axes: &[i64]) -> ValueId {
    let axes = f.integers(axes);
    f.op(op_type, &[x, axes])
}

/// What `build` makes of an image whose channels are the last axis, with its channels in front again.
fn image(
    opset: i64,
    name: &'static str,
    left: &'static [&'static str],
    build: impl Fn(&mut Fixture, ValueId) -> ValueId,
) -> Example {
    let mut f = Fixture::new(opset);
    let x = f.symbolic_input("x", &["N", "3", "4", "6"]);
    let t = transpose(&mut f, x, &NHWC);
    let t = build(&mut f, t);
    let y = transpose(&mut f, t, &NCHW);
    Example { name, graph: f.with_output(y), left }
}

fn elementwise() -> Vec<Example> {
    vec![
        image(13, "operators of one operand", &["Relu", "Clip", "Cast"], |f, t| {
            let t = f.op("Relu", &[t]);
            let (low, high) = (f.scalar(0.25), f.scalar(1.0));
            let t = f.op("Clip", &[t, low, high]);
            f.node(NewNode::new("Cast", [t]).with("to", 11))
        }),
        image(13, "a bias by channel", &["Add"], |f, t| {
            let bias = f.weights(&[3]);
            f.op("Add", &[t, bias])
        }),
        image(13, "a computed bias gets axes behind it", &["Neg", "Unsqueeze", "Mul", "PRelu"], |f, t| {
            let bias = f.input("bias", &[3]);
            let bias = f.op("Neg", &[bias]);
            let slope = f.weights(&[4, 1, 3]);
            let t = f.op("Mul", &[bias, t]);
            f.op("PRelu", &[t, slope])
        }),
        image(13, "a condition", &["Greater", "Where"], |f, t| {
            let zero = f.scalar(0.0);
            let condition = f.op("Greater", &[t, zero]);
            f.op("Where", &[condition, t, zero])
        }),
        image(13, "two users", &["Tanh", "Abs", "Transpose", "Sub"], |f, t| {
            let t = f.op("Tanh", &[t]);
            let abs = f.op("Abs", &[t]);
            f.output("abs", abs);
            f.op("Sub", &[t, abs])
        }),
        image(
            13,
            "an operand of two axes of which one stays",
            &["Transpose", "Exp", "Mul", "Transpose"],
            |f, t| {
                let t = f.op("Exp", &[t]);
                let scale = f.input("scale", &[6, 3]);
                f.op("Mul", &[t, scale])
            },
        ),
    ]
}

fn along_axes() -> Vec<Example> {
    vec![
        image(13, "pieces", &["Split", "Neg", "Concat", "Softmax"], |f, t| {
            let sizes = f.integers(&[1, 2]);
            let split = NewNode { outputs: 2, ..NewNode::new("Split", [t, sizes]).with("axis", -1) };
            let parts = match f.graph.add_node(split) {
                Ok(id) => f.graph.node(id).outputs().to_vec(),
                Err(_) => Vec::new(),
            };
            let parts: Vec<ValueId> = parts.into_iter().flatten().collect();
            let first = f.op("Neg", &parts[..1]);
            let t = f.node(NewNode::new("Concat", [parts[1], first]).with("axis", 3));
            f.node(NewNode::new("Softmax", [t]).with("axis", -1))
        }),
        image(12, "Softmax over all later axes stays", &["Transpose", "Softmax", "Transpose"], |f, t| {
            f.node(NewNode::new("Softmax", [t]).with("axis", 3))
        }),
        image(13, "reductions", &["ReduceMax", "Sub", "ReduceMean", "ReduceSum"], |f, t| {
            let max = f.node(NewNode::new("ReduceMax", [t]).with("axes", vec![-1]));
            let t = f.op("Sub", &[t, max]);
            let t = f.node(NewNode::new("ReduceMean", [t]).with("axes", vec![1, 2]));
            axes(f, "ReduceSum", t, &[3])
        }),
        image(13, "the largest", &["ArgMax", "Squeeze", "Unsqueeze"], |f, t| {
            let t = f.node(NewNode::new("ArgMax", [t]).with("axis", 3));
            let t = axes(f, "Squeeze", t, &[3]);
            axes(f, "Unsqueeze", t, &[-1])
        }),
        image(18, "parts", &["Pad", "Slice", "Gather", "Tile", "CumSum"], |f, t| {
            let (pads, zero, last) = (f.integers(&[1, 2]), f.scalar(0.0), f.integers(&[-1]));
            let t = f.op("Pad", &[t, pads, zero, last]);
            let (start, end) = (f.integers(&[0, 1]), f.integers(&[9, 9]));
            let t = f.op("Slice", &[t, start, end]);
            let indices = f.integers(&[2, 0]);
            let t = f.node(NewNode::new("Gather", [t, indices]).with("axis", 3));
            let repeats = f.integers(&[1, 2, 1, 3]);
            let t = f.op("Tile", &[t, repeats]);
            let along = f.integers(&[2]);
            f.op("CumSum", &[t, along])
        }),
        image(13, "borders of all axes", &["Pad"], |f, t| {
            let pads = f.integers(&[0, 1, 2, 0, 0, 0, 1, 3]);
            f.op("Pad", &[t, pads])
        }),
        image(9, "attributes", &["Slice", "Pad", "ReduceSum"], |f, t| {
            let slice = NewNode::new("Slice", [t]).with("starts", vec![0, 1]).with("ends", vec![9, 3]);
            let t = f.node(slice);
            let t = f.node(NewNode::new("Pad", [t]).with("pads", vec![0, 0, 0, 1, 0, 0, 0, 2]));
            f.node(NewNode::new("ReduceSum", [t]).with("axes", vec![2]))
        }),
        image(13, "nearest neighbours", &["Resize"], |f, t| {
            let scales = f.floats(&[4], &[1.0, 2.0, 3.0, 1.0]);
            let inputs = vec![Some(t), None, Some(scales)];
            let node = NewNode { inputs, ..NewNode::new("Resize", []).with("mode", "nearest") };
            f.node(node.with("coordinate_transformation_mode", "asymmetric").with("nearest_mode", "floor"))
        }),
        image(13, "quantization by channel", &["QuantizeLinear", "DequantizeLinear"], |f, t| {
            let scales = f.floats(&[3], &[0.5, 0.25, 0.125]);
            let t = f.node(NewNode::new("QuantizeLinear", [t, scales]).with("axis", 3));
            f.node(NewNode::new("DequantizeLinear", [t, scales]).with("axis", -1))
        }),
    ]
}

fn products_and_norms() -> Vec<Example> {
    // Between an order and its own inverse.
    let between = |op_type: &str, name, left, order: &[i64], weights: &[usize]| {
        let mut f = Fixture::new(17);
        let x = f.symbolic_input("x", &["S", "N", "5", "3"]);
        let t = transpose(&mut f, x, order);
        let weights = f.weights(weights);
        let t = f.op(op_type, &[t, weights]);
        let y = transpose(&mut f, t, order);
        Example { name, graph: f.with_output(y), left }
    };
    vec![
        between("MatMul", "products of all rows", &["MatMul"], &[2, 1, 0, 3], &[3, 2]),
        between("MatMul", "products of batches", &["MatMul"], &[1, 0, 2, 3], &[2, 1, 3, 2]),
        between(
            "MatMul",
            "products along another axis",
            &["Transpose", "MatMul", "Transpose"],
            &[0, 1, 3, 2],
            &[5, 5],
        ),
        between(
            "LayerNormalization",
            "norms along the last axis",
            &["LayerNormalization"],
            &[1, 0, 2, 3],
            &[3],
        ),
    ]
}

fn borders() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut f = Fixture::new(13);
    let x = f.input("x", &[2, 3, 4, 5]);
    let t = transpose(&mut f, x, &NHWC);
    let t = f.op("Neg", &[t]);
    let y = transpose(&mut f, t, &[0, 2, 1, 3]);
    let left: &[&str] = &["Neg", "Transpose"];
    examples.push(Example { name: "two Transposes become one", graph: f.with_output(y), left });
    // Moving it would leave one as well.
    let mut f = Fixture::new(13);
    let x = f.input("x", &[2, 3, 4, 5]);
    let t = transpose(&mut f, x, &NHWC);
    let y = f.op("Neg", &[t]);
    let left: &[&str] = &["Transpose", "Neg"];
    examples.push(Example { name: "nothing is gained", graph: f.with_output(y), left });
    // The branches to `abs` and `exp` start from one Transpose.
    let mut f = Fixture::new(13);
    let x = f.input("x", &[2, 3, 4, 5]);
    let t = transpose(&mut f, x, &NHWC);
    let t = f.op("Relu", &[t]);
    let back = transpose(&mut f, t, &NCHW);
    f.output("back", back);
    let (sum, product) = (f.op("Abs", &[t]), f.op("Exp", &[t]));
    for (name, value) in [("abs", sum), ("exp", product)] {
        let sizes = f.integers(&[2, -1]);
        let flat = f.op("Reshape", &[value, sizes]);
        f.output(name, flat);
    }
    let left: &[&str] = &["Relu", "Transpose", "Abs", "Reshape", "Exp", "Reshape"];
    examples.push(Example { name: "the border lies where it is cheapest", graph: f, left });
    // The same axes moved for two users.
    let mut f = Fixture::new(13);
    let x = f.input("x", &[2, 3, 4, 5]);
    let (a, b) = (f.op("Sin", &[x]), f.op("Cos", &[x]));
    let (a, b) = (transpose(&mut f, a, &NHWC), transpose(&mut f, b, &NHWC));
    let t = f.node(NewNode::new("Concat", [a, b]).with("axis", 3));
    let sizes = f.integers(&[2, -1]);
    let y = f.op("Reshape", &[t, sizes]);
    let left: &[&str] = &["Sin", "Cos", "Concat", "Transpose", "Reshape"];
    examples.push(Example { name: "one Transpose in place of two", graph: f.with_output(y), left });
    // Fewer elements move.
    let mut f = Fixture::new(13);
    let x = f.symbolic_input("x", &["N", "H", "W", "8"]);
    let t = transpose(&mut f, x, &NCHW);
    let t = f.node(NewNode::new("ReduceMean", [t]).with("axes", vec![2]));
    let y = f.op("Neg", &[t]);
    let left: &[&str] = &["ReduceMean", "Transpose", "Neg"];
    examples.push(Example { name: "fewer elements move", graph: f.with_output(y), left });
    examples
}

/// All examples.
pub fn examples() -> Vec<Example> {
    [elementwise(), along_axes(), products_and_norms(), borders()].into_iter().flatten().collect()
}
