//! Static quantization on the way of a model: the optimized model is put as the target wants it, calibrated, marked, and held
//! against the original.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use onnx_opt_ir::{Graph, GraphError, ImportError, Model, export, import};
use onnx_opt_passes::Target;
use onnx_opt_passes::measure::Totals as _;
use onnx_opt_passes::quantize::accuracy::{
    Corrected, Equalization, LayerMoments, Rounding, Smoothing, WeightRounding, best_ranges, correct_biases,
    equalize, smooth,
};
use onnx_opt_passes::quantize::oracle::{Prediction, predict};
use onnx_opt_passes::quantize::sensitivity::{Calibrated, Mixed, Sensitivity, mix, sensitivities, without};
use onnx_opt_passes::quantize::{
    Observer, Placement, Profile, QuantizeError, QuantizeOptions, QuantizeReport, Ranges, insert, observed,
    prepare,
};
use serde::Serialize;
use thiserror::Error;

use crate::calibrate::{
    CalibrateError, CalibrateOptions, Calibration, FileError, Measure, calibrate, largest, model_hash,
    moments,
};
use crate::data::{self, DataError, DataErrorKind, Named};
use crate::nodes::{NoSuchNode, matching};
use crate::session::{Listener, Trial};
use crate::verify::VerifyReport;

/// What to quantize, and by what data.
#[derive(Clone, Debug)]
pub struct StaticQuantization {
    /// Files and folders of samples; random samples where there are none, and no calibration.
    pub data: Vec<PathBuf>,
    /// What a calibration found, in place of another one.
    pub calibration: Option<PathBuf>,
    /// How ranges are chosen.
    pub observer: Option<Observer>,
    /// Of these nodes alone, where given: names, or regular expressions where no node has such a name.
    pub nodes: Vec<String>,
    /// Of these operators alone, where given.
    pub operators: BTreeSet<String>,
    /// Not these nodes, named in the same way.
    pub exclude: Vec<String>,
    /// Whether weights have one scale, where they would have one for each channel.
    pub per_tensor: bool,
    /// Where channels are brought to about the same range before, if anywhere (cross-layer equalization).
    pub equalization: Option<Equalization>,
    /// How outliers of activations go into weights before, if they do (SmoothQuant).
    pub smoothing: Option<Smoothing>,
    /// Whether biases take back what integers shift (bias correction).
    pub bias_correction: bool,
    /// Signal over error that every output is to have on the samples, in decibels: nodes that cost most stay floats until
    /// it is reached.
    pub min_sqnr: Option<f64>,
    /// How weights become integers.
    pub rounding: Rounding,
}

/// Why a model is not quantized.
#[derive(Debug, Error)]
pub enum StaticError {
    /// The profile of the target has no table for it.
    #[error("the profile of {0} does not say how it computes with integers")]
    NoProfile(String),
    /// No node goes by a name.
    #[error(transparent)]
    Node(#[from] NoSuchNode),
    /// The target has no integers for an operator.
    #[error("{target} has no integer kernel for `{operator}` (it has some for {known})")]
    NoSuchOperator {
        /// The target.
        target: String,
        /// The operator.
        operator: String,
        /// Those that it has.
        known: String,
    },
    /// The graph cannot be changed so.
    #[error(transparent)]
    Insert(#[from] QuantizeError),
    /// A constant cannot be replaced.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The prepared model cannot be read again.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// No ranges.
    #[error("calibration: {0}")]
    Calibrate(#[from] CalibrateError),
    /// A calibration that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Too much was asked of integers.
    #[error("no integers are left where outputs are to have {wanted} dB of signal over error{}", with_all(*.all))]
    NotReached {
        /// What was asked for, in decibels.
        wanted: f64,
        /// What there is with all that gains by it on integers.
        all: Option<f64>,
    },
    /// A calibration of something else.
    #[error("{0} is the calibration of another model, or of this one optimized in another way")]
    OtherModel(String),
}

fn with_all(all: Option<f64>) -> String {
    all.map_or_else(String::new, |all| {
        format!(" (with all nodes on integers that gain by it they have {all:.1})")
    })
}

impl StaticError {
    /// The way out, if there is one to name.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) => Some(NoSuchNode::HELP),
            Self::NotReached { .. } => {
                Some("ask for less with --min-sqnr; `onnx-opt sensitivity` says what each node costs")
            }
            Self::OtherModel(_) => Some(
                "calibrate with the same -O and --target, and without other options that change the model",
            ),
            Self::Calibrate(CalibrateError::NotANumber { .. }) => {
                Some("look at that sample, or leave the nodes that take the value out with --exclude")
            }
            Self::Calibrate(CalibrateError::Engine(_) | CalibrateError::NoLibrary) => {
                Some("try --engine onnxruntime --ort-lib PATH")
            }
            Self::Calibrate(CalibrateError::Data(DataError { kind: DataErrorKind::Missing(_), .. })) => {
                Some("a sample names its tensors as the model does its inputs: `onnx-opt inspect` lists them")
            }
            _ => None,
        }
    }

    /// Whether names are wrong that the user gave.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Node(_) | Self::NoSuchOperator { .. })
    }
}

