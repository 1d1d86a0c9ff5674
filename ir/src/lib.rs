//! The graph of an ONNX model.

pub mod dim;
pub mod schema;

pub use dim::{Dim, Symbol};
