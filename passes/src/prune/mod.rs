//! Structured pruning: whole channels, heads and hidden units go, wherever they are coupled, and a smaller dense graph
//! is left.
//!
//! Every index of every axis is a lane ([`lanes`]); each operator says which lanes are one ([`couple`]); classes that
//! touch the same axes of the same weights make a group, in which one may go instead of another ([`group`]). What they
//! are worth ([`importance`]) gives an order ([`order`]), the target ends it ([`plan`]), and [`remove`] cuts.

pub mod cost;
pub mod couple;
pub mod dead;
pub mod group;
pub mod importance;
mod joint;
pub mod lanes;
mod linear;
pub mod measured;
pub mod order;
pub mod plan;
pub(crate) mod product;
pub mod recover;
mod recurrent;
pub mod remove;
mod takers;

pub use couple::couple;
pub use dead::DeadChannels;
pub use group::{Group, Groups};
pub use importance::{Importance, Norm, Normalization};
pub use measured::{Criterion, Measured};
pub use order::{Limits, Multiple, Ranking};
pub use plan::{Options, Outcome, PruneError, Target, prune};
pub use recover::{Given, Recovered, recover};
