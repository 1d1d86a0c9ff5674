//! Weights that live in files beside the model.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use std::collections::HashMap;

use crate::tensor_proto::DataLocation;
use crate::{ExternalError, ExternalErrorKind, ModelProto, TensorProto, read, try_for_each_tensor};

/// The files of external data of one model, each mapped once.
///
/// A model may be hostile: only files inside its own folder are opened.
#[derive(Debug, Default)]
pub struct ExternalData {
    folder: PathBuf,
    maps: HashMap<String, Bytes>,
}

impl ExternalData {
    /// External data of a model that lies in `folder`; an empty path is the current folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        Self { folder, maps: HashMap::new() }
    }

    /// The elements of an external `tensor`, in the layout of `raw_data`, as a slice of the mapped file.
    ///
    /// Without a length the slice goes to the end of the file. Whether it fits the tensor's shape is not checked.
    ///
    /// # Errors
    /// If the file is missing, outside the model's folder, or shorter than the tensor needs.
    pub fn bytes(&mut self, tensor: &TensorProto) -> Result<Bytes, ExternalError> {
        let location = entry(tensor, "location").unwrap_or_default();
        self.slice(tensor, location).map_err(|kind| ExternalError {
            tensor: tensor.name().to_owned(),
            location: location.to_owned(),
            kind,
        })
    }

    /// Turns every external tensor of `model` into one with `raw_data`, still mapped and not copied.
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes).
    pub fn load(&mut self, model: &mut ModelProto) -> Result<(), ExternalError> {
        try_for_each_tensor(model, &mut |tensor| {
            if tensor.data_location() == DataLocation::External {
                tensor.raw_data = Some(self.bytes(tensor)?);
                tensor.external_data.clear();
                tensor.data_location = None;
            }
            Ok(())
        })
    }

    fn slice(&mut self, tensor: &TensorProto, location: &str) -> Result<Bytes, ExternalErrorKind> {
        let offset = number(tensor, "offset")?.unwrap_or(0);
        let length = number(tensor, "length")?;
        let file = self.file(location)?;
        let size = file.len() as u64;
        let length = length.unwrap_or(size.saturating_sub(offset));
        let outside = || ExternalErrorKind::Range { offset, length, size };
        let end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(outside)?;
        // Both are at most the length of a slice, hence no loss.
        Ok(file.slice(offset as usize..end as usize))
    }

    fn file(&mut self, location: &str) -> Result<&Bytes, ExternalErrorKind> {
        if !self.maps.contains_key(location) {
            let bytes = open(&self.folder, location)?;
            self.maps.insert(location.to_owned(), bytes);
        }
        self.maps.get(location).ok_or(ExternalErrorKind::NoLocation)
    }
}

/// Maps a file that is truly inside `folder`.
fn open(folder: &Path, location: &str) -> Result<Bytes, ExternalErrorKind> {
    if location.is_empty() {
        return Err(ExternalErrorKind::NoLocation);
    }
    for component in Path::new(location).components() {
        match component {
            Component::Prefix(_) | Component::RootDir => return Err(ExternalErrorKind::Absolute),
            Component::ParentDir => return Err(ExternalErrorKind::Outside),
            Component::CurDir | Component::Normal(_) => {}
        }
    }
    let path = folder.join(location);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ExternalErrorKind::NotFound(path.clone()),
        _ => ExternalErrorKind::Io(error),
    };
    let target = fs::canonicalize(&path).map_err(failed)?;
    if !target.starts_with(fs::canonicalize(folder).map_err(failed)?) {
        return Err(ExternalErrorKind::OutsideLink);
    }
    if !fs::metadata(&target).map_err(failed)?.is_file() {
        return Err(ExternalErrorKind::NotFile(path));
    }
    File::open(&target).and_then(read::contents).map_err(failed)
}

/// The last value of `key`, as duplicates are not allowed.
fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().rev().find(|entry| entry.key() == key).map(|entry| entry.value())
}

/// A number of bytes, if given.
fn number(tensor: &TensorProto, key: &'static str) -> Result<Option<u64>, ExternalErrorKind> {
    let parse =
        |value: &str| value.parse().map_err(|_| ExternalErrorKind::Number { key, value: value.to_owned() });
    entry(tensor, key).map(parse).transpose()
}
