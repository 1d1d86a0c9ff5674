//! Recovery without labels: what is left of a graph is made to give what the whole one gave, layer by layer.
//!
//! Both graphs run side by side on the same samples. From the first layer to the last, each takes what the layers before
//! it, recovered already, make of a sample, and is fitted to what it gave in the whole graph: products by least squares
//! (He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks", 2017, with the bias as one more
//! column), among them those of recurrent layers, others by the mean and variance of each channel. Where a result is only added to another value, the sum is
//! what it is fitted to, so that it makes up for what is wrong with the other.
//!
//! Only moments are kept of the samples: XᵀX and XᵀT, whatever their number.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Graph, Model, NodeId, Tensor, ValueId};
use serde::Serialize;

use super::group::is_weight;
use super::linear::Cholesky;
use super::plan::Kept;
use super::product::Product;
use super::recurrent::Recurrent;
use crate::bias::set_bias;
use crate::gradient::{Writer, Written};
use crate::measure::{MeasureError, Total, Totals, beside, prepared, sums};

/// What of a layer's moments is added to their diagonal, relative to its mean: it keeps weights where they are as far as
/// the samples do not tell otherwise.
const DAMPING: f64 = 0.01;

/// What was recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Layers that were fitted by least squares.
    pub products: usize,
    /// Layers of which the mean and variance of each channel was fitted.
    pub channels: usize,
    /// Runs over the samples.
    pub passes: usize,
}

/// What layers take while they are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// What the layers before make of the samples, one layer after the other.
    Recovered,
    /// What the whole graph makes of them, all layers at once: the update of an optimal brain surgeon.
    Original,
}

/// Fits what is left of a graph to the whole one, which has the same nodes and values.
///
/// # Errors
/// If a graph of moments cannot be written or run; the model then has the weights that were found before.
pub fn recover(
    model: &mut Model,
    whole: &Graph,
    kept: &Kept,
    given: Given,
    totals: &dyn Totals,
) -> Result<Recovered, MeasureError> {
    let changed = changed(&model.graph, whole);
    let mut recovered = Recovered::default();
    let mut levels = levels(&model.graph, whole, &changed, totals.samples());
    if given == Given::Original {
        let whole = |fit: &Fit| matches!(fit, Fit::Product(product) if !product.is_part());
        levels = vec![levels.into_iter().flatten().filter(whole).collect()];
    }
    let whole = prepared(whole, model)?.graph;
    for level in levels.iter().filter(|level| !level.is_empty()) {
        let found = moments(model, &whole, kept, level, given, totals)?;
        recovered.passes += 1;
        for (fit, found) in level.iter().zip(found) {
            let Some(found) = found else { continue };
            match fit {
                Fit::Product(product) if refit(&mut model.graph, product, &found)? => {
                    recovered.products += usize::from(product.is_first());
                }
                Fit::Recurrent(part) if part.refit(&mut model.graph, &found)? => recovered.products += 1,
                Fit::Channels(channels) if recalibrate(&mut model.graph, channels, &found)? => {
                    recovered.channels += 1;
                }
                _ => {}
            }
        }
    }
    model.graph.infer_anew();
    Ok(recovered)
}

/// A layer, by how it is fitted.
enum Fit {
    Product(Product),
    Recurrent(Recurrent),
    Channels(Channels),
}

impl Fit {
    /// Those of a node.
    fn all(graph: &Graph, id: NodeId, samples: usize) -> Vec<Self> {
        let products = Product::parts(graph, id, samples).into_iter().map(Self::Product);
        let mut all: Vec<Self> =
            products.chain(Recurrent::parts(graph, id).into_iter().map(Self::Recurrent)).collect();
        if all.is_empty() {
            all.extend(Channels::of(graph, id).map(Self::Channels));
        }
        all
    }

    /// The value that has a counterpart in the whole graph: what it gives, or what a recurrent layer weighs.
    fn value(&self) -> ValueId {
        match self {
            Self::Product(product) => product.y,
            Self::Recurrent(part) => part.value,
            Self::Channels(channels) => channels.y,
        }
    }
}

/// A layer whose channels can be scaled and shifted.
struct Channels {
    node: NodeId,
    y: ValueId,
    /// The constant that scales, and its axis of channels.
    scale: ValueId,
    axis: usize,
    /// Place of the bias among the operands.
    bias: usize,
}

