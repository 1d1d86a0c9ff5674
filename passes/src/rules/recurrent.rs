//! Recurrent layers.

use onnx_opt_ir::{Graph, Tensor, ValueId};

use crate::rewrite::{ErrorClass, FunctionRule, Patch, Rewrite, Rule, Site, ensure, found};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "zero_initial_state",
        doc: "A recurrent layer that is started with zeros starts with its default.",
        class: ErrorClass::Exact,
        since: 1,
        roots: &["GRU", "LSTM", "RNN"],
        rewrite: zero_initial_state,
    })]
}

/// Places of the initial hidden state and, of an LSTM, of the initial cell.
const STATES: [usize; 2] = [5, 6];

fn zero_initial_state(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let is_default =
        |place: &usize| node.input(*place).is_some_and(|state| is_zeros(graph, state, MAX_DEPTH));
    found(STATES.iter().any(|&place| node.input(place).is_some()).then_some(()))?;
    let defaults: Vec<usize> = STATES.into_iter().filter(is_default).collect();
    ensure(!defaults.is_empty(), "the initial states are not known to be zeros")?;
    // The results of a patch are all there.
    ensure(node.outputs().iter().all(Option::is_some), "a result is left out")?;
    let inputs = node.inputs().iter().enumerate();
    let inputs = inputs.map(|(place, &input)| input.filter(|_| !defaults.contains(&place)));
    let mut patch = Patch::new();
    let count = node.outputs().len();
    let new = patch.node_with(node.op_type(), inputs, node.attributes().clone(), count);
    for (&old, new) in node.outputs().iter().flatten().zip(new) {
        patch.replace(old, new);
    }
    Ok(patch)
}

/// So many operators are looked through.
const MAX_DEPTH: usize = 8;

/// Whether all elements of a value are zeros without a sign.
fn is_zeros(graph: &Graph, value: ValueId, depth: usize) -> bool {
    let plain = |tensor: &Tensor| tensor.strings().is_none() && tensor.raw().iter().all(|&byte| byte == 0);
    if let Some(tensor) = graph.constant(value) {
        return plain(tensor);
    }
    let Some((_, node, _)) = graph.producer(value).filter(|_| depth > 0) else { return false };
    let inner = |operand: Option<ValueId>| operand.is_some_and(|value| is_zeros(graph, value, depth - 1));
    let is_standard = node.is(node.op_type());
    match node.op_type() {
        _ if !is_standard => false,
        "ConstantOfShape" => match node.attributes().get("value") {
            None => true,
            Some(value) => value.as_tensor().is_some_and(|tensor| plain(tensor)),
        },
        "Cast" | "Expand" | "Gather" | "Identity" | "Reshape" | "Slice" | "Split" | "Squeeze" | "Tile"
        | "Transpose" | "Unsqueeze" => inner(node.input(0)),
        "Concat" => node.inputs().iter().all(|&operand| inner(operand)),
        _ => false,
    }
}

/// Graphs on which this rule fires, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use std::sync::Arc;

    use onnx_opt_ir::{AttributeValue, NewNode};

    use crate::testing::{Example, Fixture};

    vec![
        // Both states, from a shape that is read off the input.
        Example::new("zero_initial_state", |fires| {
            let mut f = Fixture::new(14);
            let x = f.symbolic_input("x", &["t", "n", "3"]);
            let shape = f.op("Shape", &[x]);
            let second = f.integers(&[1]);
            let batch = f.op("Gather", &[shape, second]);
            let (one, size) = (f.integers(&[1]), f.integers(&[2]));
            let shape = f.node(NewNode::new("Concat", [one, batch, size]).with("axis", 0));
            let value = Tensor::from_f32(&[1], &[if fires { 0.0 } else { 0.5 }]).map(Arc::new);
            let node = NewNode::new("ConstantOfShape", [shape]);
            let state =
                f.node(node.with("value", value.map_or(AttributeValue::Other, AttributeValue::Tensor)));
            let (w, r) = (f.weights(&[1, 8, 3]), f.weights(&[1, 8, 2]));
            let mut node = NewNode::new("LSTM", [x, w, r]).with("hidden_size", 2);
            node.inputs.extend([None, None, Some(state), Some(state)]);
            let y = f.node(node);
            f.with_output(y)
        }),
        // A part of a constant.
        Example::new("zero_initial_state", |fires| {
            let mut f = Fixture::new(14);
            let x = f.input("x", &[4, 2, 3]);
            let states = f.floats(&[2, 2, 2], &[if fires { 0.0 } else { -0.0 }; 8]);
            let (start, end) = (f.integers(&[0]), f.integers(&[1]));
            let state = f.op("Slice", &[states, start, end]);
            let (w, r) = (f.weights(&[1, 6, 3]), f.weights(&[1, 6, 2]));
            let mut node = NewNode::new("GRU", [x, w, r]).with("hidden_size", 2);
            node.inputs.extend([None, None, Some(state)]);
            let y = f.node(node);
            f.with_output(y)
        }),
        // The second layer's part of the state of two.
        Example::new("zero_initial_state", |fires| {
            let mut f = Fixture::new(14);
            let x = f.symbolic_input("x", &["t", "n", "3"]);
            let shape = f.op("Shape", &[x]);
            let (second, two, size) = (f.integers(&[1]), f.integers(&[2]), f.integers(&[2]));
            let batch = f.op("Gather", &[shape, second]);
            let shape = f.node(NewNode::new("Concat", [two, batch, size]).with("axis", 0));
            let value = Tensor::from_f32(&[1], &[if fires { 0.0 } else { 1.0 }]).map(Arc::new);
            let node = NewNode::new("ConstantOfShape", [shape]);
            let states =
                f.node(node.with("value", value.map_or(AttributeValue::Other, AttributeValue::Tensor)));
            let first = f.node(NewNode { outputs: 2, ..NewNode::new("Split", [states]) });
            let state = f.graph.producer(first).and_then(|(_, node, _)| node.output(1));
            let (w, r) = (f.weights(&[1, 6, 3]), f.weights(&[1, 6, 2]));
            let mut node = NewNode::new("GRU", [x, w, r]).with("hidden_size", 2);
            node.inputs.extend([None, None, state]);
            let y = f.node(node);
            f.with_output(y)
        }),
    ]
}
