//! Calibration: which values the tensors of a model take on data of the user.
//!
//! The model runs in a process of its own with the values that are observed as further outputs, one sample after the
//! other. What is kept of each value are [`Statistics`] of bounded size, so that memory does not grow with the samples.
//! A [`Calibration`] holds them, can be written to a file and merged with others, and gives the ranges that an observer
//! chooses.

mod file;
mod samples;
mod totals;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Graph, Model, NodeId, Type, ValueId, export};
use onnx_opt_passes::quantize::accuracy::{Largest, Layer, LayerMoments, layers, smoothable};
use onnx_opt_passes::quantize::{Profile, Statistics};
use onnx_opt_proto::{temporary_folder, write_stream};
use tempfile::TempDir;
use thiserror::Error;

pub use file::{Calibration, FileError, FileErrorKind, MergeError, model_hash};
use samples::{Source, Trouble};
pub use totals::Measure;
pub(crate) use totals::Summing;
use work::Found;
pub(crate) use work::Work;

use crate::child::{self, ChildError, Limits};
use crate::data::{self, DataError, MOST_ROWS, Sample};
use crate::engine::{Engine, EngineChoice, OrtExecutor};
use crate::session::Listener;
use crate::similar::{did_you_mean, similar};

/// How to calibrate.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// Engines.
    pub engine: EngineChoice,
    /// The library of onnxruntime; else that of the environment variable `ORT_DYLIB_PATH`.
    pub library: Option<PathBuf>,
    /// So many random samples where there are no data. Their ranges say little about real ones.
    pub random: usize,
    /// What random samples are drawn by.
    pub seed: u64,
    /// Sizes of random samples, by the name of the size.
    pub sizes: BTreeMap<String, usize>,
    /// Shapes of random samples, by the name of the input.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// How long one sample may take, loading the model with the first.
    pub patience: Duration,
    /// Address space of the process that runs the model, in bytes, 0 for no limit.
    pub memory_limit: u64,
    /// The program that runs the model, as in [`VerifyOptions::program`](crate::verify::VerifyOptions::program).
    pub program: Option<PathBuf>,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            library: None,
            random: 0,
            seed: 0,
            sizes: BTreeMap::new(),
            shapes: BTreeMap::new(),
            patience: Duration::from_secs(600),
            memory_limit: 32 << 30,
            program: None,
        }
    }
}

/// Why there is no calibration.
#[derive(Debug, Error)]
pub enum CalibrateError {
    /// No samples.
    #[error("there are no data to calibrate on")]
    NoData,
    /// Data that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A sample that turned out to be unusable when it was its turn.
    #[error("{0}")]
    Sample(String),
    /// A name that the model does not have.
    #[error("there is no value `{name}`{}", did_you_mean(similar))]
    NoSuchValue {
        /// The name.
        name: String,
        /// What may be meant.
        similar: Option<String>,
    },
    /// A value that is no tensor of floats.
    #[error("value `{name}` is {ty}, only tensors of floats are observed")]
    NotFloat {
        /// The value.
        name: String,
        /// What it is.
        ty: String,
    },
    /// Nothing to observe.
    #[error("the model has no values of floats to observe")]
    NoValues,
    /// A value is NaN.
    #[error("value `{name}` is NaN on {sample}")]
    NotANumber {
        /// The value, the first in the order of the graph.
        name: String,
        /// The sample.
        sample: String,
    },
    /// No engine runs the model.
    #[error("the model cannot be run: {0}")]
    Engine(String),
    /// The library of onnxruntime was asked for.
    #[error("the path of the library of onnxruntime is not known")]
    NoLibrary,
    /// The model could not be handed over.
    #[error("cannot write a temporary file: {0}")]
    Temporary(String),
    /// The process that runs the model gave no answer.
    #[error(transparent)]
    Child(#[from] ChildError),
}

/// Names of all values of floats that depend on the inputs, inputs too. Values without a name have that of
/// [`Graph::display_name`].
pub fn float_values(graph: &Graph) -> BTreeSet<String> {
    let is_float = |value: ValueId| graph.element(value).is_some_and(|element| element.is_float());
    let moves = |producer: &Producer| matches!(producer, Producer::Node { .. } | Producer::Input { .. });
    let values = graph.values().filter(|(id, value)| moves(value.producer()) && is_float(*id));
    values.map(|(id, _)| graph.display_name(id)).collect()
}

/// Runs a model on samples and observes the values of these names.
///
/// `data` are files and folders of samples as [`data::samples`] finds them; without any, the samples are random.
///
/// # Errors
/// If there are no such values, data cannot be used, a value is NaN, or no engine runs the model.
pub fn calibrate(
    model: &Model,
    names: &BTreeSet<String>,
    data: &[PathBuf],
    options: &CalibrateOptions,
    listener: &dyn Listener,
) -> Result<Calibration, CalibrateError> {
    Ok(observe(model, names, &Beside::default(), data, options, listener)?.0)
}

/// Runs a model on samples and gives the moments of the operands of its products.
///
/// # Errors
/// Those of [`calibrate`].
pub fn moments(
    model: &Model,
    data: &[PathBuf],
    options: &CalibrateOptions,
    listener: &dyn Listener,
) -> Result<LayerMoments, CalibrateError> {
    let layers = layers(&model.graph);
    let names = layers.iter().map(|layer| layer.value.clone()).collect();
    let beside = Beside { layers: &layers, ..Beside::default() };
    Ok(observe(model, &names, &beside, data, options, listener)?.1.moments)
}

/// Runs a model on samples and gives the largest magnitude of each element of the values whose outliers may go into
/// weights; nothing where there are none.
///
/// # Errors
/// Those of [`calibrate`].
pub fn largest(
    model: &Model,
    profile: &Profile,
    data: &[PathBuf],
    options: &CalibrateOptions,
    listener: &dyn Listener,
) -> Result<Largest, CalibrateError> {
    let names: BTreeSet<String> = smoothable(&model.graph, profile).into_iter().collect();
    if names.is_empty() {
        return Ok(Largest::new());
    }
    let beside = Beside { largest: true, ..Beside::default() };
    Ok(observe(model, &names, &beside, data, options, listener)?.1.largest)
}

/// What is wanted beside statistics.
#[derive(Default)]
struct Beside<'a> {
    /// Moments of the operands of these products, which must be among the values.
    layers: &'a [Layer],
    /// The largest magnitudes along the last axes.
    largest: bool,
}

