//! From messages to a file: streamed, and under its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use bytes::Bytes;
use prost::Message;
use tempfile::NamedTempFile;

use crate::drain::{Direct, Drain, Shared};
use crate::sink::Sink;
use crate::spill::spill;
use crate::temporary::temporary_file_in;
use crate::{ModelProto, Payload, WriteError, WriteErrorKind, for_each_tensor};

/// Largest message, in bytes, that readers of protocol buffers take.
const MESSAGE_LIMIT: u64 = i32::MAX as u64;
/// Deferred bytes that take longer to be made than a second thread to begin.
const SHARED: usize = 1 << 20;
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
            readable(model.encoded_len()).map_err(fail)?;
            let bytes = encode_to(Direct(file), &model).map_err(fail)?;
            return Ok(WriteReport { bytes, external_bytes: 0 });
        }
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut length = model.encoded_len();
    let (mut data, mut external_bytes) = (None, 0);
    if let Some(threshold) = threshold(length, options) {
        (data, external_bytes) = spill_beside(&mut model, &target, folder, threshold)?;
        length = model.encoded_len();
    }
    let file = temporary_file_in(folder).map_err(|error| fail(error.into()))?;
    reserve(file.as_file(), readable(length).map_err(fail)?).map_err(|error| fail(error.into()))?;
    let bytes = stream(model, file.as_file()).map_err(fail)?;
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
    readable(model.encoded_len())?;
    Ok(encode_to(Direct(writer), model)?)
}

/// The bytes of `model`, all in memory.
#[must_use]
pub fn encode(model: &ModelProto) -> Bytes {
    model.encode_to_vec().into()
}

/// The length of a message, if readers take so many bytes.
fn readable(length: usize) -> Result<u64, WriteErrorKind> {
    let length = length as u64;
    if length > MESSAGE_LIMIT { Err(WriteErrorKind::TooLarge(length)) } else { Ok(length) }
}

/// Writes a model that nobody needs any more, and whose length has been looked at, to a file: where much is deferred, two
/// threads make and write it.
fn stream(mut model: ModelProto, file: &File) -> Result<u64, WriteErrorKind> {
    if deferred(&mut model) < SHARED {
        return encode_to(Direct(file), &model);
    }
    let shared = Shared::new(file);
    thread::scope(|scope| {
        // Where the system gives no thread, this one does all.
        let other = thread::Builder::new().spawn_scoped(scope, || encode_to(&shared, &model));
        let bytes = encode_to(&shared, &model)?;
        let stopped = |_| Err(io::Error::other("a thread that writes has stopped").into());
        other.map_or(Ok(bytes), |other| other.join().unwrap_or_else(stopped))
    })
}

/// How many bytes of tensors are still to be made.
fn deferred(model: &mut ModelProto) -> usize {
    let mut bytes = 0;
    for_each_tensor(model, &mut |tensor| {
        bytes += tensor.raw_data.as_ref().filter(|raw| raw.is_deferred()).map_or(0, Payload::len);
    });
    bytes
}

fn encode_to(drain: impl Drain, model: &ModelProto) -> Result<u64, WriteErrorKind> {
    let mut sink = Sink::new(drain);
    // The sink takes any number of bytes: nobody need count them first.
    model.encode_raw(&mut sink);
    Ok(sink.finish()?)
}

