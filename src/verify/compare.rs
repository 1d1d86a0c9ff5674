//! How far the outputs of two models are apart.

use onnx_opt_ir::{ElementType, Tensor};
use serde::{Deserialize, Serialize};

/// Difference of one output, over all runs so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputReport {
    /// Name of the output.
    pub name: String,
    /// Largest difference of two elements.
    pub max_abs: f64,
    /// Largest difference over the range of the original's values (its largest minus its smallest one).
    pub max_relative_to_range: f64,
    /// Smallest cosine of the angle between the two outputs; 1 where both vanish.
    pub cosine: f64,
    /// Smallest ratio of signal to difference in decibels; `None` where there is no difference.
    pub sqnr_db: Option<f64>,
    /// Whether every element has the same bits.
    pub equal_bits: bool,
    /// What no number says: another shape or type, NaN in other places, other strings.
    pub mismatch: Option<String>,
    /// Largest relative difference that counts as rounding for its element type; 0 for integers, booleans, strings.
    pub tolerance: f64,
}

impl OutputReport {
    /// Whether the difference is within the tolerance.
    pub fn within(&self) -> bool {
        self.mismatch.is_none()
            && (self.equal_bits || self.max_abs == 0.0 || self.max_relative_to_range <= self.tolerance)
    }

    /// Takes the worse of this run and another one of the same output.
    pub fn merge(&mut self, other: OutputReport) {
        self.max_abs = self.max_abs.max(other.max_abs);
        self.max_relative_to_range = self.max_relative_to_range.max(other.max_relative_to_range);
        self.cosine = self.cosine.min(other.cosine);
        self.sqnr_db = match (self.sqnr_db, other.sqnr_db) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.equal_bits &= other.equal_bits;
        self.mismatch = self.mismatch.take().or(other.mismatch);
    }
}

/// Relative difference that counts as rounding, by element type: 1e-3 of the range, 1e-2 for 16 bits and fewer.
pub fn default_tolerance(element: ElementType) -> f64 {
    match element {
        ElementType::Float | ElementType::Double | ElementType::Complex64 | ElementType::Complex128 => 1e-3,
        element if element.is_float() => 1e-2,
        _ => 0.0,
    }
}

/// The tolerance of an output. A given one replaces the default one for floats, and for integers of up to 16 bits:
/// quantized outputs may differ by steps, where indices and counts may not.
fn tolerance_of(element: ElementType, given: Option<f64>) -> f64 {
    let quantized = element.is_integer() && element.bits() <= 16;
    match given {
        Some(given) if element.is_float() || quantized || given >= f64::MAX => given,
        _ => default_tolerance(element),
    }
}

/// Compares one output of the original with that of the optimized model. `tolerance` is relative to the range; an
/// infinite one accepts every difference of numbers.
pub fn compare(name: &str, original: &Tensor, optimized: &Tensor, tolerance: Option<f64>) -> OutputReport {
    let mut report = OutputReport {
        name: name.to_owned(),
        cosine: 1.0,
        tolerance: tolerance_of(original.element(), tolerance),
        equal_bits: original == optimized,
        ..OutputReport::default()
    };
    if original.element() != optimized.element() || original.shape() != optimized.shape() {
        report.mismatch = Some(format!(
            "{}{:?} became {}{:?}",
            original.element(),
            original.shape(),
            optimized.element(),
            optimized.shape()
        ));
        return report;
    }
    if report.equal_bits {
        return report;
    }
    match (original.to_f64(), optimized.to_f64()) {
        (Some(a), Some(b)) => numbers(&mut report, &a, &b, last_place(original.element())),
        _ => report.mismatch = Some("other bytes".to_owned()),
    }
    report
}

/// A difference of so many units in the last place of the largest value is rounding.
const LAST_PLACES: f64 = 8.0;

/// The distance of 1 to the next number.
fn last_place(element: ElementType) -> f64 {
    match element {
        ElementType::Double | ElementType::Complex128 => f64::EPSILON,
        ElementType::Float | ElementType::Complex64 => f64::from(f32::EPSILON),
        ElementType::Float16 => 1.0 / 1024.0,
        ElementType::Bfloat16 => 1.0 / 128.0,
        _ => 0.0,
    }
}

