//! The ONNX schema, and reading and writing of model files.

#[allow(missing_docs, clippy::doc_markdown, unused_qualifications)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

mod error;
mod read;
mod write;

pub use error::{ReadError, WriteError};
pub use read::{Document, read_bytes, read_file};
pub use schema::*;
pub use write::{ExternalPolicy, WriteOptions, WriteReport, encode, write_file, write_stream};
