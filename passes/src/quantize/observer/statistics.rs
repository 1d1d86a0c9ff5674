//! What is kept of a tensor over all samples.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::histogram::{BINS, Histogram};
use super::moving::Moving;

/// Magnitudes from here on may be marks instead of measurements, like the −3.4e38 or −1e9 of an attention mask.
const FAR: f32 = 32768.0;
/// They are, where none of them is within this factor of what is nearer to zero.
const GAP: f32 = 1024.0;

/// A tensor holds NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("NaN")]
pub struct NotANumber;

/// Statistics of one tensor over all samples, in bounded memory: at most four histograms.
///
/// Infinities are counted and left out of everything else. So are marks: numbers of 2¹⁵ and more, all of which are at
/// least 2¹⁰ times as large as every number below. Such is a mask that was added to scores; a range that held it would
/// have no step for the scores. Whoever quantizes clips a mark to the end of the range. Where a tensor has no nonzero
/// numbers but those, as the mask itself, or no such gap, as an image's power spectrum, they count like all others.
///
/// Zeros are counted apart from the histograms: after a ReLU they are half of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Samples in which the tensor was not empty.
    samples: u64,
    #[serde(flatten)]
    survey: Survey,
    /// Nonzero numbers below [`FAR`].
    near: Signed,
    /// Numbers from [`FAR`] on.
    #[serde(default, skip_serializing_if = "Signed::is_empty")]
    far: Signed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moving: Option<Moving>,
}

/// Magnitudes of numbers of either sign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Signed {
    positive: Histogram,
    negative: Histogram,
}

impl Signed {
    fn is_empty(&self) -> bool {
        self.positive.counts().is_empty() && self.negative.counts().is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
    }
}

/// The ends of a set of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Extent {
    low: f32,
    high: f32,
    /// Smallest magnitude.
    nearest: f32,
}

impl Extent {
    fn magnitude(self) -> f32 {
        self.high.max(-self.low)
    }

    fn union(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            nearest: self.nearest.min(other.nearest),
        }
    }

    fn is_sound(self) -> bool {
        [self.low, self.high, self.nearest].iter().all(|end| end.is_finite()) && self.low <= self.high
    }
}

fn union(a: Option<Extent>, b: Option<Extent>) -> Option<Extent> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.union(b)),
        (a, b) => a.or(b),
    }
}

/// What one look at numbers finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Survey {
    zeros: u64,
    infinities: u64,
    /// Numbers below [`FAR`], zeros too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    near_extent: Option<Extent>,
    /// Numbers from [`FAR`] on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    far_extent: Option<Extent>,
}

impl Survey {
    fn of(values: &[f32]) -> Result<Self, NotANumber> {
        const LANES: usize = 16;
        let (mut low, mut high, mut nearest) =
            ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [f32::INFINITY; LANES]);
        let (mut zeros, mut strange) = ([0u32; LANES], [0u32; LANES]);
        let chunks = values.chunks_exact(LANES);
        let mut survey = Self::one_by_one(chunks.remainder())?;
        for chunk in chunks {
            for lane in 0..LANES {
                let value = chunk[lane];
                let magnitude = value.abs();
                low[lane] = if value < low[lane] { value } else { low[lane] };
                high[lane] = if value > high[lane] { value } else { high[lane] };
                nearest[lane] = if magnitude < nearest[lane] { magnitude } else { nearest[lane] };
                zeros[lane] += u32::from(value == 0.0);
                strange[lane] |= u32::from(value.is_nan()) | u32::from(magnitude >= FAR);
            }
        }
        let whole = values.len() - values.len() % LANES;
        if strange.iter().any(|&strange| strange > 0) {
            return Ok(survey.with(Self::one_by_one(&values[..whole])?));
        }
        if whole > 0 {
            survey.zeros += zeros.iter().map(|&zeros| u64::from(zeros)).sum::<u64>();
            let found = Extent {
                low: low.into_iter().fold(f32::INFINITY, f32::min),
                high: high.into_iter().fold(f32::NEG_INFINITY, f32::max),
                nearest: nearest.into_iter().fold(f32::INFINITY, f32::min),
            };
            survey.near_extent = union(survey.near_extent, Some(found));
        }
        Ok(survey)
    }

    fn one_by_one(values: &[f32]) -> Result<Self, NotANumber> {
        let mut survey = Self::default();
        for &value in values {
            let magnitude = value.abs();
            let found = Some(Extent { low: value, high: value, nearest: magnitude });
            survey.zeros += u64::from(value == 0.0);
            match magnitude {
                _ if value.is_nan() => return Err(NotANumber),
                f32::INFINITY => survey.infinities += 1,
                FAR.. => survey.far_extent = union(survey.far_extent, found),
                _ => survey.near_extent = union(survey.near_extent, found),
            }
        }
        Ok(survey)
    }

    fn with(self, other: Self) -> Self {
        Self {
            zeros: self.zeros.saturating_add(other.zeros),
            infinities: self.infinities.saturating_add(other.infinities),
            near_extent: union(self.near_extent, other.near_extent),
            far_extent: union(self.far_extent, other.far_extent),
        }
    }

    /// Whether the far numbers are marks.
    fn has_marks(&self) -> bool {
        match (self.near_extent, self.far_extent) {
            (Some(near), Some(far)) => near.magnitude() > 0.0 && far.nearest >= GAP * near.magnitude(),
            _ => false,
        }
    }

    /// The ends of all numbers that count.
    fn ends(&self) -> Option<Extent> {
        if self.has_marks() { self.near_extent } else { union(self.near_extent, self.far_extent) }
    }
}

