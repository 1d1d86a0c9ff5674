//! Operators that do on moved axes what they did before, and how they must change for it.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Attributes, Dim, Graph, Node, NodeId, Tensor, ValueId};

use super::permutation::Permutation;
use crate::rewrite::ErrorClass;
use crate::rules::facts::{BINARY, axis, is_unary, list};
use crate::rules::reshape::sizes_for;

/// A place of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Operand of this number.
    Operand(usize),
    /// Result of this number.
    Result(usize),
}

/// What a node on moved axes takes as an operand.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Operand {
    /// What it took before.
    Plain,
    /// The same with its axes in this order.
    Moved(Permutation),
    /// A constant of fewer axes, which gets the missing ones in front and then has them in this order.
    Spread(Permutation),
    /// The same with new axes at these places.
    Unsqueezed(Vec<i64>),
    /// Another constant.
    Constant(Tensor),
}

/// A node on moved axes.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    /// Its operands; those left out are plain.
    pub operands: Vec<Operand>,
    /// The orders of the axes of its results.
    pub results: Vec<Permutation>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its operator.
    pub op_type: &'static str,
}

impl Carried {
    /// A node whose first operand and results have their axes in one order, and whose other operands have no axes.
    fn same(node: &Node, order: &Permutation, op_type: &'static str) -> Self {
        let mut operands = vec![Operand::Plain; node.inputs().len()];
        if let Some(first) = operands.first_mut() {
            *first = Operand::Moved(order.clone());
        }
        let results = vec![order.clone(); node.outputs().len()];
        Self { operands, results, attributes: node.attributes().clone(), op_type }
    }

    fn with(mut self, attribute: &str, value: impl Into<onnx_opt_ir::AttributeValue>) -> Self {
        self.attributes.set(attribute, value);
        self
    }

    /// With a constant operand, where there is one or the operand before it is there.
    fn with_operand(mut self, index: usize, constant: Tensor) -> Self {
        while self.operands.len() <= index {
            self.operands.push(Operand::Plain);
        }
        self.operands[index] = Operand::Constant(constant);
        self
    }

    /// With a list of axes or what goes by axes, in the attribute or the operand where the node has it.
    fn with_list(self, node: &Node, attribute: &str, index: usize, values: Vec<i64>) -> Self {
        if node.attributes().get(attribute).is_some() {
            self.with(attribute, values)
        } else {
            self.with_operand(index, Tensor::vector_i64(&values))
        }
    }

    /// The order of the axes at a place, if they are moved there.
    fn at(&self, place: Place) -> Option<&Permutation> {
        match place {
            Place::Operand(index) => match self.operands.get(index)? {
                Operand::Moved(order) => Some(order),
                _ => None,
            },
            Place::Result(index) => self.results.get(index),
        }
    }
}

/// Constants up to this size may be stored in two orders.
const SMALL: usize = 64;

/// Whether a constant can be stored in another order at no cost.
pub(super) fn is_free(graph: &Graph, value: ValueId) -> bool {
    let Some(tensor) = graph.constant(value) else { return false };
    let goes = graph.is_inner(value) && matches!(graph.value(value).producer(), Producer::Constant(_));
    (goes || tensor.byte_len() <= SMALL) && tensor.element().bits() >= 8
}

/// The node on axes that `order` moves at `place`.
pub(super) fn carry(
    graph: &Graph,
    id: NodeId,
    place: Place,
    order: &Permutation,
    class: ErrorClass,
) -> Option<Carried> {
    let node = graph.node(id);
    if !node.domain().is_empty() || node.operator().is_none() || node.is_random() {
        return None;
    }
    if node.outputs().iter().flatten().any(|&value| graph.is_pinned(value)) {
        return None;
    }
    if class == ErrorClass::Exact && may_round(node) {
        return None;
    }
    let mut carried = by_operator(graph, node, place, order)?;
    for operand in &mut carried.operands {
        if matches!(operand, Operand::Moved(order) if order.is_identity()) {
            *operand = Operand::Plain;
        }
    }
    (carried.at(place) == Some(order)).then_some(carried)
}

