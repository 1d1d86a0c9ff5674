//! The ONNX schema, and reading and writing of model files.
//!
//! Reading maps the file and leaves weights where they are ([`read_file`]); writing streams them to a new file that
//! takes the old one's name when it is complete ([`write_file`]). Absence of a field is kept, so that a model that is
//! read and written comes out byte for byte.

#[allow(missing_docs, clippy::doc_markdown, unused_qualifications)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

mod codec;
mod drain;
mod error;
mod external;
mod foreign;
mod payload;
mod read;
#[cfg(test)]
mod samples;
mod sink;
mod spill;
mod temporary;
mod visit;
mod wire;
mod write;

pub use error::{ExternalError, ExternalErrorKind, ReadError, ReadErrorKind, WriteError, WriteErrorKind};
pub use external::ExternalData;
pub use payload::{Payload, Recipe, WIDEST};
pub use read::{Document, read_bytes, read_file};
pub use schema::*;
pub use temporary::{make_no_more_temporaries, temporary_file_in, temporary_folder, temporary_prefix};
pub use visit::{for_each_tensor, try_for_each_tensor};
pub use write::{ExternalPolicy, WriteOptions, WriteReport, encode, write_file, write_stream};
