//! What integers cost: how far outputs are from those of the float model, with all of its nodes on integers or one.

use std::collections::BTreeSet;

use onnx_opt_ir::{Graph, Model, ValueId};
use serde::Serialize;

use super::costs::cost;
use super::insert::{chosen, insert};
use super::sizes::Sizes;
use super::unit::Kind;
use super::{Profile, QuantizeError, QuantizeOptions, QuantizeReport, Ranges};
use crate::cse::CommonSubexpressions;
use crate::gradient::{Writer, Written};
use crate::measure::{MeasureError, Totals, beside, prepared, sums};
use crate::pass::{Pass, PassContext};
use crate::rewrite::{Statistics, place};

/// What integers in one node cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Name of the node, or of its first result.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Signal over error of the worst output in decibels, where this node alone computes with integers; `None` where
    /// nothing differs.
    pub sqnr_db: Option<f64>,
    /// Nanoseconds of one thread that integers save, as the profile counts them; negative where they take longer.
    pub saves: f64,
}

impl Sensitivity {
    /// The power of the error as a share of that of the signal.
    pub fn noise(&self) -> f64 {
        self.sqnr_db.map_or(0.0, |decibels| 10f64.powf(-decibels / 10.0))
    }

    /// Error for each nanosecond that is saved.
    fn price(&self) -> f64 {
        self.noise() / self.saves.max(1.0)
    }
}

/// A calibrated float model, and samples to run it on.
pub struct Calibrated<'a> {
    /// The model, prepared for the profile.
    pub model: &'a Model,
    /// What its values are.
    pub ranges: &'a Ranges,
    /// How the target computes with integers.
    pub profile: &'a Profile,
    /// Which nodes may.
    pub options: &'a QuantizeOptions,
    /// Runs models on samples.
    pub totals: &'a dyn Totals,
}

/// What each node costs that would compute with integers, in the order of the graph. Nodes that only move integers are
/// left out. After each few nodes `go_on` is told how many of how many are done; where it says no, the rest is left out.
///
/// # Errors
/// If a model cannot be quantized so, or cannot be run on the samples.
pub fn sensitivities(
    calibrated: &Calibrated<'_>,
    go_on: &dyn Fn(usize, usize) -> bool,
) -> Result<Vec<Sensitivity>, QuantizeError> {
    let &Calibrated { model, ranges, profile, options, .. } = calibrated;
    let graph = &model.graph;
    let (units, regions) = chosen(graph, ranges, profile, options);
    let sizes = Sizes { graph, seen: &options.elements };
    let mut found = Vec::new();
    for (unit, _) in units.units.iter().zip(&regions.integer).filter(|(_, on)| **on) {
        if matches!(unit.kind, Kind::Move | Kind::Rescale(_)) {
            continue;
        }
        let (node, cost) = (graph.node(unit.node), cost(&sizes, profile, unit));
        let operator = node.op_type().to_owned();
        let saves = cost.float - cost.integer;
        found.push(Sensitivity { node: place(graph, node), operator, sqnr_db: None, saves });
    }
    let (all, mut done) = (found.len(), 0);
    for some in found.chunks_mut(at_once(model)) {
        if !go_on(done, all) {
            break;
        }
        let alone = |of: &Sensitivity| {
            let nodes = Some(BTreeSet::from([of.node.clone()]));
            calibrated.quantized(&QuantizeOptions { nodes, regardless: true, ..options.clone() })
        };
        let variants = some.iter().map(alone).collect::<Result<Vec<Graph>, _>>()?;
        let ratios = sqnr(model, &variants, calibrated.totals)?;
        some.iter_mut().zip(ratios).for_each(|(of, ratio)| of.sqnr_db = ratio);
        done += some.len();
    }
    found.truncate(done);
    Ok(found)
}

/// Nodes that stay floats for the sake of the outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixed {
    /// Signal over error of the worst output that was asked for, in decibels.
    pub wanted_db: f64,
    /// What it is with all nodes on integers; `None` where nothing differs.
    pub all_db: Option<f64>,
    /// What it is with these on floats.
    pub reached_db: Option<f64>,
    /// The nodes, the first cost most.
    pub floats: Vec<Sensitivity>,
}

/// Chooses as few nodes to stay floats as let the outputs have so much signal over error, in decibels: those first that
/// cost most for what they save. Regions are chosen anew without them. Where no integers are left, these are all nodes.
///
/// # Errors
/// If a model cannot be quantized so, or cannot be run on the samples.
pub fn mix(
    calibrated: &Calibrated<'_>,
    wanted_db: f64,
    hear: &dyn Fn(usize, usize),
) -> Result<Mixed, QuantizeError> {
    let enough = |ratio: Option<f64>| ratio.is_none_or(|ratio| ratio >= wanted_db);
    let all_db = calibrated.all()?;
    let mut mixed = Mixed { wanted_db, all_db, reached_db: all_db, floats: Vec::new() };
    if enough(all_db) {
        return Ok(mixed);
    }
    let go_on = |done, all| {
        hear(done, all);
        true
    };
    let mut order = sensitivities(calibrated, &go_on)?;
    order.sort_by(|a, b| b.price().total_cmp(&a.price()));
    mixed.reached_db = None;
    // So few are not enough, so many are.
    let (mut few, mut many) = (0, order.len());
    while many - few > 1 {
        let middle = few.midpoint(many);
        let options = without(calibrated.options, &order[..middle]);
        let found = Calibrated { options: &options, ..*calibrated }.all()?;
        if enough(found) {
            (many, mixed.reached_db) = (middle, found);
        } else {
            few = middle;
        }
    }
    order.truncate(many);
    mixed.floats = order;
    Ok(mixed)
}

