//! Pad in front of a window: convolutions and pooling pad by themselves.

use onnx_opt_ir::{ElementType, Graph, Node, ValueId};

use super::clip::{DEPTH, range_of};
use super::facts::{axis, list};
use crate::rewrite::language::finish;
use crate::rewrite::{Miss, Patch, Rewrite, Site, ensure, found};

rules! {
    /// Conv of an input padded with zeros pads it itself.
    pad_conv [exact, since 2]: Conv(Pad(x, pads?, value?, axes?) as y, w, b?) => do |site| {
        let padding = Padding::read(site.graph, y)?;
        ensure(padding.value == 0.0, "it pads with another number than zero")?;
        padding.take_in(site, x)
    };

    /// AveragePool of an input padded with zeros pads it itself and counts the padding.
    pad_average_pool [exact, since 7]: AveragePool(Pad(x, pads?, value?, axes?) as y) => do |site| {
        let padding = Padding::read(site.graph, y)?;
        ensure(padding.value == 0.0, "it pads with another number than zero")?;
        let node = site.node();
        let pads = node.int("count_include_pad") == Some(1)
            || node.ints("pads").is_none_or(|pads| pads.iter().all(|&pad| pad == 0));
        ensure(pads, "the padding of the pool does not count, this does")?;
        padding.take_in(site, x)
    };

    /// MaxPool of an input padded with what is never the greatest pads it itself.
    pad_max_pool [exact, since 2]: MaxPool(Pad(x, pads?, value?, axes?) as y) => do |site| {
        let padding = Padding::read(site.graph, y)?;
        let least = match site.graph.element(x) {
            Some(ElementType::Int8) => -128.0,
            Some(ElementType::Uint8) => 0.0,
            _ => f64::NEG_INFINITY,
        };
        // A window holds at least one element of the input: the padding is narrower than it.
        let never_greatest = padding.value == least || (padding.value <= 0.0 && is_nonnegative(site.graph, x));
        ensure(never_greatest, "it pads with what may be the greatest")?;
        let dense = site.node().ints("dilations").is_none_or(|dilations| dilations.iter().all(|&d| d == 1));
        ensure(dense, "a dilated window may lie in the padding altogether")?;
        padding.take_in(site, x)
    };
}

/// A Pad of spatial axes by one number, nowhere negative.
struct Padding {
    /// Places before each spatial axis, then behind each: as convolutions write it.
    spatial: Vec<i64>,
    value: f64,
}

impl Padding {
    /// Reads the Pad that gives `y`.
    ///
    /// # Errors
    /// If it does anything else, or something about it is not known.
    fn read(graph: &Graph, y: ValueId) -> Result<Self, Miss> {
        let (_, node) = found(graph.producer_of(y, "Pad"))?;
        let rank = graph.rank(y).ok_or("the rank is not known")?;
        let spatial = rank.checked_sub(2).filter(|&spatial| spatial > 0).ok_or("there is no spatial axis")?;
        let value = match node.input(2) {
            Some(value) => graph.constant(value).and_then(|value| value.single_f64()),
            // An attribute before version 11.
            None => Some(node.float("value").map_or(0.0, f64::from)),
        };
        let value = value.ok_or("what it pads with is not constant")?;
        let all = padding(graph, node, rank)?;
        let (before, after) = all.split_at(rank);
        let outer = before.iter().take(2).chain(after.iter().take(2)).all(|&pad| pad == 0);
        ensure(outer, "it pads batch or channels")?;
        let spatial = before.iter().skip(rank - spatial).chain(after.iter().skip(rank - spatial));
        Ok(Self { spatial: spatial.copied().collect(), value })
    }

