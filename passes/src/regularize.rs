//! Files that say what the standard forbids, though the meaning is plain.

use onnx_opt_ir::Model;

use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;

/// Gives each node a name of its own and imports each domain once.
pub struct Regularize;

impl Pass for Regularize {
    fn name(&self) -> &'static str {
        "regularize"
    }

    fn doc(&self) -> &'static str {
        "Gives each node a name of its own and imports each domain that is used, once"
    }

    fn run_model(&self, model: &mut Model, _: &PassContext<'_>, statistics: &mut Statistics) {
        let changed = model.regularize();
        if changed > 0 {
            *statistics.fired.entry("regularize").or_default() += changed;
        }
    }
}
