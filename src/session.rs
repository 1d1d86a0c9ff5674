//! The way of a model through the program: read, import, rewrite, check, export, verify, write.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onnx_opt_ir::load::load as import;
use onnx_opt_ir::{Graph, ImportError, LoadError, Model, Symbol, check, export};
use onnx_opt_passes::opset::RaiseError;
use onnx_opt_passes::prune::{DeadChannels, PruneError};
use onnx_opt_passes::{PassContext, PassError, PassManager, PassReport, Target, pipeline};
use onnx_opt_proto::{
    Document, ExternalData, ExternalError, ExternalPolicy, ModelProto, OperatorSetIdProto, ReadError,
    TensorProto, ValueInfoProto, WriteError, WriteOptions, for_each_tensor, read_bytes, read_file,
    tensor_proto::DataLocation, write_file, write_stream,
};
use prost::Message;
use thiserror::Error;

use crate::choice::{Choice, Cost, Outcome, has_choice, hold_back};
use crate::data::{self, DataError, DataErrorKind, Sample};
use crate::engine::TractEval;
use crate::interface::{SizeError, Sizes, set_sizes, tell_outputs};
use crate::opset::{Opset, RAISE, conversion, raise_as_it_pays, raised};
use crate::pruning::{GroupsReport, PruneReport, Pruning};
use crate::report::{Pass, Report, RuleReport, Skipped, Stage, Summary, Verification, explain};
use crate::similar::{did_you_mean, similar};
use crate::verify::{EngineChoice, Status, VerifyOptions, VerifyReport, bisect, verify};

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
    /// The pass after which the listener gets the text of the graph.
    pub print_after: Option<String>,
    /// Whether the result declares the types of inner values.
    pub value_info: bool,
    /// Whether the report says where rules fired, and where they nearly did and why not.
    pub explain: bool,
}

impl Options {
    /// The operator set of the result.
    fn opset(&self) -> Opset {
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
    const SAMPLES: usize = 4;

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
            samples.extend(data::samples(path)?);
        }
        for sample in samples.iter().take(limit) {
            options.data.push(sample.load(&inputs)?);
        }
        Ok(options)
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

fn refuse_unknown_inputs<'a>(
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

/// Who hears how the work goes.
pub trait Listener {
    /// A stage begins.
    fn stage(&self, name: &'static str);
    /// The model after the pass of [`Options::print_after`].
    fn after_pass(&self, pass: &str, model: &Model);
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
            Self::Prune { .. } => {
                Some("`onnx-opt prune --groups MODEL` says what could be pruned, and what not and why")
            }
            Self::Opset { .. } => {
                Some("leave out --opset, or name a version that every operator can follow to")
            }
            Self::Import { source: LoadError::Import(ImportError::External(_)), .. } => {
                Some("external data must lie in the folder of the model, under the name that the model gives")
            }
            Self::Data(DataError { kind: DataErrorKind::Missing(_), .. }) => {
                Some("a sample names its tensors as the model does its inputs: `onnx-opt inspect` lists them")
            }
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
            Self::Refused { .. } | Self::Differ(_) | Self::Told | Self::NotVerifiable { .. } => 3,
            _ => 1,
        }
    }
}

/// A model that can be read more than once: standard input is kept.
struct Original<'a> {
    source: &'a Source,
    bytes: Option<Bytes>,
    /// Sizes that inputs get.
    sizes: &'a Sizes,
    /// The outputs with the sizes that follow from those.
    outputs: Option<Vec<ValueInfoProto>>,
}