/// What was quantized.
#[derive(Clone, Debug, Serialize)]
pub struct StaticReport {
    /// The scheme.
    pub scheme: &'static str,
    /// How ranges were chosen.
    pub observer: String,
    /// Samples that they come from.
    pub samples: u64,
    /// Whether those were random.
    pub random: bool,
    /// How weights became integers.
    pub rounding: &'static str,
    /// Pairs of products whose channels were brought to about the same range, where there are some or that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equalized: Option<usize>,
    /// Values whose outliers went into weights, where that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothed: Option<usize>,
    /// What stays floats for the sake of the outputs, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Mixed>,
    /// Biases that take back what integers shift, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Corrected>,
    /// What computes with integers.
    #[serde(flatten)]
    pub placed: QuantizeReport,
    /// Nodes that compute with floats since the target has no integer kernel for their operator, by operator.
    pub no_kernel: BTreeMap<String, usize>,
    /// What onnxruntime makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnxruntime: Option<Prediction>,
    /// How far the outputs are from those of the original, or of the pruned model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<VerifyReport>,
    /// How far the outputs by tract are from those by onnxruntime with its integer kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<VerifyReport>,
}

/// So many samples are drawn where there are no data.
const RANDOM_SAMPLES: usize = 8;

/// Puts a model as the target wants it before it is calibrated; values have the names then that a calibration knows, if
/// they had those of a file before.
///
/// # Errors
/// If the target says nothing of integers, or the model cannot be put so.
pub fn prepared(model: &mut Model, target: &Target) -> Result<Profile, StaticError> {
    let profile = target.quantization().ok_or_else(|| StaticError::NoProfile(target.name.clone()))?;
    prepare(model, &profile, target.highest_opset)?;
    *model = import(export(model).into())?;
    Ok(profile)
}

