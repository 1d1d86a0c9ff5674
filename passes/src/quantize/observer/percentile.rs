//! Percentiles of a distribution.

use super::Distribution;

/// The least number that no more than 100 − `percent` percent of all lie above, to a bin, and the greatest that no more
/// lie below (the percentile calibration of onnxruntime for asymmetric integers).
pub(super) fn ends(distribution: &Distribution, percent: f64) -> (f32, f32) {
    let Distribution { low, high, zeros, positive, negative } = distribution;
    let total = positive.total() + negative.total() + zeros;
    let outside = (total as f64 * (1.0 - percent / 100.0).max(0.0)) as u64;
    // The edge of a bin may lie beyond the last number, or on the other side of zero.
    let upper = match beyond(positive.counts(), outside) {
        Ok(bins) => (bins as f64 * positive.width()) as f32,
        Err(left) if left.saturating_sub(*zeros) == 0 && (*zeros > 0 || negative.total() == 0) => 0.0,
        Err(left) => -inner(negative.counts(), left.saturating_sub(*zeros), negative.width()),
    };
    let lower = match beyond(negative.counts(), outside) {
        Ok(bins) => -(bins as f64 * negative.width()) as f32,
        Err(left) if left.saturating_sub(*zeros) == 0 && (*zeros > 0 || positive.total() == 0) => 0.0,
        Err(left) => inner(positive.counts(), left.saturating_sub(*zeros), positive.width()),
    };
    let (lower, upper) = (lower.clamp(*low, *high), upper.clamp(*low, *high));
    (lower.min(upper), upper)
}

/// So many bins, from the first, hold all but `outside` counts; `Err` gives what is left of `outside` if it is no less
/// than all counts.
fn beyond(counts: &[u64], mut outside: u64) -> Result<usize, u64> {
    for (index, &count) in counts.iter().enumerate().rev() {
        if count > outside {
            return Ok(index + 1);
        }
        outside -= count;
    }
    Err(outside)
}

/// The inner edge of the bin behind the first `skipped` counts.
fn inner(counts: &[u64], mut skipped: u64, width: f64) -> f32 {
    for (index, &count) in counts.iter().enumerate() {
        if count > skipped {
            return (index as f64 * width) as f32;
        }
        skipped -= count;
    }
    (counts.len() as f64 * width) as f32
}