/// Asks for the room that `bytes` take, of which a full disk tells at once, and which makes writing them a quarter
/// faster. A file system that does not know how gives it while they are written.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Size from which tensors of a model of this length are to be moved out, if any are.
fn threshold(length: usize, options: &WriteOptions) -> Option<u64> {
    match options.external_data {
        ExternalPolicy::Never => None,
        ExternalPolicy::Always { threshold_bytes } => Some(threshold_bytes),
        ExternalPolicy::Auto => (length as u64 > options.auto_limit).then_some(AUTO_THRESHOLD),
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
    let file = temporary_file_in(folder).map_err(fail)?;
    let mut sink = Sink::new(Direct(file.as_file()));
    spill(model, threshold, location, &mut sink);
    let bytes = sink.finish().map_err(fail)?;
    let data = (bytes > 0).then_some(Pending { file, path: target });
    Ok((data, bytes))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::samples::{any_model, model, tensor};
    use crate::tensor_proto::{DataLocation, DataType};
    use crate::{ExternalData, Recipe, TensorProto, read_file};

    const ALWAYS: WriteOptions =
        WriteOptions { external_data: ExternalPolicy::Always { threshold_bytes: 100 }, auto_limit: 0 };

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_holds_the_encoded_model(model in any_model()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.onnx");
            let report = write_file(model.clone(), &path, &WriteOptions::default()).unwrap();
            let bytes = fs::read(&path).unwrap();
            prop_assert_eq!(&bytes, &encode(&model));
            prop_assert_eq!(report, WriteReport { bytes: bytes.len() as u64, external_bytes: 0 });
            let mut streamed = Vec::new();
            write_stream(&model, &mut streamed).unwrap();
            prop_assert_eq!(bytes, streamed);
        }
    }

    /// Bytes that count up.
    struct Counting;

    impl Recipe for Counting {
        fn fill(&self, start: usize, part: &mut [u8]) {
            part.iter_mut().zip(start..).for_each(|(byte, place)| *byte = (place % 251) as u8);
        }
    }

    #[test]
    fn deferred_weights_are_written_as_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let weight = |raw| TensorProto { raw_data: Some(raw), ..tensor("weight", 0) };
        for length in [100, SHARED / 2 + 1, 2 * SHARED] {
            let deferred = || weight(Payload::deferred(length, Counting));
            let there: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            let expected = encode(&model(vec![
                weight(there.clone().into()),
                tensor("w", 9),
                weight(there.clone().into()),
            ]));
            let written = || model(vec![deferred(), tensor("w", 9), deferred()]);
            write_file(written(), &path, &WriteOptions::default()).unwrap();
            assert!(fs::read(&path).unwrap() == expected, "{length}");
            write_file(written(), &path, &ALWAYS).unwrap();
            let data = fs::read(folder.path().join("m.onnx.data")).unwrap();
            assert!(data[..length] == there && data[data.len() - length..] == there, "{length}");
        }
    }

    #[test]
    fn spilled_weights_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let big = tensor("big", 1 << 18);
        let typed = TensorProto {
            name: Some("typed".into()),
            data_type: Some(DataType::Int64.into()),
            int64_data: (0..20).collect(),
            ..Default::default()
        };
        let original = model(vec![tensor("small", 3), tensor("odd", 27), big, typed]);
        let report = write_file(original.clone(), &path, &ALWAYS).unwrap();
        assert_eq!(names(folder.path()), ["m.onnx", "m.onnx.data"]);
        assert_eq!(report.external_bytes, fs::metadata(folder.path().join("m.onnx.data")).unwrap().len());

        let mut document = read_file(&path).unwrap();
        let offsets: Vec<_> = document
            .model
            .graph
            .as_ref()
            .unwrap()
            .initializer
            .iter()
            .map(|tensor| {
                tensor
                    .external_data
                    .iter()
                    .find(|entry| entry.key() == "offset")
                    .map(|entry| entry.value().to_owned())
            })
            .collect();
        let expected =
            [None, Some("0"), Some("4096"), Some("1052672")].map(|offset| offset.map(str::to_owned));
        assert_eq!(offsets, expected);

        ExternalData::new(document.folder.unwrap()).load(&mut document.model).unwrap();
        let (mut found, mut wanted) =
            (document.model.graph.unwrap().initializer, original.graph.unwrap().initializer);
        let numbers: Vec<u8> =
            wanted.pop().unwrap().int64_data.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(found.pop().unwrap().raw_data.unwrap()[..], numbers);
        assert_eq!(found, wanted);
    }

    #[test]
    fn auto_spills_past_the_limit_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let original = model(vec![tensor("w", 256)]);
        let size = encode(&original).len() as u64;
        let mut options = WriteOptions { auto_limit: size, ..WriteOptions::default() };
        assert_eq!(write_file(original.clone(), &path, &options).unwrap().external_bytes, 0);
        options.auto_limit = size - 1;
        assert_eq!(write_file(original.clone(), &path, &options).unwrap().external_bytes, 1024);
        options.external_data = ExternalPolicy::Never;
        assert_eq!(write_file(original, &path, &options).unwrap().external_bytes, 0);
    }

    #[test]
    fn tensors_that_are_external_stay_so() {
        let external = TensorProto {
            raw_data: None,
            data_location: Some(DataLocation::External.into()),
            ..tensor("w", 256)
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let original = model(vec![external]);
        write_file(original.clone(), &path, &ALWAYS).unwrap();
        assert_eq!(names(folder.path()), ["m.onnx"]);
        assert_eq!(read_file(&path).unwrap().model, original);
    }

    #[test]
    fn a_mapped_input_may_be_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let original = model(vec![tensor("w", 5000)]);
        write_file(original.clone(), &path, &ALWAYS).unwrap();
        for _ in 0..2 {
            let mut document = read_file(&path).unwrap();
            ExternalData::new(folder.path()).load(&mut document.model).unwrap();
            assert_eq!(document.model, original);
            write_file(document.model.clone(), &path, &ALWAYS).unwrap();
            assert_eq!(document.model, original);
        }
    }

    #[test]
    fn failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let original = model(vec![tensor("w", 300)]);
        let kind = |path: &Path| write_file(original.clone(), path, &ALWAYS).unwrap_err().kind;

        assert!(matches!(kind(folder.path()), WriteErrorKind::Directory));
        assert!(matches!(kind(&folder.path().join("absent/m.onnx")), WriteErrorKind::NoFolder));
        assert!(names(folder.path()).is_empty());

        fs::create_dir(folder.path().join("m.onnx.data")).unwrap();
        assert!(matches!(kind(&path), WriteErrorKind::Directory));
        assert_eq!(names(folder.path()), ["m.onnx.data"]);
    }

    #[test]
    fn data_is_withdrawn_if_the_model_cannot_take_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let pending = |name: &str| Pending {
            file: temporary_file_in(folder.path()).unwrap(),
            path: folder.path().join(name),
        };
        let data = pending("m.onnx.data").publish().unwrap();
        assert_eq!(names(folder.path()), ["m.onnx.data"]);
        assert!(pending("absent/m.onnx").publish().is_err());
        drop(data);
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_a_device_not_replaced() {
        let error =
            write_file(model(Vec::new()), Path::new("/dev/full"), &WriteOptions::default()).unwrap_err();
        assert!(matches!(error.kind, WriteErrorKind::Full(_)), "{error}");
        assert!(error.to_string().starts_with("/dev/full: cannot write: "), "{error}");
        write_file(model(Vec::new()), Path::new("/dev/null"), &WriteOptions::default()).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_a_new_file_and_links_are_followed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [plain, path, link] = ["plain", "m.onnx", "link"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        write_file(model(Vec::new()), &path, &WriteOptions::default()).unwrap();
        assert_eq!(mode(&path), mode(&plain));

        symlink("plain", &link).unwrap();
        write_file(model(Vec::new()), &link, &WriteOptions::default()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&plain).unwrap(), fs::read(&path).unwrap());
    }

    #[test]
    fn no_model_past_what_readers_take() {
        // One tensor of 1 GiB, three times: no page of it is ever touched.
        let zeros = Bytes::from(vec![0; 1 << 30]);
        let huge = |name: &str| TensorProto { raw_data: Some(zeros.clone().into()), ..tensor(name, 0) };
        let model = model(vec![huge("a"), huge("b"), huge("c")]);
        let error = write_stream(&model, &mut io::sink()).unwrap_err();
        assert!(matches!(error.kind, WriteErrorKind::TooLarge(bytes) if bytes > 3 << 30));
    }
}
