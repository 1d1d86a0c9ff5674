//! What keeps a quantized model close to its original, given what calibration saw.
//!
//! The error that rounding weights makes in the result of an operator is d·H·dᵀ, where d is what rounding changed in
//! the weights of a channel and H the second [`Moments`] of its operand: no more is needed of the data to choose
//! scales ([`sequential`]), to round one weight after the other ([`successive`]) or to try neighbours ([`descent`]).

mod bias;
pub(super) mod bounded;
mod descent;
mod equalize;
mod half_quadratic;
mod moments;
mod ranges;
pub(crate) mod round;
mod sequential;
mod smooth;
mod successive;
mod windows;

pub use bias::{Corrected, correct_biases};
pub use equalize::{Equalization, equalize};
pub use moments::{LayerMoments, Moments};
pub use ranges::best_ranges;
pub use round::{Rounding, WeightRounding};
pub use smooth::{Largest, Smoothing, smooth, smoothable};
pub use windows::{Layer, Window, layers};
