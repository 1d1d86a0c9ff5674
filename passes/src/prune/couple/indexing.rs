//! Operators that take parts by index: Slice, Pad, Gather.

use onnx_opt_ir::{Node, Tensor};

use super::sizes::Operand;
use super::{Change, Kept, Reason, Rule, Site};
use crate::rules::facts::{axis, list};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "Slice" => Rule::sized(slice, slice_bounds),
        "Pad" => Rule::sized(pad, pad_sizes),
        "Gather" => Rule::sized(gather, gather_indices),
        _ => return None,
    })
}

/// What a Slice takes: by place in its lists the axis, and the range of it where steps are 1.
struct Bounds {
    starts: Vec<i64>,
    ends: Vec<i64>,
    axes: Vec<usize>,
    steps: Vec<i64>,
}

impl Bounds {
    fn read(graph: &onnx_opt_ir::Graph, node: &Node, rank: usize) -> Option<Self> {
        let starts = list(graph, node, "starts", 1).ok()??;
        let ends = list(graph, node, "ends", 2).ok()??;
        let axes: Vec<usize> = match list(graph, node, "axes", 3).ok()? {
            Some(axes) => axes.into_iter().map(|name| axis(name, rank).ok()).collect::<Option<_>>()?,
            None => (0..starts.len()).collect(),
        };
        let steps = list(graph, node, "steps", 4).ok()?.unwrap_or_else(|| vec![1; starts.len()]);
        let fits = [ends.len(), axes.len(), steps.len()].iter().all(|&count| count == starts.len());
        fits.then_some(Self { starts, ends, axes, steps })
    }

    /// The range that entry `entry` takes from an axis of `size` lanes, if its step is 1.
    fn range(&self, entry: usize, size: usize) -> Option<std::ops::Range<usize>> {
        let size = i64::try_from(size).ok()?;
        let place =
            |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound }.clamp(0, size) as usize;
        (self.steps[entry] == 1).then(|| place(self.starts[entry])..place(self.ends[entry]))
    }
}

/// Ranges of some axes.
fn slice(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    if x.len() != y.len() {
        return Err("the ranks do not fit".to_owned());
    }
    let bounds = Bounds::read(site.graph, site.node, x.len()).ok_or("its bounds are computed")?;
    for (at, (&from, &to)) in x.iter().zip(&y).enumerate() {
        match bounds.axes.iter().position(|&axis| axis == at) {
            None => site.join(from, to),
            Some(entry) => match bounds.range(entry, from.size()) {
                Some(range) if from.size() > 0 && !range.is_empty() => {
                    site.join_part(from, range.start, to, range.len());
                }
                _ => site.bar_all(&[from, to], "it is taken in steps"),
            },
        }
    }
    Ok(())
}

/// The bounds, counted in what is left.
fn slice_bounds(kept: &Kept<'_>) -> Option<Change> {
    let x = kept.operand(0)?;
    let mut bounds = Bounds::read(kept.graph, kept.node, x.len())?;
    let mut news = false;
    for entry in 0..bounds.axes.len() {
        let axis = x[bounds.axes[entry]];
        let Some(range) = bounds.range(entry, axis.size()).filter(|_| kept.shrunk(axis).is_some()) else {
            continue;
        };
        let start = kept.within(axis, 0..range.start);
        bounds.starts[entry] = i64::try_from(start).ok()?;
        bounds.ends[entry] = i64::try_from(start + kept.within(axis, range)).ok()?;
        news = true;
    }
    if !news {
        return None;
    }
    let mut change = Change::list(kept, "starts", 1, &bounds.starts)?;
    let ends = Change::list(kept, "ends", 2, &bounds.ends)?;
    change.attributes.extend(ends.attributes);
    change.operands.extend(ends.operands);
    Some(change)
}

