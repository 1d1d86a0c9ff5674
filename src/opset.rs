//! The operator set of the result: that of the model, one that the user names, or as high as it pays.

use std::collections::BTreeMap;

use onnx_opt_ir::{Model, export};
use onnx_opt_passes::opset::{HIGHEST, RaiseError, raise};
use onnx_opt_passes::{Target, rules};
use prost::Message;

use crate::report::{Pass, Summary};

/// Which version of the default domain's operator set the result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opset {
    /// That of the model.
    Keep,
    /// This one.
    To(i64),
    /// As high as a rule needs that makes the model smaller, and no higher.
    Auto,
}

/// Name of the conversion in reports.
pub const RAISE: &str = "raise_opset";

/// A model of another operator set, and what its passes did.
pub(crate) struct Raised {
    pub model: Model,
    pub passes: Vec<Pass>,
}

/// The model that passes make of `base`, raised as far as the rules need that make it smaller and as the target runs
/// it; `None` if none does.
///
/// A model counts as smaller if it has fewer nodes and takes no more bytes. Of several versions the lowest counts that
/// the next does not undercut.
pub(crate) fn raise_as_it_pays<E>(
    base: &Model,
    target: &Target,
    run: &dyn Fn(&mut Model) -> Result<Vec<Pass>, E>,
) -> Result<Option<Raised>, E> {
    let attempt = |version: i64| -> Result<Result<Raised, RaiseError>, E> {
        let mut model = base.clone();
        let pass = match conversion(&mut model, version) {
            Ok(pass) => pass,
            Err(error) => return Ok(Err(error)),
        };
        let mut passes = vec![pass];
        passes.extend(run(&mut model)?);
        Ok(Ok(Raised { model, passes }))
    };
    let (nodes, bytes) = cost(base);
    let from = base.graph.opset();
    let operators = Summary::of(base, 0).operators;
    let mut highest = target.highest_opset_of(operators.keys().map(String::as_str)).min(HIGHEST);
    let top = loop {
        if highest <= from {
            return Ok(None);
        }
        match attempt(highest)? {
            Ok(top) => break top,
            Err(RaiseError::Node { opset, .. }) if opset <= highest => highest = opset - 1,
            Err(_) => return Ok(None),
        }
    };
    let mut fewest = nodes;
    let mut best = None;
    let mut consider = |raised: Raised| {
        let (nodes, size) = cost(&raised.model);
        if nodes < fewest && size <= bytes {
            fewest = nodes;
            best = Some(raised);
        }
    };
    for version in needed(&top.passes) {
        if version > from
            && version < highest
            && let Ok(raised) = attempt(version)?
        {
            consider(raised);
        }
    }
    consider(top);
    Ok(best)
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

/// Nodes and bytes.
fn cost(model: &Model) -> (usize, usize) {
    (Summary::of(model, 0).nodes, export(model).encoded_len())
}
