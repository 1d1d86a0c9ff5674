//! A histogram of magnitudes whose range doubles as larger ones come.

use serde::{Deserialize, Serialize};

/// Bins of a histogram.
pub const BINS: usize = 1 << LOG_BINS;
const LOG_BINS: i32 = 11;

/// The range is never smaller than two to this, so that the inverse of a bin's width is a number.
const LOWEST_EXPONENT: i32 = -100;
/// No finite number reaches two to this.
const HIGHEST_EXPONENT: i32 = 128;

/// How many magnitudes fall into each of [`BINS`] equal bins over `[0, 2^exponent)`.
///
/// The exponent is the lowest that the largest magnitude allows. Edges of bins are multiples of powers of two, so that
/// the bin of a number is exact, and a bin of twice the width holds what two bins held: the result depends neither on
/// the order of what is counted nor on how it was divided among histograms that are merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    exponent: i32,
    /// Up to the last bin that holds something.
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: LOWEST_EXPONENT, counts: Vec::new() }
    }
}

/// The lowest exponent of a range that this magnitude lies in.
fn exponent_of(magnitude: f32) -> i32 {
    // A number of biased exponent e lies in [2^(e-127), 2^(e-126)).
    ((magnitude.to_bits() >> 23 & 0xff) as i32 - 126).clamp(LOWEST_EXPONENT, HIGHEST_EXPONENT)
}

impl Histogram {
    /// Makes room for magnitudes up to this one and gives the factor that turns a magnitude into the number of its bin.
    pub(super) fn reach(&mut self, largest: f32) -> f32 {
        self.grow(exponent_of(largest));
        f32::from_bits(((LOG_BINS - self.exponent + 127) as u32) << 23)
    }

    /// Adds so many to each bin, from the first.
    pub(super) fn add(&mut self, counts: &[u32]) {
        let used = counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        if self.counts.len() < used {
            self.counts.resize(used, 0);
        }
        for (total, &count) in self.counts.iter_mut().zip(counts) {
            *total += u64::from(count);
        }
    }

    /// Takes so many out of the first bin.
    pub(super) fn leave_out(&mut self, count: u64) {
        if let Some(first) = self.counts.first_mut() {
            *first = first.saturating_sub(count);
        }
        let used = self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        self.counts.truncate(used);
    }

    /// Doubles the range up to this exponent, if it is lower.
    fn grow(&mut self, exponent: i32) {
        let shift = exponent - self.exponent;
        if shift <= 0 {
            return;
        }
        self.exponent = exponent;
        let shift = shift.min(LOG_BINS);
        for index in 0..self.counts.len() {
            let count = std::mem::take(&mut self.counts[index]);
            self.counts[index >> shift] += count;
        }
        let used = self.counts.len().div_ceil(1 << shift);
        self.counts.truncate(used);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.grow(other.exponent);
        let shift = (self.exponent - other.exponent).min(LOG_BINS);
        for (index, &count) in other.counts.iter().enumerate() {
            let place = index >> shift;
            if self.counts.len() <= place {
                self.counts.resize(place + 1, 0);
            }
            self.counts[place] = self.counts[place].saturating_add(count);
        }
    }

    /// Whether it may have been read from a file: bins and range within limits.
    pub(super) fn is_sound(&self) -> bool {
        (LOWEST_EXPONENT..=HIGHEST_EXPONENT).contains(&self.exponent)
            && self.counts.len() <= BINS
            && self.counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count)).is_some()
    }

    /// Counts by bin, up to the last that is not zero.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All that was counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent - LOG_BINS).exp2()
    }

    /// The bins that are not empty: the middle of each and its count.
    pub fn occupied(&self) -> impl DoubleEndedIterator<Item = (f64, u64)> {
        let width = self.width();
        let bins = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        bins.map(move |(index, &count)| ((index as f64 + 0.5) * width, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(magnitudes: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        for &magnitude in magnitudes {
            let bin = (magnitude * histogram.reach(magnitude)) as usize;
            let mut counts = vec![0; bin + 1];
            counts[bin] = 1;
            histogram.add(&counts);
        }
        histogram
    }

    #[test]
    fn the_range_is_the_lowest_power_of_two() {
        for (magnitude, exponent) in
            [(0.75, 0), (1.0, 1), (1.999, 1), (2.0, 2), (f32::MAX, 128), (1e-40, -100)]
        {
            let histogram = count(&[magnitude]);
            assert_eq!(histogram.exponent, exponent, "{magnitude}");
            assert!(histogram.counts().len() <= BINS && histogram.total() == 1);
        }
        assert_eq!(count(&[1.0]).counts().len(), BINS / 2 + 1);
    }

    #[test]
    fn doubling_merges_pairs_of_bins() {
        let small = [0.1, 0.2, 0.20001, 0.9999];
        let mut grown = count(&small);
        grown.grow(3);
        let together = count(&[&small[..], &[7.5]].concat());
        let mut bins = together.counts().to_vec();
        bins.truncate(grown.counts().len());
        assert_eq!((grown.exponent, grown.counts()), (together.exponent, &bins[..]));
        assert_eq!(together.width(), 8.0 / 2048.0);
    }

    #[test]
    fn order_and_division_do_not_matter() {
        let values: Vec<f32> = (1..500).map(|index| (index as f32 * 0.37).exp2() % 1e6 + 1e-3).collect();
        let forwards = count(&values);
        let backwards = count(&values.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(forwards, backwards);
        let (mut first, second) = (count(&values[..200]), count(&values[200..]));
        first.merge(&second);
        assert_eq!(first, forwards);
    }

    #[test]
    fn the_middle_of_a_bin_is_near() {
        let histogram = count(&[3.3]);
        let (middle, _) = histogram.occupied().next().unwrap_or_default();
        assert!((middle - 3.3).abs() <= histogram.width() / 2.0);
    }
}
