//! Why there is no result.

use std::io;

use onnx_opt_ir::{ImportError, LoadError};
use onnx_opt_passes::PassError;
use onnx_opt_passes::gradient::GradientError;
use onnx_opt_passes::opset::RaiseError;
use onnx_opt_passes::prune::PruneError;
use onnx_opt_proto::{ExternalError, ReadError, WriteError};
use thiserror::Error;

use crate::calibrate::{CalibrateError, FileError, MergeError};
use crate::data::{DataError, DataErrorKind};
use crate::interface::SizeError;
use crate::nodes::NoSuchNode;
use crate::similar::{did_you_mean, similar};
use crate::static_quantization::StaticError;

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
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The result would replace what it is read from.
    #[error("{output} is the input itself, or holds its weights")]
    SameFile {
        /// The output.
        output: String,
    },
    /// A name that is neither a pass nor a rule.
    #[error("no pass or rule is called `{name}`{}", did_you_mean(similar))]
    UnknownName {
        /// The name.
        name: String,
        /// What may be meant.
        similar: Option<String>,
    },
    /// The passes could not be run.
    #[error("{file}: {source}")]
    Passes {
        /// The file.
        file: String,
        /// The cause.
        source: PassError,
    },
    /// The model cannot have the operator set that was asked for.
    #[error("{file}: {source}")]
    Opset {
        /// The file.
        file: String,
        /// What is in the way.
        source: RaiseError,
    },
    /// The model has no gradient, or not the one that was asked for.
    #[error("{file}: {source}")]
    Gradient {
        /// The file.
        file: String,
        /// Why.
        source: GradientError,
    },
    /// Nothing was pruned.
    #[error("{file}: {source}")]
    Prune {
        /// The file.
        file: String,
        /// Why.
        source: PruneError,
    },
    /// Data for the inputs cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A name that is no input.
    #[error("there is no input `{name}` (the inputs are {inputs})")]
    NoSuchInput {
        /// The name.
        name: String,
        /// Those that there are.
        inputs: String,
    },
    /// A name that is no size.
    #[error("no axis of an input has a size named `{name}` (the names are {known})")]
    NoSuchSize {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An input cannot have these sizes.
    #[error("{file}: {source}")]
    Size {
        /// The file.
        file: String,
        /// Why.
        source: SizeError,
    },
    /// The result is wrong whatever is left out.
    #[error("{file}: the result was not accepted and nothing was written: {reason}")]
    Refused {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The report that was printed says that two models do not agree.
    #[error("the models do not agree")]
    Told,
    /// Two models differ.
    #[error("the models differ: {0}")]
    Differ(String),
    /// Verification was demanded and is not possible.
    #[error("{file}: cannot be verified: {reason}")]
    NotVerifiable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// The original's external data, read again.
    #[error("{file}: {source}")]
    External {
        /// The file.
        file: String,
        /// The cause.
        source: ExternalError,
    },
    /// A name that is no node.
    #[error(transparent)]
    Node(#[from] NoSuchNode),
    /// A way to round that goes by what weights are multiplied with.
    #[error("`{0}` goes by what weights are multiplied with, and there are no samples")]
    NoSamples(&'static str),
    /// A model is not quantized by calibrated scales.
    #[error("{file}: {source}")]
    Static {
        /// The file.
        file: String,
        /// Why.
        source: Box<StaticError>,
    },
    /// A model cannot be made ready for integers.
    #[error("{file}: {reason}")]
    Unquantizable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A model cannot be calibrated.
    #[error("{file}: {source}")]
    Calibrate {
        /// The file.
        file: String,
        /// Why.
        source: CalibrateError,
    },
    /// A calibration cannot be read or written.
    #[error(transparent)]
    Calibration(#[from] FileError),
    /// Calibrations that do not belong together.
    #[error("{file} cannot be merged with what comes before: {source}")]
    Merge {
        /// The file.
        file: String,
        /// Why.
        source: MergeError,
    },
    /// A report cannot be printed.
    #[error("cannot print: {0}")]
    Print(io::Error),
    /// A terminal shows no models.
    #[error("a model is not for the terminal")]
    ModelOnTerminal,
    /// External data needs a file beside the model.
    #[error("external data needs a file to lie beside, standard output has none")]
    ExternalOnStdout,
}

impl Error {
    /// That none of the known passes or rules has this name.
    pub fn unknown_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::UnknownName { name: name.to_owned(), similar: similar(name, known) }
    }

    /// The way out, if there is one to name.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::SameFile { .. } => Some("name another file with -o; the input is never overwritten"),
            Self::ExternalOnStdout => Some("name a file with -o, or leave out --external-data"),
            Self::ModelOnTerminal => Some("name a file with -o, or send standard output somewhere"),
            Self::UnknownName { .. } => Some("`onnx-opt passes` and `onnx-opt rules` list the names"),
            Self::Write(_) => Some("name another place with -o"),
            Self::NoSamples(_) => Some("give some with --calibrate, or round by seqmse"),
            Self::Node(_) => Some(NoSuchNode::HELP),
            Self::Prune { .. } => {
                Some("`onnx-opt prune --groups MODEL` says what could be pruned, and what not and why")
            }
            Self::Opset { .. } => {
                Some("leave out --opset, or name a version that every operator can follow to")
            }
            Self::Gradient { source: GradientError::NoSuchValue(_), .. } => {
                Some("`onnx-opt inspect --text` lists the names of all values")
            }
            Self::Gradient {
                source: GradientError::NoRule { .. } | GradientError::Refused { .. }, ..
            } => Some("--wrt NAMES differentiates only by values that are not behind it"),
            Self::Import { source: LoadError::Import(ImportError::External(_)), .. } => {
                Some("external data must lie in the folder of the model, under the name that the model gives")
            }
            Self::Data(DataError { kind: DataErrorKind::Missing(_), .. })
            | Self::Calibrate {
                source: CalibrateError::Data(DataError { kind: DataErrorKind::Missing(_), .. }),
                ..
            } => {
                Some("a sample names its tensors as the model does its inputs: `onnx-opt inspect` lists them")
            }
            Self::Calibrate { source: CalibrateError::NoData, .. } => {
                Some("name samples with --data; --random 16 draws some, which say little about real ones")
            }
            Self::Calibrate { source: CalibrateError::NotANumber { .. }, .. } => {
                Some("look at that sample, or leave the value out with --skip-values")
            }
            Self::Calibrate { source: CalibrateError::Engine(_) | CalibrateError::NoLibrary, .. } => {
                Some("try --engine onnxruntime --ort-lib PATH")
            }
            Self::Static { source, .. } => source.help(),
            Self::Merge { .. } => Some("calibrate every shard with the same model and options"),
            Self::Refused { .. } => {
                Some("please report this; --skip NAME leaves a pass or rule out, -O0 all")
            }
            Self::NotVerifiable { .. } => Some(
                "try --engine onnxruntime --ort-lib PATH; --verify auto writes what it cannot verify, and says so",
            ),
            _ => None,
        }
    }

    /// Exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SameFile { .. }
            | Self::ExternalOnStdout
            | Self::ModelOnTerminal
            | Self::UnknownName { .. }
            | Self::NoSuchInput { .. }
            | Self::NoSuchSize { .. }
            | Self::Size { .. } => 2,
            Self::Static { source, .. } if source.is_usage() => 2,
            Self::Gradient { source, .. } if source.is_usage() => 2,
            Self::Refused { .. } | Self::Differ(_) | Self::Told | Self::NotVerifiable { .. } => 3,
            _ => 1,
        }
    }
}
