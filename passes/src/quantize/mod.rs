//! Quantization: what range of values each tensor takes, and how a graph computes with integers in it.
//!
//! [`prepare`] puts a float model as the target wants it, calibration finds the [`Ranges`] of the values that
//! [`observed`] names, and [`insert`] chooses which nodes compute with integers and marks them with `QuantizeLinear` and
//! `DequantizeLinear`.

pub mod accuracy;
mod costs;
mod grid;
mod insert;
pub mod observer;
mod options;
pub mod oracle;
mod prepare;
mod profile;
mod range;
mod region;
mod scales;
pub mod schemes;
pub mod sensitivity;
mod sizes;
mod unit;
mod weights;

pub use grid::Grid;
pub use insert::{QuantizeError, insert};
pub use observer::{Observer, Statistics};
pub use options::{Placed, QuantizeOptions, QuantizeReport};
pub use prepare::prepare;
pub use profile::{Bias, Cost, Placement, Profile};
pub use range::{Range, Ranges};
pub use unit::observed;