impl<'a> Original<'a> {
    fn open(source: &'a Source, sizes: &'a Sizes) -> Result<Self, Error> {
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

    fn read(&self) -> Result<Document, Error> {
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
    fn messages(&self) -> Result<ModelProto, Error> {
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

fn into_model(document: Document, source: &Source) -> Result<Model, Error> {
    import(document).map_err(|error| Error::Import { file: source.name(), source: error })
}

/// A result as a model again.
fn exported_model(model: ModelProto, source: &Source) -> Result<Model, Error> {
    into_model(Document { model, file_bytes: 0, unknown_fields: 0, folder: None }, source)
}

/// The model with the types of its inner values, as far as inference knows them.
fn declare_types(model: ModelProto, source: &Source) -> Result<ModelProto, Error> {
    let mut model = exported_model(model, source)?;
    model.graph.declare_types();
    Ok(export(&model))
}

/// Times the stages and tells the listener which one begins.
struct Clock<'a> {
    stages: Vec<Stage>,
    listener: &'a dyn Listener,
}

impl Clock<'_> {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        self.listener.stage(name);
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        match self.stages.iter_mut().find(|stage| stage.name == name) {
            Some(stage) => stage.seconds += seconds,
            None => self.stages.push(Stage { name, seconds }),
        }
        result
    }
}

/// Optimizes a model.
///
/// # Errors
/// If the model cannot be read or written, or its result was not accepted. Then nothing is written.
pub fn optimize(
    source: &Source,
    destination: &Destination,
    options: &Options,
    listener: &dyn Listener,
) -> Result<Report, Error> {
    let passes = |level: u8| match options.prune_dead && level > 1 {
        true => pipeline(level).with(Box::new(DeadChannels)),
        false => pipeline(level),
    };
    optimize_with(source, destination, options, listener, &passes)
}

/// Optimizes a model by passes of the caller: `pipeline` gives those of a level.
///
/// # Errors
/// Those of [`optimize`].
pub fn optimize_with(
    source: &Source,
    destination: &Destination,
    options: &Options,
    listener: &dyn Listener,
    pipeline: &dyn Fn(u8) -> PassManager,
) -> Result<Report, Error> {
    refuse_options(destination, options, pipeline)?;
    let mut clock = Clock { stages: Vec::new(), listener };
    let original = Original::open(source, &options.sizes)?;
    let mut document = clock.time("read", || original.read())?;
    let weights = external_weights(&mut document.model);
    refuse_overwriting(source, destination, &document, &weights)?;
    let file_bytes = document.file_bytes + weights.bytes;
    // Sizes that the user wants written may take more bytes than names.
    let allowed = match options.sizes.is_empty() {
        true => file_bytes,
        false => file_bytes.max(document.model.encoded_len() as u64 + weights.bytes),
    };
    let external = options.external_data || !weights.locations.is_empty();

    let mut model = clock.time("import", || into_model(document, source))?;
    let mut notes = std::mem::take(&mut model.notes);
    let before = Summary::of(&model, file_bytes);
    let trial = match options.effort {
        Effort::Off => None,
        effort => Some(options.trial.prepare(&model.graph, effort)?),
    };
    // Another operator set that the user asked for may take more bytes too.
    let allowed = match options.opset() {
        Opset::To(version) => {
            let mut plain = model.clone();
            let converted = conversion(&mut plain, version).is_ok();
            if converted { allowed.max(export(&plain).encoded_len() as u64) } else { allowed }
        }
        _ => allowed,
    };
    // So may what the file should have said.
    let allowed = if options.level > 0 && !notes.is_empty() {
        let mut regular = model.clone();
        if regular.regularize() > 0 { allowed.max(export(&regular).encoded_len() as u64) } else { allowed }
    } else {
        allowed
    };
    let own = model.graph.context().opset("");
    let mut job = Job { original: &original, options, trial, pipeline, grew: BTreeSet::new() };

    let mut left_out = BTreeSet::new();
    let mut attempt = match job.attempt(model, &left_out, &mut clock) {
        Err(Error::Passes { source: error @ PassError::TrainingInfo, .. })
            if !matches!(options.opset(), Opset::To(_)) =>
        {
            notes.push(format!("nothing was changed: {error}"));
            Attempt::unchanged(original.messages()?, before.clone())
        }
        attempt => attempt?,
    };
    for grower in GROWERS {
        let growth = attempt.growth(allowed);
        if growth > 0 && attempt.applied(grower) {
            notes.push(format!("{grower} was left out: the model would be {growth} bytes larger"));
            job.grew.insert(grower.to_owned());
            attempt = job.attempt(into_model(original.read()?, source)?, &left_out, &mut clock)?;
        }
    }
    if let Some(reason) = attempt.refusal.take() {
        (attempt, left_out) = job.without_culprits(&attempt, reason, &mut clock)?;
    }
    if let (
        Effort::Runs(_),
        Verification::Done(VerifyReport { status: Status::NotVerifiable { reason }, .. }),
    ) = (options.effort, &attempt.verification)
    {
        return Err(Error::NotVerifiable { file: source.name(), reason: reason.clone() });
    }
    let growth = attempt.growth(allowed);
    if growth > 0 && attempt.is_changed() && !attempt.applied(RAISE) {
        notes.push(format!("the original graph was kept: the optimized one is {growth} bytes larger"));
        attempt = Attempt::unchanged(original.messages()?, before.clone());
    }
    notes.append(&mut attempt.notes);
    let mut pruning = None;
    if let Some(wanted) = &options.pruning {
        pruning = Some(job.prune(&mut attempt, wanted, &left_out, &mut clock)?);
    }
    let versions = |model: &ModelProto| {
        let default = |import: &&OperatorSetIdProto| matches!(import.domain(), "" | "ai.onnx");
        model.opset_import.iter().find(default).map(OperatorSetIdProto::version)
    };
    if let (Some(own), Some(new)) = (own, versions(&attempt.exported))
        && own != new
    {
        notes.push(format!("the operator set was raised from {own} to {new}"));
    }
    if let Some(version) =
        versions(&attempt.exported).filter(|&version| version > options.target.highest_opset)
    {
        let (name, highest) = (&options.target.name, options.target.highest_opset);
        notes.push(format!("{name} runs operator sets up to {highest}, the result is of {version}"));
    }
    let (mut after, mut exported) = (attempt.after, attempt.exported);
    if options.value_info {
        exported = clock.time("export", || declare_types(exported, source))?;
    }
    after.bytes = clock.time("write", || write(exported, destination, external))?;
    Ok(Report {
        input: source.name(),
        output: destination.name(),
        level: options.level,
        target: options.target.name.clone(),
        before,
        after,
        stages: clock.stages,
        passes: attempt.passes,
        rules: attempt.rules,
        verification: attempt.verification,
        pruning,
        left_out,
        notes,
    })
}

/// What of a model could be pruned when it is optimized by a level, and what not and why.
///
/// # Errors
/// If the model cannot be read or is not a legal graph.
pub fn groups(source: &Source, level: u8) -> Result<GroupsReport, Error> {
    let mut model = load(source)?.model;
    let engine = TractEval::new();
    let context = PassContext { const_eval: Some(&engine), ..PassContext::default() };
    let passes = pipeline(level).run(&mut model, &context, |_, _| {});
    passes.map_err(|error| Error::Passes { file: source.name(), source: error })?;
    Ok(GroupsReport::of(&model.graph))
}

/// Holds two models against each other.
///
/// # Errors
/// If a model cannot be read, or data does not fit.
pub fn compare(a: &Source, b: &Source, trial: &Trial, effort: Effort) -> Result<VerifyReport, Error> {
    let as_they_are = Sizes::new();
    let (first, second) = (Original::open(a, &as_they_are)?, Original::open(b, &as_they_are)?);
    let graphs = (into_model(first.read()?, a)?.graph, into_model(second.read()?, b)?.graph);
    let names =
        |graph| -> BTreeSet<String> { data::inputs(graph).into_iter().map(|input| input.name).collect() };
    if names(&graphs.0) != names(&graphs.1) {
        return Err(Error::Differ("their inputs have other names".to_owned()));
    }
    let options = trial.prepare(&graphs.0, effort)?;
    Ok(verify(&first.messages()?, &second.messages()?, &options))
}

/// Passes that may make a file larger, and are left out where the others do not make up for it.
const GROWERS: [&str; 2] = ["inline_functions", "fold_constants"];

/// What is to be optimized, and how.
struct Job<'a> {
    original: &'a Original<'a>,
    options: &'a Options,
    /// How to verify; none where it is not wanted.
    trial: Option<VerifyOptions>,
    /// The passes of a level.
    pipeline: &'a dyn Fn(u8) -> PassManager,
    /// Passes that are left out since the file grew by them.
    grew: BTreeSet<String>,
}

