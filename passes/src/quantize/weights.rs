//! Constant operands as integers.

use onnx_opt_ir::{ElementType, Tensor};

use super::grid::limits;

/// Weights as integers, and the bias that goes with them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weights {
    /// The integers, in the shape of the weights.
    pub integers: Tensor,
    /// One for each channel, or one.
    pub scales: Vec<f32>,
    /// The bias by the scale of the operand times that of the weights.
    pub bias: Option<(Tensor, Vec<f32>)>,
}

/// A bias, and what it takes to make integers of it.
pub(super) struct BiasOf<'a> {
    pub values: &'a [f32],
    /// Scale of the operand that the weights multiply.
    pub operand: f32,
}

/// Largest 32-bit integer of a bias, with room for rounding.
const LARGEST: f64 = i32::MAX as f64 / 1.0001;

/// The symmetric integers nearest to some weights, with a scale for each place on axis `channels`, or one scale.
/// `None` where the shape does not fit.
pub(super) fn quantize_weights(
    tensor: &Tensor,
    element: ElementType,
    channels: Option<usize>,
    bias: Option<BiasOf<'_>>,
) -> Option<Weights> {
    let values = tensor.to_f32()?;
    let (count, inner) = match channels {
        Some(axis) => {
            (*tensor.shape().get(axis)?, tensor.shape().get(axis + 1..)?.iter().product::<usize>().max(1))
        }
        None => (1, values.len().max(1)),
    };
    let channel = |index: usize| (index / inner) % count.max(1);
    let (_, highest) = limits(element, true);
    let mut largest = vec![0f32; count];
    for (index, value) in values.iter().enumerate() {
        let place = largest.get_mut(channel(index))?;
        *place = place.max(value.abs());
    }
    let mut scales: Vec<f32> =
        largest.iter().map(|&largest| (f64::from(largest) / highest as f64) as f32).collect();
    // A channel of zeros has any scale; that of another keeps the bias fine enough.
    let others = scales.iter().copied().fold(0f32, f32::max);
    let others = if others < SMALLEST { 1.0 } else { others };
    scales.iter_mut().filter(|scale| **scale < SMALLEST).for_each(|scale| *scale = others);
    if let Some(bias) = &bias {
        for (index, value) in bias.values.iter().enumerate() {
            let place = index % scales.len();
            let needed = f64::from(value.abs()) / (f64::from(bias.operand) * LARGEST);
            let scale = &mut scales[place];
            if needed > f64::from(*scale) {
                *scale = needed as f32;
            }
        }
    }
    let integers: Vec<i64> = values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let steps = (value / scales[channel(index)]).round_ties_even() as i64;
            steps.clamp(-highest, highest)
        })
        .collect();
    let bias = match bias {
        Some(bias) => {
            let scale = |index: usize| bias.operand * scales[index % scales.len()];
            let integers = bias.values.iter().enumerate().map(|(index, value)| {
                let steps = (f64::from(*value) / f64::from(scale(index))).round_ties_even();
                (steps as i64).clamp(i32::MIN.into(), i32::MAX.into())
            });
            let integers: Vec<i64> = integers.collect();
            let own = if scales.len() == 1 { 1 } else { integers.len() };
            let integers = Tensor::from_integers(ElementType::Int32, &[integers.len()], &integers)?;
            Some((integers, (0..own).map(scale).collect()))
        }
        None => None,
    };
    let integers = Tensor::from_integers(element, tensor.shape(), &integers)?;
    Some(Weights { integers, scales, bias })
}

/// A scale below this makes the scale of the bias vanish.
const SMALLEST: f32 = 1e-24;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_scales_of_their_own() {
        let weights = Tensor::from_f32(&[2, 3], &[1.27, 0.635, -1.27, 2.54, 0.0, 0.02]).unwrap();
        let rows = quantize_weights(&weights, ElementType::Int8, Some(0), None).unwrap();
        assert_eq!(rows.scales, [0.01, 0.02]);
        assert_eq!(rows.integers.to_i64().unwrap(), [127, 64, -127, 127, 0, 1]);
        let columns = quantize_weights(&weights, ElementType::Int8, Some(1), None).unwrap();
        assert_eq!(columns.scales.len(), 3);
        assert_eq!(columns.integers.to_i64().unwrap(), [64, 127, -127, 127, 0, 2]);
        let whole = quantize_weights(&weights, ElementType::Int8, None, None).unwrap();
        assert_eq!((whole.scales, whole.integers.shape()), (vec![0.02], &[2, 3][..]));
    }

    #[test]
    fn a_bias_that_would_overflow_widens_its_weights() {
        let weights = Tensor::from_f32(&[2, 1], &[1.27e-12, 1.27]).unwrap();
        let bias = BiasOf { values: &[5.0, 0.5], operand: 0.1 };
        let made = quantize_weights(&weights, ElementType::Int8, Some(0), Some(bias)).unwrap();
        let (integers, scales) = made.bias.unwrap();
        let back: Vec<f64> =
            integers.to_f64().unwrap().iter().zip(&scales).map(|(b, &s)| b * f64::from(s)).collect();
        assert!((back[0] - 5.0).abs() < 1e-5 && (back[1] - 0.5).abs() < 1e-3, "{back:?}");
        assert_eq!(made.integers.to_i64().unwrap(), [0, 127]);
        assert_eq!(scales[1], 0.1f32 * made.scales[1]);
    }

    #[test]
    fn a_channel_of_zeros_keeps_its_bias() {
        let weights = Tensor::from_f32(&[2, 1], &[0.0, 1.27]).unwrap();
        let bias = BiasOf { values: &[0.25, 0.0], operand: 0.01 };
        let made = quantize_weights(&weights, ElementType::Int8, Some(0), Some(bias)).unwrap();
        let (integers, scales) = made.bias.unwrap();
        assert!((integers.to_f64().unwrap()[0] * f64::from(scales[0]) - 0.25).abs() < 1e-4);
    }
}
