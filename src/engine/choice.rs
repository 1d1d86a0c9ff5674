//! Which engine runs a model.

use std::path::PathBuf;

use onnx_opt_ir::engine::{EngineError, Executor};
use serde::{Deserialize, Serialize};

use super::{OrtExecutor, TractExecutor};

/// One of the engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Engine {
    /// tract, built in.
    Tract,
    /// onnxruntime from this library.
    OnnxRuntime(PathBuf),
}

impl Engine {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::OnnxRuntime(_) => "onnxruntime",
        }
    }

    /// The engine as comparisons need it: graphs as they are, on one thread.
    ///
    /// # Errors
    /// If the library of onnxruntime cannot be loaded.
    pub fn exact(&self) -> Result<Box<dyn Executor>, EngineError> {
        Ok(match self {
            Self::Tract => Box::new(TractExecutor::new()),
            Self::OnnxRuntime(library) => Box::new(OrtExecutor::new(library)?),
        })
    }

    /// The engine as many runs need it: with its fastest kernels, on so many threads where it has threads.
    ///
    /// # Errors
    /// If the library of onnxruntime cannot be loaded.
    pub fn fast(&self, threads: usize) -> Result<Box<dyn Executor>, EngineError> {
        Ok(match self {
            Self::Tract => Box::new(TractExecutor::new().optimized()),
            Self::OnnxRuntime(library) => Box::new(OrtExecutor::new(library)?.optimized().threads(threads)),
        })
    }
}

/// Which engines may run the models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// tract, then onnxruntime for what tract cannot run, if its library is known.
    #[default]
    Auto,
    /// tract alone.
    Tract,
    /// onnxruntime alone.
    OnnxRuntime,
}
