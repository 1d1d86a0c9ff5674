//! The command line of `onnx-opt`.
fn main() {}
