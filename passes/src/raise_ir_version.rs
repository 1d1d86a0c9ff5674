//! Models from before IR version 4 list their initializers as inputs.

use onnx_opt_ir::Model;

use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;

/// Makes an old model one of IR version 4 and takes constants off the list of inputs. Runtimes have hidden those from
/// callers all along.
pub struct RaiseIrVersion;

impl Pass for RaiseIrVersion {
    fn name(&self) -> &'static str {
        "raise_ir_version"
    }

    fn doc(&self) -> &'static str {
        "Makes models from before IR version 4 such of version 4, whose inputs hold no initializers"
    }

    fn run_model(&self, model: &mut Model, _: &PassContext<'_>, statistics: &mut Statistics) {
        if model.raise_ir_version() {
            *statistics.fired.entry("raise_ir_version").or_default() += 1;
        }
    }
}