/// Whether runtimes may add up in another order when axes lie elsewhere.
fn may_round(node: &Node) -> bool {
    match node.op_type() {
        "BatchNormalization"
        | "GroupNormalization"
        | "InstanceNormalization"
        | "LayerNormalization"
        | "LogSoftmax"
        | "LpNormalization"
        | "MatMul"
        | "RMSNormalization"
        | "Softmax" => true,
        "ReduceMax" | "ReduceMin" => false,
        "Resize" => node.string("mode") != Some("nearest"),
        name => name.starts_with("Reduce"),
    }
}

fn by_operator(graph: &Graph, node: &Node, place: Place, order: &Permutation) -> Option<Carried> {
    let op_type: &'static str = node.operator()?.op_type;
    if is_unary(node) || op_type == "Dropout" || op_type == "CastLike" {
        return Some(Carried::same(node, order, op_type));
    }
    if BINARY.contains(&op_type) {
        return broadcasting(graph, node, order, op_type);
    }
    match op_type {
        "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Mean" | "Mod" | "PRelu" | "Sum"
        | "Where" => broadcasting(graph, node, order, op_type),
        "Concat" => {
            let moved = along_axis(node, order, op_type)?;
            Some(Carried { operands: vec![Operand::Moved(order.clone()); node.inputs().len()], ..moved })
        }
        "Split" | "Hardmax" | "LpNormalization" => along_axis(node, order, op_type),
        "TopK" if graph.opset() >= 10 => along_axis(node, order, op_type),
        "Softmax" | "LogSoftmax" => softmax(graph, node, order, op_type),
        "ArgMax" | "ArgMin" => {
            let moved = axis(node.int("axis")?, order.rank()).ok()?;
            let carried = along_axis(node, order, op_type)?;
            reducing(node, place, order, &[moved], carried)
        }
        "Gather" => gather(graph, node, place, order, op_type),
        "CumSum" => {
            let operand = node.input(1)?;
            let [along] = graph.constant(operand)?.to_i64()?.try_into().ok()?;
            let new = order.place_of(axis(along, order.rank()).ok()?)?;
            let new = Tensor::scalar(graph.element(operand)?, new as f64)?;
            Some(Carried::same(node, order, op_type).with_operand(1, new))
        }
        "Pad" => pad(graph, node, order, op_type),
        "Slice" => slice(graph, node, order, op_type),
        "Tile" if graph.opset() >= 6 => {
            let repeats = order.permuted(&list(graph, node, "repeats", 1).ok()??)?;
            Some(Carried::same(node, order, op_type).with_operand(1, Tensor::vector_i64(&repeats)))
        }
        "Expand" => {
            let mut sizes = list(graph, node, "shape", 1).ok()??;
            let missing = order.rank().checked_sub(sizes.len())?;
            sizes.splice(0..0, std::iter::repeat_n(1, missing));
            let sizes = Tensor::vector_i64(&order.permuted(&sizes)?);
            let mut carried = Carried::same(node, order, op_type).with_operand(1, sizes);
            carried.operands[0] = broadcast_operand(graph, node.input(0)?, order)?;
            Some(carried)
        }
        "Resize" => resize(graph, node, order, op_type),
        "MatMul" => matrix_product(graph, node, order, op_type),
        "QuantizeLinear" | "DequantizeLinear" => quantization(graph, node, order, op_type),
        "BatchNormalization" => {
            let infers = node.int("training_mode").unwrap_or(0) == 0 && node.outputs().len() == 1;
            let keeps = order.axes().get(1) == Some(&1);
            (infers && keeps && graph.opset() >= 9).then(|| Carried::same(node, order, op_type))
        }
        "GroupNormalization" | "InstanceNormalization" => {
            (order.axes().starts_with(&[0, 1])).then(|| Carried::same(node, order, op_type))
        }
        "LayerNormalization" | "RMSNormalization" => {
            let first = axis(node.int("axis")?, order.rank()).ok()?;
            let plain = |index: usize| {
                node.input(index)
                    .is_none_or(|value| graph.rank(value).is_some_and(|rank| rank <= order.rank() - first))
            };
            let fits = node.outputs().len() == 1 && order.keeps_from(first) && plain(1) && plain(2);
            fits.then(|| Carried::same(node, order, op_type))
        }
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => unit_axes(graph, node, place, order, op_type),
        name if name.starts_with("Reduce") => reduce(graph, node, place, order, op_type),
        _ => None,
    }
}

