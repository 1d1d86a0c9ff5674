//! From a file to messages; weights stay in the mapped file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use crate::{ModelProto, ReadError};

/// A model as read.
#[derive(Debug, Clone)]
pub struct Document {
    /// The model; its `Bytes` are slices of the file.
    pub model: ModelProto,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Bytes of the file that the schema does not know; writing the model drops them.
    pub unknown_fields: u64,
    /// The folder that external data is relative to; none for a model that came from a stream.
    pub folder: Option<PathBuf>,
}

/// Reads the model at `path` without copying its weights.
///
/// # Errors
/// If there is no such file, or it is not an ONNX model.
pub fn read_file(path: &Path) -> Result<Document, ReadError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ReadError::NotFound { path: path.to_owned() },
        _ => ReadError::Io { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(ReadError::Directory { path: path.to_owned() });
    }
    // SAFETY: the map is private and read-only; see the module text for files that change underneath.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    let mut document = read_bytes(Bytes::from_owner(map))?;
    document.folder = Some(path.parent().unwrap_or(Path::new("")).to_owned());
    Ok(document)
}

/// Reads a model from memory, for example from a stream.
///
/// # Errors
/// If the bytes are not an ONNX model.
pub fn read_bytes(bytes: Bytes) -> Result<Document, ReadError> {
    if bytes.is_empty() {
        return Err(ReadError::Empty);
    }
    let model = ModelProto::decode(bytes.clone())
        .map_err(|error| ReadError::NotOnnx { reason: error.to_string() })?;
    if model.graph.is_none() {
        return Err(ReadError::NotOnnx { reason: "it holds no graph".into() });
    }
    let file_bytes = bytes.len() as u64;
    let unknown_fields = file_bytes.saturating_sub(model.encoded_len() as u64);
    Ok(Document { model, file_bytes, unknown_fields, folder: None })
}
