//! One run of the passes after the other, until a result is accepted.

use std::collections::BTreeSet;

use onnx_opt_ir::{CheckError, Graph, Model, check, export};
use onnx_opt_passes::measure::Totals;
use onnx_opt_passes::quantize::accuracy::LayerMoments;
use onnx_opt_passes::threads::{both, drop_aside};
use onnx_opt_passes::{FoldBudget, PassContext, PassError, PassManager, PassReport};
use onnx_opt_proto::ModelProto;
use prost::Message;

use super::error::Error;
use super::options::Options;
use super::original::{Original, exported_model, into_model, is_large};
use super::{Clock, Listener};
use crate::calibrate::{self, CalibrateOptions, Measure};
use crate::choice::{Choice, Cost, Outcome, has_choice, hold_back};
use crate::engine::TractEval;
use crate::latency::latency;
use crate::opset::{Opset, RAISE, conversion, raise_as_it_pays, raised};
use crate::pruning::{PruneReport, Pruned, Pruning, Runs, Samples};
use crate::quantization::{Quantization, QuantizationReport};
use crate::report::{Pass, RuleReport, Skipped, Summary, Verification, explain};
use crate::verify::{Status, VerifyOptions, VerifyReport, bisect, verify};

/// Passes that may make a file larger, and are left out where the others do not make up for it.
pub(super) const GROWERS: [&str; 2] = ["inline_functions", "fold_constants"];

/// What is to be optimized, and how.
pub(super) struct Job<'a> {
    pub(super) original: &'a Original<'a>,
    pub(super) options: &'a Options,
    /// How to verify; none where it is not wanted.
    pub(super) trial: Option<VerifyOptions>,
    /// The passes of a level.
    pub(super) pipeline: &'a dyn Fn(u8) -> PassManager,
    /// Passes that are left out since the file grew by them.
    pub(super) grew: BTreeSet<String>,
    /// Whether the passes make the result: nothing comes after them that looks into standard operators alone.
    pub(super) is_last: bool,
}

/// The result of one run of the passes.
pub(super) struct Attempt {
    pub(super) exported: ModelProto,
    pub(super) after: Summary,
    pub(super) passes: Vec<Pass>,
    pub(super) rules: Vec<RuleReport>,
    pub(super) verification: Verification,
    /// What is worth telling of how it came about.
    pub(super) notes: Vec<String>,
    /// Why the result is wrong, if it is.
    pub(super) refusal: Option<String>,
}

