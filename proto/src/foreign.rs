//! Recognises files that are often taken for ONNX models, to say what they are and the way out.

use bytes::Bytes;
use prost::Message;

use crate::{GraphProto, TensorProto};

/// First bytes, and what they announce.
const MAGIC: [(&[u8], &str); 13] = [
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull` to fetch the model)"),
    (b"PK\x03\x04", "a zip archive: PyTorch, Keras and NumPy files are; export the model to ONNX first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes; convert it with tf2onnx"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (b"<", "an XML, HTML or text file"),
    (b"{", "a JSON or text file"),
];
const PICKLE: &str = "a Python pickle, as PyTorch writes; export the model to ONNX first";

/// What a file that is not a model seems to be.
pub(crate) fn recognise(bytes: &Bytes) -> Option<&'static str> {
    if is_safetensors(bytes) {
        return Some("a safetensors file: weights without a graph; export the model to ONNX first");
    }
    match bytes.get(4..8) {
        Some(b"TFL3") => return Some("a TensorFlow Lite model; convert it with tf2onnx"),
        Some(b"ORTM") => return Some("an onnxruntime (.ort) model; use the ONNX model it was made from"),
        _ => {}
    }
    MAGIC
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map(|&(_, what)| what)
        .or_else(|| is_text(bytes).then_some("a text file"))
        .or_else(|| recognise_message(bytes))
}

/// Eight bytes of length, then a JSON object of that length.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    rest.first() == Some(&b'{') && u64::from_le_bytes(*length) <= rest.len() as u64
}

/// The first bytes are printable ASCII.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(512).all(|byte| matches!(byte, b' '..=b'~') || byte.is_ascii_whitespace())
}

/// Protocol buffers that are parts of a model, or of TensorFlow.
fn recognise_message(bytes: &Bytes) -> Option<&'static str> {
    // A SavedModel: schema version 1, then a graph with its tags.
    if bytes.starts_with(&[0x08, 0x01, 0x12])
        && bytes.windows(5).take(1 << 20).any(|window| window == b"serve")
    {
        return Some("a TensorFlow SavedModel; convert it with tf2onnx");
    }
    if let Ok(graph) = GraphProto::decode(bytes.clone())
        && let Some(node) = graph.node.first()
    {
        return Some(match node.op_type {
            Some(_) => "a bare graph (GraphProto); wrap it in a ModelProto",
            None => "a TensorFlow graph; convert it with tf2onnx",
        });
    }
    let tensor = TensorProto::decode(bytes.clone()).ok()?;
    tensor.data_type.map(|_| "a single tensor (TensorProto)")
}
