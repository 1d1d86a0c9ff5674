//! Rewrites of ONNX graphs: the pass manager, the rewrite engine with its rules, and the pipelines.

#[macro_use]
pub mod rewrite;
mod bias;
mod cholesky;
pub mod cse;
mod cut;
pub mod dead_code;
pub mod evaluate;
#[cfg(any(test, feature = "testing"))]
pub mod exercise;
pub mod fold;
pub mod fold_constants;
pub mod gradient;
pub mod impossible_branch;
pub mod inline_functions;
pub mod inline_if;
pub mod layout;
pub mod lift_constants;
pub mod macs;
mod matrix;
pub mod measure;
pub mod opset;
pub mod pass;
pub mod pipeline;
pub mod prune;
pub mod quantize;
pub mod raise_ir_version;
pub mod regularize;
pub mod rules;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod threads;
pub mod unroll_loop;

pub use pass::{FoldBudget, Pass, PassContext, PassError, PassManager, PassReport};
pub use pipeline::pipeline;
pub use target::{Target, TargetError};
