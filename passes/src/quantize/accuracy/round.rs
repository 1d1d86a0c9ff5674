//! Ways to round the weights of a channel to the integers of its grids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::Array2;
use onnx_opt_ir::Tensor;

use super::super::Grid;
use super::moments::{LayerMoments, Moments};
use super::successive::Successive;
use super::{descent, half_quadratic, sequential};

/// How weights become integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Each to the nearest integer of a grid over all of them.
    #[default]
    Nearest,
    /// To the nearest integer of a grid that is fitted to the many, while few may be far off: see
    /// [`super::half_quadratic`].
    Hqq,
    /// To the nearest integer of the grid that changes the result of the operator least: see [`super::sequential`].
    SeqMse,
    /// One after the other, each so that it makes up for what those before changed in the result: see
    /// [`super::successive`].
    Gptq,
    /// Up or down, whichever changes the result less: see [`super::descent`].
    AdaRound,
}

impl Rounding {
    /// Names for the command line.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("nearest", Self::Nearest),
        ("hqq", Self::Hqq),
        ("seqmse", Self::SeqMse),
        ("gptq", Self::Gptq),
        ("adaround", Self::AdaRound),
    ];

    /// Its name for the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, rounding)| *rounding == self).map_or("", |(name, _)| name)
    }

    /// Whether it asks for moments of the operands. Without them all directions count the same.
    pub fn needs_moments(self) -> bool {
        matches!(self, Self::SeqMse | Self::Gptq | Self::AdaRound)
    }
}

/// How the weights of a model become integers, and what is known of the operands that they are multiplied with.
#[derive(Clone, Debug, Default)]
pub struct WeightRounding {
    /// The way.
    pub rounding: Rounding,
    /// Moments of the operands, as far as they are known.
    pub moments: Arc<LayerMoments>,
    /// What was rounded before: a model is quantized again and again where something is measured of it.
    done: Arc<Mutex<BTreeMap<String, Done>>>,
}

/// The weights of a node, and what became of them.
#[derive(Debug)]
struct Done {
    weights: Tensor,
    /// Scales to begin with, and the smallest.
    given: [Vec<f32>; 2],
    rounded: (Vec<f32>, Vec<i64>),
}

impl WeightRounding {
    /// By this way, with operands of these moments.
    pub fn new(rounding: Rounding, moments: LayerMoments) -> Self {
        Self { rounding, moments: Arc::new(moments), ..Self::default() }
    }

    /// Scales and integers of the weights of a node: those of before where the same was given, else what `round` makes.
    pub(in crate::quantize) fn once(
        &self,
        node: &str,
        weights: &Tensor,
        given: [Vec<f32>; 2],
        round: impl FnOnce() -> (Vec<f32>, Vec<i64>),
    ) -> (Vec<f32>, Vec<i64>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = done.get(node).filter(|known| known.given == given && known.weights == *weights)
        {
            return known.rounded.clone();
        }
        let rounded = round();
        let known = Done { weights: weights.clone(), given, rounded: rounded.clone() };
        done.insert(node.to_owned(), known);
        rounded
    }
}

/// A way to round, with what it needs to know of the operand, for each group of a convolution.
pub(crate) struct Prepared {
    rounding: Rounding,
    /// Damped second moments; none where nothing is known, which is the identity.
    second: Vec<Array2<f32>>,
    successive: Vec<Successive>,
}

/// Moments, one for each group, if they are those of a weight of so many channels that sum up so many products.
pub(crate) fn fitting(moments: Option<&[Moments]>, channels: usize, length: usize) -> Option<&[Moments]> {
    moments.filter(|moments| {
        !moments.is_empty()
            && channels.is_multiple_of(moments.len())
            && moments.iter().all(|moments| moments.size() == length)
    })
}

/// Gets ready to round the channels of a weight.
pub(crate) fn prepare(rounding: Rounding, moments: Option<&[Moments]>) -> Prepared {
    let moments = moments.filter(|_| rounding.needs_moments()).unwrap_or_default();
    let damped: Vec<Array2<f64>> = moments.iter().map(Moments::damped).collect();
    let second = damped.iter().map(|matrix| matrix.mapv(|value| value as f32)).collect();
    let successive = match rounding {
        Rounding::Gptq => damped.into_iter().filter_map(Successive::of).collect(),
        _ => Vec::new(),
    };
    Prepared { rounding, second, successive }
}

impl Prepared {
    /// Number of groups that differ in what is known.
    pub fn groups(&self) -> usize {
        self.second.len().max(1)
    }

    /// The integers of a channel of a group, whose grids, one for each block of `size` weights, may change.
    pub fn round(&self, group: usize, weights: &[f32], grids: &mut [Grid], size: usize) -> Vec<i64> {
        let second = self.second.get(group);
        match self.rounding {
            Rounding::Nearest => {}
            Rounding::Hqq => {
                for (block, grid) in weights.chunks(size).zip(&mut *grids) {
                    *grid = half_quadratic::fit(block, *grid);
                }
            }
            Rounding::SeqMse | Rounding::Gptq | Rounding::AdaRound => {
                sequential::fit(weights, grids, size, second);
            }
        }
        self.integers(group, weights, grids, size)
    }

