//! From a file to messages; weights stay in the mapped file.
//!
//! A mapped file must not be cut short by others while it is in use: the system then ends the process. Replacing it,
//! as [`write_file`](crate::write_file) does, is safe.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use prost::Message;

use crate::codec::noting_unknown;
use crate::{GraphProto, ModelProto, ReadError, ReadErrorKind, foreign, wire};

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

/// A model that did not come from a file.
impl From<ModelProto> for Document {
    fn from(model: ModelProto) -> Self {
        Self { model, file_bytes: 0, unknown_fields: 0, folder: None }
    }
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

/// Files of at most so many bytes are mapped with all their pages: nearly all of a model is read, and a fault for every
/// few pages takes longer.
const AT_ONCE: u64 = 64 << 20;
/// Files of more than so many bytes get their pages from another thread, while their structure is read.
const BESIDE: u64 = 1 << 20;

/// The bytes of an open file: mapped, or read if it cannot be mapped (a pipe, say).
pub(crate) fn contents(mut file: File) -> io::Result<Bytes> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        let mut options = MmapOptions::new();
        if metadata.len() <= BESIDE {
            options.populate();
        }
        // SAFETY: the map is only read. That nobody cuts the file short is asked of the user, see the module text.
        if let Ok(map) = unsafe { options.map(&file) } {
            let map = Arc::new(map);
            if (BESIDE + 1..=AT_ONCE).contains(&metadata.len()) {
                populate_beside(&map);
            }
            return Ok(Bytes::from_owner(Shared(map)));
        }
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// The bytes of a map.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Brings the pages of a map in from another thread; where that cannot be had they come when they are read.
#[cfg(target_os = "linux")]
fn populate_beside(map: &Arc<Mmap>) {
    let map = Arc::clone(map);
    let populate = move || {
        // In pieces: who waits for the address space, to allocate, waits for one of them.
        for start in (0..map.len()).step_by(BESIDE as usize) {
            let length = (map.len() - start).min(BESIDE as usize);
            if map.advise_range(memmap2::Advice::PopulateRead, start, length).is_err() {
                return;
            }
        }
    };
    // Nobody waits for it, and a map is whole without.
    let _ = std::thread::Builder::new().spawn(populate);
}

#[cfg(not(target_os = "linux"))]
fn populate_beside(_map: &Arc<Mmap>) {}

fn decode(bytes: Bytes) -> Result<Document, ReadErrorKind> {
    if bytes.is_empty() {
        return Err(ReadErrorKind::Empty);
    }
    // Room for the long lists at once: letting them grow would copy them again and again.
    let room = |(nodes, initializers)| GraphProto {
        node: Vec::with_capacity(nodes),
        initializer: Vec::with_capacity(initializers),
        ..GraphProto::default()
    };
    let mut model = ModelProto { graph: wire::graph_lengths(&bytes).map(room), ..ModelProto::default() };
    let (merged, has_unknown) = noting_unknown(|| model.merge(bytes.clone()));
    merged.map_err(|error| explain(error, &bytes))?;
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
    let unknown_fields = if has_unknown { wire::unknown_bytes(&bytes) } else { 0 };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::samples::{any_model, model, tensor};
    use crate::{AttributeProto, NodeProto, TensorProto, encode};

    /// The message that a user would see.
    fn complaint(bytes: impl Into<Bytes>) -> String {
        read_bytes(bytes.into()).unwrap_err().to_string()
    }

    proptest! {
        #[test]
        fn reads_what_was_written(model in any_model()) {
            let bytes = encode(&model);
            let lengths = model.graph.as_ref().map(|graph| (graph.node.len(), graph.initializer.len()));
            prop_assert_eq!(wire::graph_lengths(&bytes), lengths);
            let document = read_bytes(bytes.clone()).unwrap();
            prop_assert_eq!(document.unknown_fields, 0);
            // Bytes, as NaN is not equal to itself.
            prop_assert_eq!(encode(&document.model), bytes);
        }

        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_bytes(bytes.into());
        }

        #[test]
        fn survives_any_change(model in any_model(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = encode(&model).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = read_bytes(bytes.into());
        }
    }

    #[test]
    fn every_prefix_is_an_error_or_a_model() {
        let bytes = encode(&model(vec![tensor("w", 9)]));
        for end in 0..bytes.len() {
            let error = read_bytes(bytes.slice(..end)).unwrap_err().kind;
            let named = matches!(
                error,
                ReadErrorKind::Empty
                    | ReadErrorKind::Truncated { .. }
                    | ReadErrorKind::Missing(_)
                    | ReadErrorKind::Malformed(_)
            );
            assert!(named, "{end}: {error}");
            assert!(end < 12 || matches!(error, ReadErrorKind::Truncated { field: 7, .. }), "{end}: {error}");
        }
        assert_eq!(
            complaint(bytes.slice(..bytes.len() - 3)),
            "is cut short: field 7 of the model needs 65 bytes, 62 are left"
        );
    }

    #[test]
    fn weights_are_slices_of_the_file() {
        let bytes = encode(&model(vec![tensor("w", 9)]));
        let document = read_bytes(bytes.clone()).unwrap();
        let raw = document.model.graph.unwrap().initializer.remove(0).raw_data.unwrap();
        assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
    }

    #[test]
    fn names_a_file_and_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let kind = |path: &Path| read_file(path).unwrap_err().kind;
        assert!(matches!(kind(&path), ReadErrorKind::NotFound));
        assert!(matches!(kind(folder.path()), ReadErrorKind::Directory));
        fs::write(&path, "").unwrap();
        assert!(matches!(kind(&path), ReadErrorKind::Empty));
        assert_eq!(read_file(&path).unwrap_err().to_string(), format!("{}: is empty", path.display()));
    }

