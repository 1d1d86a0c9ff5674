//! Weights multiplied by factors, in double precision and rounded once, to their element type.

use half::{bf16, f16};
use multiversion::multiversion;
use onnx_opt_ir::tensor::Magnitudes;
use onnx_opt_ir::{ElementType, Payload, Recipe, Tensor};

use super::weights::{LANES, repeated};
use crate::rewrite::{Miss, ensure};

/// A tensor of which each run of `run` elements (row-major) is multiplied by one factor; behind the last factor the first
/// one follows again.
///
/// # Errors
/// If a product leaves the range of the element type, or so many vanish at its lower end that digits are lost.
pub(super) fn scaled(tensor: &Tensor, run: usize, factors: &[f64]) -> Result<Tensor, Miss> {
    ensure(!factors.is_empty(), "there are no factors")?;
    let factors = Factors::new(run, factors);
    macro_rules! scaled_as {
        ($type:ty, $round:expr) => {{
            let number = Number {
                decode: |bytes| <$type>::from_le_bytes(bytes).into(),
                encode: |value: f64| $round(value).to_le_bytes(),
                is_normal: |bytes| <$type>::from_le_bytes(bytes).is_normal(),
                epsilon: <$type>::EPSILON.into(),
            };
            scaled_by(tensor, number, factors)
        }};
    }
    match tensor.element() {
        ElementType::Float => scaled_as!(f32, |value| value as f32),
        ElementType::Double => scaled_as!(f64, |value| value),
        ElementType::Float16 => scaled_as!(f16, f16::from_f64),
        ElementType::Bfloat16 => scaled_as!(bf16, bf16::from_f64),
        _ => Err("the weight is not floating-point".into()),
    }
}

fn scaled_by<D, E, N, const BYTES: usize>(
    tensor: &Tensor,
    number: Number<D, E, N>,
    factors: Factors,
) -> Result<Tensor, Miss>
where
    D: Fn([u8; BYTES]) -> f64 + Send + Sync + 'static,
    E: Fn(f64) -> [u8; BYTES] + Send + Sync + 'static,
    N: Fn([u8; BYTES]) -> bool + Send + Sync + 'static,
{
    // Where bounds do not tell that all digits are kept, a few that are lost do no harm.
    let known = tensor.magnitudes().and_then(|of| magnitudes(&number, of, &factors));
    if known.is_none() {
        let (total, lost) = errors(&number, tensor.to_raw().as_chunks().0, &factors);
        ensure(f64::is_finite(total + lost), "a folded weight would leave the range of its type")?;
        ensure(lost <= number.epsilon * total, "the folded weights would lose digits")?;
    }
    let scaled = Scaled { raw: tensor.payload(), number, factors };
    match Tensor::deferred(tensor.element(), tensor.shape(), scaled) {
        Ok(scaled) => Ok(known.into_iter().fold(scaled, Tensor::with_magnitudes)),
        Err(error) => Err(error.to_string().into()),
    }
}

/// How the numbers of a floating-point type are read and written.
struct Number<D, E, N> {
    decode: D,
    /// Rounds to the type.
    encode: E,
    /// Whether a number keeps its digits: it is finite, and not so small that it loses some.
    is_normal: N,
    /// Distance of one from the next number of the type.
    epsilon: f64,
}

/// Elements of a run that is too short for a loop of its own.
const SHORT: usize = 32;

/// Factors of runs of elements.
struct Factors {
    factors: Vec<f64>,
    /// Where runs are short, a factor for each element of all of them.
    each: Vec<f64>,
    /// Elements of a line: a run, or all short ones.
    line: usize,
}

impl Factors {
    fn new(run: usize, factors: &[f64]) -> Self {
        let each = if run < SHORT { repeated(factors, run) } else { Vec::new() };
        let line = if each.is_empty() { run.max(1) } else { each.len() };
        Self { factors: factors.to_vec(), each, line }
    }
}

/// The products of the elements of a tensor and their factors.
struct Scaled<D, E, N> {
    raw: Payload,
    number: Number<D, E, N>,
    factors: Factors,
}

