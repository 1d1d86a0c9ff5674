//! Models and their files.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_opt_ir::import::assemble;
use onnx_opt_ir::load::admit;
use onnx_opt_ir::regular::irregularities;
use onnx_opt_ir::{LoadError, Model, export};
use onnx_opt_passes::threads::both;
use onnx_opt_proto::{
    Document, ExternalData, ExternalPolicy, ModelProto, ReadError, TensorProto, ValueInfoProto, WriteError,
    WriteOptions, for_each_tensor, read_bytes, read_file, tensor_proto::DataLocation, write_file,
    write_stream,
};

use super::error::Error;
use super::options::{Destination, Source, refuse_unknown_inputs};
use crate::data;
use crate::interface::{Sizes, set_sizes, tell_outputs};

/// A model that can be read more than once: standard input is kept.
pub(super) struct Original<'a> {
    pub(super) source: &'a Source,
    bytes: Option<Bytes>,
    /// Sizes that inputs get.
    sizes: &'a Sizes,
    /// The outputs with the sizes that follow from those.
    outputs: Option<Vec<ValueInfoProto>>,
}

impl<'a> Original<'a> {
    pub(super) fn open(source: &'a Source, sizes: &'a Sizes) -> Result<Self, Error> {
        let bytes = match source {
            Source::File(_) => None,
            Source::Stdin => {
                let mut bytes = Vec::new();
                io::stdin()
                    .lock()
                    .read_to_end(&mut bytes)
                    .map_err(|error| ReadError { path: None, kind: error.into() })?;
                Some(bytes.into())
            }
        };
        let mut original = Self { source, bytes, sizes, outputs: None };
        if !sizes.is_empty() {
            let graph = into_model(original.read()?, source)?.graph;
            let names: Vec<String> = data::inputs(&graph).into_iter().map(|input| input.name).collect();
            refuse_unknown_inputs(sizes.keys(), names.iter().map(String::as_str))?;
            let mut outputs = original.read()?.model.graph.unwrap_or_default().output;
            tell_outputs(&mut outputs, &graph);
            original.outputs = Some(outputs);
        }
        Ok(original)
    }

    pub(super) fn read(&self) -> Result<Document, Error> {
        let mut document = match (self.source, &self.bytes) {
            (Source::File(path), None) => read_file(path)?,
            (_, bytes) => read_bytes(bytes.clone().unwrap_or_default())?,
        };
        if let Some(graph) = document.model.graph.as_mut().filter(|_| !self.sizes.is_empty()) {
            set_sizes(graph, self.sizes)
                .map_err(|source| Error::Size { file: self.source.name(), source })?;
            if let Some(outputs) = &self.outputs {
                graph.output.clone_from(outputs);
            }
        }
        Ok(document)
    }

    /// The messages, with external data in their place.
    pub(super) fn messages(&self) -> Result<ModelProto, Error> {
        let mut document = self.read()?;
        ExternalData::new(document.folder.unwrap_or_default())
            .load(&mut document.model)
            .map_err(|error| Error::External { file: self.source.name(), source: error })?;
        Ok(document.model)
    }
}

/// A model as read, with its size.
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Bytes of its file and its external data.
    pub bytes: u64,
}

/// Reads a model and builds its graph.
///
/// # Errors
/// If it cannot be read or is not a legal graph.
pub fn load(source: &Source) -> Result<Loaded, Error> {
    let mut document = Original::open(source, &Sizes::new())?.read()?;
    let bytes = document.file_bytes + external_weights(&mut document.model).bytes;
    Ok(Loaded { model: into_model(document, source)?, bytes })
}

pub(super) fn into_model(document: Document, source: &Source) -> Result<Model, Error> {
    into_model_seen(document, source, |_| ()).map(|(model, ())| model)
}

/// A model, and what `look` sees in it.
pub(super) fn into_model_seen<T>(
    document: Document,
    source: &Source,
    look: impl FnOnce(&Model) -> T,
) -> Result<(Model, T), Error> {
    let refused = |error| Error::Import { file: source.name(), source: error };
    let mut model = assemble(document).map_err(LoadError::from).map_err(refused)?;
    let (admitted, (seen, irregular)) =
        both(is_large(&model), || admit(&model), || (look(&model), irregularities(&model)));
    admitted.map_err(refused)?;
    model.notes.splice(0..0, irregular);
    Ok((model, seen))
}

/// Whether a second thread pays for what is done with the whole of a graph: it takes about as long to begin as a
/// thousand nodes.
pub(super) fn is_large(model: &Model) -> bool {
    model.graph.node_count() > 4_000
}

/// A result as a model again.
pub(super) fn exported_model(model: ModelProto, source: &Source) -> Result<Model, Error> {
    into_model(model.into(), source)
}

/// The model with the types of its inner values, as far as inference knows them.
pub(super) fn declare_types(model: ModelProto, source: &Source) -> Result<ModelProto, Error> {
    let mut model = exported_model(model, source)?;
    model.graph.declare_types();
    Ok(export(&model))
}

/// The files that hold weights of a model, and how many bytes of them.
#[derive(Default)]
pub(super) struct Weights {
    pub(super) locations: Vec<String>,
    pub(super) bytes: u64,
}

pub(super) fn external_weights(model: &mut ModelProto) -> Weights {
    let mut weights = Weights::default();
    for_each_tensor(model, &mut |tensor: &mut TensorProto| {
        if tensor.data_location() != DataLocation::External {
            return;
        }
        for entry in &tensor.external_data {
            match entry.key() {
                "location" if !weights.locations.iter().any(|known| known == entry.value()) => {
                    weights.locations.push(entry.value().to_owned());
                }
                "length" => {
                    weights.bytes = weights.bytes.saturating_add(entry.value().parse().unwrap_or(0));
                }
                _ => {}
            }
        }
    });
    weights
}

/// The output must not be the input or a file with its weights, by whatever name or link; nor may the file of
/// external data that may come to lie beside the output.
pub(super) fn refuse_overwriting(
    source: &Source,
    destination: &Destination,
    document: &Document,
    weights: &Weights,
) -> Result<(), Error> {
    let (Source::File(input), Destination::File(output)) = (source, destination) else { return Ok(()) };
    let mut data = output.clone().into_os_string();
    data.push(".data");
    let data = PathBuf::from(data);
    let folder = document.folder.clone().unwrap_or_default();
    let inputs = weights.locations.iter().map(|location| folder.join(location)).chain([input.clone()]);
    for input in inputs {
        for written in [output, &data] {
            if is_same_file(&input, written) {
                return Err(Error::SameFile { output: written.display().to_string() });
            }
        }
    }
    Ok(())
}

/// Whether two paths lead to one file, by name, symbolic link or hard link.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Smallest tensor, in bytes, that goes to a file of weights.
const EXTERNAL_THRESHOLD: u64 = 1024;

/// Writes the model and gives the bytes of all files together.
pub(super) fn write(model: ModelProto, destination: &Destination, external: bool) -> Result<u64, Error> {
    match destination {
        Destination::File(path) => {
            let external_data = match external {
                true => ExternalPolicy::Always { threshold_bytes: EXTERNAL_THRESHOLD },
                false => ExternalPolicy::Auto,
            };
            let options = WriteOptions { external_data, ..WriteOptions::default() };
            let report = write_file(model, path, &options)?;
            Ok(report.bytes + report.external_bytes)
        }
        Destination::Stdout => {
            let mut stdout = io::stdout().lock();
            let bytes = write_stream(&model, &mut stdout)?;
            stdout.flush().map_err(|error| WriteError { path: None, kind: error.into() })?;
            Ok(bytes)
        }
    }
}
