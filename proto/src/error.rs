//! What can go wrong between a model and its file, each in one line.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// A model that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", Prefix(path.as_deref()))]
pub struct ReadError {
    /// The file; none for a stream.
    pub path: Option<PathBuf>,
    /// The cause.
    pub kind: ReadErrorKind,
}

/// Why a model cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadErrorKind {
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// A folder stands where a file should.
    #[error("is a folder, not a model file")]
    Directory,
    /// The system refused.
    #[error("cannot read: {0}")]
    Io(io::Error),
    /// Zero bytes.
    #[error("is empty")]
    Empty,
    /// A model that ends before its last field does.
    #[error("is cut short: field {field} of the model needs {needed} bytes, {available} are left")]
    Truncated {
        /// Number of the field of `ModelProto`; 7 is the graph.
        field: u32,
        /// Bytes that the field claims.
        needed: u64,
        /// Bytes from the start of the field's content to the end of the file.
        available: u64,
    },
    /// Messages are nested deeper than the decoder's recursion limit.
    #[error("is nested too deeply: messages may be 100 levels deep, some 30 subgraphs in each other")]
    TooDeep,
    /// Bytes that do not follow the schema.
    #[error("is not an ONNX model: {0}")]
    Malformed(prost::DecodeError),
    /// A file of another kind.
    #[error("is not an ONNX model but {0}")]
    Foreign(&'static str),
    /// A protocol buffer message without what makes a model.
    #[error("is not an ONNX model: it has no {0}")]
    Missing(&'static str),
}

impl From<ReadErrorKind> for ReadError {
    fn from(kind: ReadErrorKind) -> Self {
        Self { path: None, kind }
    }
}

impl ReadErrorKind {
    pub(crate) fn at(self, path: &Path) -> ReadError {
        ReadError { path: Some(path.to_owned()), kind: self }
    }
}

impl From<io::Error> for ReadErrorKind {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::IsADirectory => Self::Directory,
            _ => Self::Io(error),
        }
    }
}

/// A tensor whose external data cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("tensor {tensor:?}: external data {location:?}: {kind}")]
pub struct ExternalError {
    /// Name of the tensor.
    pub tensor: String,
    /// Where its data should be, as the model says.
    pub location: String,
    /// The cause.
    pub kind: ExternalErrorKind,
}

/// Why external data cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ExternalErrorKind {
    /// The tensor names no file.
    #[error("the model gives no location")]
    NoLocation,
    /// Only paths relative to the model's folder are followed.
    #[error("absolute paths are refused")]
    Absolute,
    /// Only paths inside the model's folder are followed.
    #[error("leaves the model's folder, which is refused")]
    Outside,
    /// A link whose end is not inside the model's folder.
    #[error(
        "is a link that leaves the model's folder, which is refused (put the file itself beside the model)"
    )]
    OutsideLink,
    /// A number that is none.
    #[error("{key} is {value:?}, not a number of bytes")]
    Number {
        /// `offset` or `length`.
        key: &'static str,
        /// What the model says.
        value: String,
    },
    /// There is no such file.
    #[error("no such file: {}", .0.display())]
    NotFound(PathBuf),
    /// A folder or a device.
    #[error("not a file: {}", .0.display())]
    NotFile(PathBuf),
    /// The system refused.
    #[error("cannot read: {0}")]
    Io(io::Error),
    /// The range is not inside the file.
    #[error("{length} bytes at {offset} are beyond its end at {size}")]
    Range {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Size of the file in bytes.
        size: u64,
    },
}

/// A model that cannot be written. Nothing of it stays behind.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", Prefix(path.as_deref()))]
pub struct WriteError {
    /// The file; none for a stream.
    pub path: Option<PathBuf>,
    /// The cause.
    pub kind: WriteErrorKind,
}

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteErrorKind {
    /// A folder stands where the file should go.
    #[error("is a folder, not a file to write")]
    Directory,
    /// The folder to write to does not exist.
    #[error("cannot write: the folder does not exist")]
    NoFolder,
    /// The folder or the file may not be written.
    #[error("cannot write: {0}")]
    Denied(io::Error),
    /// No room.
    #[error("cannot write: {0}")]
    Full(io::Error),
    /// The system refused.
    #[error("cannot write: {0}")]
    Io(io::Error),
    /// The name of external data has to be UTF-8.
    #[error("cannot write external data: the name is not UTF-8")]
    Name,
    /// More than any reader of protocol buffers takes.
    #[error(
        "cannot write: the model takes {0} bytes, readers take 2147483647 (move weights to external data)"
    )]
    TooLarge(u64),
}

impl WriteErrorKind {
    pub(crate) fn at(self, path: &Path) -> WriteError {
        WriteError { path: Some(path.to_owned()), kind: self }
    }
}

impl From<WriteErrorKind> for WriteError {
    fn from(kind: WriteErrorKind) -> Self {
        Self { path: None, kind }
    }
}

impl From<io::Error> for WriteErrorKind {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NoFolder,
            io::ErrorKind::IsADirectory => Self::Directory,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied(error),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(error)
            }
            _ => Self::Io(error),
        }
    }
}

/// The path before a cause.
struct Prefix<'a>(Option<&'a Path>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "{}: ", path.display()),
            None => Ok(()),
        }
    }
}