impl<D, E, N, const BYTES: usize> Recipe for Scaled<D, E, N>
where
    D: Fn([u8; BYTES]) -> f64 + Send + Sync,
    E: Fn(f64) -> [u8; BYTES] + Send + Sync,
    N: Fn([u8; BYTES]) -> bool + Send + Sync,
{
    fn fill(&self, start: usize, part: &mut [u8]) {
        let mut room = Vec::new();
        let elements = self.raw.part(start, part.len(), &mut room);
        let products = part.as_chunks_mut().0;
        multiply(&self.number, start / BYTES, elements.as_chunks().0, &self.factors, products);
    }
}

/// Multiplies elements of a tensor, from that at `start` on, by the factor of each run, and rounds them.
#[multiversion(targets("x86_64+avx2"))]
fn multiply<D, E, N, const BYTES: usize>(
    number: &Number<D, E, N>,
    start: usize,
    elements: &[[u8; BYTES]],
    factors: &Factors,
    products: &mut [[u8; BYTES]],
) where
    D: Fn([u8; BYTES]) -> f64,
    E: Fn(f64) -> [u8; BYTES],
{
    let Number { decode, encode, .. } = number;
    let line = factors.line;
    let (mut index, mut within, mut done) = (start / line, start % line, 0);
    while done < elements.len() {
        let end = elements.len().min(done + line - within);
        let both = products[done..end].iter_mut().zip(&elements[done..end]);
        if factors.each.is_empty() {
            let factor = factors.factors[index % factors.factors.len()];
            both.for_each(|(product, &element)| *product = encode(decode(element) * factor));
        } else {
            let own = both.zip(&factors.each[within..]);
            own.for_each(|((product, &element), factor)| *product = encode(decode(element) * factor));
        }
        (index, within, done) = (index + 1, 0, end);
    }
}

/// Bounds of the products of elements and factors, if these tell that all products keep their digits.
fn magnitudes<D, E, N, const BYTES: usize>(
    number: &Number<D, E, N>,
    elements: Magnitudes,
    factors: &Factors,
) -> Option<Magnitudes>
where
    D: Fn([u8; BYTES]) -> f64,
    E: Fn(f64) -> [u8; BYTES],
    N: Fn([u8; BYTES]) -> bool,
{
    let Number { decode, encode, is_normal, .. } = number;
    let all = || factors.factors.iter().map(|factor| factor.abs());
    if !all().all(|factor| factor > 0.0 && factor.is_finite()) {
        return None;
    }
    if elements.least > elements.greatest {
        return Some(elements);
    }
    let least = encode(elements.least * all().fold(f64::INFINITY, f64::min));
    let greatest = encode(elements.greatest * all().fold(0.0, f64::max));
    let normal = is_normal(least) && is_normal(greatest);
    normal.then(|| Magnitudes { least: decode(least), greatest: decode(greatest) })
}

