//! What to do with a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use onnx_opt_ir::{Graph, Symbol};
use onnx_opt_passes::quantize::accuracy::Rounding;
use onnx_opt_passes::{PassManager, Target};

use super::error::Error;
use super::job::MAX_LEVEL;
use crate::calibrate::CalibrateOptions;
use crate::data::{self, Sample};
use crate::interface::Sizes;
use crate::opset::Opset;
use crate::pruning::Pruning;
use crate::quantization::Quantization;
use crate::static_quantization::StaticQuantization;
use crate::verify::{EngineChoice, VerifyOptions};

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
pub enum Destination {
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

impl Destination {
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

/// How a model is quantized.
#[derive(Clone, Debug)]
pub enum Quantize {
    /// Weights, or products on the run.
    Scheme(Quantization),
    /// Regions of integers with calibrated scales.
    Static(StaticQuantization),
}

/// What to do with a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Level of optimization, 0 to 3.
    pub level: u8,
    /// How much to verify.
    pub effort: Effort,
    /// What both models run on, and by which engine.
    pub trial: Trial,
    /// Sizes that inputs get, in the result too.
    pub sizes: Sizes,
    /// Whether all larger weights go to a file of their own.
    pub external_data: bool,
    /// The operator set of the result; that of the model up to level 2, [`Opset::Auto`] from there, if nothing is said.
    pub opset: Option<Opset>,
    /// Names of passes and rules to leave out.
    pub skip: BTreeSet<String>,
    /// Names of the only passes and rules to apply; empty for all.
    pub only: BTreeSet<String>,
    /// Where the result will run.
    pub target: Target,
    /// Whether channels that are one number whatever the input is, or that nobody weighs, go from level 2 on.
    pub prune_dead: bool,
    /// What is pruned once the graph is optimized, if anything.
    pub pruning: Option<Pruning>,
    /// How the result is quantized, if at all.
    pub quantization: Option<Quantize>,
    /// The pass after which the listener gets the text of the graph.
    pub print_after: Option<String>,
    /// Whether the result declares the types of inner values.
    pub value_info: bool,
    /// Whether the report says where rules fired, and where they nearly did and why not.
    pub explain: bool,
}

impl Options {
    /// The operator set of the result.
    pub(super) fn opset(&self) -> Opset {
        self.opset.unwrap_or(if self.level >= MAX_LEVEL { Opset::Auto } else { Opset::Keep })
    }
}

/// What models are compared on.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Files and folders of samples; random inputs where there are none.
    pub data: Vec<PathBuf>,
    /// Files of single inputs, by name: together one sample.
    pub files: BTreeMap<String, PathBuf>,
    /// Shapes of random inputs, by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Sizes of random inputs, by the name of the size.
    pub sizes: BTreeMap<String, usize>,
    /// What random inputs are drawn by.
    pub seed: u64,
    /// Engines.
    pub engine: EngineChoice,
    /// The library of onnxruntime.
    pub library: Option<PathBuf>,
    /// Largest difference relative to the range of an output; by element type where absent.
    pub tolerance: Option<f64>,
    /// The program that runs the models, as in [`VerifyOptions::program`].
    pub program: Option<PathBuf>,
}

impl Trial {
    /// So many samples of the user's data are compared on unless a number is given.
    pub(crate) const SAMPLES: usize = 4;

    /// How to verify a model with this graph.
    ///
    /// # Errors
    /// If data cannot be read or fits no input.
    pub fn prepare(&self, graph: &Graph, effort: Effort) -> Result<VerifyOptions, Error> {
        let inputs = data::inputs(graph);
        refuse_unknown_inputs(self.shapes.keys(), inputs.iter().map(|input| &*input.name))?;
        self.refuse_unknown_sizes(graph)?;
        let mut options = VerifyOptions {
            engine: self.engine,
            library: self.library.clone(),
            shapes: self.shapes.clone(),
            sizes: self.sizes.clone(),
            seed: self.seed,
            tolerance: self.tolerance,
            program: self.program.clone(),
            ..VerifyOptions::default()
        };
        let mut limit = Self::SAMPLES;
        if let Effort::Runs(runs) = effort {
            (limit, options.seeds, options.large) = (runs, runs, true);
            options.time_limit = Duration::from_secs(600);
        }
        let mut samples = Vec::new();
        if !self.files.is_empty() {
            samples.push(Sample::of_inputs(&self.files));
        }
        for path in &self.data {
            samples.extend(data::samples(path, &inputs)?);
        }
        options.data = data::sets(&samples, &inputs, limit)?;
        Ok(options)
    }

    /// How to run a model on samples for what is quantized by them.
    pub(super) fn calibration(&self) -> CalibrateOptions {
        CalibrateOptions {
            engine: self.engine,
            library: self.library.clone(),
            seed: self.seed,
            sizes: self.sizes.clone(),
            shapes: self.shapes.clone(),
            program: self.program.clone(),
            ..CalibrateOptions::default()
        }
    }

    fn refuse_unknown_sizes(&self, graph: &Graph) -> Result<(), Error> {
        let shapes = graph.inputs().iter().filter_map(|input| graph.shape(input.value));
        let known: BTreeSet<&str> = shapes
            .flatten()
            .filter_map(|size| match size.as_symbol() {
                Some(Symbol::Named(name)) => Some(&**name),
                _ => None,
            })
            .collect();
        match self.sizes.keys().find(|name| !known.contains(name.as_str())) {
            Some(name) => Err(Error::NoSuchSize { name: name.clone(), known: listed(known) }),
            None => Ok(()),
        }
    }
}

pub(super) fn refuse_unknown_inputs<'a>(
    mut given: impl Iterator<Item = &'a String>,
    inputs: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    let known: BTreeSet<&str> = inputs.into_iter().collect();
    match given.find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(Error::NoSuchInput { name: name.clone(), inputs: listed(known) }),
        None => Ok(()),
    }
}

/// Names in a row.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What no model could mend.
pub(super) fn refuse_options(
    destination: &Destination,
    options: &Options,
    pipeline: &dyn Fn(u8) -> PassManager,
) -> Result<(), Error> {
    if options.external_data && *destination == Destination::Stdout {
        return Err(Error::ExternalOnStdout);
    }
    if let Some(Quantize::Scheme(quantization)) = &options.quantization
        && quantization.samples.is_empty()
        && matches!(quantization.options.rounding, Rounding::Gptq | Rounding::AdaRound)
    {
        return Err(Error::NoSamples(quantization.options.rounding.name()));
    }
    let manager = pipeline(MAX_LEVEL);
    let known = manager.names();
    let mut asked = options.skip.iter().chain(&options.only).chain(&options.print_after);
    match asked.find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(Error::unknown_name(name, known)),
        None => Ok(()),
    }
}
