//! Recurrent layers, step by step: what a layer computes is written out, and that has a gradient.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("GRU", |s| unrolled(s, Kind::Gru)),
    ("LSTM", |s| unrolled(s, Kind::Lstm)),
    ("RNN", |s| unrolled(s, Kind::Rnn)),
];

/// Longer sequences are not written out: each step is some thirty operators.
const LONGEST: i64 = 512;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Gru,
    Lstm,
    Rnn,
}

impl Kind {
    fn gates(self) -> i64 {
        match self {
            Self::Gru => 3,
            Self::Lstm => 4,
            Self::Rnn => 1,
        }
    }

    /// The activations of one direction where nothing else is said.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
            Self::Rnn => &["Tanh"],
        }
    }
}

/// One direction of a layer.
struct Cell {
    kind: Kind,
    activations: Vec<String>,
    /// Rᵀ, [hidden, gates·hidden].
    recurrence: ValueId,
    /// The biases beside R, [gates·hidden].
    bias: Option<ValueId>,
    reset_last: bool,
    hidden: i64,
}

fn unrolled(s: &mut Step<'_, '_>, kind: Kind) -> Gradients {
    let x = s.input(0)?;
    if s.node.attributes().get("clip").is_some() {
        return Err("a clip".into());
    }
    if s.node.int("input_forget").unwrap_or(0) != 0 {
        return Err("coupled gates".into());
    }
    if s.node.input(4).is_some() {
        return Err("sequences of several lengths".into());
    }
    if s.node.input(7).is_some() {
        return Err("peepholes".into());
    }
    let batch_first = s.node.int("layout").unwrap_or(0) != 0;
    let time = usize::from(batch_first);
    let length = s.fixed_axis(x, time).ok_or("the length of the sequence is not known")?;
    if !(1..=LONGEST).contains(&length) {
        return Err(format!("a sequence of {length} steps is not written out").into());
    }
    let hidden = s.fixed(s.input(2)?)?[2];
    let directions: &[bool] = match s.string("direction").as_str() {
        "" | "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(format!("direction {other}").into()),
    };
    s.by_parts(|s| {
        let x = if batch_first { s.transpose(x, &[1, 0, 2])? } else { x };
        let mut parts: [Vec<ValueId>; 3] = Default::default();
        for (place, &backwards) in directions.iter().enumerate() {
            let [all, last, cell] = direction(s, kind, x, place, backwards, batch_first, length, hidden)?;
            // [time, batch, hidden] -> [time, 1, batch, hidden]
            parts[0].push(s.unsqueeze(all, &[1])?);
            parts[1].push(last);
            parts[2].push(cell);
        }
        let mut results = Vec::new();
        for (index, parts) in parts.iter().enumerate() {
            let joined = s.concat(parts, i64::from(index == 0))?;
            results.push(match (batch_first, index) {
                (false, _) => joined,
                (true, 0) => s.transpose(joined, &[2, 0, 1, 3])?,
                (true, _) => s.transpose(joined, &[1, 0, 2])?,
            });
        }
        results.truncate(if kind == Kind::Lstm { 3 } else { 2 });
        Ok(results)
    })
}

/// Every state, the last one and the last cell state of one direction.
#[allow(clippy::too_many_arguments)]
fn direction(
    s: &mut Step<'_, '_>,
    kind: Kind,
    x: ValueId,
    place: usize,
    backwards: bool,
    batch_first: bool,
    length: i64,
    hidden: i64,
) -> Written<[ValueId; 3]> {
    let wide = kind.gates() * hidden;
    let here = place as i64;
    let part = |s: &mut Step<'_, '_>, index: usize| {
        let value = s.input(index)?;
        let one = s.slice(value, &[0], &[here], &[here + 1])?;
        s.squeeze(one, &[0])
    };
    let (weights, recurrence) = (part(s, 1)?, part(s, 2)?);
    let (weights, recurrence) = (s.transpose_last(weights)?, s.transpose_last(recurrence)?);
    let mut inputs = s.op("MatMul", &[x, weights])?;
    let mut bias = None;
    if s.node.input(3).is_some() {
        let both = part(s, 3)?;
        let of_inputs = s.slice(both, &[0], &[0], &[wide])?;
        inputs = s.add(inputs, of_inputs)?;
        bias = Some(s.slice(both, &[0], &[wide], &[2 * wide])?);
    }
    let cell = Cell {
        kind,
        activations: activations(s, kind, place)?,
        recurrence,
        bias,
        reset_last: s.node.int("linear_before_reset").unwrap_or(0) != 0,
        hidden,
    };
    let mut state = initial(s, 5, x, here, batch_first, hidden)?;
    let mut memory = match kind {
        Kind::Lstm => initial(s, 6, x, here, batch_first, hidden)?,
        _ => state,
    };
    let sizes = s.integers(&vec![1; length as usize]);
    let split = NewNode { outputs: length as usize, ..NewNode::new("Split", [inputs, sizes]) };
    let steps = if length == 1 { vec![inputs] } else { s.results(split.with("axis", 0i64))? };
    let mut states = vec![None; steps.len()];
    let order: Vec<usize> =
        if backwards { (0..steps.len()).rev().collect() } else { (0..steps.len()).collect() };
    for time in order {
        (state, memory) = cell.step(s, steps[time], state, memory)?;
        states[time] = Some(state);
    }
    let states: Vec<ValueId> = states.into_iter().flatten().collect();
    Ok([s.concat(&states, 0)?, state, memory])
}

