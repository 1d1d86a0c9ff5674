//! What rules ask of a graph. Where a fact is not known, the answer is the reason why a rule is declined.

use onnx_opt_ir::{Attributes, Dim, ElementType, Graph, Node, Tensor, ValueId};

use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

/// Whether two values provably have one shape.
///
/// # Errors
/// If they do not, or a shape is not known.
pub(super) fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> Result<(), Miss> {
    match (graph.shape(a), graph.shape(b)) {
        (Some(a), Some(b)) => ensure(a == b, "the shape changes"),
        _ => Err("a shape is not known".into()),
    }
}

/// Shape of a value.
///
/// # Errors
/// If its rank is not known.
pub(super) fn shape(graph: &Graph, value: ValueId) -> Result<&[Dim], Miss> {
    graph.shape(value).ok_or_else(|| "a shape is not known".into())
}

/// Element type of a value.
///
/// # Errors
/// If it is not known.
pub(super) fn element(graph: &Graph, value: ValueId) -> Result<ElementType, Miss> {
    graph.element(value).ok_or_else(|| "the element type is not known".into())
}

/// The shape of `a` and `b` broadcast together, if the sizes prove one.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::fixed(1);
    let at = |shape: &[Dim], axis: usize| {
        (axis + shape.len()).checked_sub(rank).and_then(|axis| shape.get(axis)).cloned()
    };
    (0..rank)
        .map(|axis| {
            let (a, b) = (at(a, axis).unwrap_or(one.clone()), at(b, axis).unwrap_or(one.clone()));
            a.broadcast(&b)
        })
        .collect()
}

/// An axis counted from the front.
///
/// # Errors
/// If it is not in `-rank..rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Miss> {
    let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match counted.and_then(|axis| usize::try_from(axis).ok()) {
        Some(axis) if axis < rank => Ok(axis),
        _ => Err("an axis is out of range".into()),
    }
}

/// A list of integers that is an attribute in old versions of an operator and operand `index` in new ones; `None` if
/// it is left out.
///
/// # Errors
/// If it is there but not constant.
pub(crate) fn list(
    graph: &Graph,
    node: &Node,
    attribute: &str,
    index: usize,
) -> Result<Option<Vec<i64>>, Miss> {
    if let Some(values) = node.ints(attribute) {
        return Ok(Some(values.to_vec()));
    }
    let Some(operand) = node.input(index) else { return Ok(None) };
    let known = graph.elements(operand).and_then(|elements| elements.iter().map(Dim::as_fixed).collect());
    known.map(Some).ok_or_else(|| format!("`{attribute}` is not constant").into())
}

/// A Split into parts of these sizes along an axis; the sizes are an attribute before opset 13, an operand since.
pub(super) fn split(graph: &Graph, patch: &mut Patch, x: Operand, axis: i64, sizes: &[i64]) -> Vec<Operand> {
    let mut attributes = Attributes::from_pairs([("axis", axis.into())]);
    let mut operands = vec![x];
    if graph.opset() < 13 {
        attributes.set("split", sizes.to_vec());
    } else {
        operands.push(patch.constant(Tensor::vector_i64(sizes)));
    }
    patch.node_with("Split", operands, attributes, sizes.len())
}

/// The Range that gives a value and counts from 0 by 1.
///
/// # Errors
/// If there is none.
pub(super) fn counter(graph: &Graph, value: ValueId) -> Result<&Node, Miss> {
    let (_, range) = found(graph.producer_of(value, "Range"))?;
    let is = |index: usize, number: i64| {
        let known = range.input(index).and_then(|value| graph.elements(value));
        known.is_some_and(|known| known == [Dim::fixed(number)])
    };
    ensure(is(0, 0) && is(2, 1), "the indices do not count from 0 by 1").map(|()| range)
}

/// Producers that [`uniform`] looks through, at most.
const DEPTH: usize = 4;

/// The number that all elements of a value are, with its sign where it is zero: of a constant, or of a constant
/// spread by operators.
pub(super) fn uniform(graph: &Graph, value: ValueId) -> Option<f64> {
    let mut value = value;
    for _ in 0..DEPTH {
        if let Some(tensor) = graph.constant(value) {
            return tensor.uniform();
        }
        let (_, node, _) = graph.producer(value)?;
        if node.is("ConstantOfShape") {
            return match node.attributes().get("value") {
                None => Some(0.0),
                Some(tensor) => tensor.as_tensor().and_then(|tensor| tensor.single_f64()),
            };
        }
        let spreads = ["Expand", "Tile", "Reshape", "Unsqueeze", "Squeeze", "Transpose"];
        if !spreads.iter().any(|op_type| node.is(op_type)) {
            return None;
        }
        value = node.input(0)?;
    }
    None
}

/// Gives the uses of the root's first result to `value`.
///
/// # Errors
/// If another result is used.
pub(super) fn becomes(site: &Site<'_>, value: ValueId) -> Rewrite {
    crate::rewrite::language::finish(site, Patch::new(), value.into())
}

/// Whether one use alone keeps a value, so that it disappears with that use.
///
/// # Errors
/// If it has other users.
pub(super) fn only_use(graph: &Graph, value: ValueId) -> Result<(), Miss> {
    ensure(graph.is_inner(value), "an inner result has other users")
}

/// Operators of one tensor that work element by element; a `Clip` has its bounds beside it.
const UNARY: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
];

/// Operators of two tensors that work element by element.
pub(crate) const BINARY: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
];

/// Whether a node works on its first operand element by element, and on nothing else that has a shape.
pub(crate) fn is_unary(node: &Node) -> bool {
    UNARY.iter().any(|op_type| node.is(op_type))
}

/// The operand on which a node works element by element, all others being constants or bounds.
pub(super) fn elementwise_operand(graph: &Graph, node: &Node) -> Option<usize> {
    if is_unary(node) {
        return Some(0);
    }
    if !BINARY.iter().any(|op_type| node.is(op_type)) || node.inputs().len() != 2 {
        return None;
    }
    let is_constant = |index| node.input(index).is_some_and(|value| graph.constant(value).is_some());
    match (is_constant(0), is_constant(1)) {
        (false, true) => Some(0),
        (true, false) => Some(1),
        _ => None,
    }
}

/// The axis lists of `Squeeze`, `Unsqueeze`, `ReduceSum`: an attribute before opset 13, an operand since.
pub(super) fn with_axes(
    site: &Site<'_>,
    patch: &mut Patch,
    op_type: &str,
    x: impl Into<Operand>,
    axes: &[i64],
) -> Operand {
    let x = x.into();
    if site.graph.opset() < 13 {
        let attributes = Attributes::from_pairs([("axes", axes.to_vec().into())]);
        return patch.node(op_type, [x], attributes);
    }
    let axes = patch.constant(Tensor::vector_i64(axes));
    patch.node(op_type, [x, axes], Attributes::new())
}
