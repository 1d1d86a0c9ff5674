//! Elements to and from numbers: every numeric element type, packed types included.

use half::{bf16, f16};

use crate::types::ElementType;

/// Layout of a small float: bits of exponent and mantissa, exponent bias, and which codes are special.
struct SmallFloat {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    special: Special,
}

enum Special {
    /// Infinity and NaN as in IEEE 754.
    Ieee,
    /// No infinity; all ones is NaN.
    AllOnesNan,
    /// No infinity, no negative zero; the code of negative zero is NaN.
    NegativeZeroNan,
    /// Every code is finite.
    None,
}

fn small_float(element: ElementType) -> Option<SmallFloat> {
    let (exponent, mantissa, bias, special) = match element {
        ElementType::Float8E4M3FN => (4, 3, 7, Special::AllOnesNan),
        ElementType::Float8E4M3FNUZ => (4, 3, 8, Special::NegativeZeroNan),
        ElementType::Float8E5M2 => (5, 2, 15, Special::Ieee),
        ElementType::Float8E5M2FNUZ => (5, 2, 16, Special::NegativeZeroNan),
        ElementType::Float4E2M1 => (2, 1, 1, Special::None),
        ElementType::Float6E2M3 => (2, 3, 1, Special::None),
        ElementType::Float6E3M2 => (3, 2, 3, Special::None),
        _ => return None,
    };
    Some(SmallFloat { exponent, mantissa, bias, special })
}

impl SmallFloat {
    fn decode(&self, code: u32) -> f64 {
        let sign = if code >> (self.exponent + self.mantissa) & 1 == 1 { -1.0 } else { 1.0 };
        let exponent_max = (1 << self.exponent) - 1;
        let exponent = code >> self.mantissa & exponent_max;
        let mantissa = code & ((1 << self.mantissa) - 1);
        match self.special {
            Special::Ieee if exponent == exponent_max => {
                return if mantissa == 0 { sign * f64::INFINITY } else { f64::NAN };
            }
            Special::AllOnesNan if exponent == exponent_max && mantissa == (1 << self.mantissa) - 1 => {
                return f64::NAN;
            }
            Special::NegativeZeroNan if sign < 0.0 && exponent == 0 && mantissa == 0 => return f64::NAN,
            _ => {}
        }
        let fraction = f64::from(mantissa) / f64::from(1u32 << self.mantissa);
        match exponent {
            0 => sign * fraction * 2f64.powi(1 - self.bias),
            _ => sign * (1.0 + fraction) * 2f64.powi(exponent as i32 - self.bias),
        }
    }
}

/// Element `index` as a double; `None` for strings, complex types and codes past the end of `raw`.
pub(super) fn decode(element: ElementType, raw: &[u8], index: usize) -> Option<f64> {
    Some(match element {
        ElementType::Float => f64::from(f32::from_le_bytes(array(raw, index)?)),
        ElementType::Double => f64::from_le_bytes(array(raw, index)?),
        ElementType::Float16 => f16::from_le_bytes(array(raw, index)?).to_f64(),
        ElementType::Bfloat16 => bf16::from_le_bytes(array(raw, index)?).to_f64(),
        ElementType::Uint64 => u64::from_le_bytes(array(raw, index)?) as f64,
        ElementType::Float8E8M0 => match *raw.get(index)? {
            255 => f64::NAN,
            code => 2f64.powi(i32::from(code) - 127),
        },
        ElementType::String | ElementType::Complex64 | ElementType::Complex128 => return None,
        _ => match small_float(element) {
            Some(format) => format.decode(bits(element.bits(), raw, index)?),
            None => decode_integer(element, raw, index)? as f64,
        },
    })
}

/// Element `index` of an integer or boolean type.
pub(super) fn decode_integer(element: ElementType, raw: &[u8], index: usize) -> Option<i64> {
    Some(match element {
        ElementType::Int64 => i64::from_le_bytes(array(raw, index)?),
        ElementType::Uint64 => i64::try_from(u64::from_le_bytes(array(raw, index)?)).ok()?,
        ElementType::Int32 => i32::from_le_bytes(array(raw, index)?).into(),
        ElementType::Uint32 => u32::from_le_bytes(array(raw, index)?).into(),
        ElementType::Int16 => i16::from_le_bytes(array(raw, index)?).into(),
        ElementType::Uint16 => u16::from_le_bytes(array(raw, index)?).into(),
        ElementType::Int8 => (*raw.get(index)? as i8).into(),
        ElementType::Uint8 | ElementType::Bool => (*raw.get(index)?).into(),
        ElementType::Uint4 | ElementType::Uint2 => bits(element.bits(), raw, index)?.into(),
        ElementType::Int4 | ElementType::Int2 => {
            let width = element.bits();
            let code = i64::from(bits(width, raw, index)?);
            if code >> (width - 1) == 1 { code - (1 << width) } else { code }
        }
        _ => return None,
    })
}

