//! The way of a model through the program: read, import, rewrite, check, export, verify, write.

mod error;
mod gradient;
mod job;
mod options;
mod original;
mod static_quantization;

use std::collections::BTreeSet;
use std::time::Instant;

use onnx_opt_ir::{Model, export};
use onnx_opt_passes::prune::DeadChannels;
use onnx_opt_passes::{PassContext, PassError, PassManager, Target, pipeline};
use onnx_opt_proto::{ModelProto, OperatorSetIdProto};
use prost::Message;

use crate::data;
use crate::engine::TractEval;
use crate::interface::Sizes;
use crate::opset::{Opset, RAISE, conversion};
use crate::pruning::GroupsReport;
use crate::report::{Quantized, Report, Stage, Summary, Verification};
use crate::static_quantization::prepared;
use crate::verify::{Status, VerifyReport, verify};
use job::{Attempt, GROWERS, Job};
use options::refuse_options;
use original::{
    Original, declare_types, exported_model, external_weights, into_model, into_model_seen,
    refuse_overwriting, write,
};

pub use error::Error;
pub use gradient::differentiate;
pub use options::{Destination, Effort, Options, Quantize, Source, Trial};
pub use original::{Loaded, load};

/// Who hears how the work goes.
pub trait Listener {
    /// A stage begins.
    fn stage(&self, name: &'static str);
    /// So much of so much of the stage is done, where that is known.
    fn progress(&self, _done: usize, _all: usize) {}
    /// The model after the pass of [`Options::print_after`].
    fn after_pass(&self, pass: &str, model: &Model);
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

    let (mut model, before) =
        clock.time("import", || into_model_seen(document, source, |model| Summary::of(model, file_bytes)))?;
    let mut notes = std::mem::take(&mut model.notes);
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
    let integers = matches!(options.quantization, Some(Quantize::Static(_)));
    let is_last = options.pruning.is_none() && !integers;
    let mut job = Job { original: &original, options, trial, pipeline, grew: BTreeSet::new(), is_last };

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
        if !attempt.applied(grower) {
            continue;
        }
        let growth = attempt.growth(allowed);
        if growth > 0 {
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
        job.is_last = !integers;
        pruning = Some(job.prune(&mut attempt, wanted, &left_out, &mut clock)?);
    }
    let mut quantization = None;
    match &options.quantization {
        Some(Quantize::Scheme(wanted)) => {
            let report = job.quantize(&mut attempt, wanted, &mut clock)?;
            quantization = Some(Quantized::Scheme(Box::new(report)));
        }
        Some(Quantize::Static(wanted)) => {
            job.is_last = true;
            let report = job.quantize_statically(&mut attempt, wanted, &left_out, &mut clock, &mut notes)?;
            quantization = Some(Quantized::Static(Box::new(report)));
        }
        None => {}
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
        quantization,
        left_out,
        notes,
    })
}

/// The float model that is quantized and whose values are calibrated: optimized at a level, and put as the target wants
/// it for integers.
///
/// # Errors
/// If it cannot be read, is not a legal graph, or a pass fails.
pub fn float_model(source: &Source, level: u8, target: &Target) -> Result<Model, Error> {
    let mut model = load(source)?.model;
    let engine = TractEval::new();
    let context =
        PassContext { target: target.without_contrib(), const_eval: Some(&engine), ..PassContext::default() };
    let failed = |source_error| Error::Passes { file: source.name(), source: source_error };
    pipeline(level).run(&mut model, &context, |_, _| {}).map_err(failed)?;
    // With the names that its values have in a file: it is quantized from there.
    let mut model = exported_model(export(&model), source)?;
    prepared(&mut model, target)
        .map_err(|error| Error::Static { file: source.name(), source: Box::new(error) })?;
    Ok(model)
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