/// A node that works along the axis that its attribute names.
fn along_axis(node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let along = order.place_of(axis(node.int("axis")?, order.rank()).ok()?)?;
    Some(Carried::same(node, order, op_type).with("axis", along as i64))
}

fn broadcasting(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    // Before, broadcasting went by attributes.
    if graph.opset() < 8 || graph.rank(node.output(0)?)? != order.rank() {
        return None;
    }
    let operands: Option<Vec<Operand>> =
        node.inputs().iter().map(|&operand| broadcast_operand(graph, operand?, order)).collect();
    Some(Carried { operands: operands?, ..Carried::same(node, order, op_type) })
}

/// What an operand that is broadcast to axes in their own order must be for axes in `order`.
fn broadcast_operand(graph: &Graph, value: ValueId, order: &Permutation) -> Option<Operand> {
    let shape = graph.shape(value)?;
    let (rank, whole) = (shape.len(), order.rank());
    if rank <= whole && shape.iter().all(|size| *size == Dim::fixed(1)) {
        return Some(Operand::Plain);
    }
    if let Some(last) = order.last(rank) {
        return Some(if last.is_identity() { Operand::Plain } else { Operand::Moved(last) });
    }
    if rank < whole && is_free(graph, value) {
        return Some(Operand::Spread(order.clone()));
    }
    let axes_behind = whole - order.place_of(whole.checked_sub(1)?)?;
    (rank == 1).then(|| Operand::Unsqueezed((1..axes_behind as i64).collect()))
}

fn softmax(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let along = axis(node.int("axis")?, order.rank()).ok()?;
    // Before opset 13 it works along this axis and all later ones.
    let is_last = |axis: usize| axis + 1 == order.rank();
    if graph.opset() < 13 && !(is_last(along) && order.place_of(along).is_some_and(is_last)) {
        return None;
    }
    along_axis(node, order, op_type)
}

/// A node that takes axes away, unless it keeps them with size 1.
fn reducing(
    node: &Node,
    place: Place,
    order: &Permutation,
    gone: &[usize],
    carried: Carried,
) -> Option<Carried> {
    if node.int("keepdims").unwrap_or(1) != 0 {
        return Some(carried);
    }
    // From the result nobody can tell where the axes were.
    if place != Place::Operand(0) {
        return None;
    }
    Some(Carried { results: vec![order.without(gone); node.outputs().len()], ..carried })
}

fn reduce(
    graph: &Graph,
    node: &Node,
    place: Place,
    order: &Permutation,
    op_type: &'static str,
) -> Option<Carried> {
    let carried = Carried::same(node, order, op_type);
    let named = list(graph, node, "axes", 1).ok()?.unwrap_or_default();
    if named.is_empty() {
        let is_noop = node.int("noop_with_empty_axes").unwrap_or(0) != 0;
        return if is_noop {
            Some(carried)
        } else {
            let all: Vec<usize> = (0..order.rank()).collect();
            reducing(node, place, order, &all, carried)
        };
    }
    let axes: Vec<usize> = named.iter().map(|&name| axis(name, order.rank()).ok()).collect::<Option<_>>()?;
    let mut moved: Vec<i64> =
        axes.iter().map(|&axis| order.place_of(axis).map(|place| place as i64)).collect::<Option<_>>()?;
    moved.sort_unstable();
    reducing(node, place, order, &axes, carried.with_list(node, "axes", 1, moved))
}

fn gather(
    graph: &Graph,
    node: &Node,
    place: Place,
    order: &Permutation,
    op_type: &'static str,
) -> Option<Carried> {
    let along = axis(node.int("axis")?, graph.rank(node.input(0)?)?).ok()?;
    let carried = along_axis(node, order, op_type)?;
    match graph.rank(node.input(1)?)? {
        0 if place == Place::Operand(0) => {
            Some(Carried { results: vec![order.without(&[along])], ..carried })
        }
        1 => Some(carried),
        _ => None,
    }
}

