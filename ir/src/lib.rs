//! The graph of an ONNX model.

pub mod schema;