    /// The damped second moments of the operand of a group.
    pub(super) fn second(&self, group: usize) -> Option<&Array2<f32>> {
        self.second.get(group)
    }

    /// The integers of a channel of a group on given grids.
    pub(super) fn integers(&self, group: usize, weights: &[f32], grids: &[Grid], size: usize) -> Vec<i64> {
        let second = self.second.get(group);
        if let Some(successive) = self.successive.get(group) {
            return successive.round(weights, grids, size);
        }
        let mut integers = nearest(weights, grids, size);
        if let (Rounding::AdaRound, Some(second)) = (self.rounding, second) {
            descent::improve(weights, &mut integers, grids, size, second);
        }
        integers
    }
}

/// The nearest integers.
pub(super) fn nearest(weights: &[f32], grids: &[Grid], size: usize) -> Vec<i64> {
    let integer = |(place, &weight): (usize, &f32)| grids[place / size].quantize(weight);
    weights.iter().enumerate().map(integer).collect()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::quantize::grid::range_of;
    use onnx_opt_ir::ElementType;

    /// Numbers between -1 and 1 that repeat.
    pub struct Numbers(u64);

    impl Numbers {
        pub fn new(seed: u64) -> Self {
            Self(seed)
        }

        pub fn uniform(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        }

        /// About normal, of variance 1.
        pub fn normal(&mut self) -> f32 {
            (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
        }
    }

    /// Weights of a channel, and moments of operands whose elements depend on each other and have a mean.
    pub fn problem(size: usize) -> (Vec<f32>, Moments) {
        let mut numbers = Numbers::new(size as u64);
        let weights = (0..size).map(|_| numbers.normal()).collect();
        let mixing: Vec<f32> = (0..size * 8).map(|_| numbers.normal()).collect();
        let mut moments = Moments::new(size);
        for _ in 0..4 * size {
            let hidden: Vec<f32> = (0..8).map(|_| numbers.normal()).collect();
            let row = mixing.chunks(8).map(|row| {
                let mixed: f32 = row.iter().zip(&hidden).map(|(a, b)| a * b).sum();
                (mixed + 0.5 * numbers.normal()).max(0.0)
            });
            let row: Vec<f32> = row.collect();
            moments.observe(&row);
        }
        (weights, moments)
    }

    /// Four-bit grids over blocks.
    pub fn grids(weights: &[f32], size: usize) -> Vec<Grid> {
        let grid = |block| Grid::of(range_of(block).expect("finite"), ElementType::Uint4, false);
        weights.chunks(size).map(grid).collect()
    }

    /// What rounding changes in the result: d·H·dᵀ.
    pub fn output_error(weights: &[f32], moments: &Moments, rounding: Rounding, size: usize) -> f64 {
        let mut grids = grids(weights, size);
        let integers =
            prepare(rounding, Some(std::slice::from_ref(moments))).round(0, weights, &mut grids, size);
        let off = |place: usize| f64::from(grids[place / size].dequantize(integers[place]) - weights[place]);
        let off = ndarray::Array1::from_shape_fn(weights.len(), off);
        off.dot(&moments.damped().dot(&off))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{output_error, problem};
    use super::*;

    #[test]
    fn moments_make_the_error_of_the_result_smaller() {
        for (size, block) in [(64, 32), (96, 32), (64, 64), (128, 16)] {
            let (weights, moments) = problem(size);
            let error = |rounding| output_error(&weights, &moments, rounding, block);
            let nearest = error(Rounding::Nearest);
            let [searched, successive, descended] =
                [Rounding::SeqMse, Rounding::Gptq, Rounding::AdaRound].map(error);
            assert!(searched < 0.9 * nearest, "{size} {block}: {searched} of {nearest}");
            assert!(successive < 0.4 * nearest, "{size} {block}: {successive} of {nearest}");
            assert!(descended < 0.4 * nearest, "{size} {block}: {descended} of {nearest}");
            assert!(descended <= searched, "{size} {block}");
        }
    }

    #[test]
    fn integers_stay_within_their_type() {
        let (weights, moments) = problem(64);
        for (_, rounding) in Rounding::NAMES {
            for moments in [None, Some(std::slice::from_ref(&moments))] {
                let mut grids = testing::grids(&weights, 32);
                let integers = prepare(rounding, moments).round(0, &weights, &mut grids, 32);
                assert!(integers.iter().all(|integer| (0..16).contains(integer)), "{rounding:?}");
                assert!(grids.iter().all(|grid| grid.scale > 0.0 && (0..16).contains(&grid.zero)));
            }
        }
    }
}
