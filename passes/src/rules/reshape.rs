//! Reshape and its family, and shape operands whose arithmetic the symbolic sizes make superfluous.

use onnx_opt_ir::{Attributes, Dim, Graph, Node, Tensor, ValueId};

use super::chain::Chain;
use super::facts::{becomes, broadcast, only_use, same_shape, shape};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "reshape_reshape",
            doc: "Reshape, Flatten, Squeeze and Unsqueeze in a row are one Reshape, or none.",
            class: ErrorClass::Exact,
            since: 5,
            roots: FAMILY,
            rewrite: reshape_reshape,
        }),
        Box::new(FunctionRule {
            name: "reshape_elementwise_reshape",
            doc: "Elementwise operators between two of the Reshape family need the second one only, or none.",
            class: ErrorClass::Exact,
            since: 5,
            roots: FAMILY,
            rewrite: reshape_elementwise_reshape,
        }),
        Box::new(FunctionRule {
            name: "reshape_computed",
            doc: "Reshape to a computed shape of which 0 and -1 say the same.",
            class: ErrorClass::Exact,
            since: 5,
            roots: &["Reshape"],
            rewrite: |site| {
                let asked = site.input(1)?;
                ensure_computed(site.graph, asked)?;
                let sizes = target(site, site.input(0)?)?;
                let mut patch = Patch::new();
                let new = reshape(&mut patch, site.input(0)?.into(), &sizes);
                finish(site, patch, new)
            },
        }),
        Box::new(FunctionRule {
            name: "expand_computed",
            doc: "Expand to a computed shape that keeps all symbolic sizes.",
            class: ErrorClass::Exact,
            since: 8,
            roots: &["Expand"],
            rewrite: expand_computed,
        }),
        Box::new(FunctionRule {
            name: "expand_operand",
            doc: "An operand need not be expanded to what broadcasting makes of it.",
            class: ErrorClass::Exact,
            since: 8,
            roots: BROADCASTING,
            rewrite: expand_operand,
        }),
    ]
}

/// Operators that keep the elements in their order.
const FAMILY: &[&str] = &["Reshape", "Flatten", "Squeeze", "Unsqueeze"];

const BROADCASTING: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Where",
];

fn in_family(node: &Node) -> bool {
    FAMILY.iter().any(|op_type| node.is(op_type))
}

/// Whether a shape operand is known only when the model runs.
fn ensure_computed(graph: &Graph, operand: ValueId) -> Result<(), Miss> {
    found(if graph.constant(operand).is_none() { Some(()) } else { None })
}

/// The operand of a Reshape of `x` to the root's result; see [`sizes_for`].
fn target(site: &Site<'_>, x: ValueId) -> Result<Vec<i64>, Miss> {
    let result = shape(site.graph, site.output()?)?;
    sizes_for(site.graph.shape(x).unwrap_or_default(), result, asked_rest(site))
}

/// The operand of a Reshape between these shapes: sizes as numbers, 0 where the axis of the operand in the same place
/// has the size, and at most one -1.
///
/// A runtime refuses a -1 beside a size of 0. So there is one only where `rest` says that the model has it already, or
/// where no other size can be 0.
///
/// # Errors
/// If numbers, 0 and -1 cannot say the shape.
pub(crate) fn sizes_for(from: &[Dim], result: &[Dim], rest: Option<usize>) -> Result<Vec<i64>, Miss> {
    let mut sizes = Vec::with_capacity(result.len());
    for (axis, size) in result.iter().enumerate() {
        sizes.push(match size.as_fixed() {
            Some(number) if number > 0 => number,
            _ if from.get(axis) == Some(size) => 0,
            Some(_) => return Err("a size of 0 is not that of the operand".into()),
            None => -1,
        });
    }
    let open: Vec<usize> = (0..sizes.len()).filter(|&axis| sizes[axis] == -1).collect();
    let &[only] = open.as_slice() else {
        ensure(open.is_empty(), "two sizes are open")?;
        return Ok(sizes);
    };
    let others_are_positive =
        result.iter().enumerate().all(|(axis, size)| axis == only || size.proves_positive());
    ensure(others_are_positive || rest == Some(only), "a size beside the open one may be 0")?;
    Ok(sizes)
}

/// The axis for which a Reshape says -1.
fn asked_rest(site: &Site<'_>) -> Option<usize> {
    if !site.node().is("Reshape") {
        return None;
    }
    let asked = site.graph.elements(site.node().input(1)?)?;
    asked.iter().position(|size| size.as_fixed() == Some(-1))
}