impl Channels {
    fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.get_node(id)?;
        let axis = match node.op_type() {
            "BatchNormalization" if node.int("training_mode").unwrap_or(0) == 0 => 0,
            "ConvTranspose" if node.int("group") == Some(1) => 1,
            "Conv" => 0,
            _ => return None,
        };
        let scale = node.input(1)?;
        let constant = graph.constant(scale).is_some_and(|tensor| tensor.element().is_float());
        let bias = node.input(2).is_none_or(|bias| graph.constant(bias).is_some());
        let shared = graph.use_count(scale) != 1 && node.op_type() != "BatchNormalization";
        let y = node.output(0)?;
        (constant && bias && !shared).then_some(Self { node: id, y, scale, axis, bias: 2 })
    }
}

/// The values that are not, or may not be, what they are in the whole graph.
fn changed(graph: &Graph, whole: &Graph) -> BTreeSet<ValueId> {
    let mut changed = BTreeSet::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let moved = node.operands().any(|value| {
            changed.contains(&value)
                || graph.constant(value).is_some() && graph.constant(value) != whole.constant(value)
        });
        if moved {
            changed.extend(node.outputs().iter().flatten());
        }
    }
    changed
}

/// The layers that take something changed, in levels: each only takes from levels before.
fn levels(graph: &Graph, whole: &Graph, changed: &BTreeSet<ValueId>, samples: usize) -> Vec<Vec<Fit>> {
    let mut depth: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut levels: Vec<Vec<Fit>> = Vec::new();
    let mut fitted = BTreeSet::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let mut level = node.operands().filter_map(|value| depth.get(&value).copied()).max().unwrap_or(0);
        // What a product gives is right already, up to the scale of its channels.
        let after_product =
            node.is("BatchNormalization") && node.input(0).is_some_and(|x| fitted.contains(&x));
        let takes_news = node.input(0).is_some_and(|x| changed.contains(&x));
        let mut fits = Fit::all(graph, id, samples);
        fits.retain(|fit| match fit {
            Fit::Recurrent(part) if part.is_state => part.has_lost(graph, whole),
            _ => takes_news && !after_product,
        });
        let first = level;
        for (turn, fit) in fits.into_iter().enumerate() {
            // Each part of a product makes up for what those before have left.
            let at = if matches!(fit, Fit::Product(_)) { first + turn } else { first };
            if levels.len() <= at {
                levels.resize_with(at + 1, Vec::new);
            }
            fitted.insert(fit.value());
            levels[at].push(fit);
            level = level.max(at + 1);
        }
        for &output in node.outputs().iter().flatten() {
            depth.insert(output, level);
        }
    }
    levels
}

/// Sums over samples for each layer of a level: of products XᵀX and XᵀT, of others those of y, y², t, t² and 1.
fn moments(
    model: &Model,
    whole: &Graph,
    kept: &Kept,
    level: &[Fit],
    given: Given,
    totals: &dyn Totals,
) -> Result<Vec<Option<Vec<Total>>>, MeasureError> {
    let mut work = prepared(&model.graph, model)?;
    let ys: Vec<ValueId> = level.iter().map(Fit::value).collect();
    let mut wanted: Vec<ValueId> = Vec::new();
    let mut places = Vec::new();
    for (fit, &y) in level.iter().zip(&ys) {
        let gives = !matches!(fit, Fit::Recurrent(_)) && given == Given::Recovered;
        let sum = summed(&work.graph, y).filter(|(_, other)| !ys.contains(other) && gives);
        let target = sum.map_or(y, |(sum, _)| sum);
        let x = match fit {
            Fit::Product(product) => Some(product.x).filter(|_| given == Given::Original),
            Fit::Recurrent(_) | Fit::Channels(_) => None,
        };
        places.push((target, sum.map(|(_, other)| other), x));
        wanted.extend(
            [Some(target), x].into_iter().flatten().filter(|&value| whole.get_value(value).is_some()),
        );
    }
    wanted.sort();
    wanted.dedup();
    let originals = beside(&mut work.graph, whole, &wanted)?;
    let mut w = Writer::new(&mut work.graph);
    let mut outputs = Vec::new();
    for (number, (fit, (target, other, x))) in level.iter().zip(&places).enumerate() {
        let Some(mut t) = left(&mut w, whole, kept, &originals, *target)? else { continue };
        if let Some(other) = other {
            t = w.sub(t, *other)?;
        }
        let parts = match fit {
            Fit::Product(product) => {
                let x = match x {
                    Some(x) if whole.get_value(*x).is_some() => {
                        left(&mut w, whole, kept, &originals, *x)?.unwrap_or(*x)
                    }
                    _ => product.x,
                };
                let rows = product.operand(&mut w, x, true)?;
                if product.is_part() {
                    t = w.sub(t, product.y)?;
                }
                let targets = product.result(&mut w, t)?;
                vec![product.moments(&mut w, rows, rows)?, product.moments(&mut w, rows, targets)?]
            }
            Fit::Recurrent(part) => {
                let Some(&before) = originals.get(&part.value) else { continue };
                let now = if part.is_state { t } else { part.value };
                part.moments(&mut w, now, before, whole, kept)?
            }
            Fit::Channels(channels) => statistics(&mut w, channels.y, t, 1)?,
        };
        outputs
            .extend(parts.into_iter().enumerate().map(|(part, value)| (format!("{number}.{part}"), value)));
    }
    let mut found = sums(&mut work, outputs, totals, 1)?;
    let of = |number: usize| {
        let parts: Vec<Total> = (0..5).map_while(|part| found.remove(&format!("{number}.{part}"))).collect();
        (!parts.is_empty()).then_some(parts)
    };
    Ok((0..level.len()).map(of).collect())
}

