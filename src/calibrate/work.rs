//! The work of the process that runs the model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onnx_opt_ir::engine::Runner;
use onnx_opt_ir::{ElementType, Tensor};
use onnx_opt_passes::quantize::Statistics;
use onnx_opt_passes::quantize::accuracy::{Largest, Layer, LayerMoments, Moments};
use serde::{Deserialize, Serialize};

use super::samples::{Set, Source, Subject, Trouble, run};
use crate::child::{Task, Tell};
use crate::engine::Engine;

/// What is to be run and observed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    pub model: PathBuf,
    /// Values that are observed, each with the output that shows it, in the order of the graph.
    pub outputs: Vec<(String, usize)>,
    /// Inputs that are observed.
    pub inputs: Vec<String>,
    /// Products whose operands, which are observed too, have moments.
    pub layers: Vec<Layer>,
    /// Whether the largest magnitude is kept of each element along the last axes of the values.
    pub largest: bool,
    pub source: Source,
    pub engine: Engine,
}

/// What was observed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// By the name of the value.
    pub values: BTreeMap<String, Statistics>,
    /// By the name of the node that takes them.
    pub moments: LayerMoments,
    /// By the name of the value.
    pub largest: Largest,
}

impl Found {
    /// Appends what was observed later.
    fn merge(&mut self, later: &Self) {
        for (name, statistics) in &later.values {
            self.values.entry(name.clone()).or_default().merge(statistics);
        }
        for (name, moments) in &later.moments {
            let known = self
                .moments
                .entry(name.clone())
                .or_insert_with(|| moments.iter().map(|of| Moments::new(of.size())).collect());
            known.iter_mut().zip(moments).for_each(|(known, later)| known.merge(later));
        }
        for (name, row) in &later.largest {
            self.widen(name, row);
        }
    }

    /// Takes in a row of a value. One of another length than those before is left out.
    fn widen(&mut self, name: &str, row: &[f32]) {
        let known = self.largest.entry(name.to_owned()).or_insert_with(|| vec![0.0; row.len()]);
        if known.len() == row.len() {
            known.iter_mut().zip(row).for_each(|(known, value)| *known = known.max(value.abs()));
        }
    }
}

impl Task for Work {
    const NAME: &'static str = "calibrate";
    type Answer = Result<Found, Trouble>;

    fn perform(self, tell: &Tell) -> anyhow::Result<Self::Answer> {
        let subject = Subject::read(&self.model)?;
        let take =
            |runner: &mut dyn Runner, set: &Set<'_>, found: &mut Found| observe(&self, runner, set, found);
        let shards: Result<Vec<Found>, Trouble> = run(&self.source, &self.engine, &subject, tell, &take);
        Ok(shards.map(|shards| {
            let mut total = Found::default();
            shards.iter().for_each(|found| total.merge(found));
            total
        }))
    }
}

/// Runs one set of inputs and takes in what is observed of it.
fn observe(
    work: &Work,
    runner: &mut dyn Runner,
    Set { name: sample, feed, .. }: &Set<'_>,
    found: &mut Found,
) -> Result<(), Trouble> {
    let mut take = |name: &String, tensor: &Tensor| {
        let numbers = numbers(tensor)
            .ok_or_else(|| Trouble::NotFloat { name: name.clone(), ty: tensor.ty().to_string() })?;
        for layer in work.layers.iter().filter(|layer| layer.value == *name) {
            let moments = found.moments.entry(layer.node.clone()).or_default();
            layer.window.observe(&numbers, tensor.shape(), moments);
        }
        if let (true, Some(&width)) = (work.largest, tensor.shape().last()) {
            numbers.chunks_exact(width.max(1)).for_each(|row| found.widen(name, row));
        }
        let statistics = match found.values.get_mut(name) {
            Some(statistics) => statistics,
            None => found.values.entry(name.clone()).or_default(),
        };
        statistics
            .observe(&numbers)
            .map_err(|_| Trouble::NotANumber { name: name.clone(), sample: (*sample).to_owned() })
    };
    for (name, tensor) in feed.iter().filter(|(name, _)| work.inputs.contains(name)) {
        take(name, tensor)?;
    }
    let outputs = runner.run(feed)?;
    for (name, place) in &work.outputs {
        let (_, tensor) =
            outputs.get(*place).ok_or_else(|| Trouble::Engine(format!("it gave no value `{name}`")))?;
        take(name, tensor)?;
    }
    Ok(())
}

/// The elements of a tensor of floats.
pub(super) fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    if tensor.element() == ElementType::Double {
        return Some(tensor.to_f64()?.into_iter().map(|value| value as f32).collect());
    }
    tensor.to_f32()
}
