//! Makes an ONNX model smaller and faster and shows that it still computes the same.
//!
//! [`session::optimize`] is the whole way from a file to a file, as the command line goes it. The layers below stand
//! on their own: [`proto`] reads and writes files, [`ir`] is the graph, [`passes`] rewrites it.

pub mod data;
pub mod engine;
pub mod interface;
pub mod report;
pub mod session;
mod similar;
pub mod verify;

pub use onnx_opt_ir as ir;
pub use onnx_opt_passes as passes;
pub use onnx_opt_proto as proto;
