//! The limit that loses the least information.

use onnx_opt_ir::ElementType;

use super::{Distribution, Histogram, one_sided_steps};

/// Clips at the limit T of [`limit`] for the magnitudes: to −T and T, or no further than the numbers go.
///
/// As many levels are compared as there are integers for the magnitudes: 128 of 8 bits, or 256 where the numbers have
/// one sign and the integers need not be symmetric. Zeros are left out: they are exact under any limit, and the spike
/// that they are after a ReLU would outweigh all else.
pub(super) fn ends(distribution: &Distribution, element: ElementType, symmetric: bool) -> (f32, f32) {
    let Distribution { low, high, positive, negative, .. } = distribution;
    let mut magnitudes = positive.clone();
    magnitudes.merge(negative);
    let one_sided = *low >= 0.0 || *high <= 0.0;
    let levels = one_sided_steps(element, symmetric || !one_sided);
    match limit(&magnitudes, levels) {
        Some(limit) => {
            let limit = limit as f32;
            (low.max(-limit), high.min(limit))
        }
        None => (*low, *high),
    }
}

/// Added to empty bins, taken from the others, so that no logarithm is of zero.
const SMOOTHING: f64 = 1e-4;

/// The limit T = (i + ½)·width with the least divergence KL(P‖Q) for i from `levels` to the number of bins in use:
/// P is the first i bins, what lies beyond added to the last of them; Q is the first i bins as `levels` levels hold them,
/// what falls into one level spread evenly over those of its bins that are not empty. (Migacz, 8-bit inference with
/// TensorRT, 2017; as in MXNet, with 2048 bins.) `None` if the last i, which clips nothing, is the best.
pub(super) fn limit(magnitudes: &Histogram, levels: usize) -> Option<f64> {
    let counts: Vec<f64> = magnitudes.counts().iter().map(|&count| count as f64).collect();
    let total: f64 = counts.iter().sum();
    let mut least = (f64::INFINITY, counts.len());
    for used in levels..=counts.len() {
        let divergence = divergence(&counts[..used], total, levels);
        // Of equals the last: what need not be clipped is not.
        if divergence <= least.0 {
            least = (divergence, used);
        }
    }
    (least.1 < counts.len()).then(|| (least.1 as f64 + 0.5) * magnitudes.width())
}

/// KL(P‖Q) where `total` counts are clipped to these bins.
fn divergence(bins: &[f64], total: f64, levels: usize) -> f64 {
    let inside: f64 = bins.iter().sum();
    let last = bins.len() - 1;
    let clipped = |index: usize| if index == last { bins[index] + total - inside } else { bins[index] };
    let empty = |is_empty: &dyn Fn(usize) -> bool| (0..bins.len()).filter(|&index| is_empty(index)).count();
    let shift = |empty: usize| SMOOTHING * empty as f64 / (bins.len() - empty).max(1) as f64;
    let (p_shift, q_shift) =
        (shift(empty(&|index| clipped(index) == 0.0)), shift(empty(&|index| bins[index] == 0.0)));
    if inside == 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for level in 0..levels {
        let range = level * bins.len() / levels..(level + 1) * bins.len() / levels;
        let (mut mass, mut occupied) = (0.0, 0.0);
        for &count in &bins[range.clone()] {
            mass += count;
            occupied += f64::from(u8::from(count > 0.0));
        }
        let spread = mass / occupied - q_shift;
        for index in range {
            let p = clipped(index);
            // Where both are empty, both are the same small number, and add nothing.
            if p > 0.0 {
                let q = if bins[index] > 0.0 { spread } else { SMOOTHING };
                sum += (p - p_shift) * ((p - p_shift) / q).ln();
            }
        }
    }
    sum / total + (inside / total).ln()
}
