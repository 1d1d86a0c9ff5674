//! Constants, random numbers, windows and spectra, text, images and losses.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Constant" => constant,
        "RandomNormal" | "RandomUniform" => random,
        "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" => random_like,
        "Multinomial" => multinomial,
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => window,
        "MelWeightMatrix" => mel_weights,
        "DFT" => fourier,
        "STFT" => short_time_fourier,
        "ImageDecoder" => decode_image,
        "StringConcat" => string_concat,
        "StringSplit" => string_split,
        "StringNormalizer" => normalize_strings,
        "RegexFullMatch" => |cx| cx.one(Fact::ranked(Some(ElementType::Bool), cx.shape(0).map(Shape::from))),
        "TfIdfVectorizer" => count_ngrams,
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => loss,
        _ => return None,
    })
}

/// The element type that an attribute names.
fn named_type(cx: &Inference<'_>, name: &str) -> Option<ElementType> {
    ElementType::from_code(i32::try_from(cx.node().int(name)?).ok()?)
}

/// The one element of an operand that is a size.
fn size_of(cx: &Inference<'_>, index: usize) -> Dim {
    match cx.elements(index).as_deref() {
        Some([size]) => size.clone(),
        _ => cx.fresh(),
    }
}

/// `Constant` nodes whose value no initializer could hold.
fn constant(cx: &Inference<'_>) -> Answer {
    let Some(attribute) = cx.node().attributes().iter().next() else { return cx.unknown() };
    let list = |element, count: usize| Fact::tensor(Some(element), [Dim::fixed(count as i64)]);
    cx.one(match &attribute.value {
        AttributeValue::Tensor(tensor) => Fact::from(tensor.ty()),
        AttributeValue::Float(_) => Fact::tensor(Some(ElementType::Float), []),
        AttributeValue::Int(_) => Fact::tensor(Some(ElementType::Int64), []),
        AttributeValue::String(_) => Fact::tensor(Some(ElementType::String), []),
        AttributeValue::Floats(values) => list(ElementType::Float, values.len()),
        AttributeValue::Ints(values) => list(ElementType::Int64, values.len()),
        AttributeValue::Strings(values) => list(ElementType::String, values.len()),
        AttributeValue::SparseTensor(sparse) => {
            let code = sparse.values.as_ref().map_or(0, |values| values.data_type());
            Fact::tensor(ElementType::from_code(code), sparse.dims.iter().copied().map(Dim::fixed))
        }
        _ => Fact::unknown(),
    })
}

fn random(cx: &Inference<'_>) -> Answer {
    let shape = cx.node().ints("shape").map(|shape| shape.iter().copied().map(Dim::fixed).collect());
    cx.one(Fact::ranked(named_type(cx, "dtype"), shape))
}

fn random_like(cx: &Inference<'_>) -> Answer {
    let element = match cx.node().int("dtype") {
        Some(_) => named_type(cx, "dtype"),
        None => cx.element(0),
    };
    cx.one(Fact::ranked(element, cx.shape(0).map(Shape::from)))
}

fn multinomial(cx: &Inference<'_>) -> Answer {
    let batch = cx.shape(0).and_then(<[Dim]>::first).cloned().unwrap_or_else(|| cx.fresh());
    let samples = Dim::fixed(cx.node().int("sample_size").unwrap_or(1));
    cx.one(Fact::tensor(named_type(cx, "dtype"), [batch, samples]))
}

fn window(cx: &Inference<'_>) -> Answer {
    cx.one(Fact::tensor(named_type(cx, "output_datatype"), [size_of(cx, 0)]))
}

/// One sided spectra have `floor(length / 2) + 1` bins.
fn half(length: &Dim) -> Dim {
    length.floor_div(&Dim::fixed(2)) + Dim::fixed(1)
}

fn mel_weights(cx: &Inference<'_>) -> Answer {
    let shape = [half(&size_of(cx, 1)), size_of(cx, 0)];
    cx.one(Fact::tensor(named_type(cx, "output_datatype"), shape))
}

/// The axis is an attribute before version 20 and an operand since. The last axis holds real and imaginary part; back
/// from half of a spectrum the signal is real, and twice one less than that half is its length where no length is given.
fn fourier(cx: &Inference<'_>) -> Answer {
    let flag = |name: &str| cx.node().int(name).unwrap_or(0) != 0;
    let to_real = flag("onesided") && flag("inverse");
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(0), None)) };
    let mut result = Shape::from(shape);
    let axis = match (cx.version() < 20, cx.input(2)) {
        (true, _) => cx.node().int("axis"),
        (false, None) => Some(-2),
        (false, Some(_)) => cx.integers(2).and_then(|axes| axes.first().copied()),
    };
    match axis {
        Some(axis) => {
            let axis = cx.axis(axis, shape.len())?;
            let length = match cx.input(1) {
                Some(_) => size_of(cx, 1),
                None if to_real => (&shape[axis] - &Dim::fixed(1)) * Dim::fixed(2),
                None => shape[axis].clone(),
            };
            result[axis] = if flag("onesided") && !to_real { half(&length) } else { length };
        }
        None if cx.input(1).is_none() && !flag("onesided") => {}
        None => result = cx.fresh_shape(shape.len()),
    }
    if let Some(last) = result.last_mut() {
        *last = Dim::fixed(if to_real { 1 } else { 2 });
    }
    cx.one(Fact::tensor(cx.element(0), result))
}