/// The names of the activations of a direction.
fn activations(s: &Step<'_, '_>, kind: Kind, place: usize) -> Written<Vec<String>> {
    let count = kind.activations().len();
    let Some(names) = s.node.attributes().get("activations").and_then(|names| names.as_strings()) else {
        return Ok(kind.activations().iter().map(|&name| name.to_owned()).collect());
    };
    let names: Vec<String> = names
        .iter()
        .skip(place * count)
        .take(count)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    match names
        .iter()
        .find(|name| !["Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"].contains(&name.as_str()))
    {
        Some(other) => Err(format!("activation {other}").into()),
        None if names.len() < count => Err("too few activations".into()),
        None => Ok(names),
    }
}

/// The state before the first step, [1, batch, hidden]: an operand, or zeros.
fn initial(
    s: &mut Step<'_, '_>,
    index: usize,
    x: ValueId,
    place: i64,
    batch_first: bool,
    hidden: i64,
) -> Written {
    let Some(given) = s.node.input(index) else {
        let batch = s.size_of(x, 1)?;
        let (one, last) = (s.integers(&[1]), s.integers(&[hidden]));
        let shape = match s.fixed_axis(x, 1) {
            Some(batch) => s.sizes(&[Size::Fixed(1), Size::Fixed(batch), Size::Fixed(hidden)])?,
            None => s.concat(&[one, batch, last], 0)?,
        };
        let zero = s.number(x, 0.0)?;
        return s.op("Expand", &[zero, shape]);
    };
    let given = if batch_first { s.transpose(given, &[1, 0, 2])? } else { given };
    s.slice(given, &[0], &[place], &[place + 1])
}

impl Cell {
    /// The next state and cell state. `inputs` is x·Wᵀ with its biases, all [1, batch, ...].
    fn step(
        &self,
        s: &mut Step<'_, '_>,
        inputs: ValueId,
        state: ValueId,
        memory: ValueId,
    ) -> Written<(ValueId, ValueId)> {
        match self.kind {
            Kind::Rnn => {
                let recurrent = self.recurrent(s, state)?;
                let sum = s.add(inputs, recurrent)?;
                let state = s.op(&self.activations[0], &[sum])?;
                Ok((state, state))
            }
            // i, o, f, c: cell f·c₀ + i·c, state o·h(cell).
            Kind::Lstm => {
                let recurrent = self.recurrent(s, state)?;
                let sum = s.add(inputs, recurrent)?;
                let gates = self.gates(s, sum)?;
                let i = s.op(&self.activations[0], &[gates[0]])?;
                let o = s.op(&self.activations[0], &[gates[1]])?;
                let f = s.op(&self.activations[0], &[gates[2]])?;
                let c = s.op(&self.activations[1], &[gates[3]])?;
                let (kept, new) = (s.mul(f, memory)?, s.mul(i, c)?);
                let memory = s.add(kept, new)?;
                let shown = s.op(&self.activations[2], &[memory])?;
                Ok((s.mul(o, shown)?, memory))
            }
            // z, r, h: state (1 − z)·h + z·h₀, where r is applied to h₀ or to what R makes of it.
            Kind::Gru => {
                let gates = self.gates(s, inputs)?;
                let recurrent = self.recurrent(s, state)?;
                let recurrent = self.gates(s, recurrent)?;
                let (z, r) = (s.add(gates[0], recurrent[0])?, s.add(gates[1], recurrent[1])?);
                let (z, r) = (s.op(&self.activations[0], &[z])?, s.op(&self.activations[0], &[r])?);
                let new = if self.reset_last {
                    s.mul(r, recurrent[2])?
                } else {
                    let kept = s.mul(r, state)?;
                    let all = self.recurrent(s, kept)?;
                    self.gates(s, all)?[2]
                };
                let sum = s.add(gates[2], new)?;
                let new = s.op(&self.activations[1], &[sum])?;
                let difference = s.sub(state, new)?;
                let kept = s.mul(z, difference)?;
                let state = s.add(new, kept)?;
                Ok((state, state))
            }
        }
    }

