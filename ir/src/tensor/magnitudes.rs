//! How small and how large the numbers of a tensor are.

use half::{bf16, f16};
use multiversion::multiversion;

use super::Tensor;
use crate::types::ElementType;

/// Bounds of the magnitudes of finite numbers, zeros left out. Where all are zero `least` is infinite and `greatest` zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitudes {
    /// No magnitude but zero is smaller.
    pub least: f64,
    /// No magnitude is larger.
    pub greatest: f64,
}

impl Tensor {
    /// Bounds of the magnitudes of its numbers, zeros left out: found once, by a look at all elements, unless
    /// [`with_magnitudes`](Self::with_magnitudes) told them. `None` where a number is not finite, and for types other than
    /// floats of 16 to 64 bits.
    pub fn magnitudes(&self) -> Option<Magnitudes> {
        macro_rules! look {
            ($float:ty, $bits:ty) => {{
                let magnitude = |bytes| <$bits>::from_le_bytes(bytes) & (<$bits>::MAX >> 1);
                let raw = self.to_raw();
                let (below, greatest) = extremes(raw.as_chunks().0, magnitude, |bits| bits.wrapping_sub(1));
                let least = match below {
                    <$bits>::MAX => f64::INFINITY,
                    below => <$float>::from_bits(below + 1).into(),
                };
                let greatest: f64 = <$float>::from_bits(greatest).into();
                greatest.is_finite().then_some(Magnitudes { least, greatest })
            }};
        }
        let find = || match self.element() {
            ElementType::Float => look!(f32, u32),
            ElementType::Double => look!(f64, u64),
            ElementType::Float16 => look!(f16, u16),
            ElementType::Bfloat16 => look!(bf16, u16),
            _ => None,
        };
        *self.magnitudes.get_or_init(find)
    }

    /// The tensor with bounds that are known of its numbers.
    #[must_use]
    pub fn with_magnitudes(self, bounds: Magnitudes) -> Self {
        Self { magnitudes: Some(bounds).into(), ..self }
    }
}

/// One less than the least of the bits that magnitudes have, and the greatest. The bits count up as magnitudes do: one less
/// than zero is more than all of them, and NaN has the greatest.
#[multiversion(targets("x86_64+avx2"))]
fn extremes<T: Copy + Default + Ord, const BYTES: usize>(
    elements: &[[u8; BYTES]],
    magnitude: impl Fn([u8; BYTES]) -> T,
    one_less: impl Fn(T) -> T,
) -> (T, T) {
    let (mut below, mut greatest) = (one_less(T::default()), T::default());
    for &element in elements {
        let bits = magnitude(element);
        below = below.min(one_less(bits));
        greatest = greatest.max(bits);
    }
    (below, greatest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(element: ElementType, values: &[f64]) -> Option<[f64; 2]> {
        let magnitudes = Tensor::from_f64(element, &[values.len()], values).unwrap().magnitudes();
        magnitudes.map(|Magnitudes { least, greatest }| [least, greatest])
    }

    #[test]
    fn zeros_are_left_out() {
        let floats = [ElementType::Float, ElementType::Double, ElementType::Float16, ElementType::Bfloat16];
        for element in floats {
            for before in 0..20 {
                let values = [vec![0.0; before], vec![0.5, -4.0, 0.0, -0.25, 1.0]].concat();
                assert_eq!(of(element, &values), Some([0.25, 4.0]), "{element} {before}");
            }
            assert_eq!([of(element, &[0.0, -0.0]), of(element, &[])], [Some([f64::INFINITY, 0.0]); 2]);
        }
        assert_eq!(of(ElementType::Float, &[1e-45]), Some([f64::from(1e-45f32); 2]));
    }

    #[test]
    fn what_is_not_finite_has_none() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in 0..9 {
                let mut values = [1.0; 9];
                values[place] = odd;
                assert_eq!(of(ElementType::Float, &values), None);
            }
        }
        assert_eq!(of(ElementType::Int8, &[1.0]), None);
    }

    #[test]
    fn what_was_told_is_not_looked_for() {
        let told = Magnitudes { least: 1.0, greatest: 2.0 };
        let tensor = Tensor::from_f32(&[2, 1], &[f32::NAN; 2]).unwrap().with_magnitudes(told);
        let others = [tensor.reshaped(&[2]).unwrap(), tensor.transposed(&[1, 0]).unwrap()];
        assert!(others.iter().chain([&tensor]).all(|tensor| tensor.magnitudes() == Some(told)));
    }
}
