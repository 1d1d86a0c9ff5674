//! Calls of model-local functions give way to the bodies of the functions.

use onnx_opt_ir::Model;

use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;

/// Replaces calls of model-local functions by their bodies.
pub struct InlineFunctions;

impl Pass for InlineFunctions {
    fn name(&self) -> &'static str {
        "inline_functions"
    }

    fn doc(&self) -> &'static str {
        "Replaces calls of model-local functions by their bodies"
    }

    fn run_model(&self, model: &mut Model, context: &PassContext<'_>, statistics: &mut Statistics) {
        let declined = &mut statistics.declined;
        let changes = model.inline_functions(&mut |function, reason| {
            if context.explain {
                declined.insert(("inline_functions", function.to_owned()), reason);
            }
        });
        if changes > 0 {
            *statistics.fired.entry("inline_functions").or_default() += changes;
        }
    }
}
