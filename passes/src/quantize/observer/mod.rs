//! Observers: statistics of a tensor over all samples, and the range that one chooses from them.

mod entropy;
mod histogram;
mod moving;
mod norm;
mod percentile;
mod statistics;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use onnx_opt_ir::ElementType;

pub use histogram::{BINS, Histogram};
use statistics::Distribution;
pub use statistics::{NotANumber, Statistics};

use super::Range;
use super::grid::limits;

/// How a range is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observer {
    /// From the smallest to the largest number.
    MinMax,
    /// Moving averages of the smallest and largest number of each sample, m ← m + 0.01·(x − m).
    MovingAverage,
    /// Up to the percentile, and down to the same of the negated numbers.
    Percentile(f64),
    /// The limit of least information loss: Kullback-Leibler divergence over 2048 bins.
    Entropy,
    /// The limits of least mean |error|ᵖ of what is quantized, for p from 1 on.
    Norm(f64),
}

/// What [`Observer::Percentile`] is where nothing is said.
pub const PERCENTILE: f64 = 99.999;

/// What [`Observer::Norm`] is where nothing is said: by higher powers no limit is better than that of the largest number.
pub const POWER: f64 = 3.0;

impl Observer {
    /// The range for integers of this type, symmetric about zero or not; `None` if no numbers were observed.
    pub fn range(self, statistics: &Statistics, element: ElementType, symmetric: bool) -> Option<Range> {
        let (low, high) = match self {
            Self::MinMax => statistics.ends()?,
            Self::MovingAverage => statistics.moving_ends()?,
            Self::Percentile(percent) => percentile::ends(&statistics.distribution()?, percent),
            Self::Entropy => entropy::ends(&statistics.distribution()?, element, symmetric),
            Self::Norm(power) => norm::ends(&statistics.distribution()?, element, symmetric, power),
        };
        Range::new(low, high)
    }

    /// What is worth trying for activations, the usual one first. Squared errors cut off the few large numbers that some
    /// activations of transformers have, and on which their results depend; other models have large numbers that are of no
    /// matter.
    pub const CANDIDATES: [Self; 3] = [Self::Norm(2.0), Self::Norm(POWER), Self::MinMax];

    /// All observers as they are written.
    pub const NAMES: [&str; 6] = ["min-max", "moving-average", "percentile", "entropy", "mse", "lp-norm"];
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::MovingAverage => f.write_str("moving-average"),
            Self::Percentile(percent) => write!(f, "percentile={percent}"),
            Self::Entropy => f.write_str("entropy"),
            Self::Norm(2.0) => f.write_str("mse"),
            Self::Norm(power) => write!(f, "lp-norm={power}"),
        }
    }
}

impl FromStr for Observer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "min-max" | "minmax" => Self::MinMax,
            "moving-average" => Self::MovingAverage,
            "percentile" => Self::Percentile(PERCENTILE),
            "entropy" => Self::Entropy,
            "mse" => Self::Norm(2.0),
            "lp-norm" => Self::Norm(POWER),
            _ => {
                let number = |name: &str, within: &RangeInclusive<f64>| {
                    let number = text.strip_prefix(name)?.parse().ok()?;
                    within.contains(&number).then_some(number)
                };
                let percentile = number("percentile=", &(50.0..=100.0)).map(Self::Percentile);
                let norm = || number("lp-norm=", &(1.0..=16.0)).map(Self::Norm);
                percentile.or_else(norm).ok_or_else(|| {
                    format!("expected one of {}, percentile=99.9 or lp-norm=2.4", Self::NAMES.join(", "))
                })?
            }
        })
    }
}

/// How many integers a range has above zero, or below, if it begins or ends there.
fn one_sided_steps(element: ElementType, symmetric: bool) -> usize {
    let (lowest, highest) = limits(element, symmetric);
    let steps = usize::try_from(highest - lowest + 1).unwrap_or(usize::MAX);
    if symmetric { steps.div_ceil(2) } else { steps }
}

#[cfg(test)]
mod tests;
