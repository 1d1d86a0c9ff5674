//! What can go wrong between a model and its file.

use std::io;
use std::path::PathBuf;

/// A model file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    NotFound {
        /// The file asked for.
        path: PathBuf,
    },
    /// A folder stands where a file should.
    #[error("{}: is a folder, not a model file", path.display())]
    Directory {
        /// The file asked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: cannot read: {source}", path.display())]
    Io {
        /// The file asked for.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of zero bytes.
    #[error("the file is empty")]
    Empty,
    /// The bytes are no protocol buffer message of the schema.
    #[error("not an ONNX model: {reason}")]
    NotOnnx {
        /// What was found instead.
        reason: String,
    },
}

/// A model that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system refused.
    #[error("{}: cannot write: {source}", path.display())]
    Io {
        /// The file asked for.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}