/// The magnitudes of all exact products, and of all that rounding changes, summed up.
#[multiversion(targets("x86_64+avx2"))]
fn errors<D, E, N, const BYTES: usize>(
    number: &Number<D, E, N>,
    elements: &[[u8; BYTES]],
    factors: &Factors,
) -> (f64, f64)
where
    D: Fn([u8; BYTES]) -> f64,
    E: Fn(f64) -> [u8; BYTES],
{
    let Number { decode, encode, .. } = number;
    let (mut total, mut lost) = ([0.0; LANES], [0.0; LANES]);
    let mut add = |elements: &[[u8; BYTES]], factors: &[f64]| {
        let sums = total.iter_mut().zip(&mut lost);
        for ((&element, factor), (total, lost)) in elements.iter().zip(factors).zip(sums) {
            let exact = decode(element) * factor;
            *total += exact.abs();
            *lost += (exact - decode(encode(exact))).abs();
        }
    };
    for (elements, &factor) in elements.chunks(factors.line).zip(factors.factors.iter().cycle()) {
        let same = [factor; LANES];
        let own = &factors.each[..elements.len().min(factors.each.len())];
        let (blocks, rest) = elements.as_chunks::<LANES>();
        let (own_blocks, own_rest) = own.as_chunks::<LANES>();
        for (place, block) in blocks.iter().enumerate() {
            add(block, own_blocks.get(place).unwrap_or(&same));
        }
        add(rest, if own.is_empty() { &same } else { own_rest });
    }
    (total.iter().sum(), lost.iter().sum())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn half_precision_keeps_its_range_and_digits() {
        let tensor = Tensor::from_f64(ElementType::Float16, &[2], &[100.0, -0.5]).unwrap();
        let by = |factor: f64| scaled(&tensor, 2, &[factor]).map(|tensor| tensor.to_f64().unwrap());
        assert_eq!(by(2.0), Ok(vec![200.0, -1.0]));
        assert_eq!(by(1000.0), Err("a folded weight would leave the range of its type".into()));
        assert_eq!(by(1e-8), Err("the folded weights would lose digits".into()));
        assert_eq!(by(f64::NAN), Err("a folded weight would leave the range of its type".into()));
    }

    #[test]
    fn rounds_once() {
        // 1 + 2⁻²⁴ + 2⁻⁵⁰ lies above the tie: rounding first to a double's neighbour would not matter, twice would.
        let tensor = Tensor::from_f32(&[1], &[1.0]).unwrap();
        let factor = 1.0 + 2f64.powi(-24) + 2f64.powi(-50);
        assert_eq!(scaled(&tensor, 2, &[factor]).unwrap().to_f32(), Some(vec![1.0 + f32::EPSILON]));
    }
    #[test]
    fn factors_of_short_and_long_runs_come_again() {
        for run in [1, 3, SHORT - 1, SHORT, SHORT + 5] {
            let count = 2 * 3 * run;
            let values: Vec<f64> = (0..count).map(|place| place as f64 - 7.0).collect();
            let tensor = Tensor::from_f64(ElementType::Float, &[2, 3, run], &values).unwrap();
            let factors = [2.0, -0.5, 4.0];
            let expected: Vec<f64> =
                values.iter().enumerate().map(|(place, value)| value * factors[place / run % 3]).collect();
            assert_eq!(scaled(&tensor, run, &factors).unwrap().to_f64().unwrap(), expected, "{run}");
        }
    }

    #[test]
    fn a_part_is_what_the_whole_has_there() {
        let values: Vec<f64> = (0..40_000).map(|place| f64::from(place) - 7.3).collect();
        let tensor = Tensor::from_f64(ElementType::Float, &[200, 200], &values).unwrap();
        let scaled = scaled(&tensor, 40, &[2.0, -0.7, 1.3]).unwrap().payload();
        let mut part = [0; 400];
        assert!(scaled.is_deferred());
        scaled.fill(4000, &mut part);
        assert_eq!(part, scaled.bytes()[4000..4400]);
    }

    #[test]
    fn bounds_of_products_follow_from_those_of_elements() {
        let values: Vec<f64> = (0..40_000).map(|place| f64::from(place) - 7.3).collect();
        let tensor = Tensor::from_f64(ElementType::Float, &[200, 200], &values).unwrap();
        let twice = scaled(&scaled(&tensor, 200, &[2.0, -0.7]).unwrap(), 1, &[3.0, 0.1]).unwrap();
        let bounds = twice.magnitudes().unwrap();
        assert!(twice.payload().is_deferred());
        let magnitudes = || twice.to_f64().unwrap().into_iter().map(f64::abs);
        assert!(magnitudes().all(|number| number >= bounds.least && number <= bounds.greatest));
        assert!((0.02..0.022).contains(&bounds.least) && (239_000.0..240_000.0).contains(&bounds.greatest));
    }

    #[test]
    fn where_bounds_do_not_tell_all_products_do() {
        let by = |values: [f64; 2], factors: [f64; 2]| {
            let tensor = Tensor::from_f64(ElementType::Float, &[2], &values).unwrap();
            scaled(&tensor, 1, &factors).map(|tensor| tensor.to_f64().unwrap())
        };
        // The smallest element times the smallest factor would lose digits.
        let (tiny, huge) = (2f64.powi(-120), 2f64.powi(100));
        assert_eq!(by([tiny, huge], [huge, tiny]), Ok(vec![tiny * huge; 2]));
        assert_eq!(
            by([tiny, huge], [tiny, huge]),
            Err("a folded weight would leave the range of its type".into())
        );
        assert_eq!(by([0.0, 0.0], [3.0, -1.0]), Ok(vec![0.0, 0.0]));
        assert_eq!(by([1.0, 2.0], [0.0, 1.0]), Ok(vec![0.0, 2.0]));
        assert!(by([0.0, 1.0], [f64::INFINITY, 1.0]).is_err());
    }
}