/// The sum that a value goes into, if it goes nowhere else, and what is added to it.
fn summed(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    if graph.is_output(value) {
        return None;
    }
    let mut consumers = graph.consumers(value);
    let (Some(only), None) = (consumers.next(), consumers.next()) else { return None };
    let (Slot::Input(slot), node) = (only.slot, graph.get_node(only.node)?) else { return None };
    let other = node.input(1 - (slot as usize).min(1)).filter(|_| node.is("Add"))?;
    let same = graph.shape(other).is_some() && graph.shape(other) == graph.shape(value);
    (same && graph.constant(other).is_none()).then_some((node.single_output()?, other))
}

/// A value of the whole graph without what was pruned of it.
fn left(
    w: &mut Writer<'_>,
    whole: &Graph,
    kept: &Kept,
    originals: &BTreeMap<ValueId, ValueId>,
    value: ValueId,
) -> Written<Option<ValueId>> {
    let Some(&original) = originals.get(&value) else { return Ok(None) };
    let mut left = original;
    let rank = whole.rank(value).unwrap_or(0);
    for axis in 0..rank {
        if let Some(indices) = kept.get(&(value, axis)) {
            let indices: Vec<i64> = indices.iter().map(|&index| i64::from(index)).collect();
            let indices = w.integers(&indices);
            left = w.op_with("Gather", &[left, indices], "axis", axis as i64)?;
        }
    }
    Ok(Some(left))
}

/// Σy, Σy², Σt, Σt² and the number of elements, by channel.
fn statistics(w: &mut Writer<'_>, y: ValueId, t: ValueId, axis: usize) -> Written<Vec<ValueId>> {
    let rank = w.rank(y)?;
    let others: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
    let mut parts = Vec::new();
    for value in [y, t] {
        parts.push(w.sum(value, &others, false)?);
        let square = w.square(value)?;
        parts.push(w.sum(square, &others, false)?);
    }
    let count = w.count(y, &others, y)?;
    parts.push(w.op("Identity", &[count])?);
    Ok(parts)
}

/// Adds (A + λI)⁻¹·(XᵀT − A·W) to the rows of a product, which end in the bias if there is one, with A = XᵀX. Tells
/// whether there was a solution.
pub(super) fn improve(
    moments: &[f64],
    targets: &[f64],
    weights: &mut [f64],
    mut bias: Option<&mut [f64]>,
) -> bool {
    let width = moments.len().isqrt();
    let (columns, results) = (width - 1, targets.len() / width);
    // Without a place for a bias the last column does not count.
    let size = if bias.is_some() { width } else { columns };
    let mean = (0..columns).map(|i| moments[i * width + i]).sum::<f64>() / columns as f64;
    let count = moments[width * width - 1];
    let mut damped = vec![0.0; size * size];
    for i in 0..size {
        damped[i * size..(i + 1) * size].copy_from_slice(&moments[i * width..i * width + size]);
        damped[i * size + i] += if i < columns { DAMPING * mean + 1e-12 * count } else { 1e-6 * count };
    }
    let Some(factored) = Cholesky::of(damped, size) else { return false };
    for (result, row) in weights.chunks_mut(columns).enumerate() {
        let mut now = row.to_vec();
        now.push(bias.as_deref().map_or(0.0, |bias| bias[result]));
        let mut rest: Vec<f64> = (0..size)
            .map(|i| {
                let moments = &moments[i * width..(i + 1) * width];
                let made: f64 = moments.iter().zip(&now).map(|(a, b)| a * b).sum();
                targets[i * results + result] - made
            })
            .collect();
        factored.solve(&mut rest);
        if rest.iter().any(|value| !value.is_finite()) {
            return false;
        }
        row.iter_mut().zip(&rest).for_each(|(weight, more)| *weight += more);
        if let (Some(bias), Some(more)) = (bias.as_deref_mut(), rest.get(columns)) {
            bias[result] += more;
        }
    }
    true
}