/// What values are on samples, and what is wanted beside that.
fn observe(
    model: &Model,
    names: &BTreeSet<String>,
    beside: &Beside<'_>,
    data: &[PathBuf],
    options: &CalibrateOptions,
    listener: &dyn Listener,
) -> Result<(Calibration, Found), CalibrateError> {
    listener.stage("calibrate");
    let mut observed = Observed::of(&model.graph, names)?;
    let (source, count) = source(&model.graph, data, options)?;
    let random = matches!(source, Source::Random { .. });

    let graph = std::mem::replace(&mut observed.graph, Graph::new(model.graph.context().clone()));
    let (_folder, path) = handed_over(&Model { graph, rest: model.rest.clone(), notes: Vec::new() })?;

    let mut work = Work {
        model: path,
        outputs: observed.outputs,
        inputs: observed.inputs,
        layers: beside.layers.to_vec(),
        largest: beside.largest,
        source,
        engine: Engine::Tract,
    };
    let limits = Limits { memory: options.memory_limit, time: None, silence: Some(options.patience) };
    let hear = |done, all| listener.progress(done, all);
    let mut reasons = Vec::new();
    for engine in engines(options)? {
        work.engine = engine;
        let reason = match child::perform(&work, &limits, options.program.as_deref(), &hear) {
            Ok(Ok(mut found)) => {
                let mut values = std::mem::take(&mut found.values);
                values.extend(observed.constants);
                let calibration = Calibration {
                    model: model_hash(model),
                    engines: vec![work.engine.name().to_owned()],
                    samples: count as u64,
                    random,
                    values,
                };
                return Ok((calibration, found));
            }
            Ok(Err(Trouble::Engine(reason))) => reason,
            Ok(Err(Trouble::Sample(reason))) => return Err(CalibrateError::Sample(reason)),
            Ok(Err(Trouble::NotANumber { name, sample })) => {
                return Err(CalibrateError::NotANumber { name, sample });
            }
            Ok(Err(Trouble::NotFloat { name, ty })) => return Err(CalibrateError::NotFloat { name, ty }),
            Err(error @ (ChildError::NoProgram | ChildError::Io(_))) => return Err(error.into()),
            Err(error) => format!("{}: {error}", work.engine.name()),
        };
        reasons.push(reason);
    }
    Err(CalibrateError::Engine(reasons.join("; ")))
}

/// The samples at these places, or random ones, and how many there are.
fn source(
    graph: &Graph,
    data: &[PathBuf],
    options: &CalibrateOptions,
) -> Result<(Source, usize), CalibrateError> {
    let inputs = data::inputs(graph);
    let mut samples: Vec<Sample> = Vec::new();
    for path in data {
        samples.extend(data::samples(path, &inputs)?);
    }
    let mut count = 0;
    for sample in &samples {
        count += sample.feeds(&inputs)?.samples();
    }
    match (count, options.random) {
        (0, 0) => Err(CalibrateError::NoData),
        (0, random) => {
            let source = Source::Random {
                samples: random,
                seed: options.seed,
                sizes: options.sizes.clone(),
                shapes: options.shapes.clone(),
            };
            Ok((source, random))
        }
        _ => Ok((Source::Samples { samples, step: 1, most_rows: MOST_ROWS }, count)),
    }
}

