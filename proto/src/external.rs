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
                tensor.raw_data = Some(self.bytes(tensor)?.into());
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::StringStringEntryProto;
    use crate::samples::model;

    fn external(entries: &[(&str, &str)]) -> TensorProto {
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        TensorProto {
            name: Some("w".into()),
            external_data: entries.iter().map(entry).collect(),
            data_location: Some(DataLocation::External.into()),
            ..Default::default()
        }
    }

    /// A folder `model` with ten bytes in `w.bin`, in a folder with other files.
    fn folders() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("model");
        fs::create_dir_all(inner.join("deep")).unwrap();
        for path in [outer.path().join("secret"), inner.join("w.bin"), inner.join("deep/w.bin")] {
            fs::write(path, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        }
        (outer, inner)
    }

    fn refusal(data: &mut ExternalData, entries: &[(&str, &str)]) -> ExternalErrorKind {
        data.bytes(&external(entries)).unwrap_err().kind
    }

    #[test]
    fn slices_overlap_in_one_map() {
        let (_outer, folder) = folders();
        let mut data = ExternalData::new(folder);
        let first =
            data.bytes(&external(&[("location", "w.bin"), ("offset", "2"), ("length", "4")])).unwrap();
        let second = data.bytes(&external(&[("location", "w.bin"), ("offset", "4")])).unwrap();
        assert_eq!((&first[..], &second[..]), (&[2, 3, 4, 5][..], &[4, 5, 6, 7, 8, 9][..]));
        assert_eq!(first[2..].as_ptr(), second.as_ptr());
        assert_eq!(data.bytes(&external(&[("location", "./deep/w.bin")])).unwrap().len(), 10);
    }

    #[test]
    fn stays_inside_the_folder() {
        let (outer, folder) = folders();
        let absolute = outer.path().join("secret");
        let mut data = ExternalData::new(&folder);
        let mut at = |location: &str| refusal(&mut data, &[("location", location)]);
        assert!(matches!(at(absolute.to_str().unwrap()), ExternalErrorKind::Absolute));
        assert!(matches!(at("../secret"), ExternalErrorKind::Outside));
        assert!(matches!(at("deep/../w.bin"), ExternalErrorKind::Outside));
        assert!(matches!(at(""), ExternalErrorKind::NoLocation));
        assert!(matches!(at("deep"), ExternalErrorKind::NotFile(_)));
        assert!(matches!(at("absent"), ExternalErrorKind::NotFound(_)));
    }

    #[cfg(unix)]
    #[test]
    fn follows_links_inside_the_folder_only() {
        use std::os::unix::fs::symlink;
        let (_outer, folder) = folders();
        symlink("deep/w.bin", folder.join("inside")).unwrap();
        symlink("../secret", folder.join("outside")).unwrap();
        symlink("..", folder.join("up")).unwrap();
        let mut data = ExternalData::new(&folder);
        assert_eq!(data.bytes(&external(&[("location", "inside")])).unwrap().len(), 10);
        assert!(matches!(refusal(&mut data, &[("location", "outside")]), ExternalErrorKind::OutsideLink));
        assert!(matches!(refusal(&mut data, &[("location", "up/secret")]), ExternalErrorKind::OutsideLink));
    }

    #[test]
    fn ranges_are_checked_against_the_file() {
        let (_outer, folder) = folders();
        let mut data = ExternalData::new(folder);
        let mut at = |offset, length| {
            data.bytes(&external(&[("location", "w.bin"), ("offset", offset), ("length", length)]))
        };
        assert_eq!(at("10", "0").unwrap().len(), 0);
        for (offset, length) in
            [("3", "8"), ("11", "0"), ("18446744073709551615", "2"), ("2", "18446744073709551615")]
        {
            assert!(matches!(
                at(offset, length).unwrap_err().kind,
                ExternalErrorKind::Range { size: 10, .. }
            ));
        }
        for offset in ["-1", "", "1e3", "18446744073709551616"] {
            assert!(matches!(
                at(offset, "1").unwrap_err().kind,
                ExternalErrorKind::Number { key: "offset", .. }
            ));
        }
        assert!(matches!(
            refusal(&mut data, &[("location", "w.bin"), ("offset", "11")]),
            ExternalErrorKind::Range { .. }
        ));
    }

    #[test]
    fn names_the_tensor() {
        let (_outer, folder) = folders();
        let error = ExternalData::new(folder).bytes(&external(&[("location", "../x")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"tensor "w": external data "../x": leaves the model's folder, which is refused"#
        );
    }

    #[test]
    fn loads_a_model() {
        let (_outer, folder) = folders();
        let mut model = model(vec![external(&[("location", "w.bin"), ("offset", "8")])]);
        ExternalData::new(folder).load(&mut model).unwrap();
        let tensor = model.graph.unwrap().initializer.remove(0);
        assert_eq!(tensor.raw_data.as_deref(), Some(&[8, 9][..]));
        assert_eq!((tensor.external_data, tensor.data_location), (Vec::new(), None));
    }
}
