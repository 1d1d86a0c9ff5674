//! Rewrites of ONNX graphs.

#[macro_use]
pub mod rewrite;
pub mod rules;