/// What a Pad adds before and behind each axis.
fn pads(graph: &onnx_opt_ir::Graph, node: &Node, rank: usize) -> Option<(Vec<i64>, Vec<i64>)> {
    if node.input(3).is_some() {
        return None;
    }
    let mut before = list(graph, node, "pads", 1).ok()??;
    let after = (before.len() == 2 * rank).then(|| before.split_off(rank))?;
    Some((before, after))
}

/// The operand with elements around it.
fn pad(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let (before, after) = pads(site.graph, site.node, x.len()).ok_or("its sizes are computed")?;
    let constant = site.node.string("mode").is_none_or(|mode| mode == "constant");
    for (at, (&from, &to)) in x.iter().zip(&y).enumerate() {
        match (before[at], after[at]) {
            (0, 0) => site.join(from, to),
            (front @ 0.., 0..) if constant && from.size() > 0 => {
                site.join_part(to, front as usize, from, from.size());
            }
            _ => site.bar_all(&[from, to], "it is padded"),
        }
    }
    Ok(())
}

/// As much around the operand as is left.
fn pad_sizes(kept: &Kept<'_>) -> Option<Change> {
    let (x, y) = (kept.operand(0)?, kept.result(0)?);
    let (mut before, mut after) = pads(kept.graph, kept.node, x.len())?;
    let mut news = false;
    for (at, (&from, &to)) in x.iter().zip(y).enumerate() {
        if (before[at], after[at]) != (0, 0) && kept.shrunk(to).is_some() {
            let front = usize::try_from(before[at]).ok()?;
            before[at] = i64::try_from(kept.within(to, 0..front)).ok()?;
            after[at] = i64::try_from(kept.within(to, front + from.size()..to.size())).ok()?;
            news = true;
        }
    }
    news.then(|| Change::list(kept, "pads", 1, &[before, after].concat()))?
}

/// Slices of the first operand, by index: what the others are, goes with it, as in an embedding. Constant indices in a
/// row are followed too.
fn gather(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let along = site.axis(site.int("axis").unwrap_or(0), x.len())?;
    let operand = site.node.input(1).ok_or("the indices are missing")?;
    let indices = site.graph.rank(operand).ok_or("the rank of the indices is not known")?;
    if y.len() + 1 != x.len() + indices {
        return Err("the ranks do not fit".to_owned());
    }
    site.join_all(&x[..along], &y[..along]);
    site.join_all(&x[along + 1..], &y[along + indices..]);
    match site.graph.constant(operand).and_then(|tensor| tensor.to_i64()) {
        Some(values) if indices == 1 && x[along].size() > 0 => {
            for (index, value) in values.into_iter().enumerate() {
                let from = if value < 0 { value.saturating_add(x[along].size() as i64) } else { value };
                let from = usize::try_from(from).map_err(|_| "an index is out of range")?;
                site.join_or_bar(x[along].lane(from), y[along].lane(index), "one is taken out");
            }
            let own = site.needed(1)?;
            site.join_all(&own, &y[along..=along]);
        }
        _ => {
            site.bar(x[along], "they are taken by index");
            if indices > 0 {
                let own = site.operand(1)?.unwrap_or_default();
                site.join_all(&own, &y[along..along + indices]);
                site.bar_all(&own, "they are indices");
            }
        }
    }
    Ok(())
}

/// The indices of what is left.
fn gather_indices(kept: &Kept<'_>) -> Option<Change> {
    let x = kept.operand(0)?;
    let along = axis(kept.node.int("axis").unwrap_or(0), x.len()).ok()?;
    let from = x[along];
    kept.shrunk(from)?;
    let tensor = kept.graph.constant(kept.node.input(1)?)?;
    let mut left = Vec::new();
    for value in tensor.to_i64()? {
        let index = if value < 0 { value.checked_add(i64::try_from(from.size()).ok()?)? } else { value };
        let index = usize::try_from(index).ok()?;
        if kept.stays(from, index) {
            left.push(i64::try_from(kept.within(from, 0..index)).ok()?);
        }
    }
    let indices = Tensor::from_integers(tensor.element(), &[left.len()], &left)?;
    Some(Change::operand(1, Operand::Constant(indices)))
}
