//! Observers: statistics of a tensor over all samples, and the range that one chooses from them.

mod entropy;
mod histogram;
mod moving;
mod percentile;
mod squared_error;
mod statistics;

use std::fmt;
use std::str::FromStr;

use onnx_opt_ir::ElementType;

pub use histogram::{BINS, Histogram};
use statistics::Distribution;
pub use statistics::{NotANumber, Statistics};

use super::Range;
use super::grid::limits;

/// How a range is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Observer {
    /// From the smallest to the largest number.
    #[default]
    MinMax,
    /// Moving averages of the smallest and largest number of each sample, m ← m + 0.01·(x − m).
    MovingAverage,
    /// Up to the percentile, and down to the same of the negated numbers.
    Percentile(f64),
    /// The limit of least information loss: Kullback-Leibler divergence over 2048 bins.
    Entropy,
    /// The limits of least expected squared error of what is quantized.
    SquaredError,
}

/// What [`Observer::Percentile`] is where nothing is said.
pub const PERCENTILE: f64 = 99.999;

impl Observer {
    /// The range for integers of this type, symmetric about zero or not; `None` if no numbers were observed.
    pub fn range(self, statistics: &Statistics, element: ElementType, symmetric: bool) -> Option<Range> {
        let (low, high) = match self {
            Self::MinMax => statistics.ends()?,
            Self::MovingAverage => statistics.moving_ends()?,
            Self::Percentile(percent) => percentile::ends(&statistics.distribution()?, percent),
            Self::Entropy => entropy::ends(&statistics.distribution()?, element, symmetric),
            Self::SquaredError => squared_error::ends(&statistics.distribution()?, element, symmetric),
        };
        Range::new(low, high)
    }

    /// All observers as they are written.
    pub const NAMES: [&str; 5] = ["min-max", "moving-average", "percentile", "entropy", "mse"];
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::MovingAverage => f.write_str("moving-average"),
            Self::Percentile(percent) => write!(f, "percentile={percent}"),
            Self::Entropy => f.write_str("entropy"),
            Self::SquaredError => f.write_str("mse"),
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
            "mse" => Self::SquaredError,
            _ => {
                let percent = text.strip_prefix("percentile=").and_then(|percent| percent.parse().ok());
                let percent = percent.filter(|percent| (50.0..=100.0).contains(percent));
                let wanted = || format!("expected one of {}, or percentile=99.9", Self::NAMES.join(", "));
                Self::Percentile(percent.ok_or_else(wanted)?)
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