/// `[batch, length, 1 or 2]` to `[batch, frames, bins, 2]`.
fn short_time_fourier(cx: &Inference<'_>) -> Answer {
    let Some([batch, length, ..]) = cx.shape(0) else {
        return cx.one(Fact::tensor(cx.element(0), cx.fresh_shape(4)));
    };
    let frame = match (cx.input(3), cx.shape(2)) {
        (Some(_), _) => size_of(cx, 3),
        (None, Some([size])) => size.clone(),
        _ => cx.fresh(),
    };
    let step = size_of(cx, 1);
    if step.as_fixed().is_some_and(|step| step < 1) {
        return Err(cx.error(format!("a frame step of {step}")));
    }
    let frames = (length - &frame).floor_div(&step) + Dim::fixed(1);
    let bins = if cx.node().int("onesided").unwrap_or(1) != 0 { half(&frame) } else { frame };
    cx.one(Fact::tensor(cx.element(0), [batch.clone(), frames, bins, Dim::fixed(2)]))
}

fn decode_image(cx: &Inference<'_>) -> Answer {
    let channels = if cx.node().string("pixel_format") == Some("Grayscale") { 1 } else { 3 };
    cx.one(Fact::tensor(Some(ElementType::Uint8), [cx.fresh(), cx.fresh(), Dim::fixed(channels)]))
}

fn string_concat(cx: &Inference<'_>) -> Answer {
    let shape = match (cx.shape(0), cx.shape(1)) {
        (Some(a), Some(b)) => Some(cx.broadcast(a, b)?),
        _ => None,
    };
    cx.one(Fact::ranked(Some(ElementType::String), shape))
}

/// The parts, padded to the most that any string has, and how many each has.
fn string_split(cx: &Inference<'_>) -> Answer {
    let counts = cx.shape(0).map(Shape::from);
    let parts = counts.clone().map(|mut shape| {
        shape.push(cx.fresh());
        shape
    });
    Ok(Facts::from_iter([
        Fact::ranked(Some(ElementType::String), parts),
        Fact::ranked(Some(ElementType::Int64), counts),
    ]))
}

/// Stop words leave the last axis.
fn normalize_strings(cx: &Inference<'_>) -> Answer {
    let filters = cx.node().attributes().get("stopwords").is_some();
    let shape = cx.shape(0).map(|shape| {
        let mut shape = Shape::from(shape);
        if let Some(last) = shape.last_mut()
            && filters
        {
            *last = cx.fresh();
        }
        shape
    });
    cx.one(Fact::ranked(Some(ElementType::String), shape))
}

/// The last axis counts n-grams: one more than the largest of `ngram_indexes`.
fn count_ngrams(cx: &Inference<'_>) -> Answer {
    let largest = cx.node().ints("ngram_indexes").and_then(|indexes| indexes.iter().max());
    let size = largest.and_then(|&index| index.checked_add(1)).map_or_else(|| cx.fresh(), Dim::fixed);
    let shape = cx.shape(0).map(|shape| match shape.split_last() {
        Some((_, rest)) => rest.iter().cloned().chain([size]).collect(),
        None => Shape::from_iter([size]),
    });
    cx.one(Fact::ranked(Some(ElementType::Float), shape))
}

/// The loss has the shape of the labels, or none where it is reduced; log-probabilities that of the scores.
fn loss(cx: &Inference<'_>) -> Answer {
    let shape = match cx.node().string("reduction") {
        Some("none") => cx.shape(1).map(Shape::from),
        _ => Some(Shape::new()),
    };
    Ok(Facts::from_iter([
        Fact::ranked(cx.element(0), shape),
        Fact::ranked(cx.element(0), cx.shape(0).map(Shape::from)),
    ]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::testing::{int64, ints, shaped, ty};

    #[test]
    fn spectra() {
        let signal = || shaped(ElementType::Float, "B L 1");
        let frames =
            |length: &[i64]| vec![signal(), ints(&[4]), shaped(ElementType::Float, "16"), ints(length)];
        let expected = "float[B, floor(L/4) - 3, 9, 2]";
        assert_eq!(ty(17, "STFT", frames(&[16]), &[]).unwrap(), expected);
        let one_sided = [("onesided", 1.into())];
        assert_eq!(ty(17, "DFT", vec![signal()], &one_sided).unwrap(), "float[B, floor(L/2) + 1, 2]");
        assert_eq!(ty(20, "DFT", vec![signal(), int64("10")], &one_sided).unwrap(), "float[B, 6, 2]");
        let back = [("onesided", 1.into()), ("inverse", 1.into())];
        let half = || shaped(ElementType::Float, "B 6 2");
        assert_eq!(ty(20, "DFT", vec![half()], &back).unwrap(), "float[B, 10, 1]");
        assert_eq!(ty(20, "DFT", vec![half(), int64("11")], &back).unwrap(), "float[B, 11, 1]");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let shaped = |shape: &[i64]| ty(22, "RandomNormal", vec![], &[("shape", shape.into())]);
        assert_eq!(shaped(&[2, 3]).unwrap(), "float[2, 3]");
        assert!(shaped(&[2, -3]).is_err());
    }
}