    /// h·Rᵀ with its biases.
    fn recurrent(&self, s: &mut Step<'_, '_>, state: ValueId) -> Written {
        let product = s.op("MatMul", &[state, self.recurrence])?;
        match self.bias {
            Some(bias) => s.add(product, bias),
            None => Ok(product),
        }
    }

    fn gates(&self, s: &mut Step<'_, '_>, all: ValueId) -> Written<Vec<ValueId>> {
        let count = self.kind.gates() as usize;
        let sizes = s.integers(&vec![self.hidden; count]);
        let node = NewNode { outputs: count, ..NewNode::new("Split", [all, sizes]) };
        s.results(node.with("axis", 2i64))
    }
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use super::example::Example;

    let mut examples = Vec::new();
    for (op_type, gates) in [("RNN", 1i64), ("LSTM", 4), ("GRU", 3)] {
        for (words, direction, count) in
            [("forwards", "forward", 1i64), ("backwards", "reverse", 1), ("both ways", "bidirectional", 2)]
        {
            examples.push(Example::new(op_type, words, 18, move |t| {
                let x = t.input("x", &[3, 2, 2], -1.0, 1.0);
                let w = t.input("w", &[count, gates * 2, 2], -0.8, 0.8);
                let r = t.input("r", &[count, gates * 2, 2], -0.8, 0.8);
                let b = t.input("b", &[count, gates * 4], -0.5, 0.5);
                let node = NewNode { outputs: 2, ..NewNode::new(op_type, [x, w, r, b]) };
                let results = t.results(node.with("hidden_size", 2i64).with("direction", direction));
                // Every state, and the last one once more.
                t.op("Mul", &[results[0], results[1]])
            }));
        }
        examples.push(Example::new(op_type, "from a state", 18, move |t| {
            let x = t.input("x", &[2, 2, 3], -1.0, 1.0);
            let w = t.input("w", &[1, gates * 2, 3], -0.8, 0.8);
            let r = t.input("r", &[1, gates * 2, 2], -0.8, 0.8);
            let h = t.input("h", &[1, 2, 2], -1.0, 1.0);
            let inputs = vec![Some(x), Some(w), Some(r), None, None, Some(h)];
            let node = NewNode { inputs, outputs: 1, ..NewNode::new(op_type, []) };
            t.node(node.with("hidden_size", 2i64))
        }));
    }
    examples.push(Example::new("LSTM", "the cell state", 18, |t| {
        let x = t.input("x", &[2, 2, 2], -1.0, 1.0);
        let w = t.input("w", &[1, 8, 2], -0.8, 0.8);
        let r = t.input("r", &[1, 8, 2], -0.8, 0.8);
        let (h, c) = (t.input("h", &[1, 2, 2], -1.0, 1.0), t.input("c", &[1, 2, 2], -1.0, 1.0));
        let inputs = vec![Some(x), Some(w), Some(r), None, None, Some(h), Some(c)];
        let node = NewNode { inputs, outputs: 3, ..NewNode::new("LSTM", []) };
        t.results(node.with("hidden_size", 2i64))[2]
    }));
    examples.push(Example::new("GRU", "reset last", 18, |t| {
        let x = t.input("x", &[2, 2, 2], -1.0, 1.0);
        let w = t.input("w", &[1, 6, 2], -0.8, 0.8);
        let r = t.input("r", &[1, 6, 2], -0.8, 0.8);
        let b = t.input("b", &[1, 12], -0.5, 0.5);
        let node = NewNode::new("GRU", [x, w, r, b]).with("linear_before_reset", 1i64);
        t.node(node.with("hidden_size", 2i64))
    }));
    examples
}
