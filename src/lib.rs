//! Makes an ONNX model smaller and faster and shows that it still computes the same.
//!
//! [`session::optimize`] is the whole way from a file to a file, as the command line goes it. The layers below stand
//! on their own: [`proto`] reads and writes files, [`ir`] is the graph, [`passes`] rewrites it.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use onnx_opt::ir::Model;
//! use onnx_opt::session::{Listener, Options, Source, Destination, optimize};
//!
//! struct Silent;
//!
//! impl Listener for Silent {
//!     fn stage(&self, _: &'static str) {}
//!     fn after_pass(&self, _: &str, _: &Model) {}
//! }
//!
//! fn main() -> ExitCode {
//!     // Models are run in a process of their own: this program again.
//!     if let Some(code) = onnx_opt::verify::serve() {
//!         return code;
//!     }
//!     let (model, result) = (Source::File("net.onnx".into()), Destination::File("net.opt.onnx".into()));
//!     let options = Options { level: 2, ..Options::default() };
//!     match optimize(&model, &result, &options, &Silent) {
//!         Ok(report) => println!("{} operators became {}", report.before.nodes, report.after.nodes),
//!         Err(error) => eprintln!("{error}"),
//!     }
//!     ExitCode::SUCCESS
//! }
//! ```

pub mod calibrate;
mod child;
mod choice;
pub mod data;
pub mod engine;
pub mod interface;
pub mod latency;
pub mod nodes;
pub mod opset;
pub mod pruning;
pub mod quantization;
pub mod report;
pub mod session;
mod similar;
pub mod static_quantization;
pub mod verify;

pub use child::{ChildError, serve};

pub use onnx_opt_ir as ir;
pub use onnx_opt_passes as passes;
pub use onnx_opt_proto as proto;
