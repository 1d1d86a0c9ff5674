//! Observers on distributions whose right answer is known.

use proptest::prelude::*;

use super::*;

const U8: ElementType = ElementType::Uint8;
const S8: ElementType = ElementType::Int8;

fn of(samples: &[&[f32]]) -> Statistics {
    let mut statistics = Statistics::default();
    for sample in samples {
        assert_eq!(statistics.observe(sample), Ok(()));
    }
    statistics
}

/// So many numbers of the normal distribution, evenly over its quantiles.
fn normal(count: usize) -> Vec<f32> {
    let quantile = |p: f64| {
        // Sums of logistic terms would do; bisection on the error function's series is exact enough and short.
        let (mut low, mut high) = (-9.0f64, 9.0f64);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if cumulative(middle) < p { low = middle } else { high = middle }
        }
        low as f32
    };
    (0..count).map(|index| quantile((index as f64 + 0.5) / count as f64)).collect()
}

/// Φ(x) by its series, Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …).
fn cumulative(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for odd in 1..200 {
        term *= x * x / f64::from(2 * odd + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

fn range(observer: Observer, statistics: &Statistics, element: ElementType, symmetric: bool) -> (f32, f32) {
    let range = observer.range(statistics, element, symmetric);
    range.map_or((f32::NAN, f32::NAN), |range| (range.low, range.high))
}

/// Σ (x − Q(x))² over the numbers themselves.
fn error(values: &[f32], (low, high): (f32, f32), element: ElementType, symmetric: bool) -> f64 {
    let Some(range) = Range::new(low, high) else { return f64::INFINITY };
    let grid = crate::quantize::Grid::of(range, element, symmetric);
    values.iter().map(|&x| f64::from(x - grid.dequantize(grid.quantize(x))).powi(2)).sum()
}

#[test]
fn entropy_clips_a_far_outlier_and_nothing_else() {
    let body = normal(50_000);
    let with_outlier = [&body[..], &[100.0]].concat();
    let (low, high) = range(Observer::Entropy, &of(&[&with_outlier]), S8, true);
    assert!((2.0..20.0).contains(&high) && low >= -high, "{low} {high}");
    assert_eq!(range(Observer::MinMax, &of(&[&with_outlier]), S8, true).1, 100.0);

    let uniform: Vec<f32> = (0..100_000).map(|index| index as f32 / 50_000.0 - 1.0).collect();
    assert_eq!(range(Observer::Entropy, &of(&[&uniform]), S8, true), (-1.0, uniform[99_999]));
}

#[test]
fn entropy_of_one_sign_is_one_sided() {
    let relu: Vec<f32> = normal(50_000).iter().map(|x| x.max(0.0)).chain([60.0]).collect();
    let (low, high) = range(Observer::Entropy, &of(&[&relu]), U8, false);
    assert!(low == 0.0 && (2.0..20.0).contains(&high), "{low} {high}");
    // Zeros change nothing: they are exact.
    let more_zeros = [&relu[..], &[0.0; 200_000]].concat();
    assert_eq!(range(Observer::Entropy, &of(&[&more_zeros]), U8, false), (low, high));
    // As a SiLU gives: no limit below what the numbers reach.
    let silu: Vec<f32> = normal(50_000).iter().map(|x| 4.0 * x / (1.0 + (-4.0 * x).exp())).collect();
    let (low, high) = range(Observer::Entropy, &of(&[&silu]), U8, false);
    assert!((-0.2785..-0.2784).contains(&low) && high > 5.0, "{low} {high}");
}

/// The divergences of the definition, computed the long way, have their minimum where [`entropy::limit`] says.
#[test]
fn entropy_is_the_least_of_all_candidates() {
    let mut values: Vec<f32> = normal(20_000).iter().map(|x| x * x * x).collect();
    values.extend([200.0, 230.0]);
    let statistics = of(&[&values]);
    let Some(distribution) = statistics.distribution() else { panic!("numbers") };
    let mut magnitudes = distribution.positive.clone();
    magnitudes.merge(&distribution.negative);
    let counts: Vec<f64> = magnitudes.counts().iter().map(|&count| count as f64).collect();
    let smooth = |bins: &[f64]| {
        let empty = bins.iter().filter(|&&count| count == 0.0).count() as f64;
        let shift = 1e-4 * empty / (bins.len() as f64 - empty);
        let smoothed = bins.iter().map(|&count| if count == 0.0 { 1e-4 } else { count - shift });
        let sum: f64 = bins.iter().sum();
        smoothed.map(|count| count / sum).collect::<Vec<f64>>()
    };
    let levels = 128;
    let candidates = (levels..=counts.len()).map(|used| {
        let mut p = counts[..used].to_vec();
        p[used - 1] += counts[used..].iter().sum::<f64>();
        let mut q = vec![0.0; used];
        for level in 0..levels {
            let bins: Vec<usize> = (level * used / levels..(level + 1) * used / levels).collect();
            let full: Vec<usize> = bins.iter().copied().filter(|&bin| counts[bin] > 0.0).collect();
            let mass: f64 = bins.iter().map(|&bin| counts[bin]).sum();
            full.iter().for_each(|&bin| q[bin] = mass / full.len() as f64);
        }
        let (p, q) = (smooth(&p), smooth(&q));
        (used, p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>())
    });
    let best = candidates.fold((0, f64::INFINITY), |best, next| if next.1 <= best.1 { next } else { best });
    let limit = entropy::limit(&magnitudes, levels);
    assert_eq!(limit, Some((best.0 as f64 + 0.5) * magnitudes.width()));
}

#[test]
fn the_squared_error_is_the_least() {
    // Sixteen levels for the normal distribution end at 2.5 standard deviations (Banner and others, 2019, table of
    // optimal clipping).
    let body = normal(20_000);
    let (low, high) = range(Observer::Norm(2.0), &of(&[&body]), ElementType::Uint4, false);
    assert!((2.3..2.8).contains(&high) && (2.3..2.8).contains(&-low), "{low} {high}");

    let outliers: Vec<f32> = (8..=12).map(|index| index as f32).collect();
    let values = [&body[..], &outliers].concat();
    let statistics = of(&[&values]);
    for (element, symmetric) in
        [(ElementType::Uint4, false), (ElementType::Int4, true), (U8, false), (S8, true)]
    {
        let least =
            error(&values, range(Observer::Norm(2.0), &statistics, element, symmetric), element, symmetric);
        let full =
            error(&values, range(Observer::MinMax, &statistics, element, symmetric), element, symmetric);
        assert!(least <= full && (element.bits() == 8 || least < 0.9 * full), "{element} {least} {full}");
        // No limits are better, but for the width of bins.
        for step in 1..=12 {
            let limit = step as f32;
            let other = error(&values, (-limit.min(4.0), limit), element, symmetric);
            assert!(least < other * 1.03, "{element} {step}: {least} {other}");
        }
    }
}

#[test]
fn without_outliers_the_squared_error_takes_all() {
    let uniform: Vec<f32> = (0..=100_000).map(|index| index as f32 / 50_000.0 - 0.5).collect();
    let (low, high) = range(Observer::Norm(2.0), &of(&[&uniform]), U8, false);
    assert!(low <= -0.49 && high >= 1.48, "{low} {high}");
    // Numbers on the grid itself have no error but by clipping.
    let steps: Vec<f32> = (-127..=127).map(|step| step as f32).collect();
    assert_eq!(range(Observer::Norm(2.0), &of(&[&steps]), S8, true), (-127.0, 127.0));
}

#[test]
fn percentiles_leave_out_both_tails() {
    let values: Vec<f32> = (0..100_000).map(|index| (index as f32 - 30_000.0) / 1000.0).collect();
    let statistics = of(&[&values]);
    let (low, high) = range(Observer::Percentile(99.0), &statistics, U8, false);
    assert!((low + 29.0).abs() < 0.05 && (high - 69.0).abs() < 0.05, "{low} {high}");
    assert_eq!(range(Observer::Percentile(100.0), &statistics, U8, false), (-30.0, 69.999));
    // Fewer numbers than one in 100 000 is one of: nothing is left out.
    assert_eq!(
        range(Observer::Percentile(PERCENTILE), &of(&[&values[..9_000]]), U8, false),
        (-30.0, -21.001)
    );
    let outlier = [&values[..], &values[..], &[1e4]].concat();
    let (low, high) = range(Observer::Percentile(PERCENTILE), &of(&[&outlier]), U8, false);
    assert!(low < -29.0 && (69.0..90.0).contains(&high), "{low} {high}");
}

#[test]
fn percentiles_may_end_at_or_beyond_zero() {
    let ends = |values: &[f32], percent| range(Observer::Percentile(percent), &of(&[values]), U8, false);
    let mostly_zero = [&[0.0; 98][..], &[5.0, -3.0]].concat();
    assert_eq!(ends(&mostly_zero, 98.5), (0.0, 0.0));
    assert_eq!(ends(&mostly_zero, 99.5), (-3.0, 5.0));
    let (low, high) = ends(&[&[-4.0; 98][..], &[-1.0, 5.0]].concat(), 97.0);
    assert!((-4.01..=-4.0).contains(&low) && (-4.0..=-3.9).contains(&high), "{low} {high}");
}

#[test]
fn a_moving_average_follows_the_samples() {
    let statistics = of(&[&[-1.0, 1.0], &[-2.0, 3.0], &[-2.0, 3.0]]);
    let (low, high) = range(Observer::MovingAverage, &statistics, U8, false);
    assert!((low + 1.0199).abs() < 1e-6 && (high - 1.0398).abs() < 1e-6, "{low} {high}");
}

#[test]
fn nothing_observed_is_no_range() {
    for name in Observer::NAMES {
        let Ok(observer) = name.parse::<Observer>() else { panic!("{name}") };
        for (element, symmetric) in [(U8, false), (S8, true), (ElementType::Uint16, false)] {
            assert_eq!(observer.range(&of(&[&[], &[f32::INFINITY]]), element, symmetric), None);
            let zero = Range { low: 0.0, high: 0.0 };
            assert_eq!(observer.range(&of(&[&[0.0; 9]]), element, symmetric), Some(zero));
            let range = observer.range(&of(&[&[7.0; 9]]), element, symmetric);
            assert!(range.is_some_and(|range| (range.high - 7.0).abs() < 0.01), "{name} {range:?}");
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for observer in [Observer::MinMax, Observer::MovingAverage, Observer::Percentile(99.9), Observer::Entropy]
    {
        assert_eq!(observer.to_string().parse(), Ok(observer));
    }
    assert_eq!("percentile".parse(), Ok(Observer::Percentile(99.999)));
    for wrong in ["", "kl", "percentile=", "percentile=101", "percentile=nan"] {
        assert!(wrong.parse::<Observer>().is_err(), "{wrong}");
    }
}

fn samples() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let usual = || -8.0f32..8.0;
    let number = prop_oneof![
        8 => usual(),
        2 => Just(0.0f32),
        1 => (usual(), -60i32..60).prop_map(|(value, exponent)| value * (exponent as f32).exp2()),
        1 => prop_oneof![Just(f32::MIN), Just(f32::INFINITY), Just(-1e9f32), Just(1e-41f32)],
    ];
    prop::collection::vec(prop::collection::vec(number, 0..80), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Shards give what all samples at once do, however they are divided.
    #[test]
    fn merging_is_observing_all(samples in samples(), first in 0usize..12, second in 0usize..12) {
        let all = of(&samples.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut cuts = [first.min(samples.len()), second.min(samples.len())];
        cuts.sort_unstable();
        let shard = |range: std::ops::Range<usize>| of(&samples[range].iter().map(Vec::as_slice).collect::<Vec<_>>());
        let [a, b, c] = [shard(0..cuts[0]), shard(cuts[0]..cuts[1]), shard(cuts[1]..samples.len())];
        let mut left = a.clone();
        left.merge(&b);
        left.merge(&c);
        let mut right = b;
        right.merge(&c);
        let mut whole = a;
        whole.merge(&right);
        for merged in [left, whole] {
            for observer in [Observer::MinMax, Observer::Percentile(90.0), Observer::Entropy, Observer::Norm(2.0)] {
                prop_assert_eq!(observer.range(&merged, U8, false), observer.range(&all, U8, false));
            }
            let averages = |statistics: &Statistics| Observer::MovingAverage.range(statistics, U8, false);
            match (averages(&merged), averages(&all)) {
                (Some(a), Some(b)) => {
                    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (1.0 + a.abs().max(b.abs()));
                    prop_assert!(near(a.low, b.low) && near(a.high, b.high), "{:?} {:?}", a, b);
                }
                (a, b) => prop_assert_eq!(a, b),
            }
            prop_assert_eq!((merged.elements(), merged.zeros(), merged.infinities(), merged.marks()),
                (all.elements(), all.zeros(), all.infinities(), all.marks()));
        }
    }

    /// The order of the samples matters to the moving average alone.
    #[test]
    fn order_does_not_matter(samples in samples()) {
        let all = of(&samples.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let reversed = of(&samples.iter().rev().map(Vec::as_slice).collect::<Vec<_>>());
        for observer in [Observer::MinMax, Observer::Percentile(99.0), Observer::Entropy, Observer::Norm(2.0)] {
            prop_assert_eq!(observer.range(&reversed, S8, true), observer.range(&all, S8, true));
        }
    }

    /// Whatever was observed, a range is one of numbers that occurred or lies within them, to a bin.
    #[test]
    fn ranges_lie_within_the_numbers(samples in samples()) {
        let all = of(&samples.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let Some((low, high)) = all.ends() else { return Ok(()) };
        for name in Observer::NAMES {
            let Ok(observer) = name.parse::<Observer>() else { panic!("{name}") };
            for (element, symmetric) in [(U8, false), (S8, true)] {
                let range = observer.range(&all, element, symmetric);
                let (inner_low, inner_high) = (low.min(0.0), high.max(0.0));
                prop_assert!(range.is_some_and(|r| r.low >= inner_low && r.high <= inner_high), "{name} {:?}", range);
            }
        }
    }
}
