//! Operators of the domain `com.microsoft`: those that rewrites emit, in the forms in which they do.

use super::attention::{Heads, total};
use super::{Fact, Facts, Inference, InferenceError, Rule};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "MultiHeadAttention" => multi_head_attention,
        _ => return None,
    })
}

/// The result, and the keys and values with the past before them. Nothing is told of operands that are packed, of keys and
/// values that come by heads, and of a past that is a buffer with room for what follows.
fn multi_head_attention(cx: &Inference<'_>) -> Answer {
    if cx.input(8).is_some() {
        return cx.unknown();
    }
    let heads = |index| Heads::new(cx, index, "num_heads").filter(|_| cx.rank(index) == Some(3));
    let (Some(query), Some(key), Some(value)) = (heads(0), heads(1), heads(2)) else { return cx.unknown() };
    let total = total(cx, Some(&key), 6);
    Ok(Facts::from_iter([
        Fact::tensor(cx.element(0), Heads::beside(&query, &value)),
        Fact::tensor(cx.element(0), key.cached(&total)),
        Fact::tensor(cx.element(0), value.cached(&total)),
    ]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::infer::testing::{Operand, shaped, types};
    use crate::types::ElementType::Float;

    #[test]
    fn attention_of_heads_side_by_side() {
        let attention = |operands, outputs| {
            let heads = [("num_heads", 4.into())];
            types(1, "com.microsoft:MultiHeadAttention", operands, &heads, outputs).unwrap()
        };
        let wide = || vec![shaped(Float, "B S 32"), shaped(Float, "B T 32"), shaped(Float, "B T 48")];
        assert_eq!(attention(wide(), 1), ["float[B, S, 48]"]);
        let past = [shaped(Float, "B 4 P 8"), shaped(Float, "B 4 P 12")];
        let absent = || Operand::Absent;
        let all = wide().into_iter().chain([absent(), absent(), absent()]).chain(past).collect();
        assert_eq!(attention(all, 3), ["float[B, S, 48]", "float[B, 4, P + T, 8]", "float[B, 4, P + T, 12]"]);
        let packed = vec![shaped(Float, "B S 4 3 8")];
        assert_eq!(attention(packed, 1), ["?"]);
    }
}
