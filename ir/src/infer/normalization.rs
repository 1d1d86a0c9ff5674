//! Normalization: results keep the shape of the input; statistics come beside it.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "BatchNormalization" => batch,
        "LayerNormalization" => layer,
        "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "LpNormalization"
        | "LRN"
        | "MeanVarianceNormalization" => |cx| cx.one(like_input(cx)),
        _ => return None,
    })
}

fn like_input(cx: &Inference<'_>) -> Fact {
    Fact::ranked(cx.element(0), cx.shape(0).map(Shape::from))
}

/// Behind the result: mean and variance of the running statistics, and in versions before 14 those of the batch.
fn batch(cx: &Inference<'_>) -> Answer {
    let channels = match cx.shape(0) {
        Some([_, channels, ..]) => Some(channels.clone()),
        Some([_]) => Some(Dim::fixed(1)),
        _ => None,
    };
    for index in 1..5 {
        if let (Some(channels), Some([size])) = (&channels, cx.shape(index))
            && size.proves_ne(channels)
            // Old versions could keep statistics of each place.
            && cx.node().int("spatial") != Some(0)
        {
            return Err(cx.error(format!("operand {index} has {size} entries for {channels} channels")));
        }
    }
    let mut facts = Facts::from_iter([like_input(cx)]);
    let statistics = |index: usize| {
        let element = cx.element(index).or(if cx.version() < 14 { cx.element(0) } else { None });
        Fact::ranked(element, cx.shape(index).map(Shape::from))
    };
    for output in 1..cx.output_count() {
        facts.push(statistics(if output % 2 == 1 { 3 } else { 4 }));
    }
    Ok(facts)
}

/// Mean and inverse deviation have size 1 from `axis` on, in the type of `stash_type`.
fn layer(cx: &Inference<'_>) -> Answer {
    let mut facts = Facts::from_iter([like_input(cx)]);
    let element = match cx.node().int("stash_type").and_then(|code| i32::try_from(code).ok()) {
        Some(code) => ElementType::from_code(code),
        None => None,
    };
    let shape = match cx.shape(0) {
        Some(shape) => {
            let axis = cx.axis(cx.node().int("axis").unwrap_or(-1), shape.len())?;
            let size = |(index, size): (usize, &Dim)| if index < axis { size.clone() } else { Dim::fixed(1) };
            Some(shape.iter().enumerate().map(size).collect::<Shape>())
        }
        None => None,
    };
    facts.push(Fact::ranked(element, shape.clone()));
    facts.push(Fact::ranked(element, shape));
    Ok(facts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::infer::testing::{shaped, types};
    use crate::types::ElementType::{Float, Float16};

    #[test]
    fn statistics() {
        let input = || vec![shaped(Float16, "N T 8"), shaped(Float16, "8")];
        let layer = types(17, "LayerNormalization", input(), &[], 3).unwrap();
        assert_eq!(layer, ["float16[N, T, 8]", "float[N, T, 1]", "float[N, T, 1]"]);
        let batch = |channels: &str| {
            let mut operands = vec![shaped(Float, "N 8 H W")];
            operands.extend((0..4).map(|_| shaped(Float, channels)));
            types(15, "BatchNormalization", operands, &[("training_mode", 1.into())], 3)
        };
        assert_eq!(batch("8").unwrap(), ["float[N, 8, H, W]", "float[8]", "float[8]"]);
        assert!(batch("4").is_err());
    }
}