impl Attempt {
    pub(super) fn unchanged(exported: ModelProto, after: Summary) -> Self {
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
    pub(super) fn growth(&self, allowed: u64) -> u64 {
        (self.exported.encoded_len() as u64).saturating_sub(allowed)
    }

    pub(super) fn applied(&self, name: &str) -> bool {
        self.passes.iter().any(|pass| pass.applied.contains_key(name))
    }

    pub(super) fn is_changed(&self) -> bool {
        self.passes.iter().any(|pass| !pass.applied.is_empty())
    }
}

impl Job<'_> {
    /// Runs the passes without those of `left_out`, and judges the result.
    pub(super) fn attempt(
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
        let ((legal, after), exported) = clock.time("export", || judged_export(&model));
        if is_large(&model) {
            drop_aside(model);
        }
        let mut attempt = Attempt { passes, rules, notes, ..Attempt::unchanged(exported, after) };
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

    pub(super) fn run_passes(
        &self,
        model: &mut Model,
        left_out: &BTreeSet<String>,
        listener: &dyn Listener,
    ) -> Result<Vec<Pass>, PassError> {
        let engine = TractEval::new();
        let target = &self.options.target;
        let context = PassContext {
            skip: self.options.skip.union(left_out).cloned().collect(),
            only: self.options.only.clone(),
            target: if self.is_last { target.clone() } else { target.without_contrib() },
            explain: self.options.explain,
            const_eval: Some(&engine),
            fold: FoldBudget::default(),
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
    pub(super) fn prune(
        &self,
        attempt: &mut Attempt,
        pruning: &Pruning,
        left_out: &BTreeSet<String>,
        clock: &mut Clock<'_>,
    ) -> Result<PruneReport, Error> {
        let file = || self.original.source.name();
        let failed = |source| Error::Prune { file: file(), source };
        let mut model = exported_model(attempt.exported.clone(), self.original.source)?;
        let rest = Model { graph: Graph::new(model.graph.context().clone()), ..model.clone() };
        let measure = match pruning.is_measured() {
            true => Some(self.measure(&model.graph, pruning, clock.listener)?),
            false => None,
        };
        let time = |before: &Model, after: &Model| match latency(&[before, after], &self.measuring())
            .map_err(|error| error.to_string())?[..]
        {
            [before, after] if before > 0.0 => Ok(after / before),
            _ => Err("there is no time".to_owned()),
        };
        let runs = Runs { totals: measure.as_ref().map(|measure| measure as &dyn Totals), time: &time };
        let whole = model.graph.clone();
        let Pruned { mut outcome, time } =
            clock.time("prune", || pruning.apply(&mut model, &runs)).map_err(failed)?;
        let masked = outcome.masked.take().map(|graph| export(&Model { graph, ..rest }));
        // What is left as it is, and as it will be.
        let cut = masked.is_some().then(|| export(&model));
        let recovered = clock.time("recover", || pruning.recover(&mut model, &whole, &outcome, &runs));
        let recovered = recovered.map_err(failed)?;
        let reference = match recovered {
            Some(_) => Some(export(&model)),
            None => masked.clone(),
        };
        let samples = measure.map(|measure| Samples { count: measure.samples(), random: measure.random });
        let title = pruning.title();
        let mut report = PruneReport { title, outcome, time, samples, recovered, masked: None, error: None };
        self.finish(attempt, &mut model, left_out, clock)?;
        let judged = match reference {
            Some(reference) => self.judge(&reference, &attempt.exported, None, clock)?,
            None => None,
        };
        report.masked = match (recovered, masked, cut) {
            (None, ..) => judged,
            (_, Some(masked), Some(cut)) => self.judge(&masked, &cut, None, clock)?,
            _ => None,
        };
        report.error = self.distance(&attempt.exported, clock)?;
        Ok(report)
    }

    /// Quantizes what the passes made of a model, and measures how far it is from the original.
    pub(super) fn quantize(
        &self,
        attempt: &mut Attempt,
        quantization: &Quantization,
        clock: &mut Clock<'_>,
    ) -> Result<QuantizationReport, Error> {
        let file = || self.original.source.name();
        let mut model = exported_model(attempt.exported.clone(), self.original.source)?;
        let quantization = quantization.for_nodes_of(&model.graph)?;
        let mut moments = LayerMoments::new();
        if !quantization.samples.is_empty() {
            let options = self.options.trial.calibration();
            let (samples, listener) = (&quantization.samples, clock.listener);
            moments = clock
                .time("calibrate", || calibrate::moments(&model, samples, &options, listener))
                .map_err(|source| Error::Calibrate { file: file(), source })?;
        }
        let outcome = clock
            .time("quantize", || quantization.apply(&mut model, &self.options.target, &moments))
            .map_err(|error| Error::Unquantizable { file: file(), reason: error.to_string() })?;
        self.adopt(attempt, &model, clock)?;
        let error = self.distance(&attempt.exported, clock)?;
        Ok(QuantizationReport { title: quantization.title(), outcome, error })
    }

    /// Lets the passes at a model that came of an attempt, and puts it in the place of that.
    pub(super) fn finish(
        &self,
        attempt: &mut Attempt,
        model: &mut Model,
        left_out: &BTreeSet<String>,
        clock: &mut Clock<'_>,
    ) -> Result<(), Error> {
        let left_out = left_out.union(&self.grew).cloned().collect();
        let listener = clock.listener;
        let passes = clock.time("optimize", || self.run_passes(model, &left_out, listener));
        let file = || self.original.source.name();
        attempt.passes.extend(passes.map_err(|source| Error::Passes { file: file(), source })?);
        attempt.rules = explain(&attempt.passes, &model.graph);
        self.adopt(attempt, model, clock)
    }

    /// Puts a model in the place of what an attempt made, if it is legal.
    fn adopt(&self, attempt: &mut Attempt, model: &Model, clock: &mut Clock<'_>) -> Result<(), Error> {
        let ((legal, after), exported) = clock.time("export", || judged_export(model));
        legal.map_err(|error| Error::Refused {
            file: self.original.source.name(),
            reason: format!("the graph is not legal: {error}"),
        })?;
        (attempt.after, attempt.exported) = (after, exported);
        Ok(())
    }

    /// How far a result is from the original, if that is to be known.
    fn distance(&self, result: &ModelProto, clock: &mut Clock<'_>) -> Result<Option<VerifyReport>, Error> {
        self.judge(&self.original.messages()?, result, Some(f64::INFINITY), clock)
    }

    /// Holds a result against what it should compute, if that is wanted.
    fn judge(
        &self,
        reference: &ModelProto,
        result: &ModelProto,
        tolerance: Option<f64>,
        clock: &mut Clock<'_>,
    ) -> Result<Option<VerifyReport>, Error> {
        let Some(trial) = &self.trial else { return Ok(None) };
        let trial = VerifyOptions { tolerance: tolerance.or(trial.tolerance), ..trial.clone() };
        let found = clock.time("verify", || verify(reference, result, &trial));
        match found.status {
            Status::Failed { reason } => Err(Error::Refused {
                file: self.original.source.name(),
                reason: format!("what is left is wrong: {reason}"),
            }),
            _ => Ok(Some(found)),
        }
    }

    /// Samples to measure on: those of the user, or random ones.
    fn measure<'l>(
        &self,
        graph: &Graph,
        pruning: &Pruning,
        listener: &'l dyn Listener,
    ) -> Result<Measure<'l>, Error> {
        Measure::new(graph, &pruning.data, self.measuring(), listener)
            .map_err(|source| Error::Calibrate { file: self.original.source.name(), source })
    }

    /// How models are run to be measured.
    fn measuring(&self) -> CalibrateOptions {
        /// Random samples tell little, more of them hardly more.
        const RANDOM: usize = 32;
        CalibrateOptions { random: RANDOM, ..self.options.trial.calibration() }
    }

    /// The result without the passes and rules that make it wrong, and their names.
    pub(super) fn without_culprits(
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

/// Whether a model is legal, what it holds, and its message.
fn judged_export(model: &Model) -> ((Result<(), CheckError>, Summary), ModelProto) {
    both(is_large(model), || (check(model), Summary::of(model, 0)), || export(model))
}

/// The highest level: its passes are all that there are.
pub(super) const MAX_LEVEL: u8 = 3;
