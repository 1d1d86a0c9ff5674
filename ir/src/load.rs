//! Import for models from outside: what no run could accept is refused.

use onnx_opt_proto::Document;
use thiserror::Error;

use crate::check::{CheckError, check};
use crate::import::{ImportError, import};
use crate::infer::{InferenceError, infer};
use crate::model::Model;

/// Why a model is refused.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its parts do not make a graph.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The standard does not allow it.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Operands of a node of the main graph contradict each other.
    #[error(transparent)]
    Contradiction(#[from] InferenceError),
}

/// Imports a model and checks it. Contradictions inside bodies stay notes: a body may never run.
///
/// # Errors
/// If the model is not legal, or types and shapes show that its main graph cannot run.
pub fn load(document: Document) -> Result<Model, LoadError> {
    let model = import(document)?;
    admit(&model)?;
    Ok(model)
}

/// Checks a model as it was imported.
///
/// # Errors
/// If it is not legal, or types and shapes show that its main graph cannot run.
pub fn admit(model: &Model) -> Result<(), LoadError> {
    check(model)?;
    // Notes are rare; only with one is it worth asking again whose it is.
    if !model.notes.is_empty() {
        for (node, _) in model.graph.nodes() {
            infer(&model.graph, node)?;
        }
    }
    Ok(())
}