/// The places of the axes that operand `index` names.
fn moved_axes(graph: &Graph, node: &Node, index: usize, order: &Permutation) -> Option<Vec<i64>> {
    let named = graph.elements(node.input(index)?)?;
    named
        .iter()
        .map(|name| Some(order.place_of(axis(name.as_fixed()?, order.rank()).ok()?)? as i64))
        .collect()
}

fn pad(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let carried = Carried::same(node, order, op_type);
    if node.input(3).is_some() {
        let axes = moved_axes(graph, node, 3, order)?;
        return Some(carried.with_operand(3, Tensor::vector_i64(&axes)));
    }
    let pads = list(graph, node, "pads", 1).ok()??;
    let (begins, ends) = pads.split_at_checked(order.rank())?;
    let moved = [order.permuted(begins)?, order.permuted(ends)?].concat();
    Some(carried.with_list(node, "pads", 1, moved))
}

fn slice(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let carried = Carried::same(node, order, op_type);
    if graph.opset() < 10 {
        let count = node.ints("starts")?.len();
        let axes = node.ints("axes").map_or_else(|| (0..count as i64).collect(), <[i64]>::to_vec);
        let place = |&name: &i64| Some(order.place_of(axis(name, order.rank()).ok()?)? as i64);
        let moved: Vec<i64> = axes.iter().map(place).collect::<Option<_>>()?;
        return Some(carried.with("axes", moved));
    }
    let axes = match node.input(3) {
        Some(_) => moved_axes(graph, node, 3, order)?,
        None => {
            let count = usize::try_from(graph.shape(node.input(1)?)?.first()?.as_fixed()?).ok()?;
            (0..count).map(|axis| order.place_of(axis).map(|place| place as i64)).collect::<Option<_>>()?
        }
    };
    // All bounds have one element type.
    let element = graph.element(node.input(1)?)?;
    Some(carried.with_operand(3, Tensor::from_integers(element, &[axes.len()], &axes)?))
}

fn resize(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let rank = order.rank();
    let operand = |index: usize| node.input(index).filter(|&value| !is_empty(graph, value));
    let crops = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    if crops || (operand(1).is_some() && graph.opset() >= 11 && graph.constant(operand(1)?).is_none()) {
        return None;
    }
    let (scales, sizes) = if graph.opset() < 11 { (1, 3) } else { (2, 3) };
    let carried = Carried::same(node, order, op_type);
    // Axes that change their size, and the node with its lists in the new order.
    let (resized, carried): (Vec<usize>, Carried) = if let Some(named) = node.ints("axes") {
        let axes: Vec<usize> = named.iter().map(|&name| axis(name, rank).ok()).collect::<Option<_>>()?;
        let moved: Vec<i64> =
            axes.iter().map(|&axis| order.place_of(axis).map(|place| place as i64)).collect::<Option<_>>()?;
        (axes, carried.with("axes", moved))
    } else if let Some(value) = operand(scales) {
        let factors = graph.constant(value)?.to_f32()?;
        let moved = Tensor::from_f32(&[rank], &order.permuted(&factors)?)?;
        ((0..rank).filter(|&axis| factors[axis] != 1.0).collect(), carried.with_operand(scales, moved))
    } else {
        let target = graph.constant(operand(sizes)?)?.to_i64()?;
        let moved = Tensor::vector_i64(&order.permuted(&target)?);
        let from = graph.shape(node.input(0)?)?;
        let stays = |axis: usize| from.get(axis) == Some(&Dim::fixed(target[axis]));
        ((0..rank).filter(|&axis| !stays(axis)).collect(), carried.with_operand(sizes, moved))
    };
    // Runtimes interpolate along the last axes.
    let is_late = |&axis: &usize| order.place_of(axis).is_some_and(|place| place >= 2);
    let runs = node.string("mode") == Some("nearest") || resized.iter().all(is_late);
    runs.then_some(carried)
}

fn is_empty(graph: &Graph, value: ValueId) -> bool {
    graph.shape(value).is_some_and(|shape| shape.contains(&Dim::fixed(0)))
}

