//! The graph of an ONNX model.