/// Quantizes an optimized model in place.
///
/// # Errors
/// If a name fits nothing, calibration fails, or the graph refuses it.
pub fn quantize(
    model: &mut Model,
    target: &Target,
    wanted: &StaticQuantization,
    calibration: &CalibrateOptions,
    listener: &dyn Listener,
) -> Result<StaticReport, StaticError> {
    let profile = wanted.profile(prepared(model, target)?);
    let known: BTreeSet<&str> = profile.operators().collect();
    if let Some(operator) = wanted.operators.iter().find(|name| !known.contains(name.as_str())) {
        return Err(StaticError::NoSuchOperator {
            target: target.name.clone(),
            operator: operator.clone(),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    let mut options = wanted.options(&model.graph)?;
    let equalized = wanted.equalized(model)?;
    let smoothed = wanted.smoothed(model, &profile, calibration, listener)?;
    let names = observed(&model.graph, &profile, &options);
    let no_kernel = strangers(&model.graph, &profile);
    let mut report = StaticReport {
        scheme: "int8",
        observer: wanted.observers(),
        samples: 0,
        random: false,
        rounding: wanted.rounding.name(),
        equalized,
        smoothed,
        mixed: None,
        corrected: None,
        placed: QuantizeReport::default(),
        no_kernel,
        onnxruntime: None,
        error: None,
        agreement: None,
    };
    if !names.is_empty() {
        let found = wanted.calibration(model, &names, calibration, listener)?;
        options.elements = found.elements();
        let ranges = wanted.ranges(&found, model, &profile, &options, calibration)?;
        (report.samples, report.random) = (found.samples, found.random);
        options.weights = wanted.weights(model, calibration, listener)?;
        if let Some(wanted_db) = wanted.min_sqnr {
            listener.stage("mix precisions");
            let measure = wanted.measure(&model.graph, calibration, &Silent)?.at_most(COMPARED);
            report.random |= measure.random;
            let calibrated =
                Calibrated { model, ranges: &ranges, profile: &profile, options: &options, totals: &measure };
            let mixed = mix(&calibrated, wanted_db, &|done, all| listener.progress(done, all))?;
            options = without(&options, &mixed.floats);
            report.mixed = Some(mixed);
        }
        if wanted.bias_correction {
            listener.stage("correct biases");
            let measure = wanted.measure(&model.graph, calibration, listener)?.at_most(MEANS);
            report.random |= measure.random;
            report.corrected = Some(correct_biases(model, &ranges, &profile, &options, &measure)?);
        }
        listener.stage("quantize");
        report.placed = insert(model, &ranges, &profile, &options)?;
        if let Some(mixed) = &report.mixed {
            if report.placed.quantized.is_empty() && !mixed.floats.is_empty() {
                return Err(StaticError::NotReached { wanted: mixed.wanted_db, all: mixed.all_db });
            }
            mixed.explain(&mut report.placed);
        }
    }
    Ok(report)
}

/// What each node costs that would compute with integers in a calibrated float model, which is put as the target wants it.
/// It goes on until the time is over.
///
/// # Errors
/// Those of [`quantize`].
pub fn sensitivity(
    model: &Model,
    target: &Target,
    wanted: &StaticQuantization,
    calibration: &CalibrateOptions,
    time: Duration,
    listener: &dyn Listener,
) -> Result<SensitivityReport, StaticError> {
    let profile = target.quantization().ok_or_else(|| StaticError::NoProfile(target.name.clone()))?;
    let profile = wanted.profile(profile);
    let mut options = wanted.options(&model.graph)?;
    let mut report = SensitivityReport {
        target: target.name.clone(),
        observer: wanted.observers(),
        ..SensitivityReport::default()
    };
    let mut model = model.clone();
    wanted.equalized(&mut model)?;
    wanted.smoothed(&mut model, &profile, calibration, listener)?;
    let model = &model;
    let names = observed(&model.graph, &profile, &options);
    if names.is_empty() {
        return Ok(report);
    }
    let found = wanted.calibration(model, &names, calibration, listener)?;
    options.elements = found.elements();
    let ranges = wanted.ranges(&found, model, &profile, &options, calibration)?;
    listener.stage("nodes on integers");
    let measure = wanted.measure(&model.graph, calibration, &Silent)?.at_most(COMPARED);
    (report.samples, report.compared, report.random) = (found.samples, measure.samples(), found.random);
    let calibrated =
        Calibrated { model, ranges: &ranges, profile: &profile, options: &options, totals: &measure };
    report.all_db = calibrated.all()?;
    let (begin, all) = (Instant::now(), Cell::new(0));
    report.nodes = sensitivities(&calibrated, &|done, of| {
        listener.progress(done, of);
        all.set(of);
        begin.elapsed() < time
    })?;
    report.left_out = all.get() - report.nodes.len();
    report.nodes.sort_by(|a, b| b.noise().total_cmp(&a.noise()));
    Ok(report)
}

/// What integers cost in each node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SensitivityReport {
    /// The runtime.
    pub target: String,
    /// How ranges were chosen.
    pub observer: String,
    /// Samples that they come from.
    pub samples: u64,
    /// Samples that the outputs were compared on.
    pub compared: usize,
    /// Whether those were random.
    pub random: bool,
    /// Signal over error of the worst output with all nodes on integers that gain by it, in decibels; `None` where nothing
    /// differs.
    pub all_db: Option<f64>,
    /// The nodes, the worst first.
    pub nodes: Vec<Sensitivity>,
    /// Nodes that there was no time for.
    pub left_out: usize,
}

/// Outputs are compared on so many samples, or nodes would take too long.
const COMPARED: usize = 16;

/// Means come from so many samples: each has many numbers of a channel.
const MEANS: usize = 64;

/// Hears nothing.
struct Silent;

impl Listener for Silent {
    fn stage(&self, _: &'static str) {}
    fn after_pass(&self, _: &str, _: &Model) {}
}

/// Operators on floats that a profile does not know, and how many nodes there are of each.
fn strangers(graph: &Graph, profile: &Profile) -> BTreeMap<String, usize> {
    let known: BTreeSet<&str> = profile.operators().collect();
    let mut found = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let element = node.output(0).and_then(|value| graph.element(value));
        if element.is_some_and(|element| element.is_float()) && !known.contains(node.op_type()) {
            *found.entry(node.op_type().to_owned()).or_default() += 1;
        }
    }
    found
}

impl StaticQuantization {
    /// Quantizes all that gains by it, with ranges from these samples.
    pub fn new(data: Vec<PathBuf>) -> Self {
        // What samples tell of the operands costs time and no speed of the result.
        let rounding = if data.is_empty() { Rounding::Nearest } else { Rounding::AdaRound };
        Self {
            smoothing: (!data.is_empty()).then_some(Smoothing::WHERE_IT_PAYS),
            equalization: (!data.is_empty()).then_some(Equalization::WHERE_IT_PAYS),
            data,
            calibration: None,
            observer: None,
            nodes: Vec::new(),
            operators: BTreeSet::new(),
            exclude: Vec::new(),
            per_tensor: false,
            bias_correction: false,
            min_sqnr: None,
            rounding,
        }
    }

    /// Equalizes channels, where that is wanted, and tells of how many pairs, if that is worth telling.
    fn equalized(&self, model: &mut Model) -> Result<Option<usize>, StaticError> {
        // One scale for each weight is for comparison: what it loses is to be seen unless asked otherwise.
        let usual = |wanted: &Equalization| *wanted != Equalization::EVERYWHERE;
        let Some(wanted) = self.equalization.filter(|wanted| !(self.per_tensor && usual(wanted))) else {
            return Ok(None);
        };
        let count = equalize(&mut model.graph, wanted)?;
        Ok(Some(count).filter(|&count| count > 0 || !usual(&wanted)))
    }

    /// Moves outliers into weights, where that is wanted, and tells at how many places.
    fn smoothed(
        &self,
        model: &mut Model,
        profile: &Profile,
        calibration: &CalibrateOptions,
        listener: &dyn Listener,
    ) -> Result<Option<usize>, StaticError> {
        let Some(smoothing) = self.smoothing else { return Ok(None) };
        let largest = largest(model, profile, &self.data, &self.sampling(calibration), listener)?;
        let count = smooth(&mut model.graph, &largest, smoothing, profile)?;
        if count > 0 {
            // New values get names, by which they are calibrated.
            *model = import(export(model).into())?;
        }
        Ok(Some(count))
    }

    fn options(&self, graph: &Graph) -> Result<QuantizeOptions, StaticError> {
        let nodes = matching(graph, &self.nodes)?;
        Ok(QuantizeOptions {
            nodes: (!self.nodes.is_empty()).then_some(nodes),
            operators: (!self.operators.is_empty()).then(|| self.operators.clone()),
            exclude: matching(graph, &self.exclude)?,
            ..QuantizeOptions::default()
        })
    }

    /// Some of the samples, to compare models on.
    pub(crate) fn samples(&self, graph: &Graph) -> Result<Vec<Named>, DataError> {
        let inputs = data::inputs(graph);
        let mut found = Vec::new();
        for path in &self.data {
            if found.len() < Trial::SAMPLES {
                let samples = data::samples(path, &inputs)?;
                found.extend(data::sets(&samples, &inputs, Trial::SAMPLES - found.len())?);
            }
        }
        Ok(found)
    }

    /// The calibration that is given, or that of the data.
    fn calibration(
        &self,
        model: &Model,
        names: &BTreeSet<String>,
        options: &CalibrateOptions,
        listener: &dyn Listener,
    ) -> Result<Calibration, StaticError> {
        if let Some(path) = &self.calibration {
            let found = Calibration::read(path)?;
            if found.model != model_hash(model) {
                return Err(StaticError::OtherModel(path.display().to_string()));
            }
            return Ok(found);
        }
        Ok(calibrate(model, names, &self.data, &self.sampling(options), listener)?)
    }

    /// The profile with as many scales as are wanted.
    fn profile(&self, mut profile: Profile) -> Profile {
        if self.per_tensor {
            profile.per_channel.clear();
        }
        profile
    }

    /// How weights are rounded, with the moments that this asks for.
    fn weights(
        &self,
        model: &Model,
        options: &CalibrateOptions,
        listener: &dyn Listener,
    ) -> Result<WeightRounding, CalibrateError> {
        let moments = match self.rounding.needs_moments() {
            true => moments(model, &self.data, &self.sampling(options), listener)?,
            false => LayerMoments::new(),
        };
        Ok(WeightRounding::new(self.rounding, moments))
    }

    /// How ranges are chosen, in words.
    fn observers(&self) -> String {
        match (self.observer, self.data.is_empty()) {
            (Some(observer), _) => observer.to_string(),
            (None, true) => Observer::CANDIDATES[0].to_string(),
            (None, false) => {
                let [usual, second, third] = Observer::CANDIDATES;
                format!("the best of {usual}, {second} and {third}")
            }
        }
    }

    /// The ranges of values: by the observer that is asked for, else by that of the candidates by which products change
    /// least on the samples, if there are some.
    fn ranges(
        &self,
        found: &Calibration,
        model: &Model,
        profile: &Profile,
        options: &QuantizeOptions,
        calibration: &CalibrateOptions,
    ) -> Result<Ranges, StaticError> {
        let by = |observer: Observer| found.ranges(observer, profile.activations, profile.symmetric);
        if let Some(observer) = self.observer {
            return Ok(by(observer));
        }
        if self.data.is_empty() {
            return Ok(by(Observer::CANDIDATES[0]));
        }
        let measure = self.measure(&model.graph, calibration, &Silent)?.at_most(COMPARED);
        Ok(best_ranges(model, &Observer::CANDIDATES.map(by), profile, options, &measure)?)
    }

    /// What runs models on the samples.
    fn measure<'l>(
        &self,
        graph: &Graph,
        options: &CalibrateOptions,
        listener: &'l dyn Listener,
    ) -> Result<Measure<'l>, CalibrateError> {
        Measure::new(graph, &self.data, self.sampling(options), listener)
    }

    /// With random samples where there are no others.
    fn sampling(&self, options: &CalibrateOptions) -> CalibrateOptions {
        let random = if self.data.is_empty() { RANDOM_SAMPLES } else { 0 };
        CalibrateOptions { random, ..options.clone() }
    }
}

impl StaticReport {
    /// Predicts what onnxruntime makes of the result, where it is for that.
    pub(crate) fn foresee(&mut self, graph: &Graph, target: &Target) {
        let results = target.quantization().is_some_and(|profile| profile.placement == Placement::Results);
        self.onnxruntime = results.then(|| predict(graph));
    }

    /// Smallest ratio of signal to error of an output, in decibels; `None` where nothing was measured or differs.
    pub fn sqnr_db(&self) -> Option<f64> {
        let outputs = &self.error.as_ref()?.outputs;
        outputs.iter().filter_map(|output| output.sqnr_db).reduce(f64::min)
    }
}