impl Mixed {
    /// Says of the nodes that stay floats why they do.
    pub fn explain(&self, report: &mut QuantizeReport) {
        for of in &self.floats {
            let alone = of.sqnr_db.map_or_else(|| "none".to_owned(), |ratio| format!("{ratio:.1} dB"));
            for placed in report.nodes.iter_mut().filter(|placed| placed.node == of.node) {
                placed.float = Some(format!("outputs have {alone} with integers in it alone"));
            }
        }
    }
}

/// The same options, with some nodes left out.
pub fn without(options: &QuantizeOptions, floats: &[Sensitivity]) -> QuantizeOptions {
    let mut options = options.clone();
    options.exclude.extend(floats.iter().map(|of| of.node.clone()));
    options
}

impl Calibrated<'_> {
    /// Signal over error of the worst output with all nodes on integers that gain by it, in decibels; `None` where nothing
    /// differs.
    ///
    /// # Errors
    /// If the model cannot be quantized so, or cannot be run on the samples.
    pub fn all(&self) -> Result<Option<f64>, QuantizeError> {
        let graph = self.quantized(self.options)?;
        Ok(sqnr(self.model, &[graph], self.totals)?.into_iter().next().flatten())
    }

    fn quantized(&self, options: &QuantizeOptions) -> Result<Graph, QuantizeError> {
        let mut model = self.model.clone();
        insert(&mut model, self.ranges, self.profile, options)?;
        Ok(model.graph)
    }
}

/// So many variants of a model are run at once: what they share is computed once.
fn at_once(model: &Model) -> usize {
    const BYTES: usize = 256 << 20;
    const NODES: usize = 2_000;
    const MOST: usize = 8;
    let graph = &model.graph;
    let bytes: usize = graph.values().filter_map(|(id, _)| Some(graph.constant(id)?.byte_len())).sum();
    let nodes = graph.nodes().count();
    (BYTES / bytes.max(1)).min(NODES / nodes.max(1)).clamp(1, MOST)
}

/// Signal over error of the worst output of each variant of a float model, in decibels, over all samples: 10·log₁₀ of
/// Σy² over Σ(y − ŷ)². `None` where nothing differs. Outputs that are no floats do not count.
fn sqnr(model: &Model, variants: &[Graph], totals: &dyn Totals) -> Result<Vec<Option<f64>>, MeasureError> {
    let mut work = prepared(&model.graph, model)?;
    let floats = |graph: &Graph| -> Vec<ValueId> {
        let outputs = graph.outputs().iter().map(|output| output.value);
        outputs.filter(|&value| graph.element(value).is_some_and(|element| element.is_float())).collect()
    };
    let originals = floats(&work.graph);
    let mut results = Vec::new();
    for variant in variants {
        let variant = prepared(variant, model)?.graph;
        let wanted = floats(&variant);
        let copies = beside(&mut work.graph, &variant, &wanted)?;
        results.push(wanted.iter().filter_map(|value| copies.get(value).copied()).collect::<Vec<_>>());
    }
    let mut w = Writer::new(&mut work.graph);
    let mut outputs = Vec::new();
    for (place, &y) in originals.iter().enumerate() {
        outputs.push((place.to_string(), power(&mut w, y)?));
    }
    for (number, results) in results.iter().enumerate() {
        for (place, (&y, &result)) in originals.iter().zip(results).enumerate() {
            let error = w.sub(y, result)?;
            outputs.push((format!("{number}.{place}"), power(&mut w, error)?));
        }
    }
    // Up to the first integers, variants compute what the float model does.
    work.graph.drop_outputs();
    for (name, value) in &outputs {
        work.graph.add_output(name, *value)?;
    }
    CommonSubexpressions.run(&mut work.graph, &PassContext::default(), &mut Statistics::default());
    let merged = work.graph.outputs().iter().map(|output| output.value);
    let outputs = outputs.into_iter().map(|(name, _)| name).zip(merged).collect();
    let found = sums(&mut work, outputs, totals, 1)?;
    let total = |name: String| found.get(&name).and_then(|total| total.values.first().copied());
    let worst = |number: usize| {
        let ratios = (0..originals.len()).filter_map(|place| {
            let (signal, noise) = (total(place.to_string())?, total(format!("{number}.{place}"))?);
            (noise > 0.0).then(|| 10.0 * (signal / noise).log10())
        });
        ratios.reduce(f64::min)
    };
    Ok((0..variants.len()).map(worst).collect())
}

/// Σx².
fn power(w: &mut Writer<'_>, x: ValueId) -> Written {
    let square = w.square(x)?;
    w.op_with("ReduceSum", &[square], "keepdims", 0i64)
}
