//! The ONNX schema, and reading and writing of model files.
