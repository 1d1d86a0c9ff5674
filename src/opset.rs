//! The operator set of the result: that of the model, one that the user names, or as high as it pays.

use std::collections::BTreeMap;

use onnx_opt_ir::Model;
use onnx_opt_passes::opset::{HIGHEST, RaiseError, raise};
use onnx_opt_passes::{Target, rules};

use crate::choice::{Cost, Outcome};
use crate::report::{Pass, Summary};

/// Which version of the default domain's operator set the result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opset {
    /// That of the model.
    Keep,
    /// This one.
    To(i64),
    /// As high as a rule needs that makes the model cheaper, and no higher.
    Auto,
}

/// Name of the conversion in reports.
pub const RAISE: &str = "raise_opset";

/// What passes make of a model, raised as far as the rules need that make it cheaper and as the target runs it; `None`
/// if none does.
///
/// `plain` is the result without raising. It is raised, and so is `start`, the model before any pass, if there is one:
/// what a later operator stands for may be whole there only. A result counts as cheaper if its nodes are and it takes
/// no more bytes. Of several versions the lowest counts that the next does not undercut.
pub(crate) fn raise_as_it_pays<E>(
    start: Option<&Model>,
    plain: &Outcome,
    target: &Target,
    run: &dyn Fn(&mut Model) -> Result<Vec<Pass>, E>,
) -> Result<Option<Outcome>, E> {
    let mut least = Cost::of(&plain.model, target);
    let bytes = least.bytes;
    let mut best = None;
    let mut consider = |raised: Outcome| {
        let cost = Cost::of(&raised.model, target);
        if cost.beats(least, bytes) {
            (best, least) = (Some(raised), cost);
        }
    };
    let from = plain.model.graph.opset();
    let starts = [Some((&plain.model, &plain.passes[..])), start.map(|start| (start, &[][..]))];
    for (model, done) in starts.into_iter().flatten() {
        let attempt = |version: i64| raised(model, done, version, run);
        let operators = Summary::of(model, 0).operators;
        let mut highest = target.highest_opset_of(operators.keys().map(String::as_str)).min(HIGHEST);
        let top = loop {
            if highest <= from {
                break None;
            }
            match attempt(highest)? {
                Ok(top) => break Some(top),
                Err(RaiseError::Node { opset, .. }) if opset <= highest => highest = opset - 1,
                Err(_) => break None,
            }
        };
        let Some(top) = top else { continue };
        for version in needed(&top.passes) {
            if version > from
                && version < highest
                && let Ok(raised) = attempt(version)?
            {
                consider(raised);
            }
        }
        consider(top);
    }
    Ok(best)
}

/// What passes make of a model that is raised to a version; `done` is what was done to it before.
pub(crate) fn raised<E>(
    model: &Model,
    done: &[Pass],
    version: i64,
    run: &dyn Fn(&mut Model) -> Result<Vec<Pass>, E>,
) -> Result<Result<Outcome, RaiseError>, E> {
    let mut model = model.clone();
    let pass = match conversion(&mut model, version) {
        Ok(pass) => pass,
        Err(error) => return Ok(Err(error)),
    };
    let mut passes = [done, &[pass]].concat();
    passes.extend(run(&mut model)?);
    Ok(Ok(Outcome { model, passes }))
}

/// Raises the operator set of a model, as a pass.
pub(crate) fn conversion(model: &mut Model, version: i64) -> Result<Pass, RaiseError> {
    let start = std::time::Instant::now();
    let nodes_before = model.graph.node_count();
    let from = model.graph.context().opset("");
    let count = raise(model, version)?;
    let mut applied = BTreeMap::new();
    if from != model.graph.context().opset("") {
        applied.insert(RAISE, count.max(1));
    }
    Ok(Pass {
        name: RAISE,
        seconds: start.elapsed().as_secs_f64(),
        nodes_before,
        nodes_after: model.graph.node_count(),
        applied,
        places: BTreeMap::new(),
        declined: BTreeMap::new(),
    })
}

/// The versions that applied rules need, ascending.
fn needed(passes: &[Pass]) -> Vec<i64> {
    let applied = |name: &str| passes.iter().any(|pass| pass.applied.contains_key(name));
    let mut versions: Vec<i64> =
        rules::all().iter().filter(|rule| applied(rule.name())).map(|rule| rule.since()).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}
