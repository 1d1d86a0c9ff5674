//! Parts of one value that are taken side by side.

use onnx_opt_ir::{Graph, Node, ValueId};

use super::facts::{axis, list, shape, split};
use crate::rewrite::{ErrorClass, FunctionRule, Patch, Rewrite, Rule, Site, ensure, found};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "parts_as_split",
        doc: "Slices and Gathers that take a value apart along one axis are one Split.",
        class: ErrorClass::Exact,
        since: 2,
        roots: &["Slice", "Gather"],
        rewrite: parts_as_split,
    })]
}

/// A range of one axis that a node takes, all other axes whole.
struct Part {
    axis: usize,
    start: i64,
    end: i64,
    result: ValueId,
}

impl Part {
    fn read(graph: &Graph, node: &Node) -> Option<Self> {
        let (x, result) = (node.input(0)?, node.output(0)?);
        let sizes = graph.shape(x)?;
        let (axis, start, end) = if node.is("Gather") {
            let indices = graph.constant(node.input(1)?).filter(|indices| indices.rank() == 1)?.to_i64()?;
            let axis = axis(node.int("axis").unwrap_or(0), sizes.len()).ok()?;
            let size = sizes[axis].as_fixed()?;
            let first = *indices.first()?;
            let first = if first < 0 { first + size } else { first };
            let counted = indices.iter().map(|&index| if index < 0 { index + size } else { index });
            let end = first.checked_add(i64::try_from(indices.len()).ok()?)?;
            if !counted.eq(first..end) {
                return None;
            }
            (axis, first, end)
        } else if node.is("Slice") {
            let starts = list(graph, node, "starts", 1).ok()??;
            let ends = list(graph, node, "ends", 2).ok()??;
            let axes = list(graph, node, "axes", 3).ok()?.unwrap_or_else(|| vec![0]);
            let steps = list(graph, node, "steps", 4).ok()?.unwrap_or_else(|| vec![1]);
            let (&[start], &[end], &[along], &[1]) = (&starts[..], &ends[..], &axes[..], &steps[..]) else {
                return None;
            };
            let axis = axis(along, sizes.len()).ok()?;
            let size = sizes[axis].as_fixed()?;
            let counted = |bound: i64| if bound < 0 { (bound + size).max(0) } else { bound.min(size) };
            (axis, counted(start), counted(end))
        } else {
            return None;
        };
        (start < end).then_some(Self { axis, start, end, result })
    }
}

/// Users of a value that are looked at: each of them looks at all.
const MAX_USERS: usize = 256;

fn parts_as_split(site: &Site<'_>) -> Rewrite {
    let (graph, x) = (site.graph, site.input(0)?);
    ensure(graph.use_count(x) <= MAX_USERS, "the value has too many users")?;
    let own = found(Part::read(graph, site.node()))?;
    let mut nodes: Vec<_> = graph
        .consumers(x)
        .filter_map(|consumer| {
            let node = graph.get_node(consumer.node)?;
            let part =
                Part::read(graph, node).filter(|part| part.axis == own.axis && node.input(0) == Some(x))?;
            Some((node.position(), consumer.node, part))
        })
        .collect();
    ensure(nodes.len() > 1, "it is the only part")?;
    // At the first of them, so that all others stand behind.
    found(nodes.iter().map(|(position, id, _)| (*position, *id)).min().filter(|(_, id)| *id == site.root))?;
    nodes.sort_by_key(|(.., part)| part.start);
    let parts: Vec<Part> = nodes.into_iter().map(|(.., part)| part).collect();
    let size = shape(graph, x)?[own.axis].as_fixed();
    let ends = parts.iter().map(|part| part.end);
    let starts = parts.iter().map(|part| part.start);
    let meet = starts.skip(1).eq(ends.take(parts.len() - 1));
    let whole = parts[0].start == 0 && parts.last().map(|part| part.end) == size;
    ensure(meet && whole, "the parts leave gaps or overlap")?;
    let sizes: Vec<i64> = parts.iter().map(|part| part.end - part.start).collect();
    let mut patch = Patch::new();
    let pieces = split(graph, &mut patch, x.into(), own.axis as i64, &sizes);
    for (part, piece) in parts.iter().zip(pieces) {
        patch.replace(part.result, piece);
    }
    Ok(patch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let slices = |opset: i64, fires: &'static [[i64; 2]], misses: &'static [[i64; 2]]| {
        Example::new("parts_as_split", move |does| {
            let mut f = Fixture::new(opset);
            let x = f.symbolic_input("x", &["N", "6", "2"]);
            let ranges = if does { fires } else { misses };
            for (number, &[start, end]) in ranges.iter().enumerate() {
                let t = if opset < 10 {
                    let node = NewNode::new("Slice", [x]).with("starts", vec![start]);
                    f.node(node.with("ends", vec![end]).with("axes", vec![1]))
                } else {
                    let bounds = [start, end, -2].map(|bound| f.integers(&[bound]));
                    f.op("Slice", &[&[x][..], &bounds].concat())
                };
                let y = f.op("Neg", &[t]);
                f.output(&format!("y{number}"), y);
            }
            f
        })
    };
    vec![
        slices(13, &[[0, 2], [2, i64::MAX]], &[[0, 2], [3, 6]]),
        slices(13, &[[-2, 9], [0, 1], [1, 4]], &[[0, 4], [2, 6]]),
        slices(9, &[[0, 3], [3, 6]], &[[0, 3], [3, 5]]),
        Example::new("parts_as_split", |fires| {
            let mut f = Fixture::new(18);
            let x = f.symbolic_input("x", &["3", "N"]);
            let (a, b) = (f.integers(&[0, 1]), f.integers(if fires { &[-1] } else { &[-2] }));
            let (a, b) = (f.op("Gather", &[x, a]), f.op("Gather", &[x, b]));
            f.output("a", a);
            f.with_output(b)
        }),
    ]
}
