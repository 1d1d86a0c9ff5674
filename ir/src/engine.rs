//! What the layers above may ask of an engine that runs operators. The engines themselves live elsewhere.

use std::sync::Arc;

use thiserror::Error;

use crate::graph::{Context, Node};
use crate::tensor::Tensor;

/// Why an engine gave no result.
#[derive(Debug, Error, Clone)]
pub enum EngineError {
    /// The engine has no kernel for this, or a wrong one that is not used.
    #[error("{engine} cannot run {what}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// Operator or feature.
        what: String,
    },
    /// It tried and failed.
    #[error("{engine} failed: {reason}")]
    Failed {
        /// The engine.
        engine: &'static str,
        /// Its words.
        reason: String,
    },
}

/// Evaluates single nodes whose operands are constants.
pub trait ConstEval {
    /// The results of `node` on `inputs`, one for each of its outputs in order, `None` for those left out.
    ///
    /// # Errors
    /// If the engine cannot run the node, or fails on these operands.
    fn evaluate(
        &self,
        context: &Context,
        node: &Node,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Option<Tensor>>, EngineError>;
}

/// Tensors by name.
pub type Named = Vec<(String, Tensor)>;

/// Runs whole models.
pub trait Executor {
    /// Name of the engine, for reports.
    fn name(&self) -> &'static str;

    /// Loads a model, given as encoded bytes, to be run any number of times.
    ///
    /// # Errors
    /// If the engine cannot load the model.
    fn prepare<'a>(&'a self, model: &[u8]) -> Result<Box<dyn Runner + 'a>, EngineError>;

    /// Runs a model once.
    ///
    /// # Errors
    /// If the engine cannot load or run the model.
    fn run(&self, model: &[u8], inputs: &[(String, Tensor)]) -> Result<Named, EngineError> {
        self.prepare(model)?.run(inputs)
    }
}

/// A model that an engine has loaded.
pub trait Runner {
    /// Runs the model on inputs by name and returns the outputs in the model's order.
    ///
    /// # Errors
    /// If the engine cannot run the model on these inputs.
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Named, EngineError>;
}
