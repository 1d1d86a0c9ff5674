//! Squeezes and Unsqueezes in a row.

use onnx_opt_ir::{Graph, Node};

use super::facts::{axis, becomes, list, with_axes};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "squeeze_back",
            doc: "Squeeze of the axes that an Unsqueeze inserts, and the other way round.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Squeeze", "Unsqueeze"],
            rewrite: squeeze_back,
        }),
        Box::new(FunctionRule {
            name: "squeeze_squeeze",
            doc: "Squeezes and Unsqueezes in a row are one, or none.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Squeeze", "Unsqueeze"],
            rewrite: squeeze_squeeze,
        }),
    ]
}

/// The producer of the root's operand, if it is a Squeeze or Unsqueeze.
fn inner<'a>(site: &Site<'a>) -> Result<&'a Node, Miss> {
    let (_, node, _) = found(site.graph.producer(site.input(0)?))?;
    found((node.is("Squeeze") || node.is("Unsqueeze")).then_some(node))
}

/// The axes that a node names: at least one.
fn named_axes(graph: &Graph, node: &Node) -> Result<Vec<i64>, Miss> {
    let axes = list(graph, node, "axes", 1)?.unwrap_or_default();
    ensure(!axes.is_empty(), "no axis is named")?;
    Ok(axes)
}

fn squeeze_back(site: &Site<'_>) -> Rewrite {
    let (root, inner) = (site.node(), inner(site)?);
    ensure(root.op_type() != inner.op_type(), "both do the same")?;
    // Both lists count in the tensor that has the axes, so that they need not be counted from the front.
    let (mut first, mut second) = (named_axes(site.graph, inner)?, named_axes(site.graph, root)?);
    first.sort_unstable();
    second.sort_unstable();
    ensure(first == second, "the axes are others")?;
    becomes(site, found(inner.input(0))?)
}

/// Axes of a tensor on its way: those of the source by number, and new ones of size 1.
struct Axes {
    axes: Vec<Option<usize>>,
    rank: usize,
}

impl Axes {
    fn of(rank: usize) -> Self {
        Self { axes: (0..rank).map(Some).collect(), rank }
    }

    fn apply(&mut self, graph: &Graph, node: &Node) -> Result<(), Miss> {
        let named = named_axes(graph, node)?;
        let squeezes = node.is("Squeeze");
        let rank = self.axes.len() + if squeezes { 0 } else { named.len() };
        let mut marked = vec![false; rank];
        for &name in &named {
            let axis = axis(name, rank)?;
            ensure(!std::mem::replace(&mut marked[axis], true), "an axis is named twice")?;
        }
        let mut old = std::mem::take(&mut self.axes).into_iter();
        for marked in marked {
            match (squeezes, marked) {
                (true, true) => drop(old.next()),
                (false, true) => self.axes.push(None),
                (_, false) => self.axes.extend(old.next()),
            }
        }
        Ok(())
    }

    /// Squeezed axes of the source come back as new ones where only squeezed axes lie in between.
    fn rejoin(&mut self) {
        let mut next = 0;
        for index in 0..self.axes.len() {
            match self.axes[index] {
                Some(axis) => next = axis + 1,
                None => {
                    let later = self.axes[index..].iter().find_map(|axis| *axis).unwrap_or(self.rank);
                    if next < later {
                        self.axes[index] = Some(next);
                        next += 1;
                    }
                }
            }
        }
    }

    /// Axes of the source that are gone.
    fn squeezed(&self) -> Vec<i64> {
        (0..self.rank).filter(|axis| !self.axes.contains(&Some(*axis))).map(|axis| axis as i64).collect()
    }

    /// Axes of the result that are new.
    fn inserted(&self) -> Vec<i64> {
        (0..self.axes.len()).filter(|&axis| self.axes[axis].is_none()).map(|axis| axis as i64).collect()
    }
}

fn squeeze_squeeze(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let inner = inner(site)?;
    let x = found(inner.input(0))?;
    let mut axes = Axes::of(super::facts::shape(graph, x)?.len());
    axes.apply(graph, inner)?;
    axes.apply(graph, site.node())?;
    axes.rejoin();
    let (squeezed, inserted) = (axes.squeezed(), axes.inserted());
    let mut patch = Patch::new();
    let new = match (squeezed.is_empty(), inserted.is_empty()) {
        (true, true) => return becomes(site, x),
        (false, true) => with_axes(site, &mut patch, "Squeeze", x, &squeezed),
        (true, false) => with_axes(site, &mut patch, "Unsqueeze", x, &inserted),
        (false, false) => return Err("axes go and others come".into()),
    };
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    // Two nodes in a row, their axes as operands or attributes.
    type Step = (&'static str, &'static [i64]);
    let row = |rule: &'static str,
               opset: i64,
               shape: &'static [&'static str],
               first: Step,
               fires: Step,
               misses: Step| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(opset);
            let x = f.symbolic_input("x", shape);
            let mut t = f.op("Sigmoid", &[x]);
            for (op_type, axes) in [first, if does { fires } else { misses }] {
                t = if opset < 13 {
                    f.node(NewNode::new(op_type, [t]).with("axes", axes.to_vec()))
                } else {
                    let axes = f.integers(axes);
                    f.op(op_type, &[t, axes])
                };
            }
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    let (squeeze, unsqueeze) = ("Squeeze", "Unsqueeze");
    vec![
        row("squeeze_back", 13, &["N", "3"], (unsqueeze, &[0, 2]), (squeeze, &[0, 2]), (squeeze, &[2])),
        row("squeeze_back", 11, &["1", "3"], (squeeze, &[0]), (unsqueeze, &[0]), (unsqueeze, &[1])),
        row(
            "squeeze_squeeze",
            13,
            &["1", "N", "1", "3"],
            (squeeze, &[0]),
            (squeeze, &[-2]),
            (unsqueeze, &[2]),
        ),
        row("squeeze_squeeze", 11, &["N", "1"], (unsqueeze, &[0]), (unsqueeze, &[-1]), (squeeze, &[2])),
        row("squeeze_squeeze", 13, &["N", "1"], (unsqueeze, &[0, 1]), (squeeze, &[1]), (squeeze, &[3])),
        row(
            "squeeze_squeeze",
            13,
            &["N", "1", "1"],
            (squeeze, &[1, 2]),
            (unsqueeze, &[1]),
            (unsqueeze, &[0]),
        ),
    ]
}
