//! From a file to messages; weights stay in the mapped file.
//!
//! A mapped file must not be cut short by others while it is in use: the system then ends the process. Replacing it,
//! as [`write_file`](crate::write_file) does, is safe.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use crate::{ModelProto, ReadError, ReadErrorKind, foreign, wire};

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
    let read = || {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() { Err(ReadErrorKind::Directory) } else { decode(contents(file)?) }
    };
    let mut document = read().map_err(|kind| kind.at(path))?;
    document.folder = path.parent().map(Path::to_owned);
    Ok(document)
}

/// Reads a model from memory, for example from a stream.
///
/// # Errors
/// If the bytes are not an ONNX model.
pub fn read_bytes(bytes: Bytes) -> Result<Document, ReadError> {
    Ok(decode(bytes)?)
}

/// The bytes of an open file: mapped, or read if it cannot be mapped (a pipe, say).
pub(crate) fn contents(mut file: File) -> io::Result<Bytes> {
    if file.metadata()?.is_file() {
        // SAFETY: the map is only read. That nobody cuts the file short is asked of the user, see the module text.
        if let Ok(map) = unsafe { Mmap::map(&file) } {
            return Ok(Bytes::from_owner(map));
        }
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn decode(bytes: Bytes) -> Result<Document, ReadErrorKind> {
    if bytes.is_empty() {
        return Err(ReadErrorKind::Empty);
    }
    let model = ModelProto::decode(bytes.clone()).map_err(|error| explain(error, &bytes))?;
    let missing = match &model {
        ModelProto { graph: None, .. } => Some("graph"),
        ModelProto { ir_version: None, .. } => Some("ir_version"),
        _ => None,
    };
    if let Some(missing) = missing {
        return Err(
            foreign::recognise(&bytes).map_or(ReadErrorKind::Missing(missing), ReadErrorKind::Foreign)
        );
    }
    // Lengths differ also where the file packs numbers in another way than the schema: only then look closely.
    let same = model.encoded_len() == bytes.len();
    let unknown_fields = if same { 0 } else { wire::unknown_bytes(&bytes) };
    Ok(Document { model, file_bytes: bytes.len() as u64, unknown_fields, folder: None })
}

/// The likely cause of a decoder's error.
fn explain(error: prost::DecodeError, bytes: &Bytes) -> ReadErrorKind {
    if error.to_string().ends_with("recursion limit reached") {
        return ReadErrorKind::TooDeep;
    }
    wire::truncation(bytes)
        .or_else(|| foreign::recognise(bytes).map(ReadErrorKind::Foreign))
        .unwrap_or(ReadErrorKind::Malformed(error))
}
