//! Makes an ONNX model smaller and faster.
