//! The way of a model through the program: read, import, rewrite, check, export, verify, write.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use onnx_opt_ir::load::load as import;
use onnx_opt_ir::{CheckError, ImportError, LoadError, Model, check, export};
use onnx_opt_passes::{PassContext, PassError, pipeline};
use onnx_opt_proto::{
    Document, ExternalPolicy, ModelProto, ReadError, TensorProto, WriteError, WriteOptions, for_each_tensor,
    read_bytes, read_file, tensor_proto::DataLocation, write_file, write_stream,
};
use thiserror::Error;

use crate::report::{Report, Stage, Summary};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Where a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Source {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }
}

impl Target {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
        }
    }
}

/// How much to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// As far as seconds go.
    #[default]
    Auto,
    /// On this many sets of inputs.
    Runs(usize),
    /// Not at all.
    Off,
}

/// What to do with a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// Level of optimization, 0 to 3.
    pub level: u8,
    /// How much to verify.
    pub effort: Effort,
    /// Whether all larger weights go to a file of their own.
    pub external_data: bool,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum Error {
    /// The model cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The model is not a legal graph.
    #[error("{file}: {source}")]
    Import {
        /// The file.
        file: String,
        /// What is wrong.
        source: LoadError,
    },
    /// The passes cannot work on this model.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A pass made an illegal graph: a defect of the program, and nothing is written.
    #[error("the passes made an illegal graph, which is not written: {0}")]
    Illegal(#[from] CheckError),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The result would replace what it is read from.
    #[error("{output} is the input itself, or holds its weights")]
    SameFile {
        /// The output.
        output: String,
    },
    /// Verification was demanded, and no engine is built in to do it.
    #[error("this build has no engine to verify with")]
    NoEngine,
    /// External data needs a file beside the model.
    #[error("external data needs a file to lie beside, standard output has none")]
    ExternalOnStdout,
}

impl Error {
    /// The way out, if there is one to name.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::SameFile { .. } => Some("name another file with -o; the input is never overwritten"),
            Self::ExternalOnStdout => Some("name a file with -o, or leave out --external-data"),
            Self::Write(_) => Some("name another place with -o"),
            Self::Import { source: LoadError::Import(ImportError::External(_)), .. } => {
                Some("external data must lie in the folder of the model, under the name that the model gives")
            }
            Self::NoEngine => {
                Some("leave out --verify: the result is then written and marked as not verified")
            }
            Self::Illegal(_) => Some("please report it; -O0 leaves the model as it is"),
            Self::Read(_) | Self::Import { .. } | Self::Pass(_) => None,
        }
    }

    /// Exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SameFile { .. } | Self::ExternalOnStdout | Self::NoEngine => 2,
            _ => 1,
        }
    }
}

/// Reads a model.
///
/// # Errors
/// If it is not there or not a model.
pub fn read(source: &Source) -> Result<Document, Error> {
    match source {
        Source::File(path) => Ok(read_file(path)?),
        Source::Stdin => {
            let mut bytes = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| ReadError { path: None, kind: error.into() })?;
            Ok(read_bytes(bytes.into())?)
        }
    }
}

/// Reads a model and builds its graph.
///
/// # Errors
/// If it cannot be read or is not a legal graph.
pub fn load(source: &Source) -> Result<Model, Error> {
    into_model(read(source)?, source)
}

fn into_model(document: Document, source: &Source) -> Result<Model, Error> {
    import(document).map_err(|error| Error::Import { file: source.name(), source: error })
}

/// Times the stages and tells a listener which one begins.
struct Clock<'a> {
    stages: Vec<Stage>,
    listener: &'a dyn Fn(&'static str),
}

impl Clock<'_> {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        (self.listener)(name);
        let start = Instant::now();
        let result = work();
        self.stages.push(Stage { name, seconds: start.elapsed().as_secs_f64() });
        result
    }
}

/// Optimizes a model; `listener` hears which stage begins.
///
/// # Errors
/// If the model cannot be read or written, or its result was not accepted. Then nothing is written.
pub fn optimize(
    source: &Source,
    target: &Target,
    options: &Options,
    listener: &dyn Fn(&'static str),
) -> Result<Report, Error> {
    if options.external_data && *target == Target::Stdout {
        return Err(Error::ExternalOnStdout);
    }
    if matches!(options.effort, Effort::Runs(_)) {
        return Err(Error::NoEngine);
    }
    let mut clock = Clock { stages: Vec::new(), listener };
    let mut document = clock.time("read", || read(source))?;
    let weights = external_weights(&mut document.model);
    refuse_overwriting(source, target, &document, &weights)?;
    let file_bytes = document.file_bytes + weights.bytes;
    let external = options.external_data || !weights.locations.is_empty();

    let mut model = clock.time("import", || into_model(document, source))?;
    let before = Summary::of(&model, file_bytes);
    let manager = pipeline(options.level);
    clock.time("passes", || manager.run(&mut model, &PassContext::default(), |_, _| {}))?;
    clock.time("check", || check(&model))?;
    let summary = Summary::of(&model, file_bytes);
    let notes = model.notes.clone();
    let exported = clock.time("export", || export(&model));
    let after_bytes = clock.time("write", || write(exported, target, external))?;
    let after = Summary { bytes: after_bytes, ..summary };
    Ok(Report {
        input: source.name(),
        output: target.name(),
        level: options.level,
        before,
        after,
        stages: clock.stages,
        notes,
    })
}

/// The files that hold weights of a model, and how many bytes of them.
#[derive(Default)]
struct Weights {
    locations: Vec<String>,
    bytes: u64,
}

fn external_weights(model: &mut ModelProto) -> Weights {
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
fn refuse_overwriting(
    source: &Source,
    target: &Target,
    document: &Document,
    weights: &Weights,
) -> Result<(), Error> {
    let (Source::File(input), Target::File(output)) = (source, target) else { return Ok(()) };
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
fn write(model: ModelProto, target: &Target, external: bool) -> Result<u64, Error> {
    match target {
        Target::File(path) => {
            let external_data = match external {
                true => ExternalPolicy::Always { threshold_bytes: EXTERNAL_THRESHOLD },
                false => ExternalPolicy::Auto,
            };
            let options = WriteOptions { external_data, ..WriteOptions::default() };
            let report = write_file(model, path, &options)?;
            Ok(report.bytes + report.external_bytes)
        }
        Target::Stdout => {
            let mut stdout = io::stdout().lock();
            let bytes = write_stream(&model, &mut stdout)?;
            stdout.flush().map_err(|error| WriteError { path: None, kind: error.into() })?;
            Ok(bytes)
        }
    }
}