/// The weights of a product that give most nearly what the whole one gave. Tells whether there are any.
fn refit(graph: &mut Graph, product: &Product, found: &[Total]) -> Result<bool, MeasureError> {
    let [moments, targets] = found else { return Ok(false) };
    let Some(tensor) = graph.constant(product.weight).cloned() else { return Ok(false) };
    let Some(whole) = product.matrix(&tensor) else { return Ok(false) };
    let (columns, results, groups) = (product.columns(), product.results(), product.groups);
    let width = columns + 1;
    if moments.values.len() != groups * width * width || targets.values.len() != groups * width * results {
        return Ok(false);
    }
    let given = product.bias.and_then(|(bias, ..)| bias).and_then(|bias| graph.constant(bias)).cloned();
    let bias = given.as_ref().and_then(|bias| bias.to_f64()).unwrap_or_else(|| vec![0.0; groups * results]);
    // What is fitted to an error comes on top.
    let (mut matrix, mut bias, more) = match product.is_part() {
        true => (vec![0.0; whole.len()], vec![0.0; bias.len()], Some((whole, bias))),
        false => (whole, bias, None),
    };
    for group in 0..groups {
        let rows = group * results..(group + 1) * results;
        let fits = improve(
            &moments.values[group * width * width..][..width * width],
            &targets.values[group * width * results..][..width * results],
            &mut matrix[rows.start * columns..rows.end * columns],
            product.bias.is_some().then_some(&mut bias[rows]),
        );
        if !fits {
            return Ok(false);
        }
    }
    if let Some((whole, before)) = more {
        matrix.iter_mut().zip(whole).for_each(|(more, weight)| *more += weight);
        bias.iter_mut().zip(before).for_each(|(more, before)| *more += before);
    }
    let Some(weight) = product.weight_of(&matrix, &tensor) else { return Ok(false) };
    graph.set_constant(product.weight, weight)?;
    if let Some((_, node, slot)) = product.bias {
        set_bias(graph, node, slot, &bias, given.as_deref().unwrap_or(&tensor))?;
    }
    Ok(true)
}

/// y·σ_t/σ_y with the mean of t, by channel.
fn recalibrate(graph: &mut Graph, channels: &Channels, found: &[Total]) -> Result<bool, MeasureError> {
    let [y, yy, t, tt, count] = found else { return Ok(false) };
    let count = count.values.first().copied().unwrap_or(0.0);
    let Some(scale) = graph.constant(channels.scale).cloned() else { return Ok(false) };
    let size = scale.shape().get(channels.axis).copied().unwrap_or(0);
    if count < 2.0 || [y, yy, t, tt].iter().any(|total| total.values.len() != size) {
        return Ok(false);
    }
    let given = graph.node(channels.node).input(channels.bias).and_then(|bias| graph.constant(bias)).cloned();
    let mut bias = given.as_ref().and_then(|bias| bias.to_f64()).unwrap_or_else(|| vec![0.0; size]);
    let mut factors = vec![1.0; size];
    for channel in 0..size {
        let mean = |sum: &Total| sum.values[channel] / count;
        let variance = |sum: &Total, squares: &Total| mean(squares) - mean(sum) * mean(sum);
        let (own, wanted) = (variance(y, yy), variance(t, tt));
        if own > 1e-12 && wanted > 0.0 {
            factors[channel] = (wanted / own).sqrt();
        }
        bias[channel] = (bias[channel] - mean(y)) * factors[channel] + mean(t);
    }
    let inner: usize = scale.shape()[channels.axis + 1..].iter().product();
    let numbers: Vec<f64> = scale
        .to_f64()
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(place, value)| value * factors[place / inner.max(1) % size])
        .collect();
    let Some(scaled) = Tensor::from_f64(scale.element(), scale.shape(), &numbers) else { return Ok(false) };
    if is_weight(&scale) {
        graph.set_constant(channels.scale, scaled)?;
    } else {
        let scaled = graph.add_constant(scaled);
        graph.set_input(channels.node, 1, Some(scaled))?;
    }
    set_bias(graph, channels.node, channels.bias, &bias, given.as_deref().unwrap_or(&scale))?;
    Ok(true)
}