fn matrix_product(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let rank = order.rank();
    let carried = Carried::same(node, order, op_type);
    let (left, right) = (graph.rank(node.input(0)?)?, graph.rank(node.input(1)?)?);
    if right == 2 && left == rank && order.keeps_from(rank.checked_sub(1)?) {
        return Some(carried);
    }
    let batch = left == rank && right == rank && order.keeps_from(rank.checked_sub(2)?);
    batch.then(|| Carried { operands: vec![Operand::Moved(order.clone()); 2], ..carried })
}

fn quantization(graph: &Graph, node: &Node, order: &Permutation, op_type: &'static str) -> Option<Carried> {
    let carried = Carried::same(node, order, op_type);
    if node.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let scale = graph.shape(node.input(1)?)?;
    match scale.len() {
        0 => Some(carried),
        1 if scale[0] == Dim::fixed(1) => Some(carried),
        1 if graph.opset() >= 13 => along_axis(node, order, op_type),
        _ => None,
    }
}

/// The axes that a node keeps, of its operand and of its result, where it takes away or adds axes of size 1 only.
fn kept_axes(graph: &Graph, node: &Node) -> Option<[Vec<usize>; 2]> {
    let (from, to) = (graph.shape(node.input(0)?)?, graph.shape(node.output(0)?)?);
    if node.is("Squeeze") || node.is("Unsqueeze") {
        let rank = from.len().max(to.len());
        let named: Option<Vec<usize>> =
            list(graph, node, "axes", 1).ok()??.iter().map(|&name| axis(name, rank).ok()).collect();
        let named = named?;
        let rest: Vec<usize> = (0..rank).filter(|axis| !named.contains(axis)).collect();
        let all: Vec<usize> = (0..from.len().min(to.len())).collect();
        let fits = rest.len() == all.len();
        return fits.then(|| if node.is("Squeeze") { [rest, all] } else { [all, rest] });
    }
    let wide = |shape: &[Dim]| -> Vec<usize> {
        (0..shape.len()).filter(|&axis| shape[axis] != Dim::fixed(1)).collect()
    };
    let kept = [wide(from), wide(to)];
    let same =
        kept[0].len() == kept[1].len() && kept[0].iter().zip(&kept[1]).all(|(&a, &b)| from[a] == to[b]);
    same.then_some(kept)
}

/// The order of `rank` axes of which `theirs` are the axes `ours` of what has `order`, and others stay in place.
fn followed(order: &Permutation, ours: &[usize], theirs: &[usize], rank: usize) -> Option<Permutation> {
    let mut kept = order
        .axes()
        .iter()
        .filter_map(|axis| ours.iter().position(|other| other == axis))
        .map(|index| theirs[index]);
    let axes: Option<Vec<usize>> =
        (0..rank).map(|axis| if theirs.contains(&axis) { kept.next() } else { Some(axis) }).collect();
    Permutation::new(axes?)
}

fn unit_axes(
    graph: &Graph,
    node: &Node,
    place: Place,
    order: &Permutation,
    op_type: &'static str,
) -> Option<Carried> {
    let [from, to] = kept_axes(graph, node)?;
    let (x, y) = (graph.shape(node.input(0)?)?, graph.shape(node.output(0)?)?);
    let (before, after) = match place {
        Place::Operand(0) => (order.clone(), followed(order, &from, &to, y.len())?),
        Place::Result(0) => (followed(order, &to, &from, x.len())?, order.clone()),
        _ => return None,
    };
    if before.rank() != x.len() || after.rank() != y.len() {
        return None;
    }
    let new_axes = |order: &Permutation, kept: &[usize]| -> Vec<i64> {
        (0..order.rank())
            .filter(|&place| !kept.contains(&order.axes()[place]))
            .map(|place| place as i64)
            .collect()
    };
    let carried = Carried { results: vec![after.clone()], ..Carried::same(node, &before, op_type) };
    Some(match op_type {
        "Squeeze" => carried.with_list(node, "axes", 1, new_axes(&before, &from)),
        "Unsqueeze" => carried.with_list(node, "axes", 1, new_axes(&after, &to)),
        _ if graph.opset() < 5 => return None,
        _ => {
            let sizes = sizes_for(&before.permuted(x)?, &after.permuted(y)?, None).ok()?;
            let carried = carried.with_operand(1, Tensor::vector_i64(&sizes));
            Carried { attributes: Attributes::new(), op_type: "Reshape", ..carried }
        }
    })
}