/// `count` values packed as in `raw_data`, rounded to the nearest; `None` for strings and complex types.
pub(super) fn encode(element: ElementType, count: usize, value: impl Fn(usize) -> f64) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(element.raw_len(count)?);
    match element {
        ElementType::Float => (0..count).for_each(|i| raw.extend((value(i) as f32).to_le_bytes())),
        ElementType::Double => (0..count).for_each(|i| raw.extend(value(i).to_le_bytes())),
        ElementType::Float16 => {
            (0..count).for_each(|i| raw.extend(f16::from_f32(to_odd(value(i))).to_le_bytes()))
        }
        ElementType::Bfloat16 => {
            (0..count).for_each(|i| raw.extend(bf16::from_f32(to_odd(value(i))).to_le_bytes()))
        }
        ElementType::Bool => raw.extend((0..count).map(|i| u8::from(value(i) != 0.0))),
        ElementType::Uint64 => {
            (0..count).for_each(|i| raw.extend((value(i).round_ties_even() as u64).to_le_bytes()))
        }
        _ if element.is_integer() => {
            let (low, high) = integer_range(element)?;
            let values: Vec<i64> =
                (0..count).map(|i| (value(i).round_ties_even() as i64).clamp(low, high)).collect();
            return encode_integers(element, &values);
        }
        _ => {
            let codes = (0..count).map(|i| nearest_code(element, value(i))).collect::<Option<Vec<_>>>()?;
            pack(element.bits(), &codes, &mut raw);
        }
    }
    Some(raw)
}

/// In single precision, rounded to odd: where that is inexact, the neighbour whose last bit is set. Rounding once more,
/// to at most 22 bits, then gives what rounding once would have given. (The conversions of `half` from doubles do not.)
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let wide = f64::from(nearest);
    if value.is_nan() || wide == value || nearest.to_bits() % 2 == 1 {
        return nearest;
    }
    let toward_zero = wide.abs() > value.abs();
    f32::from_bits(if toward_zero { nearest.to_bits() - 1 } else { nearest.to_bits() + 1 })
}

/// Integers packed as in `raw_data`; `None` when one does not fit the type.
pub(super) fn encode_integers(element: ElementType, values: &[i64]) -> Option<Vec<u8>> {
    let (low, high) = integer_range(element)?;
    if values.iter().any(|value| !(low..=high).contains(value)) {
        return None;
    }
    let mut raw = Vec::with_capacity(element.raw_len(values.len())?);
    let width = element.bits();
    if width < 8 {
        let codes: Vec<u8> = values.iter().map(|&value| value as u8 & ((1 << width) - 1)).collect();
        pack(width, &codes, &mut raw);
    } else {
        values.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()[..width / 8]));
    }
    Some(raw)
}

/// Smallest and largest value of an integer type, as far as `i64` reaches.
fn integer_range(element: ElementType) -> Option<(i64, i64)> {
    let bits = element.bits() as u32;
    match element {
        ElementType::Bool => Some((0, 1)),
        ElementType::Int64 => Some((i64::MIN, i64::MAX)),
        ElementType::Uint64 => Some((0, i64::MAX)),
        _ if element.is_signed_integer() => Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1)),
        _ if element.is_unsigned_integer() => Some((0, (1 << bits) - 1)),
        _ => None,
    }
}

/// The code of a small float nearest to `value`, ties to the even code; values past the largest finite one saturate.
fn nearest_code(element: ElementType, value: f64) -> Option<u8> {
    let codes = 1u32 << element.bits();
    let decode = |code: u32| match small_float(element) {
        Some(format) => Some(format.decode(code)),
        None if element == ElementType::Float8E8M0 => decode(element, &[code as u8], 0),
        None => None,
    };
    let mut best: Option<(f64, u32)> = None;
    for code in 0..codes {
        let candidate = decode(code)?;
        if value.is_nan() {
            if candidate.is_nan() {
                return Some(code as u8);
            }
            continue;
        }
        if !candidate.is_finite()
            || (candidate == 0.0 && candidate.is_sign_negative() != value.is_sign_negative())
        {
            continue;
        }
        let distance = (candidate - value).abs();
        let better = match best {
            None => true,
            Some((least, chosen)) => {
                distance < least || (distance == least && code % 2 == 0 && chosen % 2 == 1)
            }
        };
        if better {
            best = Some((distance, code));
        }
    }
    Some(best.map_or(0, |(_, code)| code) as u8)
}

