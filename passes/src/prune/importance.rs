//! Importance: what a unit of a group is worth, from the slices that would go with it.

use onnx_opt_ir::{Graph, Tensor};

use super::group::{Group, Groups, Member, is_weight};
use crate::measure::MeasureError;

/// One number for each unit of each group, in their order: the lower, the sooner it goes.
pub type Scores = Vec<Vec<f64>>;

/// Worth of a unit that goes when those worth so much have gone: what is lost then, but more than they, so that the order
/// is kept where less is lost with it.
pub(super) fn worth_after(gone: f64, loss: f64) -> f64 {
    loss.max(gone * (1.0 + 1e-12))
}

/// A way to tell what units are worth.
pub trait Importance {
    /// Name for reports and the command line.
    fn name(&self) -> &'static str;

    /// The worth of every unit.
    ///
    /// # Errors
    /// If it is measured, and cannot be.
    fn scores(&self, graph: &Graph, groups: &Groups) -> Result<Scores, MeasureError>;

    /// What tells the worth of units in bodies, which do not run by themselves.
    fn of_bodies(&self) -> &dyn Importance;
}

/// The ways that need no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Σ over weights of Σ|w| of the slice.
    L1,
    /// Σ over weights of √Σw² of the slice.
    L2,
    /// A number drawn at random, by this seed: for comparison.
    Random(u64),
}

impl Importance for Norm {
    fn name(&self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::Random(_) => "random",
        }
    }

    fn of_bodies(&self) -> &dyn Importance {
        self
    }

    fn scores(&self, graph: &Graph, groups: &Groups) -> Result<Scores, MeasureError> {
        Ok(match *self {
            Self::L1 => of_elements(graph, groups, &|_, tensor| Some(map(tensor, f64::abs)), &|sum| sum),
            Self::L2 => of_elements(graph, groups, &|_, tensor| Some(map(tensor, |w| w * w)), &f64::sqrt),
            Self::Random(seed) => {
                let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
                let mut draw = || {
                    // xorshift64*
                    state ^= state >> 12;
                    state ^= state << 25;
                    state ^= state >> 27;
                    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
                };
                groups.groups.iter().map(|group| (0..group.len()).map(|_| draw()).collect()).collect()
            }
        })
    }
}

fn map(tensor: &Tensor, f: impl Fn(f64) -> f64) -> Vec<f64> {
    tensor.to_f64().unwrap_or_default().into_iter().map(f).collect()
}

/// Scores from a number for each element of each weight: summed up over the slice of a unit, `fold`ed, and summed up
/// over the weights. `elements` gives those of a weight, or nothing where it does not count. Vectors count only where a
/// group has no larger weights: a bias is as large as it is for other reasons.
pub fn of_elements(
    graph: &Graph,
    groups: &Groups,
    elements: &dyn Fn(&Member, &Tensor) -> Option<Vec<f64>>,
    fold: &dyn Fn(f64) -> f64,
) -> Scores {
    groups.groups.iter().map(|group| of_group(graph, group, elements, fold)).collect()
}

fn of_group(
    graph: &Graph,
    group: &Group,
    elements: &dyn Fn(&Member, &Tensor) -> Option<Vec<f64>>,
    fold: &dyn Fn(f64) -> f64,
) -> Vec<f64> {
    let tensors: Vec<(&Member, &Tensor)> =
        group.weights.iter().filter_map(|member| Some((member, &**graph.constant(member.value)?))).collect();
    let large = tensors.iter().any(|(_, tensor)| is_weight(tensor));
    let mut scores = vec![0.0; group.len()];
    for (member, tensor) in tensors.into_iter().filter(|(_, tensor)| !large || is_weight(tensor)) {
        let Some(numbers) = elements(member, tensor).filter(|numbers| numbers.len() == tensor.len()) else {
            continue;
        };
        let sums = along(&numbers, tensor.shape(), member.axis);
        for (unit, score) in scores.iter_mut().enumerate() {
            let indices = member.of_unit(unit).iter();
            *score += fold(indices.filter_map(|&index| sums.get(index as usize)).sum());
        }
    }
    scores
}

/// The sums of all elements with the same index along an axis.
fn along(numbers: &[f64], shape: &[usize], axis: usize) -> Vec<f64> {
    let size = shape.get(axis).copied().unwrap_or(1);
    let inner: usize = shape.iter().skip(axis + 1).product();
    let mut sums = vec![0.0; size];
    for (position, row) in numbers.chunks(inner.max(1)).enumerate() {
        sums[position % size.max(1)] += row.iter().sum::<f64>();
    }
    sums
}

/// How scores of one group are made comparable to those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Normalization {
    /// They are.
    None,
    /// By their mean.
    #[default]
    Mean,
    /// By the largest.
    Max,
    /// By their sum.
    Sum,
    /// By their distance from the mean, in standard deviations.
    Gaussian,
}

impl Normalization {
    /// The scores of one group, made comparable.
    pub fn apply(self, scores: &[f64]) -> Vec<f64> {
        let count = scores.len().max(1) as f64;
        let sum: f64 = scores.iter().sum();
        let mean = sum / count;
        let by = |divisor: f64| {
            scores.iter().map(|score| if divisor > 0.0 { score / divisor } else { 0.0 }).collect()
        };
        match self {
            Self::None => scores.to_vec(),
            Self::Mean => by(mean),
            Self::Max => by(scores.iter().copied().fold(0.0, f64::max)),
            Self::Sum => by(sum),
            Self::Gaussian => {
                let variance =
                    scores.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>() / count;
                let deviation = variance.sqrt();
                let score = |score: &f64| if deviation > 0.0 { (score - mean) / deviation } else { 0.0 };
                scores.iter().map(score).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_the_other_axes() {
        let numbers: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(along(&numbers, &[2, 3, 2], 0), [15.0, 51.0]);
        assert_eq!(along(&numbers, &[2, 3, 2], 1), [14.0, 22.0, 30.0]);
        assert_eq!(along(&numbers, &[2, 3, 2], 2), [30.0, 36.0]);
    }

    #[test]
    fn normalizations() {
        let scores = [1.0, 2.0, 3.0];
        assert_eq!(Normalization::Mean.apply(&scores), [0.5, 1.0, 1.5]);
        assert_eq!(Normalization::Max.apply(&scores), [1.0 / 3.0, 2.0 / 3.0, 1.0]);
        assert_eq!(Normalization::Gaussian.apply(&[2.0, 2.0]), [0.0, 0.0]);
    }
}
