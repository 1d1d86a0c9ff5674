//! From messages to a file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::{ModelProto, WriteError};

/// Which tensors go to a second file beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExternalPolicy {
    /// Those of at least 1 KiB, if the model would pass the size that readers accept.
    #[default]
    Auto,
    /// Those of at least `threshold_bytes`.
    Always {
        /// The smallest tensor to move out, in bytes.
        threshold_bytes: u64,
    },
    /// None.
    Never,
}

/// How to write a model.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Which tensors go to a second file.
    pub external_data: ExternalPolicy,
}

/// What was written, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Length of the model file.
    pub bytes: u64,
    /// Length of the file of external data; 0 without one.
    pub external_bytes: u64,
}

/// Writes `model` to `path`.
///
/// # Errors
/// If the file cannot be written.
pub fn write_file(
    model: ModelProto,
    path: &Path,
    _options: &WriteOptions,
) -> Result<WriteReport, WriteError> {
    let bytes = encode(&model);
    fs::write(path, &bytes).map_err(|source| WriteError::Io { path: path.to_owned(), source })?;
    Ok(WriteReport { bytes: bytes.len() as u64, external_bytes: 0 })
}

/// Writes `model` to a stream, such as standard output; returns the number of bytes.
///
/// # Errors
/// If the stream refuses.
pub fn write_stream(model: &ModelProto, stream: &mut dyn Write) -> Result<u64, io::Error> {
    let bytes = encode(model);
    stream.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// The bytes of `model`, all in memory.
#[must_use]
pub fn encode(model: &ModelProto) -> Bytes {
    model.encode_to_vec().into()
}