fn reshape(patch: &mut Patch, x: Operand, sizes: &[i64]) -> Operand {
    let sizes = patch.constant(Tensor::vector_i64(sizes));
    patch.node("Reshape", [x, sizes], Attributes::new())
}

/// Replaces the root, which keeps the elements in their order, by a Reshape of `x`, or by `x`.
///
/// # Errors
/// If no constant says the shape.
pub(super) fn reshape_to(site: &Site<'_>, x: ValueId) -> Rewrite {
    if same_shape(site.graph, x, site.output()?).is_ok() {
        return becomes(site, x);
    }
    let sizes = target(site, x)?;
    let mut patch = Patch::new();
    let new = reshape(&mut patch, x.into(), &sizes);
    finish(site, patch, new)
}

/// The constant operand of a Reshape if it has no 0, so that it means the same for another operand.
fn absolute_target(site: &Site<'_>) -> Option<ValueId> {
    let operand = site.node().input(1).filter(|_| site.node().is("Reshape"))?;
    let sizes = site.graph.constant(operand)?.to_i64()?;
    (!sizes.contains(&0)).then_some(operand)
}

fn reshape_reshape(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let between = site.input(0)?;
    let (_, inner, _) =
        found(graph.producer(between).filter(|(_, node, output)| *output == 0 && in_family(node)))?;
    let x = found(inner.input(0))?;
    if let Some(sizes) = absolute_target(site)
        && same_shape(graph, x, site.output()?).is_err()
    {
        let mut patch = Patch::new();
        let new = patch.node("Reshape", [x, sizes], Attributes::new());
        return finish(site, patch, new);
    }
    // A Squeeze says more than a Reshape does, which must earn it.
    if !root.is("Reshape") && same_shape(graph, x, site.output()?).is_err() {
        only_use(graph, between)?;
    }
    reshape_to(site, x)
}

fn reshape_elementwise_reshape(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let chain = Chain::up(graph, site.input(0)?, in_family)?;
    if chain.is_empty() {
        return Err(Miss::NoMatch);
    }
    let (_, inner, _) = found(graph.producer(chain.source))?;
    let x = found(inner.input(0))?;
    let (before, after) = (shape(graph, x)?.len(), shape(graph, chain.source)?.len());
    let mut patch = Patch::new();
    let result = chain.on(graph, &mut patch, x, |tensor| {
        let is_single = tensor.len() == 1 && tensor.rank() <= before.min(after).min(1);
        ensure(is_single, "a constant belongs to the shape in between").map(|()| None)
    })?;
    if same_shape(graph, x, site.output()?).is_ok() {
        return finish(site, patch, result);
    }
    let sizes = target(site, x)?;
    let new = reshape(&mut patch, result, &sizes);
    finish(site, patch, new)
}

fn expand_computed(site: &Site<'_>) -> Rewrite {
    let (graph, x) = (site.graph, site.input(0)?);
    ensure_computed(graph, site.input(1)?)?;
    let (from, result) = (shape(graph, x)?, shape(graph, site.output()?)?);
    let new_axes = result.len().saturating_sub(from.len());
    let mut sizes = Vec::with_capacity(result.len());
    for (axis, size) in result.iter().enumerate() {
        let own = axis.checked_sub(new_axes).and_then(|axis| from.get(axis));
        sizes.push(match size.as_fixed() {
            _ if own == Some(size) => 1,
            Some(number) => number,
            None => return Err("a symbolic size is new".into()),
        });
    }
    let mut patch = Patch::new();
    let sizes = patch.constant(Tensor::vector_i64(&sizes));
    let new = patch.node("Expand", [x.into(), sizes], Attributes::new());
    finish(site, patch, new)
}

