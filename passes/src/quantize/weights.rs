//! Constant operands as integers.

use onnx_opt_ir::{ElementType, Tensor};

use super::Grid;
use super::accuracy::bounded::Bounds;
use super::accuracy::round::{fitting, prepare};
use super::accuracy::{Rounding, WeightRounding};
use super::grid::limits;
use crate::threads::side_by_side;

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

/// What the integers of weights keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Type of the integers.
    pub element: ElementType,
    /// The axis with a scale for each place; one scale where absent.
    pub channels: Option<usize>,
    /// The largest sum of the magnitudes of two integers of one sign in a channel.
    pub pair_limit: Option<i64>,
}

/// The symmetric integers nearest to the weights of a node, or those of another way to round. `None` where the shape does not fit.
pub(super) fn quantize_weights(
    tensor: &Tensor,
    form: Form,
    bias: Option<BiasOf<'_>>,
    rounding: &WeightRounding,
    node: &str,
) -> Option<Weights> {
    let values = tensor.to_f32()?;
    let Form { element, channels, pair_limit } = form;
    let (count, inner) = match channels {
        Some(axis) => {
            (*tensor.shape().get(axis)?, tensor.shape().get(axis + 1..)?.iter().product::<usize>().max(1))
        }
        None => (1, values.len().max(1)),
    };
    let channel = |index: usize| (index / inner) % count.max(1);
    let (_, highest) = limits(element, true);
    let mut extremes = vec![Extremes::default(); count];
    for (index, &value) in values.iter().enumerate() {
        extremes.get_mut(channel(index))?.see(value);
    }
    let mut scales: Vec<f32> = extremes.iter().map(|extremes| extremes.scale(highest, pair_limit)).collect();
    // A channel of zeros has any scale; that of another keeps the bias fine enough.
    let others = scales.iter().copied().fold(0f32, f32::max);
    let others = if others < SMALLEST { 1.0 } else { others };
    scales.iter_mut().filter(|scale| **scale < SMALLEST).for_each(|scale| *scale = others);
    let mut least = vec![SMALLEST; count];
    if let Some(bias) = &bias {
        for (index, value) in bias.values.iter().enumerate() {
            let place = index % scales.len();
            let needed = f64::from(value.abs()) / (f64::from(bias.operand) * LARGEST);
            least[place] = least[place].max(needed as f32);
            let scale = &mut scales[place];
            if needed > f64::from(*scale) {
                *scale = needed as f32;
            }
        }
    }
    let mut integers: Vec<i64> = values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let steps = (value / scales[channel(index)]).round_ties_even() as i64;
            steps.clamp(-highest, highest)
        })
        .collect();
    if rounding.rounding != Rounding::Nearest {
        let given = [scales.clone(), least.clone()];
        (scales, integers) = rounding.once(node, tensor, given, || {
            let moments = rounding.moments.get(node).map(Vec::as_slice);
            let moments = fitting(moments, count, values.len() / count.max(1)).filter(|_| channels.is_some());
            let prepared = prepare(rounding.rounding, moments);
            let (mut scales, mut integers) = (scales, integers);
            let mut places = vec![Vec::new(); count];
            (0..values.len()).for_each(|index| places[channel(index)].push(index));
            let round = |index: usize| {
                let own: Vec<f32> = places[index].iter().map(|&place| values[place]).collect();
                let grid = Grid { element, scale: scales[index], zero: 0 };
                let bounds = Bounds { highest, pair: pair_limit, least: least[index] };
                prepared.round_within(index * prepared.groups() / count, &own, grid, bounds)
            };
            let rounded = side_by_side(count, &round);
            for (index, (scale, rounded)) in rounded.into_iter().enumerate() {
                scales[index] = scale;
                places[index].iter().zip(rounded).for_each(|(&place, integer)| integers[place] = integer);
            }
            (scales, integers)
        });
    }
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

/// The two largest and the two smallest weights of a channel, by magnitude.
#[derive(Clone, Copy, Debug, Default)]
struct Extremes {
    above: [f32; 2],
    below: [f32; 2],
}

impl Extremes {
    fn see(&mut self, value: f32) {
        let side = if value > 0.0 { &mut self.above } else { &mut self.below };
        let size = value.abs();
        if size > side[0] {
            *side = [size, side[0]];
        } else if size > side[1] {
            side[1] = size;
        }
    }