fn array<const N: usize>(raw: &[u8], index: usize) -> Option<[u8; N]> {
    raw.get(index.checked_mul(N)?..)?.get(..N)?.try_into().ok()
}

/// The code of element `index` of a type of at most 8 bits, packed from the low bits up.
fn bits(width: usize, raw: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(width)?;
    let low = u32::from(*raw.get(start / 8)?);
    let high = u32::from(raw.get(start / 8 + 1).copied().unwrap_or(0));
    Some((low | high << 8) >> (start % 8) & ((1 << width) - 1))
}

fn pack(width: usize, codes: &[u8], raw: &mut Vec<u8>) {
    let mut pending = 0u32;
    let mut filled = 0;
    for &code in codes {
        pending |= u32::from(code) << filled;
        filled += width;
        while filled >= 8 {
            raw.push(pending as u8);
            pending >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        raw.push(pending as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_float_code_survives() {
        for &element in ElementType::ALL {
            let Some(format) = small_float(element) else { continue };
            for code in 0..1u32 << element.bits() {
                let value = format.decode(code);
                if value.is_finite() {
                    assert_eq!(nearest_code(element, value), Some(code as u8), "{element} {code}");
                }
            }
        }
    }

    #[test]
    fn packed_integers_survive() {
        for element in [ElementType::Int4, ElementType::Uint4, ElementType::Int2, ElementType::Uint2] {
            let (low, high) = integer_range(element).expect("an integer type");
            let values: Vec<i64> = (low..=high).chain([low]).collect();
            let raw = encode_integers(element, &values).expect("values in range");
            assert_eq!(raw.len(), element.raw_len(values.len()).expect("small"));
            let back: Option<Vec<i64>> =
                (0..values.len()).map(|index| decode_integer(element, &raw, index)).collect();
            assert_eq!(back.as_deref(), Some(&values[..]));
        }
    }

    #[test]
    fn doubles_become_halves_in_one_rounding() {
        for element in [ElementType::Float16, ElementType::Bfloat16] {
            let value = |code: u16| decode(element, &code.to_le_bytes(), 0).expect("a number");
            let code = |value: f64| {
                let raw = encode(element, 1, |_| value).expect("a float type");
                u16::from_le_bytes([raw[0], raw[1]])
            };
            // Up to the largest finite code; the step after it is the one that infinity would have been.
            let last = if element == ElementType::Float16 { 0x7bff } else { 0x7f7f };
            for below in 0..=last {
                let above =
                    if below == last { 2.0 * value(last) - value(last - 1) } else { value(below + 1) };
                let tie = (value(below) + above) / 2.0;
                assert_eq!(code(value(below)), below);
                assert_eq!(code(tie), below + below % 2, "{element} {below:#x}");
                assert_eq!(code(f64::from_bits(tie.to_bits() - 1)), below, "{element} {below:#x}");
                assert_eq!(code(f64::from_bits(tie.to_bits() + 1)), below + 1, "{element} {below:#x}");
                assert_eq!(code(-tie), 0x8000 | (below + below % 2));
            }
            assert_eq!(code(f64::INFINITY), last + 1);
            assert_eq!(code(f64::MAX), last + 1);
            assert_eq!(code(-f64::MIN_POSITIVE), 0x8000);
            assert!(value(code(f64::NAN)).is_nan());
        }
    }

    #[test]
    fn known_float8_values() {
        assert_eq!(decode(ElementType::Float8E4M3FN, &[0x7e], 0), Some(448.0));
        assert_eq!(decode(ElementType::Float8E5M2, &[0x7b], 0), Some(57344.0));
        assert_eq!(decode(ElementType::Float4E2M1, &[0x70], 1), Some(6.0));
        assert!(decode(ElementType::Float8E4M3FNUZ, &[0x80], 0).is_some_and(f64::is_nan));
    }
}