fn expand_operand(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let result = shape(graph, site.output()?)?;
    let mut miss = Miss::NoMatch;
    for (index, operand) in root.inputs().iter().enumerate() {
        let Some((_, expand)) = operand.and_then(|operand| graph.producer_of(operand, "Expand")) else {
            continue;
        };
        let mut inputs = root.inputs().to_vec();
        inputs[index] = expand.input(0);
        let broadcast = inputs
            .iter()
            .try_fold(Vec::new(), |shape: Vec<Dim>, &input| broadcast(&shape, graph.shape(input?)?));
        if broadcast.as_deref() != Some(result) {
            miss = "the other operands do not have the shape".into();
            continue;
        }
        let mut patch = Patch::new();
        let new = patch.node(root.op_type(), inputs, root.attributes().clone());
        return finish(site, patch, new);
    }
    Err(miss)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let behind = |shape: &[&str], build: &dyn Fn(&mut Fixture, ValueId) -> ValueId| {
        let mut f = Fixture::new(13);
        let x = f.symbolic_input("x", shape);
        let t = f.op("Sigmoid", &[x]);
        let t = build(&mut f, t);
        let y = f.op("Neg", &[t]);
        f.with_output(y)
    };
    let reshape = |f: &mut Fixture, x: ValueId, sizes: &[i64]| {
        let sizes = f.integers(sizes);
        f.op("Reshape", &[x, sizes])
    };
    // One size of a tensor as a vector.
    let size = |f: &mut Fixture, x: ValueId, axis: i64| {
        let shape = f.op("Shape", &[x]);
        let index = f.integers(&[axis]);
        f.op("Gather", &[shape, index])
    };
    let concat = |f: &mut Fixture, parts: &[ValueId]| {
        f.node(NewNode::new("Concat", parts.iter().copied()).with("axis", 0))
    };
    vec![
        Example::new("reshape_reshape", move |fires| {
            behind(&["N", "6", "4"], &|f, t| {
                let t = reshape(f, t, &[-1, 8, 3]);
                let t = if fires { t } else { f.op("Softmax", &[t]) };
                reshape(f, t, &[-1, 24])
            })
        }),
        // A 0 copies a size of what lies in between.
        Example::new("reshape_reshape", move |fires| {
            behind(&["4", "6"], &|f, t| {
                let t = reshape(f, t, &[2, 12]);
                let t = if fires { t } else { f.op("Softmax", &[t]) };
                reshape(f, t, &[0, 4, 3])
            })
        }),
        Example::new("reshape_reshape", move |fires| {
            behind(&["N", "M", "4"], &|f, t| {
                let t = f.node(NewNode::new("Flatten", [t]).with("axis", if fires { 2 } else { 1 }));
                let axes = f.integers(&[0]);
                f.op("Unsqueeze", &[t, axes])
            })
        }),
        Example::new("reshape_elementwise_reshape", move |fires| {
            behind(&["N", "6", "4"], &|f, t| {
                let t = reshape(f, t, &[-1, 24]);
                let two = if fires { f.scalar(2.0) } else { f.floats(&[1, 1, 1], &[2.0]) };
                let t = f.op("Mul", &[t, two]);
                reshape(f, t, &[-1, 6, 4])
            })
        }),
        Example::new("reshape_elementwise_reshape", move |fires| {
            behind(&["N", "6", "4"], &|f, t| {
                let t = f.op("Flatten", &[t]);
                let t = f.op("Relu", &[t]);
                if !fires {
                    f.output("relu", t);
                }
                reshape(f, t, &[-1, 3, 8])
            })
        }),
        // Batch and length stay, the last axis becomes heads.
        Example::new("reshape_computed", move |fires| {
            behind(&["N", "S", "12"], &|f, t| {
                let (n, s) = (size(f, t, 0), size(f, t, 1));
                let heads = f.integers(&[3, 4]);
                let parts = if fires { [n, s, heads] } else { [s, n, heads] };
                let sizes = concat(f, &parts);
                f.op("Reshape", &[t, sizes])
            })
        }),
        // A -1 beside a size that may be 0 is no better than the numbers.
        Example::new("reshape_computed", move |fires| {
            behind(&["N", "2", "H", "W"], &|f, t| {
                let (n, h, w) = (size(f, t, 0), size(f, t, 2), size(f, t, 3));
                let area = f.op("Mul", &[h, w]);
                let two = f.integers(&[2]);
                let sizes = if fires {
                    let rows = f.op("Mul", &[n, area]);
                    concat(f, &[rows, two])
                } else {
                    concat(f, &[n, two, area])
                };
                f.op("Reshape", &[t, sizes])
            })
        }),
        Example::new("expand_computed", move |fires| {
            behind(&["N", "1", "S"], &|f, t| {
                let (n, s) = (size(f, t, 0), size(f, t, 2));
                let heads = f.integers(&[3]);
                let sizes = if fires { concat(f, &[n, heads, s]) } else { concat(f, &[n, s, s]) };
                f.op("Expand", &[t, sizes])
            })
        }),
        Example::new("expand_operand", move |fires| {
            behind(&["N", "1", "3"], &|f, t| {
                let other = f.symbolic_input("other", if fires { &["N", "2", "3"] } else { &["3"] });
                let sizes = f.integers(&[1, 2, 1]);
                let t = f.op("Expand", &[t, sizes]);
                f.op("Sub", &[other, t])
            })
        }),
    ]
}