    /// The scale by which the largest comes to `highest`, or as near to that as no pair comes to more than `limit`.
    fn scale(&self, highest: i64, limit: Option<i64>) -> f32 {
        let largest = f64::from(self.above[0].max(self.below[0]));
        let scale = |level: i64| (largest / level as f64) as f32;
        let fits = |&level: &i64| {
            let steps = |value: f32| (value / scale(level)).round_ties_even() as i64;
            let pair = |side: [f32; 2]| steps(side[0]) + steps(side[1]);
            limit.is_none_or(|limit| largest == 0.0 || pair(self.above).max(pair(self.below)) <= limit)
        };
        scale((1..=highest).rev().find(fits).unwrap_or(1))
    }
}

/// A scale below this makes the scale of the bias vanish.
const SMALLEST: f32 = 1e-24;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::accuracy::LayerMoments;
    use super::*;

    fn form(channels: Option<usize>) -> Form {
        Form { element: ElementType::Int8, channels, pair_limit: None }
    }

    fn nearest(weights: &Tensor, form: Form, bias: Option<BiasOf<'_>>) -> Option<Weights> {
        quantize_weights(weights, form, bias, &WeightRounding::default(), "")
    }

    #[test]
    fn a_way_to_round_keeps_scales_that_the_bias_needs() {
        let weights = Tensor::from_f32(&[2, 4], &[1.0, 0.01, 0.012, 0.011, 1.27, 0.1, 0.2, 0.3]).unwrap();
        let bias = || Some(BiasOf { values: &[2.1e7, 0.5], operand: 1.0 });
        let plain = nearest(&weights, form(Some(0)), bias()).unwrap();
        let way = WeightRounding::new(Rounding::SeqMse, LayerMoments::new());
        let rounded = || quantize_weights(&weights, form(Some(0)), bias(), &way, "node").unwrap();
        let made = rounded();
        assert_eq!(made, rounded());
        assert_eq!(made.scales[0], plain.scales[0]);
        let (_, scales) = made.bias.unwrap();
        assert_eq!(scales, made.scales);
    }

    #[test]
    fn no_pair_of_one_sign_goes_past_the_limit() {
        let values: [&[f32]; 4] =
            [&[1.0, 1.0, -1.0], &[1.0, -1.0, 0.0], &[0.3, 0.2999, -0.1], &[1.0, 0.25, 0.1]];
        let largest = [64, 127, 64, 102];
        for (values, largest) in values.into_iter().zip(largest) {
            let weights = Tensor::from_f32(&[1, 3], values).unwrap();
            let form = Form { pair_limit: Some(128), ..form(Some(0)) };
            let made = nearest(&weights, form, None).unwrap().integers.to_i64().unwrap();
            assert_eq!(made.iter().map(|value| value.abs()).max(), Some(largest), "{made:?}");
            for (a, b) in [(0, 1), (0, 2), (1, 2)].map(|(a, b)| (made[a], made[b])) {
                assert!(a * b < 0 || a.abs() + b.abs() <= 128, "{made:?}");
            }
        }
    }

    #[test]
    fn channels_have_scales_of_their_own() {
        let weights = Tensor::from_f32(&[2, 3], &[1.27, 0.635, -1.27, 2.54, 0.0, 0.02]).unwrap();
        let rows = nearest(&weights, form(Some(0)), None).unwrap();
        assert_eq!(rows.scales, [0.01, 0.02]);
        assert_eq!(rows.integers.to_i64().unwrap(), [127, 64, -127, 127, 0, 1]);
        let columns = nearest(&weights, form(Some(1)), None).unwrap();
        assert_eq!(columns.scales.len(), 3);
        assert_eq!(columns.integers.to_i64().unwrap(), [64, 127, -127, 127, 0, 2]);
        let whole = nearest(&weights, form(None), None).unwrap();
        assert_eq!((whole.scales, whole.integers.shape()), (vec![0.02], &[2, 3][..]));
    }

    #[test]
    fn a_bias_that_would_overflow_widens_its_weights() {
        let weights = Tensor::from_f32(&[2, 1], &[1.27e-12, 1.27]).unwrap();
        let bias = BiasOf { values: &[5.0, 0.5], operand: 0.1 };
        let made = nearest(&weights, form(Some(0)), Some(bias)).unwrap();
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
        let made = nearest(&weights, form(Some(0)), Some(bias)).unwrap();
        let (integers, scales) = made.bias.unwrap();
        assert!((integers.to_f64().unwrap()[0] * f64::from(scales[0]) - 0.25).abs() < 1e-4);
    }
}