    #[test]
    fn a_model_needs_a_graph_and_a_version() {
        let whole = model(Vec::new());
        let headless = ModelProto { ir_version: None, ..whole.clone() };
        let empty = ModelProto { graph: None, ..whole };
        assert!(matches!(
            read_bytes(encode(&headless)).unwrap_err().kind,
            ReadErrorKind::Missing("ir_version")
        ));
        assert!(matches!(read_bytes(encode(&empty)).unwrap_err().kind, ReadErrorKind::Missing("graph")));
    }

    #[test]
    fn recognises_other_files() {
        let mut safetensors = 2u64.to_le_bytes().to_vec();
        safetensors.extend(b"{}");
        let graph = model(Vec::new()).graph.unwrap().encode_to_vec();
        // A NodeDef of TensorFlow: name, op.
        let tensorflow = b"\x0a\x06\x0a\x01x\x12\x01y".to_vec();
        let cases = [
            (b"PK\x03\x04....".to_vec(), "zip"),
            (b"\x80\x02}q\x00.".to_vec(), "pickle"),
            (b"\x1c\x00\x00\x00TFL3\x00\x00".to_vec(), "TensorFlow Lite"),
            (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS"),
            (b"hello, world\n".to_vec(), "text"),
            (safetensors, "safetensors"),
            (graph, "GraphProto"),
            (tensor("w", 2).encode_to_vec(), "TensorProto"),
            (tensorflow, "TensorFlow graph"),
        ];
        for (bytes, name) in cases {
            let text = complaint(bytes);
            assert!(text.starts_with("is not an ONNX model but") && text.contains(name), "{name}: {text}");
        }
    }

    #[test]
    fn nesting_beyond_the_limit_is_named() {
        let mut graph = GraphProto::default();
        for _ in 0..60 {
            let attribute = AttributeProto { g: Some(Box::new(graph)), ..Default::default() };
            let node = NodeProto { attribute: vec![attribute], ..Default::default() };
            graph = GraphProto { node: vec![node], ..Default::default() };
        }
        let model = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
        assert!(matches!(read_bytes(encode(&model)).unwrap_err().kind, ReadErrorKind::TooDeep));
    }

    #[test]
    fn counts_the_bytes_of_unknown_fields() {
        let mut bytes = encode(&model(Vec::new())).to_vec();
        let known = bytes.len() as u64;
        // Field 1000, a varint, and field 3000, a text.
        bytes.extend(b"\xc0\x3e\x01\xc2\xbb\x01\x02hi");
        let document = read_bytes(bytes.into()).unwrap();
        assert_eq!((document.file_bytes, document.unknown_fields), (known + 9, 9));
    }

    #[test]
    fn counts_unknown_fields_of_inner_messages_only() {
        // `dims` [3, 4] in packed form, which the schema would not write, then field 100 with two bytes.
        let odd = b"\x0a\x02\x03\x04\xa2\x06\x02hi";
        let mut graph = vec![0x2a, odd.len() as u8];
        graph.extend(odd);
        let mut bytes = vec![0x08, 8, 0x3a, graph.len() as u8];
        bytes.extend(&graph);
        let document = read_bytes(bytes.into()).unwrap();
        let tensor = TensorProto { dims: vec![3, 4], ..Default::default() };
        assert_eq!(document.model.graph.unwrap().initializer, [tensor]);
        assert_eq!(document.unknown_fields, 5);
    }

    #[test]
    fn a_claimed_size_costs_nothing() {
        // A graph that claims 2^62 bytes.
        let error =
            read_bytes(Bytes::from_static(b"\x08\x08\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x40")).unwrap_err();
        assert!(
            matches!(error.kind, ReadErrorKind::Truncated { field: 7, needed, available: 0 } if needed == 1 << 62)
        );
    }
}