/// The result of one run of the passes.
struct Attempt {
    exported: ModelProto,
    after: Summary,
    passes: Vec<Pass>,
    rules: Vec<RuleReport>,
    verification: Verification,
    /// What is worth telling of how it came about.
    notes: Vec<String>,
    /// Why the result is wrong, if it is.
    refusal: Option<String>,
}

impl Attempt {
    fn unchanged(exported: ModelProto, after: Summary) -> Self {
        let verification = Verification::Skipped(Skipped::Unchanged);
        Self {
            exported,
            after,
            passes: Vec::new(),
            rules: Vec::new(),
            verification,
            notes: Vec::new(),
            refusal: None,
        }
    }

    /// Bytes by which it is larger than it may be.
    fn growth(&self, allowed: u64) -> u64 {
        (self.exported.encoded_len() as u64).saturating_sub(allowed)
    }

    fn applied(&self, name: &str) -> bool {
        self.passes.iter().any(|pass| pass.applied.contains_key(name))
    }

    fn is_changed(&self) -> bool {
        self.passes.iter().any(|pass| !pass.applied.is_empty())
    }
}

impl Job<'_> {
    /// Runs the passes without those of `left_out`, and judges the result.
    fn attempt(
        &self,
        model: Model,
        left_out: &BTreeSet<String>,
        clock: &mut Clock<'_>,
    ) -> Result<Attempt, Error> {
        let listener = clock.listener;
        let left_out = left_out.union(&self.grew).cloned().collect();
        let (Outcome { model, passes }, notes) =
            clock.time("optimize", || self.optimize(model, &left_out, listener))?;
        let rules = explain(&passes, &model.graph);
        let legal = clock.time("check", || check(&model));
        let exported = clock.time("export", || export(&model));
        let mut attempt =
            Attempt { passes, rules, notes, ..Attempt::unchanged(exported, Summary::of(&model, 0)) };
        if let Err(error) = legal {
            attempt.refusal = Some(format!("the graph is not legal: {error}"));
        } else if attempt.is_changed() {
            attempt.verification = match &self.trial {
                None => Verification::Skipped(Skipped::Off),
                Some(trial) => {
                    let original = self.original.messages()?;
                    let report = clock.time("verify", || verify(&original, &attempt.exported, trial));
                    if let Status::Failed { reason } = &report.status {
                        attempt.refusal = Some(reason.clone());
                    }
                    Verification::Done(report)
                }
            };
        }
        Ok(attempt)
    }

    /// Applies the passes, and raises the operator set as far as asked. At the highest level rules are held back where
    /// that gives a cheaper model, of which the notes tell.
    fn optimize(
        &self,
        model: Model,
        left_out: &BTreeSet<String>,
        listener: &dyn Listener,
    ) -> Result<(Outcome, Vec<String>), Error> {
        let run = |model: &mut Model, more: &BTreeSet<String>| {
            let left_out = left_out.union(more).cloned().collect();
            let passes = self.run_passes(model, &left_out, listener);
            passes.map_err(|source| Error::Passes { file: self.original.source.name(), source })
        };
        let run_all = |model: &mut Model| run(model, &BTreeSet::new());
        let raises = self.options.opset() != Opset::Keep && !left_out.contains(RAISE);
        let chooses = self.options.level >= MAX_LEVEL && self.options.only.is_empty();
        let start = ((raises || chooses) && has_choice(&model)).then(|| model.clone());
        let mut plain = Outcome { model, passes: Vec::new() };
        plain.passes = run_all(&mut plain.model)?;
        if raises {
            plain = self.raise(start.as_ref(), plain, &run_all)?;
        }
        let Some(mut start) = start.filter(|_| chooses) else { return Ok((plain, Vec::new())) };
        // All ways lead to the operator set of the plain one.
        let version = plain.model.graph.opset();
        let mut passes = Vec::new();
        if start.graph.opset() != version {
            match conversion(&mut start, version) {
                Ok(pass) => passes.push(pass),
                Err(_) => return Ok((plain, Vec::new())),
            }
        }
        let pipeline = (self.pipeline)(self.options.level);
        let rules = pipeline.passes().flat_map(|pass| pass.rules()).collect();
        let Some(Choice { outcome: best, held }) =
            hold_back(&start, &plain, &self.options.target, &rules, &run)?
        else {
            return Ok((plain, Vec::new()));
        };
        let names: Vec<String> = held.iter().map(|name| format!("`{name}`")).collect();
        let [before, after] = [&plain, &best].map(|outcome| Summary::of(&outcome.model, 0).nodes);
        let note = format!(
            "{} held back until the others were done: {after} nodes instead of {before}",
            if names.len() == 1 { format!("{} was", names[0]) } else { format!("{} were", names.join(", ")) }
        );
        passes.extend(best.passes);
        let mut best = Outcome { model: best.model, passes };
        if raises && self.options.opset() == Opset::Auto {
            best = self.raise(None, best, &run_all)?;
        }
        Ok((best, vec![note]))
    }

    /// Raises the operator set as far as asked and applies the passes again, which then have what the later version
    /// offers. Passes before raising leave little to convert, but may break up what a later operator stands for: `start`
    /// is the model before any, and the cheaper result is kept.
    fn raise(
        &self,
        start: Option<&Model>,
        plain: Outcome,
        run: &dyn Fn(&mut Model) -> Result<Vec<Pass>, Error>,
    ) -> Result<Outcome, Error> {
        let target = &self.options.target;
        match self.options.opset() {
            Opset::To(version) if plain.model.graph.context().opset("").is_some_and(|own| own != version) => {
                let error = |source| Error::Opset { file: self.original.source.name(), source };
                let after = raised(&plain.model, &plain.passes, version, run)?.map_err(error)?;
                let first =
                    start.map(|start| raised(start, &[], version, run)).transpose()?.and_then(Result::ok);
                let cost = Cost::of(&after.model, target);
                let cheaper = |first: &Outcome| Cost::of(&first.model, target).beats(cost, cost.bytes);
                Ok(first.filter(cheaper).unwrap_or(after))
            }
            Opset::Auto if self.options.level > 0 => {
                let raised = raise_as_it_pays(start, &plain, target, run)?;
                Ok(raised.unwrap_or(plain))
            }
            _ => Ok(plain),
        }
    }

    fn run_passes(
        &self,
        model: &mut Model,
        left_out: &BTreeSet<String>,
        listener: &dyn Listener,
    ) -> Result<Vec<Pass>, PassError> {
        let engine = TractEval::new();
        let context = PassContext {
            skip: self.options.skip.union(left_out).cloned().collect(),
            only: self.options.only.clone(),
            target: self.options.target.clone(),
            explain: self.options.explain,
            const_eval: Some(&engine),
            ..PassContext::default()
        };
        let reports = (self.pipeline)(self.options.level).run(model, &context, |report, model| {
            if self.options.print_after.as_deref() == Some(report.pass) {
                listener.after_pass(report.pass, model);
            }
        })?;
        let pass = |report: PassReport| Pass {
            name: report.pass,
            seconds: report.seconds,
            nodes_before: report.nodes_before,
            nodes_after: report.nodes_after,
            applied: report.statistics.fired,
            places: report.statistics.places,
            declined: report.statistics.declined,
        };
        Ok(reports.into_iter().map(pass).collect())
    }

    /// Prunes what the passes made of a model, lets them at what is left, and judges that: it must compute what the graph
    /// did with the removed slices set to zero, unless that is not what pruning did. How far it is from the original is
    /// measured.
    fn prune(
        &self,
        attempt: &mut Attempt,
        pruning: &Pruning,
        left_out: &BTreeSet<String>,
        clock: &mut Clock<'_>,
    ) -> Result<PruneReport, Error> {
        let file = || self.original.source.name();
        let mut model = exported_model(attempt.exported.clone(), self.original.source)?;
        let rest = Model { graph: Graph::new(model.graph.context().clone()), ..model.clone() };
        let mut outcome = clock
            .time("prune", || pruning.apply(&mut model))
            .map_err(|source| Error::Prune { file: file(), source })?;
        let masked = outcome.masked.take().map(|graph| export(&Model { graph, ..rest }));
        let mut report = PruneReport { title: pruning.title(), outcome, masked: None, error: None };
        let left_out = left_out.union(&self.grew).cloned().collect();
        let listener = clock.listener;
        let passes = clock.time("optimize", || self.run_passes(&mut model, &left_out, listener));
        attempt.passes.extend(passes.map_err(|source| Error::Passes { file: file(), source })?);
        let refused = |reason| Error::Refused { file: file(), reason };
        clock
            .time("check", || check(&model))
            .map_err(|error| refused(format!("the graph is not legal: {error}")))?;
        attempt.rules = explain(&attempt.passes, &model.graph);
        attempt.after = Summary::of(&model, 0);
        attempt.exported = clock.time("export", || export(&model));
        let Some(trial) = &self.trial else { return Ok(report) };
        let judge = |reference: &ModelProto, tolerance: Option<f64>, clock: &mut Clock<'_>| {
            let trial = VerifyOptions { tolerance: tolerance.or(trial.tolerance), ..trial.clone() };
            let found = clock.time("verify", || verify(reference, &attempt.exported, &trial));
            match found.status {
                Status::Failed { reason } => Err(refused(format!("what is left is wrong: {reason}"))),
                _ => Ok(found),
            }
        };
        if let Some(masked) = masked {
            report.masked = Some(judge(&masked, None, clock)?);
        }
        report.error = Some(judge(&self.original.messages()?, Some(f64::INFINITY), clock)?);
        Ok(report)
    }

    /// The result without the passes and rules that make it wrong, and their names.
    fn without_culprits(
        &self,
        wrong: &Attempt,
        reason: String,
        clock: &mut Clock<'_>,
    ) -> Result<(Attempt, BTreeSet<String>), Error> {
        let mut fired: Vec<String> = Vec::new();
        for name in wrong.passes.iter().flat_map(|pass| pass.applied.keys()) {
            if !fired.iter().any(|known| known == name) {
                fired.push((*name).to_owned());
            }
        }
        let mut again = |left_out: &BTreeSet<String>| {
            let model = into_model(self.original.read()?, self.original.source)?;
            self.attempt(model, left_out, clock)
        };
        let refused = |reason| Error::Refused { file: self.original.source.name(), reason };
        let culprits = bisect(&fired, |left_out| again(left_out).map(|attempt| attempt.refusal.is_none()))?
            .ok_or_else(|| refused(reason))?;
        let attempt = again(&culprits)?;
        match attempt.refusal {
            Some(reason) => Err(refused(reason)),
            None => Ok((attempt, culprits)),
        }
    }
}

/// The highest level: its passes are all that there are.
const MAX_LEVEL: u8 = 3;

/// What no model could mend.
fn refuse_options(
    destination: &Destination,
    options: &Options,
    pipeline: &dyn Fn(u8) -> PassManager,
) -> Result<(), Error> {
    if options.external_data && *destination == Destination::Stdout {
        return Err(Error::ExternalOnStdout);
    }
    let manager = pipeline(MAX_LEVEL);
    let known = manager.names();
    let mut asked = options.skip.iter().chain(&options.only).chain(&options.print_after);
    match asked.find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(Error::unknown_name(name, known)),
        None => Ok(()),
    }
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
fn write(model: ModelProto, destination: &Destination, external: bool) -> Result<u64, Error> {
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
