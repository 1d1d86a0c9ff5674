//! From messages to a file: streamed, and under its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use tempfile::NamedTempFile;

use crate::sink::Sink;
use crate::spill::spill;
use crate::{ModelProto, WriteError, WriteErrorKind};

/// Largest message, in bytes, that readers of protocol buffers take.
const MESSAGE_LIMIT: u64 = i32::MAX as u64;
/// Smallest tensor, in bytes, that [`ExternalPolicy::Auto`] moves out.
const AUTO_THRESHOLD: u64 = 1024;

/// Which tensors go to a second file beside the model, named as the model with `.data` behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExternalPolicy {
    /// Those of at least 1 KiB, if the model would otherwise pass [`WriteOptions::auto_limit`].
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
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Which tensors go to a second file.
    pub external_data: ExternalPolicy,
    /// Size of a model in bytes from which [`ExternalPolicy::Auto`] moves tensors out.
    pub auto_limit: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { external_data: ExternalPolicy::Auto, auto_limit: 1_900_000_000 }
    }
}

/// What was written, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Length of the model file.
    pub bytes: u64,
    /// Length of the file of external data; 0 without one.
    pub external_bytes: u64,
}

/// Writes `model` to `path`, which may be the file it was read from.
///
/// Files are written under temporary names in the same folder and renamed when all are complete; an existing file is
/// replaced, never changed. A link is followed; a device or a pipe is written to directly. Tensors that are external
/// already stay so.
///
/// # Errors
/// If the files cannot be written, or the model stays too large for readers; then nothing is left behind.
pub fn write_file(
    mut model: ModelProto,
    path: &Path,
    options: &WriteOptions,
) -> Result<WriteReport, WriteError> {
    let fail = |kind: WriteErrorKind| kind.at(path);
    if let Ok(target) = fs::metadata(path) {
        if target.is_dir() {
            return Err(fail(WriteErrorKind::Directory));
        }
        if !target.is_file() {
            let file = File::options().write(true).open(path).map_err(|error| fail(error.into()))?;
            let bytes = stream(&model, file).map_err(fail)?;
            return Ok(WriteReport { bytes, external_bytes: 0 });
        }
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (data, external_bytes) = match threshold(&model, options) {
        Some(threshold) => spill_beside(&mut model, &target, folder, threshold)?,
        None => (None, 0),
    };
    let file = temporary(folder).map_err(|error| fail(error.into()))?;
    let bytes = stream(&model, file.as_file()).map_err(fail)?;
    let data = data.map(Pending::publish).transpose()?;
    Pending { file, path: target.clone() }.publish()?.keep();
    if let Some(data) = data {
        data.keep();
    }
    Ok(WriteReport { bytes, external_bytes })
}

/// Writes `model` to a stream, such as standard output; returns the number of bytes.
///
/// # Errors
/// If the stream refuses, or the model is too large for readers.
pub fn write_stream(model: &ModelProto, writer: &mut dyn Write) -> Result<u64, WriteError> {
    Ok(stream(model, writer)?)
}

/// The bytes of `model`, all in memory.
#[must_use]
pub fn encode(model: &ModelProto) -> Bytes {
    model.encode_to_vec().into()
}

fn stream(model: &ModelProto, writer: impl Write) -> Result<u64, WriteErrorKind> {
    let length = model.encoded_len() as u64;
    if length > MESSAGE_LIMIT {
        return Err(WriteErrorKind::TooLarge(length));
    }
    let mut sink = Sink::new(writer);
    model.encode(&mut sink).map_err(|_| WriteErrorKind::TooLarge(length))?;
    Ok(sink.finish()?)
}

/// Size from which tensors are to be moved out, if any are.
fn threshold(model: &ModelProto, options: &WriteOptions) -> Option<u64> {
    match options.external_data {
        ExternalPolicy::Never => None,
        ExternalPolicy::Always { threshold_bytes } => Some(threshold_bytes),
        ExternalPolicy::Auto => (model.encoded_len() as u64 > options.auto_limit).then_some(AUTO_THRESHOLD),
    }
}

/// Moves tensors to a file that is yet to be published; none if no tensor was large enough.
fn spill_beside(
    model: &mut ModelProto,
    path: &Path,
    folder: &Path,
    threshold: u64,
) -> Result<(Option<Pending>, u64), WriteError> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".data");
    let location = name.to_str().ok_or_else(|| WriteErrorKind::Name.at(path))?;
    let target = folder.join(location);
    let fail = |error: io::Error| WriteErrorKind::from(error).at(&target);
    if target.is_dir() {
        return Err(WriteErrorKind::Directory.at(&target));
    }
    let file = temporary(folder).map_err(fail)?;
    let mut sink = Sink::new(file.as_file());
    spill(model, threshold, location, &mut sink);
    let bytes = sink.finish().map_err(fail)?;
    let data = (bytes > 0).then_some(Pending { file, path: target });
    Ok((data, bytes))
}

/// A new file with the permissions that any new file gets; removed when dropped.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-opt-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// A complete file under a temporary name.
struct Pending {
    file: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Gives the file its name.
    fn publish(self) -> Result<Published, WriteError> {
        let replaced = self.path.exists();
        self.file.persist(&self.path).map_err(|error| WriteErrorKind::from(error.error).at(&self.path))?;
        Ok(Published { path: self.path, withdraw: !replaced })
    }
}

/// A file under its name; taken back when dropped before [`keep`](Self::keep), unless it has replaced another.
struct Published {
    path: PathBuf,
    withdraw: bool,
}

impl Published {
    fn keep(mut self) {
        self.withdraw = false;
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if self.withdraw {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}
