//! A moving average of the ends of ranges.

use serde::{Deserialize, Serialize};

/// How much each sample counts.
const RATE: f64 = 0.01;

/// Moving averages of the smallest and largest value of each sample, m ← m + c·(x − m) with c = 0.01, from m = x for the
/// first (the moving average of onnxruntime and of PyTorch's observers).
///
/// After samples x₁ … xₙ that is (1−c)ⁿ·x₁ + Σ c·(1−c)ⁿ⁻ⁱ·xᵢ. The sum is kept apart from the first sample: then the
/// averages of two runs of samples give that of both, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Moving {
    samples: u64,
    /// The first sample.
    first: [f64; 2],
    /// The sum.
    sum: [f64; 2],
}

impl Moving {
    /// Of one sample.
    pub fn of(low: f32, high: f32) -> Self {
        let first = [low.into(), high.into()];
        Self { samples: 1, first, sum: first.map(|end| RATE * end) }
    }

    /// Appends the samples of another.
    pub fn append(&mut self, later: &Self) {
        let decay = decay(later.samples);
        self.samples = self.samples.saturating_add(later.samples);
        for (sum, later) in self.sum.iter_mut().zip(later.sum) {
            *sum = decay * *sum + later;
        }
    }

    /// The averages.
    pub fn ends(&self) -> (f32, f32) {
        let decay = decay(self.samples);
        let [low, high] = [0, 1].map(|end| (decay * self.first[end] + self.sum[end]) as f32);
        (low, high)
    }

    pub fn is_sound(&self) -> bool {
        self.samples > 0 && self.first.iter().chain(&self.sum).all(|end| end.is_finite())
    }
}

fn decay(samples: u64) -> f64 {
    (samples as f64 * (1.0 - RATE).ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_recurrence() {
        let samples: Vec<(f32, f32)> =
            (0..300).map(|index| (-1.0 - (index % 7) as f32, (index as f32).sqrt())).collect();
        let (mut low, mut high) = samples[0];
        let mut moving = Moving::of(low, high);
        for &(l, h) in &samples[1..] {
            (low, high) = (low + 0.01 * (l - low), high + 0.01 * (h - high));
            moving.append(&Moving::of(l, h));
        }
        let ends = moving.ends();
        assert!((ends.0 - low).abs() < 1e-4 && (ends.1 - high).abs() < 1e-3, "{ends:?} {low} {high}");
        let of = |samples: &[(f32, f32)]| {
            let mut all = samples.iter().map(|&(low, high)| Moving::of(low, high));
            let first = all.next();
            first.map(|first| {
                all.fold(first, |mut moving, next| {
                    moving.append(&next);
                    moving
                })
            })
        };
        let (Some(mut first), Some(second)) = (of(&samples[..100]), of(&samples[100..])) else { panic!() };
        first.append(&second);
        assert!((first.ends().1 - ends.1).abs() < 1e-5);
    }

    #[test]
    fn of_one_sample_it_is_the_sample() {
        assert_eq!(Moving::of(-3.0, 7.0).ends(), (-3.0, 7.0));
    }
}