fn numbers(report: &mut OutputReport, a: &[f64], b: &[f64], last_place: f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut aa, mut bb, mut ab, mut noise) = (0.0, 0.0, 0.0, 0.0);
    for (index, (&a, &b)) in a.iter().zip(b).enumerate() {
        if !a.is_finite() || !b.is_finite() {
            let same = a == b || (a.is_nan() && b.is_nan());
            if !same && report.mismatch.is_none() {
                report.mismatch = Some(format!("element {index}: {a} became {b}"));
            }
            continue;
        }
        low = low.min(a);
        high = high.max(a);
        aa += a * a;
        bb += b * b;
        ab += a * b;
        noise += (a - b) * (a - b);
        report.max_abs = report.max_abs.max((a - b).abs());
    }
    if report.max_abs == 0.0 {
        return;
    }
    // A constant output has no range, and of a nearly constant one the range is rounding as the difference is: then
    // the size is the measure.
    let (range, size) = (high - low, low.abs().max(high.abs()));
    let is_rounding = report.max_abs <= LAST_PLACES * last_place * size;
    let measure = if is_rounding {
        range.max(size)
    } else if range > 0.0 {
        range
    } else {
        size
    };
    report.max_relative_to_range = (report.max_abs / measure.max(f64::from(f32::EPSILON))).min(f64::MAX);
    report.max_abs = report.max_abs.min(f64::MAX);
    // Sums of squares of huge doubles overflow; then these two say nothing.
    let finite = |value: f64, otherwise: f64| if value.is_finite() { value } else { otherwise };
    report.cosine = finite(ab / (aa.sqrt() * bb.sqrt()), 0.0).clamp(-1.0, 1.0);
    report.sqnr_db = Some(finite(10.0 * (aa / noise).log10(), -300.0));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len()], values).unwrap()
    }

    #[test]
    fn difference_over_range() {
        let report = compare("y", &floats(&[0.0, 10.0]), &floats(&[0.0, 10.005]), None);
        assert!((report.max_relative_to_range - 5e-4).abs() < 1e-6);
        assert!((report.sqnr_db.unwrap() - 66.02).abs() < 0.05);
        assert!(report.within() && !report.equal_bits);
        assert!(!compare("y", &floats(&[0.0, 10.0]), &floats(&[0.0, 10.02]), None).within());
    }

    #[test]
    fn the_range_of_a_nearly_constant_output_is_no_measure() {
        let third = 1.0f32 / 3.0;
        let at = |places: f32| third * (1.0 + places * f32::EPSILON);
        assert!(compare("y", &floats(&[third, at(1.0)]), &floats(&[at(1.0), third]), None).within());
        assert!(!compare("y", &floats(&[third, at(1.0)]), &floats(&[at(20.0), third]), None).within());
        assert!(!compare("y", &floats(&[third, at(1.0)]), &floats(&[at(1.0), third]), Some(1e-9)).within());
    }

    #[test]
    fn a_constant_output_is_measured_by_its_size() {
        assert!(compare("y", &floats(&[5.0, 5.0]), &floats(&[5.0, 5.001]), None).within());
        assert!(!compare("y", &floats(&[0.0]), &floats(&[1e-3]), None).within());
    }

    #[test]
    fn special_values_must_agree() {
        let a = floats(&[f32::NAN, f32::INFINITY, 1.0, 2.0]);
        assert!(compare("y", &a, &floats(&[f32::NAN, f32::INFINITY, 1.0, 2.0001]), None).within());
        assert!(!compare("y", &a, &floats(&[0.0, f32::INFINITY, 1.0, 2.0]), None).within());
        assert!(!compare("y", &a, &floats(&[f32::NAN, f32::NEG_INFINITY, 1.0, 2.0]), None).within());
    }

    #[test]
    fn integers_and_shapes_are_exact() {
        let (a, b) = (Tensor::vector_i64(&[1, 200]), Tensor::vector_i64(&[1, 201]));
        assert!(!compare("y", &a, &b, None).within());
        assert!(!compare("y", &a, &b, Some(0.01)).within());
        let steps = |values| Tensor::from_integers(ElementType::Uint8, &[2], values).unwrap();
        assert!(compare("y", &steps(&[1, 200]), &steps(&[1, 201]), Some(0.01)).within());
        assert!(compare("y", &a, &a.reshaped(&[2, 1]).unwrap(), None).mismatch.is_some());
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        let report = compare("y", &floats(&[0.0, 1.0]), &floats(&[-0.0, 1.0]), None);
        assert!(report.within() && !report.equal_bits && report.sqnr_db.is_none());
    }

    #[test]
    fn the_worse_run_counts() {
        let mut report = compare("y", &floats(&[0.0, 1.0]), &floats(&[0.0, 1.0]), None);
        report.merge(compare("y", &floats(&[0.0, 1.0]), &floats(&[0.0, 1.5]), None));
        assert!(!report.within() && report.max_abs == 0.5 && !report.equal_bits);
    }
}