impl Statistics {
    /// Takes in the tensor's elements of one sample.
    ///
    /// # Errors
    /// If there is a NaN among them. Then nothing is taken in.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), NotANumber> {
        let survey = Survey::of(values)?;
        if values.is_empty() {
            return Ok(());
        }
        self.samples += 1;
        self.survey = self.survey.with(survey);
        if let Some(ends) = survey.ends() {
            let sample = Moving::of(ends.low, ends.high);
            match &mut self.moving {
                Some(moving) => moving.append(&sample),
                None => self.moving = Some(sample),
            }
        }
        if survey.far_extent.is_none() && survey.infinities == 0 {
            count(&mut self.near, values, survey.zeros, survey.near_extent);
            return Ok(());
        }
        let below = |value: &f32| value.abs() < FAR;
        let near: Vec<f32> = values.iter().copied().filter(below).collect();
        let far: Vec<f32> =
            values.iter().copied().filter(|value| !below(value) && value.is_finite()).collect();
        count(&mut self.near, &near, survey.zeros, survey.near_extent);
        count(&mut self.far, &far, 0, survey.far_extent);
        Ok(())
    }

    /// Appends the samples of another shard. Only the moving average depends on the order.
    pub fn merge(&mut self, later: &Self) {
        self.samples = self.samples.saturating_add(later.samples);
        self.survey = self.survey.with(later.survey);
        self.near.merge(&later.near);
        self.far.merge(&later.far);
        match (&mut self.moving, &later.moving) {
            (Some(moving), Some(later)) => moving.append(later),
            (moving, later) => *moving = moving.take().or_else(|| later.clone()),
        }
    }

    /// Whether numbers read from a file are such as could have been observed.
    pub fn is_sound(&self) -> bool {
        let histograms = [&self.near.positive, &self.near.negative, &self.far.positive, &self.far.negative];
        histograms.iter().all(|histogram| histogram.is_sound())
            && [self.survey.near_extent, self.survey.far_extent]
                .iter()
                .flatten()
                .all(|extent| extent.is_sound())
            && self.moving.as_ref().is_none_or(Moving::is_sound)
    }

    /// Samples in which the tensor was not empty.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// All elements observed.
    pub fn elements(&self) -> u64 {
        let counted = self.near.positive.total() + self.near.negative.total();
        counted + self.far.positive.total() + self.far.negative.total() + self.zeros() + self.infinities()
    }

    /// Elements that were zero.
    pub fn zeros(&self) -> u64 {
        self.survey.zeros
    }

    /// Elements that were infinite, which do not count.
    pub fn infinities(&self) -> u64 {
        self.survey.infinities
    }

    /// Elements that are taken for marks, which do not count.
    pub fn marks(&self) -> u64 {
        if self.survey.has_marks() { self.far.positive.total() + self.far.negative.total() } else { 0 }
    }

    /// Smallest and largest of the numbers that count; `None` if there are none.
    pub fn ends(&self) -> Option<(f32, f32)> {
        self.survey.ends().map(|ends| (ends.low, ends.high))
    }

    /// Moving averages of the smallest and largest number of a sample. A sample of marks alone moves them no further
    /// than the numbers go.
    pub(super) fn moving_ends(&self) -> Option<(f32, f32)> {
        let (low, high) = self.ends()?;
        let (average_low, average_high) = self.moving.as_ref()?.ends();
        let low = average_low.clamp(low, high);
        Some((low, average_high.clamp(low, high)))
    }

    /// The numbers that count.
    pub(super) fn distribution(&self) -> Option<Distribution> {
        let (low, high) = self.ends()?;
        let mut signed = self.near.clone();
        if !self.survey.has_marks() {
            signed.merge(&self.far);
        }
        let Signed { positive, negative } = signed;
        Some(Distribution { low, high, zeros: self.survey.zeros, positive, negative })
    }
}

/// Numbers as observers see them.
pub(super) struct Distribution {
    /// The smallest.
    pub low: f32,
    /// The largest.
    pub high: f32,
    /// Those that are zero.
    pub zeros: u64,
    /// Those above zero.
    pub positive: Histogram,
    /// Magnitudes of those below zero.
    pub negative: Histogram,
}

/// Numbers whose bins are found before any of them is counted.
const BLOCK: usize = 256;

