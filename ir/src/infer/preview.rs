//! Operators of the domains `ai.onnx.preview` and `ai.onnx.preview.training`.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::types::Shape;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "FlexAttention" => flex_attention,
        // Variables, gradients and one kind of state, or two of them; gradients are not given back.
        "Adagrad" | "Momentum" => |cx| updated(cx, 3),
        "Adam" => |cx| updated(cx, 4),
        _ => return None,
    })
}

/// `[batch, heads, length, width]` of the queries, as wide as the values.
fn flex_attention(cx: &Inference<'_>) -> Answer {
    let shape = match (cx.shape(0), cx.shape(2)) {
        (Some([batch, heads, length, _]), Some([.., width])) => {
            Some(Shape::from_iter([batch, heads, length, width].map(Clone::clone)))
        }
        _ => None,
    };
    cx.one(Fact::ranked(cx.element(0), shape))
}

/// Behind rate and time stand `kinds` lists of equal length, the second of which holds the gradients.
fn updated(cx: &Inference<'_>, kinds: usize) -> Answer {
    let count = cx.input_count().saturating_sub(2) / kinds;
    let same = |index: usize| Fact::ranked(cx.element(index), cx.shape(index).map(Shape::from));
    Ok((0..kinds)
        .filter(|&kind| kind != 1)
        .flat_map(|kind| (0..count).map(move |at| 2 + kind * count + at))
        .map(same)
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::infer::testing::{shaped, types};
    use crate::types::ElementType::{Double, Float, Float16, Int64};

    #[test]
    fn variables_and_states_keep_their_shapes() {
        let operands = |kinds: usize| {
            let lists = (0..kinds).flat_map(|_| [shaped(Float, "n"), shaped(Double, "m 2")]);
            [shaped(Float, ""), shaped(Int64, "")].into_iter().chain(lists).collect()
        };
        let both = ["float[n]", "double[m, 2]"];
        let momentum = types(1, "ai.onnx.preview.training:Momentum", operands(3), &[], 4).unwrap();
        assert_eq!(momentum, [both, both].concat());
        let adam = types(1, "ai.onnx.preview.training:Adam", operands(4), &[], 6).unwrap();
        assert_eq!(adam, [both, both, both].concat());
    }

    #[test]
    fn values_give_the_width() {
        let operands = ["B 4 S 8", "B 2 T 8", "B 2 T 6"].map(|shape| shaped(Float16, shape));
        let result = types(1, "ai.onnx.preview:FlexAttention", operands.into(), &[], 1).unwrap();
        assert_eq!(result, ["float16[B, 4, S, 6]"]);
    }
}