    /// The root reads `x` and pads it itself.
    fn take_in(&self, site: &Site<'_>, x: ValueId) -> Rewrite {
        let node = site.node();
        let explicit = matches!(node.string("auto_pad"), None | Some("NOTSET" | "" | "VALID"));
        ensure(explicit, "its own padding depends on the size of the input")?;
        ensure(
            node.int("ceil_mode").unwrap_or(0) == 0,
            "a window that starts in the padding would be left out",
        )?;
        let own = if node.string("auto_pad") == Some("VALID") { None } else { node.ints("pads") };
        let pads = match own {
            Some(own) if !own.is_empty() => {
                ensure(own.len() == self.spatial.len(), "the padding has another length")?;
                own.iter().zip(&self.spatial).map(|(a, b)| a.checked_add(*b)).collect()
            }
            _ => Some(self.spatial.clone()),
        };
        let pads = pads.ok_or("the padding is out of range")?;
        if !node.is("Conv") {
            let kernel = node.ints("kernel_shape").ok_or("the kernel is not known")?;
            let narrow = pads.iter().zip(kernel.iter().cycle()).all(|(pad, size)| pad < size);
            ensure(narrow, "a pool pads by less than its kernel")?;
        }
        let mut attributes = node.attributes().clone();
        attributes.remove("auto_pad");
        attributes.set("pads", pads);
        if node.is("AveragePool") {
            attributes.set("count_include_pad", 1);
        }
        let mut inputs = node.inputs().to_vec();
        *found(inputs.first_mut())? = Some(x);
        let mut patch = Patch::new();
        let new = patch.node(node.op_type(), inputs, attributes);
        finish(site, patch, new)
    }
}

/// Places that a Pad with a constant adds before each axis, then behind each.
///
/// # Errors
/// If it does anything else, also where it cuts off, or something about it is not known.
pub(super) fn padding(graph: &Graph, node: &Node, rank: usize) -> Result<Vec<i64>, Miss> {
    ensure(node.string("mode").is_none_or(|mode| mode == "constant"), "it does not pad with a constant")?;
    let pads = list(graph, node, "pads", 1)?.ok_or("the padding is not known")?;
    let axes = padded_axes(graph, node, rank)?;
    ensure(pads.len() == 2 * axes.len(), "the padding has another length")?;
    ensure(pads.iter().all(|&pad| pad >= 0), "it cuts off")?;
    let mut all = vec![0; 2 * rank];
    for (place, &axis) in axes.iter().enumerate() {
        all[axis] = pads[place];
        all[rank + axis] = pads[axes.len() + place];
    }
    Ok(all)
}

/// The axes that a Pad names, all of them if it names none.
fn padded_axes(graph: &Graph, node: &Node, rank: usize) -> Result<Vec<usize>, Miss> {
    let Some(axes) = list(graph, node, "axes", 3)? else { return Ok((0..rank).collect()) };
    let axes: Vec<usize> = axes.into_iter().map(|named| axis(named, rank)).collect::<Result<_, _>>()?;
    let mut seen = vec![false; rank];
    ensure(axes.iter().all(|&axis| !std::mem::replace(&mut seen[axis], true)), "an axis is named twice")?;
    Ok(axes)
}