/// Counts numbers, among them so many zeros, which are left out.
fn count(signed: &mut Signed, values: &[f32], zeros: u64, extent: Option<Extent>) {
    let Some(extent) = extent else { return };
    // Where there are none of a sign, no number is multiplied with its factor, but a zero with that of the positive.
    let reach = |histogram: &mut Histogram, end: f32| if end > 0.0 { histogram.reach(end) } else { 0.0 };
    let factors = [reach(&mut signed.positive, extent.high), reach(&mut signed.negative, -extent.low)];
    // Two sets of counts in turn, each of positive numbers and then of negative ones: equal numbers in a row, as zeros
    // are, need not wait for each other.
    let mut counts = vec![[0u32; 2 * BINS]; 2];
    let mut places = [0u16; BLOCK];
    // Counts of 32 bits hold what one part has.
    for part in values.chunks(1 << 30) {
        for block in part.chunks(BLOCK) {
            find_places(&mut places, block, factors);
            for (number, &place) in places[..block.len()].iter().enumerate() {
                counts[number & 1][usize::from(place) & (2 * BINS - 1)] += 1;
            }
        }
        for set in &mut counts {
            signed.positive.add(&set[..BINS]);
            signed.negative.add(&set[BINS..]);
            *set = [0; 2 * BINS];
        }
    }
    signed.positive.leave_out(zeros);
}

/// The bin of each number, and of a negative one [`BINS`] more. Without a branch, so that several are found at once, and
/// signs that nobody foresees cost nothing.
fn find_places(places: &mut [u16; BLOCK], block: &[f32], factors: [f32; 2]) {
    const LAST: i32 = BINS as i32 - 1;
    for (place, &value) in places.iter_mut().zip(block) {
        let (factor, sign) = if value < 0.0 { (factors[1], BINS as i32) } else { (factors[0], 0) };
        *place = (((value.abs() * factor) as i32).min(LAST) + sign) as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[&[f32]]) -> Statistics {
        let mut statistics = Statistics::default();
        for sample in samples {
            assert_eq!(statistics.observe(sample), Ok(()));
        }
        statistics
    }

    #[test]
    fn ends_and_counts_are_exact() {
        let values: Vec<f32> = (-50..=100).map(|index| index as f32 * 0.25).collect();
        let statistics = of(&[&values, &[0.0, -0.0], &[]]);
        assert_eq!((statistics.samples(), statistics.elements(), statistics.zeros()), (2, 153, 3));
        assert_eq!(statistics.ends(), Some((-12.5, 25.0)));
        let totals = (statistics.near.positive.total(), statistics.near.negative.total());
        assert_eq!(totals, (100, 50));
        assert_eq!(of(&[&[3.0, 5.0]]).ends(), Some((3.0, 5.0)));
        assert_eq!(of(&[&[]]).ends(), None);
    }

    #[test]
    fn no_number_is_an_error_and_leaves_no_trace() {
        let mut statistics = of(&[&[1.0]]);
        let before = statistics.clone();
        for length in [1, 16, 40] {
            let mut values = vec![0.5; length];
            values[length / 2] = f32::NAN;
            assert_eq!(statistics.observe(&values), Err(NotANumber));
        }
        assert_eq!(statistics, before);
    }

    #[test]
    fn marks_and_infinities_do_not_count() {
        let scores: Vec<f32> = (0..64).map(|index| index as f32 / 8.0 - 4.0).collect();
        for mark in [f32::MIN, -1e9, -65504.0, f32::NEG_INFINITY] {
            let marked = [&scores[..], &[mark; 8]].concat();
            let statistics = of(&[&marked]);
            assert_eq!(statistics.ends(), Some((-4.0, 3.875)), "{mark}");
            assert_eq!(statistics.marks() + statistics.infinities(), 8);
            assert_eq!(statistics.elements(), 72);
            assert_eq!(statistics.distribution().map(|d| d.negative.total()), Some(32));
            assert_eq!(statistics.moving_ends(), Some((-4.0, 3.875)));
        }
    }

    #[test]
    fn large_numbers_that_are_measured_count() {
        // A mask alone.
        assert_eq!(of(&[&[0.0, f32::MIN]]).ends(), Some((f32::MIN, 0.0)));
        // Powers without a gap, in any order.
        let powers: Vec<f32> = (0..60).map(|index| (index as f32 / 2.0).exp2()).collect();
        let statistics = of(&[&powers[40..], &powers[..40]]);
        assert_eq!((statistics.marks(), statistics.ends().map(|ends| ends.1)), (0, powers.last().copied()));
        assert_eq!(statistics.distribution().map(|d| d.positive.total()), Some(60));
    }

    #[test]
    fn a_file_may_hold_nonsense() {
        let mut statistics = of(&[&[1.0, 2.0]]);
        assert!(statistics.is_sound());
        statistics.survey.near_extent = Some(Extent { low: 1.0, high: f32::INFINITY, nearest: 1.0 });
        assert!(!statistics.is_sound());
    }
}
