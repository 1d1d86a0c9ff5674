//! Ranges of activations by what products make of them.
//!
//! No norm of the error of rounding tells what an activation is for: numbers far out may be what a result depends on, or
//! be of no matter. So each product is given its operand rounded by each of some candidates: with Q(x) for that, W·(Q(x) − x)
//! is what the result is off by, whose power over that of W·x is the noise. (As SeqMSE does with weights.)

use onnx_opt_ir::{Model, NewNode, ValueId};
use rustc_hash::FxHashMap;

use super::super::grid::{Grid, limits};
use super::super::insert::chosen;
use super::super::scales::{grids, groups};
use super::super::unit::{Kind, Unit};
use super::super::{Profile, QuantizeError, QuantizeOptions, Ranges};
use crate::gradient::Writer;
use crate::measure::{MeasureError, Totals, prepared, sums};

/// Of each group of values that share a grid, the candidate of which the products that take them are least noisy. Values
/// that no product takes have the first candidate.
///
/// # Errors
/// If the graph refuses what is measured, or cannot be run on the samples.
pub fn best_ranges(
    model: &Model,
    candidates: &[Ranges],
    profile: &Profile,
    options: &QuantizeOptions,
    totals: &dyn Totals,
) -> Result<Ranges, QuantizeError> {
    let Some((first, others)) = candidates.split_first() else { return Ok(Ranges::new()) };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let graph = &model.graph;
    let (units, regions) = chosen(graph, first, profile, options);
    let integer = units.units.iter().zip(&regions.integer).filter(|(_, on)| **on);
    let integer: Vec<&Unit> = integer.map(|(unit, _)| unit).collect();
    let grids: Vec<FxHashMap<ValueId, Grid>> =
        candidates.iter().map(|ranges| grids(graph, profile, &integer, ranges)).collect();
    let groups = groups(graph, profile, &integer);

    let mut work = prepared(graph, model)?;
    let mut w = Writer::new(&mut work.graph);
    let mut outputs = Vec::new();
    let mut measured = Vec::new();
    for unit in integer.iter().filter(|unit| matches!(unit.kind, Kind::Product { .. })) {
        let Some(&(_, x)) = unit.operands.first() else { continue };
        let of = |grids: &FxHashMap<ValueId, Grid>| grids.get(&x).copied();
        let tried: Option<Vec<Grid>> = grids.iter().map(of).collect();
        let (Some(tried), Some(y)) = (tried, graph.node(unit.node).output(0)) else { continue };
        if tried.iter().all(|grid| *grid == tried[0]) {
            continue;
        }
        let number = measured.len();
        outputs.push((format!("{number}"), power(&mut w, y, x, profile, None)?));
        for (place, grid) in tried.iter().enumerate() {
            // The same grid again is as noisy.
            if !tried[..place].contains(grid) {
                outputs.push((format!("{number}.{place}"), power(&mut w, y, x, profile, Some(*grid))?));
            }
        }
        measured.push((x, tried));
    }
    if measured.is_empty() {
        return Ok(first.clone());
    }
    let found = sums(&mut work, outputs, totals, 1)?;
    let total = |name: String| found.get(&name).and_then(|total| total.values.first()).copied();
    let mut noise: FxHashMap<usize, Vec<f64>> = FxHashMap::default();
    for (number, (x, tried)) in measured.iter().enumerate() {
        let (Some(group), Some(signal)) = (groups.get(x), total(format!("{number}"))) else { continue };
        let sums = noise.entry(*group).or_insert_with(|| vec![0.0; candidates.len()]);
        for (sum, grid) in sums.iter_mut().zip(tried) {
            let place = tried.iter().position(|other| other == grid).unwrap_or(0);
            let error = total(format!("{number}.{place}")).unwrap_or(f64::INFINITY);
            *sum += if signal > 0.0 { error / signal } else { 0.0 };
        }
    }
    let mut ranges = first.clone();
    for (value, group) in &groups {
        let Some(sums) = noise.get(group) else { continue };
        let best = (0..sums.len()).reduce(|best, other| if sums[other] < sums[best] { other } else { best });
        let name = graph.display_name(*value);
        if let Some(range) = best.and_then(|best| candidates[best].get(&name)) {
            ranges.insert(name, *range);
        }
    }
    Ok(ranges)
}

/// The power of what the product that gives `y` makes of its operand `x`, or of what rounding to a grid changes in that.
fn power(
    w: &mut Writer<'_>,
    y: ValueId,
    x: ValueId,
    profile: &Profile,
    grid: Option<Grid>,
) -> Result<ValueId, MeasureError> {
    let operand = match grid {
        Some(grid) => {
            let (lowest, highest) = limits(profile.activations, false);
            let [low, high] = [lowest, highest].map(|end| (end - grid.zero) as f64);
            let (low, high) = (w.number(x, low)?, w.number(x, high)?);
            let steps = w.times(x, 1.0 / f64::from(grid.scale))?;
            let steps = w.op("Round", &[steps])?;
            let steps = w.op("Clip", &[steps, low, high])?;
            let rounded = w.times(steps, grid.scale.into())?;
            w.sub(rounded, x)?
        }
        None => x,
    };
    let missing = || MeasureError::Writing("the result of a product has no producer".to_owned());
    let (_, node, _) = w.graph.producer(y).ok_or_else(missing)?;
    let inputs = vec![Some(operand), node.input(1)];
    let product =
        NewNode { inputs, attributes: node.attributes().clone(), ..NewNode::new(node.op_type(), []) };
    let result = w.node(product)?;
    let square = w.square(result)?;
    Ok(w.op_with("ReduceSum", &[square], "keepdims", 0i64)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::Total;
    use crate::quantize::{Range, observed};
    use crate::target::Target;
    use crate::testing::Fixture;

    /// Says that the second product likes the second candidate and the first the first.
    struct Told;

    impl Totals for Told {
        fn samples(&self) -> usize {
            1
        }

        fn shapes(&self, _: &onnx_opt_ir::Graph) -> Result<BTreeMap<String, Vec<usize>>, String> {
            Ok(BTreeMap::new())
        }

        fn totals(&self, model: &Model, _: usize) -> Result<BTreeMap<String, Total>, String> {
            let value = |name: &str| match name {
                "0.0" | "1.1" => 1.0,
                "0.1" | "1.0" => 2.0,
                _ => 100.0,
            };
            let outputs = model.graph.outputs().iter().map(|output| model.graph.display_name(output.value));
            Ok(outputs
                .map(|name| (name.clone(), Total { shape: vec![], values: vec![value(&name)] }))
                .collect())
        }
    }

    #[test]
    fn each_value_has_the_candidate_that_its_products_like() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[4, 64]);
        let first = f.weights(&[64, 64]);
        let t = f.op("MatMul", &[x, first]);
        let t = f.op("Softmax", &[t]);
        let second = f.weights(&[64, 64]);
        let y = f.op("MatMul", &[t, second]);
        let model = f.with_output(y).into_model();
        let profile = Target::named("onnxruntime").unwrap().quantization().unwrap();
        let options = QuantizeOptions { regardless: true, ..QuantizeOptions::default() };
        let names = observed(&model.graph, &profile, &options);
        let ranges = |high: f32| -> Ranges {
            names.iter().map(|name| (name.clone(), Range::new(-1.0, high).unwrap())).collect()
        };
        let candidates = [ranges(1.0), ranges(2.0)];
        let found = best_ranges(&model, &candidates, &profile, &options, &Told).unwrap();
        let high = |value| found[&model.graph.display_name(value)].high;
        assert_eq!((high(x), high(t)), (1.0, 2.0));
    }
}
