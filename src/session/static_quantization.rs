//! Quantization of what the passes made of a model.

use std::collections::BTreeSet;

use super::Clock;
use super::error::Error;
use super::job::{Attempt, Job};
use super::original::exported_model;
use crate::static_quantization::{StaticError, StaticQuantization, StaticReport, quantize};
use crate::verify::{Status, VerifyOptions, agreement, verify};

/// An output with less signal over error than so many decibels is worth a warning: its error has a tenth of its power.
const LOW_SQNR: f64 = 10.0;

impl Job<'_> {
    /// Quantizes what an attempt made, lets the passes at the result, and measures how far it is from the original, or
    /// from the pruned model. Notes tell what the user should know of it.
    pub(super) fn quantize_statically(
        &self,
        attempt: &mut Attempt,
        wanted: &StaticQuantization,
        left_out: &BTreeSet<String>,
        clock: &mut Clock<'_>,
        notes: &mut Vec<String>,
    ) -> Result<StaticReport, Error> {
        let file = || self.original.source.name();
        let failed = |source: StaticError| Error::Static { file: file(), source: Box::new(source) };
        let refused = |reason| Error::Refused { file: file(), reason };
        let target = &self.options.target;
        let listener = clock.listener;

        let mut model = exported_model(attempt.exported.clone(), self.original.source)?;
        // What pruning changed is no matter of integers.
        let reference = match self.options.pruning {
            Some(_) => attempt.exported.clone(),
            None => self.original.messages()?,
        };
        let options = self.options.trial.calibration();
        let mut report = clock
            .time("quantize", || quantize(&mut model, target, wanted, &options, listener))
            .map_err(failed)?;
        if report.placed.quantized.is_empty() {
            // Nor is it put as the target wants it for integers.
            notes.extend(warnings(&report));
            return Ok(report);
        }
        self.finish(attempt, &mut model, left_out, clock)?;
        report.foresee(&model.graph, target);

        if let Some(trial) = &self.trial {
            let mut trial = VerifyOptions { tolerance: Some(f64::INFINITY), ..trial.clone() };
            if trial.data.is_empty() {
                trial.data = wanted.samples(&model.graph)?;
            }
            let found = clock.time("verify", || verify(&reference, &attempt.exported, &trial));
            if let Status::Failed { reason } = found.status {
                return Err(refused(reason));
            }
            report.error = Some(found);
            report.agreement = clock.time("verify", || agreement(&attempt.exported, &trial));
            let agreement = report.agreement.as_ref().map(|found| &found.status);
            // Integers of other targets are no matter of onnxruntime.
            if let (Some(Status::Failed { reason }), Some(_)) = (agreement, &report.onnxruntime) {
                return Err(refused(format!("tract runs it, but not onnxruntime: {reason}")));
            }
        }
        notes.extend(warnings(&report));
        Ok(report)
    }
}

fn warnings(report: &StaticReport) -> Vec<String> {
    let mut found = Vec::new();
    if report.random {
        found.push(
            "calibrated on random samples, whose ranges say little about real ones: give real ones with --calibrate"
                .to_owned(),
        );
    }
    if report.equalized == Some(0) {
        found.push(
            "no channels were equalized: between no two products is only what scales with them".to_owned(),
        );
    }
    if report.placed.quantized.is_empty() {
        found.push("nothing was quantized: no operator in question would gain by it".to_owned());
    } else if !report.placed.faster {
        found.push("integers are not expected to be faster in so small a model, but smaller".to_owned());
    }
    if let Some(sqnr) = report.sqnr_db().filter(|&sqnr| sqnr < LOW_SQNR) {
        found.push(format!(
            "an output has only {sqnr:.1} dB of signal over error: try other samples, another --calibration-method, or \
             --exclude"
        ));
    }
    found
}
