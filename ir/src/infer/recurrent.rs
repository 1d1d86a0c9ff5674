//! Recurrent layers.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    matches!(op_type, "LSTM" | "GRU" | "RNN").then_some(recurrent)
}

/// The input is `[steps, batch, features]`, the results are `[steps, directions, batch, hidden]` and the last states
/// `[directions, batch, hidden]`; layout 1 puts the batch in front everywhere.
fn recurrent(cx: &Inference<'_>) -> Result<Facts, InferenceError> {
    let node = cx.node();
    let directions = Dim::fixed(if node.string("direction") == Some("bidirectional") { 2 } else { 1 });
    let batch_first = node.int("layout").unwrap_or(0) != 0;
    let (first, second) = match cx.shape(0) {
        Some([first, second, _]) => (first.clone(), second.clone()),
        Some(shape) => return Err(cx.error(format!("an input of rank {}, not 3", shape.len()))),
        None => (cx.fresh(), cx.fresh()),
    };
    let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
    let hidden = match (node.int("hidden_size"), cx.shape(2)) {
        (Some(size), _) => Dim::fixed(size),
        (None, Some([_, _, size])) => size.clone(),
        _ => cx.fresh(),
    };
    let (all, last) = if batch_first {
        (vec![batch.clone(), steps, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![steps, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let last = Fact::tensor(cx.element(0), last);
    Ok(Facts::from_iter([Fact::tensor(cx.element(0), all), last.clone(), last]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::infer::testing::{shaped, types};
    use crate::types::ElementType::Float;

    #[test]
    fn layouts() {
        let lstm = |attributes: &[_]| {
            let operands = vec![shaped(Float, "T N 8"), shaped(Float, "D 64 8"), shaped(Float, "D 64 16")];
            types(14, "LSTM", operands, attributes, 3).unwrap()
        };
        assert_eq!(lstm(&[]), ["float[T, 1, N, 16]", "float[1, N, 16]", "float[1, N, 16]"]);
        let both = lstm(&[("direction", "bidirectional".into()), ("layout", 1.into())]);
        assert_eq!(both, ["float[T, N, 2, 16]", "float[T, 2, 16]", "float[T, 2, 16]"]);
    }
}
