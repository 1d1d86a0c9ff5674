//! Attention and its helpers.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::Shape;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Attention" => attention,
        "LinearAttention" => linear_attention,
        "RotaryEmbedding" | "TensorScatter" => {
            |cx| cx.one(Fact::ranked(cx.element(0), cx.shape(0).map(Shape::from)))
        }
        _ => return None,
    })
}

/// One operand as `[batch, heads, length, width]`, from that form or from `[batch, length, heads·width]`.
pub(super) struct Heads {
    batch: Dim,
    heads: Dim,
    length: Dim,
    width: Dim,
}

impl Heads {
    pub(super) fn new(cx: &Inference<'_>, index: usize, heads_attribute: &str) -> Option<Self> {
        match cx.shape(index)? {
            [batch, heads, length, width] => Some(Self {
                batch: batch.clone(),
                heads: heads.clone(),
                length: length.clone(),
                width: width.clone(),
            }),
            [batch, length, wide] => {
                let heads = Dim::fixed(cx.node().int(heads_attribute).filter(|&heads| heads > 0)?);
                Some(Self {
                    batch: batch.clone(),
                    width: wide.exact_div(&heads).unwrap_or_else(|| cx.fresh()),
                    heads,
                    length: length.clone(),
                })
            }
            _ => None,
        }
    }

    /// This many steps, as a cache holds them.
    pub(super) fn cached(&self, length: &Dim) -> Shape {
        Shape::from_iter([self.batch.clone(), self.heads.clone(), length.clone(), self.width.clone()])
    }

    /// The result for these queries and values, its heads side by side.
    pub(super) fn beside(query: &Self, value: &Self) -> Shape {
        Shape::from_iter([query.batch.clone(), query.length.clone(), &query.heads * &value.width])
    }
}

/// How many keys there are, those of the past in operand `past` included.
pub(super) fn total(cx: &Inference<'_>, key: Option<&Heads>, past: usize) -> Dim {
    let past = match (cx.input(past), cx.shape(past)) {
        (None, _) => Some(Dim::fixed(0)),
        (Some(_), Some([_, _, length, _])) => Some(length.clone()),
        _ => None,
    };
    key.zip(past).map_or_else(|| cx.fresh(), |(key, past)| &key.length + &past)
}

/// The result, the keys and values with the past before them, and the scores.
fn attention(cx: &Inference<'_>) -> Answer {
    let query = Heads::new(cx, 0, "q_num_heads");
    let key = Heads::new(cx, 1, "kv_num_heads");
    let value = Heads::new(cx, 2, "kv_num_heads");
    let total = total(cx, key.as_ref(), 4);
    let result = match (&query, &value, cx.rank(0)) {
        (Some(query), Some(value), Some(4)) => {
            let Heads { batch, heads, length, .. } = query;
            Some(Shape::from_iter([batch, heads, length, &value.width].map(Dim::clone)))
        }
        (Some(query), Some(value), Some(3)) => Some(Heads::beside(query, value)),
        (_, _, rank) => rank.map(|rank| cx.fresh_shape(rank)),
    };
    let scores = query.map(|query| Shape::from_iter([query.batch, query.heads, query.length, total.clone()]));
    let cache = |heads: Option<Heads>| Some(heads?.cached(&total));
    Ok(Facts::from_iter([
        Fact::ranked(cx.element(0), result),
        Fact::ranked(cx.element(1), cache(key)),
        Fact::ranked(cx.element(2), cache(value)),
        Fact::ranked(cx.element(0), scores),
    ]))
}

/// Operands are `[batch, steps, heads·width]`; the state is `[batch, heads, key width, value width]`.
fn linear_attention(cx: &Inference<'_>) -> Answer {
    let query = Heads::new(cx, 0, "q_num_heads");
    let key = Heads::new(cx, 1, "kv_num_heads");
    let value = Heads::new(cx, 2, "kv_num_heads");
    let result = query
        .zip(value.as_ref())
        .filter(|_| cx.rank(0) == Some(3))
        .map(|(query, value)| Heads::beside(&query, value));
    let state = match (cx.shape(3), key, value) {
        (Some(state), ..) => Some(Shape::from(state)),
        (None, Some(key), Some(value)) => {
            Some(Shape::from_iter([key.batch, key.heads, key.width, value.width]))
        }
        _ => None,
    };
    // A state that starts from nothing is kept in the type of the operands.
    let state_element = cx.element(if cx.input(3).is_some() { 3 } else { 0 });
    Ok(Facts::from_iter([Fact::ranked(cx.element(0), result), Fact::ranked(state_element, state)]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::infer::testing::{Operand, shaped, types};
    use crate::types::ElementType::Float;

    #[test]
    fn heads_in_both_forms() {
        let wide = vec![shaped(Float, "B S 32"), shaped(Float, "B T 16"), shaped(Float, "B T 24")];
        let heads = [("q_num_heads", 4.into()), ("kv_num_heads", 2.into())];
        assert_eq!(types(23, "Attention", wide, &heads, 1).unwrap(), ["float[B, S, 48]"]);
        let split = vec![
            shaped(Float, "B 4 S 8"),
            shaped(Float, "B 2 T 8"),
            shaped(Float, "B 2 T 6"),
            Operand::Absent,
            shaped(Float, "B 2 P 8"),
            shaped(Float, "B 2 P 6"),
        ];
        let expected =
            ["float[B, 4, S, 6]", "float[B, 2, P + T, 8]", "float[B, 2, P + T, 6]", "float[B, 4, S, P + T]"];
        assert_eq!(types(23, "Attention", split, &[], 4).unwrap(), expected);
    }
}