/// Whether no element of a value is negative, by the operators that give it.
fn is_nonnegative(graph: &Graph, value: ValueId) -> bool {
    range_of(graph, value, DEPTH).is_some_and(|range| range.low >= 0.0)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let pad = |f: &mut Fixture, x: ValueId, pads: &[i64], value: f64| {
        let (pads, value) = (f.integers(pads), f.scalar(value));
        f.op("Pad", &[x, pads, value])
    };
    let pool = |op: &str, x: ValueId| NewNode::new(op, [x]).with("kernel_shape", vec![3, 3]);
    let infinity = f64::NEG_INFINITY;
    let mut examples = Vec::new();
    let misses: [(&[i64], f64); 3] = [
        (&[0, 0, 1, 2, 0, 0, 0, 3], 1.0),
        (&[0, 1, 1, 2, 0, 0, 0, 3], 0.0),
        (&[0, 0, 1, 2, 0, 0, 0, -1], 0.0),
    ];
    for (pads, value) in misses {
        examples.push(Example::new("pad_conv", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["n", "2", "6", "6"]);
            let (pads, value) = if fires { (&[0, 0, 1, 2, 0, 0, 0, 3][..], 0.0) } else { (pads, value) };
            let t = pad(&mut f, x, pads, value);
            let w = f.weights(&[3, if pads[1] == 0 { 2 } else { 3 }, 3, 3]);
            let y = f.node(
                NewNode::new("Conv", [t, w]).with("pads", vec![1, 0, 1, 0]).with("strides", vec![2, 1]),
            );
            f.with_output(y)
        }));
    }
    examples.extend([
        Example::new("pad_conv", |fires| {
            let mut f = Fixture::new(10);
            let x = f.input("x", &[1, 2, 6, 6]);
            let t = f.node(NewNode::new("Pad", [x]).with("pads", vec![0, 0, 1, 1, 0, 0, 1, 1]));
            let w = f.weights(&[3, 2, 3, 3]);
            let padding = if fires { "VALID" } else { "SAME_UPPER" };
            let y = f.node(NewNode::new("Conv", [t, w]).with("auto_pad", padding));
            f.with_output(y)
        }),
        Example::new("pad_conv", |fires| {
            let mut f = Fixture::new(18);
            let x = f.input("x", &[1, 2, 6, 6]);
            let (pads, axes) = (f.integers(&[1, 2, 3, 0]), f.integers(&[-1, 2]));
            let mut node = NewNode::new("Pad", [x, pads, pads, axes]);
            node.inputs[2] = None;
            let t = f.node(node.with("mode", if fires { "constant" } else { "edge" }));
            let (w, b) = (f.weights(&[3, 2, 3, 3]), f.weights(&[3]));
            let y = f.op("Conv", &[t, w, b]);
            f.with_output(y)
        }),
        Example::new("pad_average_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = pad(&mut f, x, &[0, 0, 1, 2, 0, 0, 0, 1], 0.0);
            let y = f.node(
                pool("AveragePool", t).with("ceil_mode", i64::from(!fires)).with("strides", vec![2, 2]),
            );
            f.with_output(y)
        }),
        Example::new("pad_average_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = pad(&mut f, x, &[0, 0, 1, 1, 0, 0, 0, 1], 0.0);
            let node = pool("AveragePool", t).with("pads", vec![0, 1, 1, 0]);
            let y = f.node(node.with("count_include_pad", i64::from(fires)));
            f.with_output(y)
        }),
        // Runtimes refuse a pool that pads by its kernel or more.
        Example::new("pad_average_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = pad(&mut f, x, &[0, 0, if fires { 2 } else { 3 }, 0, 0, 0, 0, 0], 0.0);
            let y = f.node(pool("AveragePool", t));
            f.with_output(y)
        }),
        Example::new("pad_max_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = pad(&mut f, x, &[0, 0, 1, 2, 0, 0, 0, 1], if fires { infinity } else { 0.0 });
            let y = f.node(pool("MaxPool", t).with("strides", vec![2, 2]));
            f.with_output(y)
        }),
        Example::new("pad_max_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = f.op(if fires { "Relu" } else { "Neg" }, &[x]);
            let t = pad(&mut f, t, &[0, 0, 1, 1, 0, 0, 1, 1], 0.0);
            let y = f.node(pool("MaxPool", t).with("strides", vec![2, 2]));
            f.with_output(y)
        }),
        Example::new("pad_max_pool", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 6, 7]);
            let t = pad(&mut f, x, &[0, 0, 1, 1, 0, 0, 1, 1], infinity);
            let y = f.node(pool("MaxPool", t).with("dilations", vec![1, if fires { 1 } else { 2 }]));
            f.with_output(y)
        }),
    ]);
    examples
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::NewNode;

    use super::rules;
    use crate::testing::Fixture;

    #[test]
    fn indices_count_from_the_padding() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1, 2, 6, 6]);
        let (pads, value) = (f.integers(&[0, 0, 1, 1, 0, 0, 1, 1]), f.scalar(f64::NEG_INFINITY));
        let t = f.op("Pad", &[x, pads, value]);
        let mut node = NewNode::new("MaxPool", [t]).with("kernel_shape", vec![3, 3]);
        node.outputs = 2;
        let id = f.graph.add_node(node).unwrap();
        let (y, indices) = (f.graph.node(id).output(0).unwrap(), f.graph.node(id).output(1).unwrap());
        f.output("indices", indices);
        assert_eq!(f.with_output(y).rewritten(rules()), ["Pad", "MaxPool"]);
    }
}
