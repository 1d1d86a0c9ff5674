//! Operators as others that they stand for, where tract lacks them or gets them wrong.

mod half_gemm;
mod multi_head_attention;

use onnx_opt_ir::Graph;
use onnx_opt_passes::rewrite::{Rewriter, Rule, Statistics};

/// Puts others in their place, and tells whether it did so anywhere.
pub fn lower(graph: &mut Graph) -> bool {
    let rules: [&dyn Rule; 2] = [&multi_head_attention::PARTS, &half_gemm::PARTS];
    let mut statistics = Statistics::default();
    Rewriter::new(rules).run(graph, &mut statistics);
    !statistics.fired.is_empty()
}
