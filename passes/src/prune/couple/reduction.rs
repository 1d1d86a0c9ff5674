//! Operators along some axes: what is along them stays, the others are as they were.

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Graph, Node};

use super::super::lanes::Axis;
use super::{Reason, Rule, Site};
use crate::rules::facts::list;

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(Rule::plain(match node.op_type() {
        name if name.starts_with("Reduce") => reduce,
        "ArgMax" | "ArgMin" => extremum,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax,
        "CumSum" => cumulative,
        "LpNormalization" => normalized,
        "TopK" => top,
        "LRN" => local,
        "MeanVarianceNormalization" => mean_variance,
        "Shape" => shape,
        _ => return None,
    }))
}

/// Joins what is not along `axes`, which the result keeps with size 1 or not at all.
fn without(site: &mut Site<'_>, axes: &[usize], keeps: bool, reason: &str) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let mut left = y.iter();
    for (at, &axis) in x.iter().enumerate() {
        let gone = axes.contains(&at);
        if gone {
            site.bar(axis, reason);
        }
        if !gone || keeps {
            let &over = left.next().ok_or("the ranks do not fit")?;
            if !gone {
                site.join(axis, over);
            }
        }
    }
    Ok(())
}

fn reduce(site: &mut Site<'_>) -> Result<(), Reason> {
    let rank = site.needed(0)?.len();
    let named =
        list(site.graph, site.node, "axes", 1).map_err(|_| "its axes are computed")?.unwrap_or_default();
    let keeps = site.int("keepdims").unwrap_or(1) != 0;
    let axes: Vec<usize> = match (named.is_empty(), site.int("noop_with_empty_axes").unwrap_or(0)) {
        (true, 0) => (0..rank).collect(),
        _ => named.iter().map(|&name| site.axis(name, rank)).collect::<Result<_, _>>()?,
    };
    without(site, &axes, keeps, "it is reduced")
}

fn extremum(site: &mut Site<'_>) -> Result<(), Reason> {
    let rank = site.needed(0)?.len();
    let axis = site.axis(site.int("axis").unwrap_or(0), rank)?;
    without(site, &[axis], site.int("keepdims").unwrap_or(1) != 0, "its elements are counted")
}

/// Joins operand and result, of which `stay` stays.
fn along(site: &mut Site<'_>, stay: std::ops::Range<usize>, reason: &str) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    site.join_all(&x, &y);
    let axes: Vec<Axis> = x.get(stay).map(<[Axis]>::to_vec).ok_or("an axis is out of range")?;
    site.bar_all(&axes, reason);
    Ok(())
}

/// exp x_i / Σ_j exp x_j. Before opset 13 the sum runs over all axes from `axis` on.
fn softmax(site: &mut Site<'_>) -> Result<(), Reason> {
    let rank = site.needed(0)?.len();
    let old = site.graph.opset() < 13;
    let axis = site.axis(site.int("axis").unwrap_or(if old { 1 } else { -1 }), rank)?;
    along(site, axis..if old { rank } else { axis + 1 }, "its elements share a sum")
}

fn cumulative(site: &mut Site<'_>) -> Result<(), Reason> {
    let rank = site.needed(0)?.len();
    let axis = site.node.input(1).and_then(|axis| site.graph.constant(axis)?.single_i64());
    let axis = site.axis(axis.ok_or("its axis is computed")?, rank)?;
    along(site, axis..axis + 1, "its elements are summed up")
}

fn normalized(site: &mut Site<'_>) -> Result<(), Reason> {
    let rank = site.needed(0)?.len();
    let axis = site.axis(site.int("axis").unwrap_or(-1), rank)?;
    along(site, axis..axis + 1, "its elements share a norm")
}

fn local(site: &mut Site<'_>) -> Result<(), Reason> {
    along(site, 1..2, "its elements share a norm with their neighbours")
}

fn mean_variance(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let axes = site.node.ints("axes").map_or_else(|| vec![0, 2, 3], <[i64]>::to_vec);
    site.join_all(&x, &y);
    for name in axes {
        let axis = site.axis(name, x.len())?;
        site.bar(x[axis], "its statistics run over these");
    }
    Ok(())
}

/// The largest elements and their indices.
fn top(site: &mut Site<'_>) -> Result<(), Reason> {
    let x = site.needed(0)?;
    let axis = site.axis(site.int("axis").unwrap_or(-1), x.len())?;
    for index in 0..2 {
        let Some(y) = site.result(index)? else { continue };
        for (at, (&a, &b)) in x.iter().zip(&y).enumerate() {
            if at == axis {
                site.bar_all(&[a, b], "its elements are counted");
            } else {
                site.join(a, b);
            }
        }
    }
    Ok(())
}

/// Sizes that someone reads stay; those that nobody takes from the list may change.
fn shape(site: &mut Site<'_>) -> Result<(), Reason> {
    let x = site.needed(0)?;
    let plain = site.int("start").unwrap_or(0) == 0 && site.node.attributes().get("end").is_none();
    let read = site.node.output(0).filter(|_| plain).and_then(|sizes| read_axes(site.graph, sizes, x.len()));
    for (at, &axis) in x.iter().enumerate() {
        if read.as_ref().is_none_or(|read| read.contains(&at)) {
            site.bar(axis, "its size is read");
        }
    }
    Ok(())
}

/// The axes that are taken from a list of sizes, if that can be told.
fn read_axes(graph: &Graph, sizes: onnx_opt_ir::ValueId, rank: usize) -> Option<Vec<usize>> {
    if graph.is_output(sizes) {
        return None;
    }
    let mut read = Vec::new();
    for consumer in graph.consumers(sizes) {
        let node = graph.get_node(consumer.node).filter(|_| consumer.slot == Slot::Input(0))?;
        let first = |index: usize| -> Option<Vec<i64>> { graph.constant(node.input(index)?)?.to_i64() };
        match node.op_type() {
            "Gather" => {
                for index in first(1)? {
                    read.push(crate::rules::facts::axis(index, rank).ok()?);
                }
            }
            "Slice" => {
                let (starts, ends) =
                    (list(graph, node, "starts", 1).ok()??, list(graph, node, "ends", 2).ok()??);
                let place = |bound: i64| {
                    let rank = rank as i64;
                    (if bound < 0 { bound.saturating_add(rank) } else { bound }).clamp(0, rank) as usize
                };
                let whole = node.input(4).is_none() && starts.len() == 1 && ends.len() == 1;
                read.extend(whole.then(|| place(starts[0])..place(ends[0]))?);
            }
            _ => return None,
        }
    }
    Some(read)
}