/// The model in a file of a temporary folder, which lives as long as what is given first.
pub(crate) fn handed_over(model: &Model) -> Result<(TempDir, PathBuf), CalibrateError> {
    let temporary = |error: &dyn std::fmt::Display| CalibrateError::Temporary(error.to_string());
    let folder = temporary_folder().map_err(|error| temporary(&error))?;
    let path = folder.path().join("model.onnx");
    let file = std::fs::File::create(&path).map_err(|error| temporary(&error))?;
    let mut file = std::io::BufWriter::new(file);
    let mut messages = export(model);
    // Engines want names of nodes to be there once, and need none.
    messages.graph.iter_mut().flat_map(|graph| &mut graph.node).for_each(|node| node.name = None);
    write_stream(&messages, &mut file).map_err(|error| temporary(&error))?;
    file.flush().map_err(|error| temporary(&error))?;
    Ok((folder, path))
}

/// The engines to try in order.
pub(crate) fn engines(options: &CalibrateOptions) -> Result<Vec<Engine>, CalibrateError> {
    let library = OrtExecutor::library(options.library.as_deref()).map(Engine::OnnxRuntime);
    match options.engine {
        EngineChoice::Tract => Ok(vec![Engine::Tract]),
        EngineChoice::OnnxRuntime => Ok(vec![library.ok_or(CalibrateError::NoLibrary)?]),
        EngineChoice::Auto => Ok([Engine::Tract].into_iter().chain(library).collect()),
    }
}

/// A graph whose outputs show what is observed.
struct Observed {
    graph: Graph,
    /// Values that are observed, each with the output that shows it, in the order of the graph: the first that is NaN is
    /// where it came from.
    outputs: Vec<(String, usize)>,
    /// Inputs that are observed.
    inputs: Vec<String>,
    /// What is known without a run.
    constants: BTreeMap<String, Statistics>,
}

impl Observed {
    fn of(graph: &Graph, names: &BTreeSet<String>) -> Result<Self, CalibrateError> {
        if names.is_empty() {
            return Err(CalibrateError::NoValues);
        }
        let values: BTreeMap<String, ValueId> =
            graph.values().map(|(id, _)| (graph.display_name(id), id)).collect();
        let mut found = Self {
            graph: graph.clone(),
            outputs: Vec::new(),
            inputs: Vec::new(),
            constants: BTreeMap::new(),
        };
        let order = graph.topological_order().unwrap_or_default();
        let place: BTreeMap<NodeId, usize> = order.into_iter().zip(0..).collect();
        let mut inner: Vec<(usize, String, ValueId)> = Vec::new();
        for name in names {
            let &value = values.get(name).ok_or_else(|| CalibrateError::NoSuchValue {
                name: name.clone(),
                similar: similar(name, values.keys().map(String::as_str)),
            })?;
            let ty = graph.ty(value);
            if ty.is_some_and(|ty| ty.element().is_none_or(|element| !element.is_float())) {
                let ty = ty.map(Type::to_string).unwrap_or_default();
                return Err(CalibrateError::NotFloat { name: name.clone(), ty });
            }
            if let Some(tensor) = graph.constant(value) {
                let mut statistics = Statistics::default();
                let numbers = work::numbers(tensor).unwrap_or_default();
                statistics.observe(&numbers).map_err(|_| CalibrateError::NotANumber {
                    name: name.clone(),
                    sample: "every sample, being a constant".to_owned(),
                })?;
                found.constants.insert(name.clone(), statistics);
            } else if matches!(graph.value(value).producer(), Producer::Input { .. }) {
                found.inputs.push(name.clone());
            } else {
                let place = graph.producer(value).and_then(|(node, ..)| place.get(&node).copied());
                inner.push((place.unwrap_or_default(), name.clone(), value));
            }
        }
        inner.sort();
        for (_, name, value) in inner {
            let place = found.graph.outputs().iter().position(|output| output.value == value);
            let place = match place {
                Some(place) => place,
                None => {
                    let added = found.graph.add_output(&name, value);
                    added.map_err(|_| CalibrateError::NoSuchValue { name: name.clone(), similar: None })?;
                    found.graph.outputs().len() - 1
                }
            };
            found.outputs.push((name, place));
        }
        Ok(found)
    }
}
