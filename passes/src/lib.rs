//! Rewrites of ONNX graphs.
