//! Dead channels: slices that are one number whatever the input is, since the weights that make them are zero, and slices
//! that nobody weighs. What they add to the channels behind them goes into the biases there, and they go.
//!
//! Exact for finite inputs: where a weight is zero, an infinite input gave what is no number.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Graph, Node, NodeId, Tensor, ValueId};

use super::couple::couple;
use super::group::{Group, Groups};
use super::lanes::{Axis, Lanes, Place};
use super::remove::remove;
use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Removes channels that are one number, and channels that nobody weighs.
pub struct DeadChannels;

impl Pass for DeadChannels {
    fn name(&self) -> &'static str {
        "dead_channels"
    }

    fn doc(&self) -> &'static str {
        "Removes channels, heads and hidden units that are one number whatever the input is, or that nobody weighs"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            if let Some((result, count)) = without_dead(graph) {
                *graph = result;
                *statistics.fired.entry("dead_channels").or_default() += count;
            }
        });
    }
}

/// The graph without its dead channels, and how many there were, if any.
fn without_dead(graph: &Graph) -> Option<(Graph, usize)> {
    let lanes = couple(graph);
    let groups = Groups::of(graph, &lanes);
    let numbers = Numbers::of(graph, &lanes);
    // Of each class that goes, a lane by tensor, axis and index.
    let mut gone: Vec<(Place, usize, usize)> = Vec::new();
    let mut shifts: BTreeMap<NodeId, Vec<f64>> = BTreeMap::new();
    for group in groups.groups.iter().filter(|group| group.approximate.is_empty()) {
        let Some(shifts_of) = numbers.shifts(group) else { continue };
        let mut left = group.len();
        for (unit, own) in shifts_of.into_iter().enumerate() {
            let Some(own) = own.filter(|_| left > 1) else { continue };
            let member = group.activations.first()?;
            gone.push((member.place, member.axis, *member.of_unit(unit).first()? as usize));
            left -= 1;
            for (node, shift) in own {
                let sum = shifts.entry(node).or_insert_with(|| vec![0.0; shift.len()]);
                sum.iter_mut().zip(shift).for_each(|(sum, shift)| *sum += shift);
            }
        }
    }
    if gone.is_empty() {
        return None;
    }
    let mut result = graph.clone();
    for (node, shift) in shifts {
        if shift.iter().any(|&shift| shift != 0.0) {
            add_bias(&mut result, node, &shift)?;
        }
    }
    // New biases have lanes of their own.
    let lanes = couple(&result);
    let class = |&(place, axis, index): &(Place, usize, usize)| {
        lanes.axes(place)?.get(axis)?.lane(index).map(|lane| lanes.class(lane))
    };
    let classes: Option<BTreeSet<u32>> = gone.iter().map(class).collect();
    remove(&mut result, &lanes, &classes?).ok()?;
    Some((result, gone.len()))
}

/// A product with a constant weight, over the channels of its first operand.
struct Product {
    /// The weight.
    weight: Vec<f64>,
    /// Channels of the operand.
    inputs: Axis,
    /// Channels of the result.
    outputs: Axis,
    /// Elements of the weight for one pair of channels, one after the other.
    kernel: usize,
    /// Where those of a pair begin, if the pair has any.
    place: Box<dyn Fn(usize, usize) -> Option<usize>>,
    /// What is added to each channel of the result; none where it is not constant.
    bias: Option<Vec<f64>>,
    /// What the sum is multiplied by.
    factor: f64,
    /// Whether zeros around the operand take part.
    padded: bool,
}

impl Product {
    fn read(graph: &Graph, lanes: &Lanes, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let tensor = graph.constant(node.input(1)?)?;
        let (x, y) = (lanes.operand(graph, id, 0)?, lanes.axes(Place::Value(node.output(0)?))?);
        let shape = tensor.shape().to_vec();
        let convolves = node.is("Conv") || node.is("ConvTranspose");
        let channels = if convolves { 1 } else { x.len().checked_sub(1)? };
        let (inputs, outputs) =
            (*x.get(channels)?, *y.get(if convolves { 1 } else { y.len().checked_sub(1)? })?);
        let kernel: usize = if convolves { shape.get(2..)?.iter().product() } else { 1 };
        let width = outputs.length();
        let groups = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&groups| groups > 0)?;
        let place: Box<dyn Fn(usize, usize) -> Option<usize>> = match node.op_type() {
            "Conv" if node.is("Conv") => {
                let (inside, outside) = (*shape.get(1)?, shape.first()? / groups);
                Box::new(move |to, from| {
                    let own = to / outside.max(1) == from / inside.max(1);
                    own.then(|| (to * inside + from % inside.max(1)) * kernel)
                })
            }
            "ConvTranspose" if node.is("ConvTranspose") => {
                let (inside, outside) = (shape.first()? / groups, *shape.get(1)?);
                Box::new(move |to, from| {
                    let own = to / outside.max(1) == from / inside.max(1);
                    own.then(|| (from * outside + to % outside.max(1)) * kernel)
                })
            }
            "Gemm" if node.int("transA").unwrap_or(0) == 0 && shape.len() == 2 => {
                let (rows, columns) = (shape[0], shape[1]);
                let swapped = node.int("transB") == Some(1);
                Box::new(move |to, from| {
                    let (row, column) = if swapped { (to, from) } else { (from, to) };
                    (row < rows && column < columns).then(|| row * columns + column)
                })
            }
            "MatMul" if shape.len() == 2 => {
                let columns = shape[1];
                Box::new(move |to, from| Some(from * columns + to))
            }
            _ => return None,
        };
        let bias = match (node.op_type(), node.input(2)) {
            ("MatMul", _) | (_, None) => Some(vec![0.0; width]),
            (_, Some(bias)) => graph.constant(bias).and_then(|tensor| {
                let factor = if node.is("Gemm") { f64::from(node.float("beta").unwrap_or(1.0)) } else { 1.0 };
                let values: Vec<f64> = tensor.to_f64()?.into_iter().map(|value| value * factor).collect();
                let spread = || (values.len() == 1).then(|| vec![values[0]; width]);
                if values.len() == width { Some(values) } else { spread() }
            }),
        };
        let explicit = node.string("auto_pad").is_none_or(|pad| pad == "NOTSET" || pad == "VALID");
        let padded =
            convolves && !(explicit && node.ints("pads").is_none_or(|pads| pads.iter().all(|&pad| pad == 0)));
        Some(Self {
            weight: tensor.to_f64()?,
            inputs,
            outputs,
            kernel,
            place,
            bias,
            factor: if node.is("Gemm") { f64::from(node.float("alpha").unwrap_or(1.0)) } else { 1.0 },
            // Of a ConvTranspose every place of the result has other parts of the kernel.
            padded: padded || node.is("ConvTranspose"),
        })
    }

    /// The sum of the weights of a pair of channels, and whether all are zero.
    fn pair(&self, to: usize, from: usize) -> (f64, bool) {
        let slice = (self.place)(to, from).and_then(|start| self.weight.get(start..start + self.kernel));
        let slice = slice.unwrap_or_default();
        (slice.iter().sum(), slice.iter().all(|&weight| weight == 0.0))
    }

    /// What a channel that is a number adds to each channel of the result; none if that differs from place to place.
    fn shift(&self, from: usize, number: Option<f64>) -> Option<Vec<f64>> {
        (0..self.outputs.length())
            .map(|to| match (self.pair(to, from), number) {
                ((_, true), _) => Some(0.0),
                (_, Some(0.0)) => Some(0.0),
                ((sum, _), Some(number)) if !self.padded => Some(self.factor * sum * number),
                _ => None,
            })
            .collect()
    }
}

/// Lanes of computed values all of whose elements are one number.
struct Numbers<'a> {
    graph: &'a Graph,
    lanes: &'a Lanes,
    known: BTreeMap<u32, f64>,
}

impl<'a> Numbers<'a> {
    fn of(graph: &'a Graph, lanes: &'a Lanes) -> Self {
        let mut numbers = Self { graph, lanes, known: BTreeMap::new() };
        for id in graph.topological_order().unwrap_or_default() {
            numbers.follow(id);
        }
        numbers
    }

    fn follow(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        if node.operator().is_none() || !node.domain().is_empty() || node.is_random() {
            return;
        }
        let found = match node.op_type() {
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => self.product(id),
            "BatchNormalization" => self.normalized(id),
            "Add" | "Sub" | "Mul" | "Div" => self.binary(id),
            _ => self.carried(id),
        };
        self.known.extend(found.unwrap_or_default());
    }

    /// The bias of rows that are zero wherever the operand is not a number itself.
    fn product(&self, id: NodeId) -> Option<Vec<(u32, f64)>> {
        let product = Product::read(self.graph, self.lanes, id)?;
        let bias = product.bias.as_ref()?;
        let numbers: Vec<Option<f64>> =
            product.inputs.lanes().map(|lane| self.known.get(&lane).copied()).collect();
        if product.inputs.size() == 0 {
            return None;
        }
        let row = |to: usize| {
            let mut sum = *bias.get(to)?;
            for (from, number) in numbers.iter().enumerate() {
                let (weights, zero) = product.pair(to, from);
                match number {
                    _ if zero => {}
                    Some(0.0) => {}
                    Some(number) if !product.padded => sum += product.factor * weights * number,
                    _ => return None,
                }
            }
            Some((product.outputs.lane(to)?, sum))
        };
        Some((0..product.outputs.size()).filter_map(row).collect())
    }

    /// s·(c − μ)/√(σ² + ε) + b; b where s is zero.
    fn normalized(&self, id: NodeId) -> Option<Vec<(u32, f64)>> {
        let node = self.graph.node(id);
        let parameter = |slot: usize| self.graph.constant(node.input(slot)?)?.to_f64();
        let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        let (x, y) =
            (self.lanes.operand(self.graph, id, 0)?, self.lanes.axes(Place::Value(node.output(0)?))?);
        let (x, y) = (*x.get(1)?, *y.get(1)?);
        let channel = |index: usize| {
            let number = x.lane(index).and_then(|lane| self.known.get(&lane));
            let result = match number {
                _ if *scale.get(index)? == 0.0 => *bias.get(index)?,
                Some(number) => {
                    let deviation = (variance.get(index)? + epsilon).sqrt();
                    scale[index] * (number - mean.get(index)?) / deviation + bias.get(index)?
                }
                None => return None,
            };
            Some((y.lane(index)?, result))
        };
        Some((0..y.size()).filter_map(channel).collect())
    }

    fn binary(&self, id: NodeId) -> Option<Vec<(u32, f64)>> {
        let node = self.graph.node(id);
        let y = self.lanes.axes(Place::Value(node.output(0)?))?;
        let mut found = Vec::new();
        for (at, &axis) in y.iter().enumerate() {
            let behind = y.len() - at;
            let (a, b) = (self.slices(id, 0, behind, axis.size())?, self.slices(id, 1, behind, axis.size())?);
            for index in 0..axis.size() {
                let result = match (node.op_type(), a[index], b[index]) {
                    ("Mul", Some(0.0), _) | ("Mul", _, Some(0.0)) => 0.0,
                    ("Mul", Some(a), Some(b)) => a * b,
                    ("Add", Some(a), Some(b)) => a + b,
                    ("Sub", Some(a), Some(b)) => a - b,
                    ("Div", Some(a), Some(b)) if b != 0.0 => a / b,
                    _ => continue,
                };
                found.extend(axis.lane(index).map(|lane| (lane, result)));
            }
        }
        Some(found)
    }

    /// By index of an axis of the result, `behind` axes from its end: the number that all elements of an operand there
    /// are, if they are one.
    fn slices(&self, id: NodeId, slot: usize, behind: usize, size: usize) -> Option<Vec<Option<f64>>> {
        let axes = self.lanes.operand(self.graph, id, slot)?;
        let own = axes.len().checked_sub(behind);
        if let Some(tensor) = self.graph.constant(self.graph.node(id).input(slot)?) {
            return match own.filter(|&own| axes[own].size() == size) {
                Some(own) => Some(uniform_slices(tensor, own)),
                None => Some(vec![tensor.uniform(); size]),
            };
        }
        let lane =
            |index: usize| own.and_then(|own| axes[own].lane(index)).and_then(|lane| self.known.get(&lane));
        Some((0..size).map(|index| lane(index).copied()).collect())
    }

    /// Operators that apply a function to each element, or move elements: lanes of a class are numbers of that class.
    fn carried(&self, id: NodeId) -> Option<Vec<(u32, f64)>> {
        let node = self.graph.node(id);
        let function = function(self.graph, node)?;
        let mut by_class: BTreeMap<u32, Option<f64>> = BTreeMap::new();
        let operands = if node.is("Concat") { node.inputs().len() } else { 1 };
        for slot in 0..operands {
            for lane in self.lanes.operand(self.graph, id, slot)?.iter().flat_map(|axis| axis.lanes()) {
                let number = self.known.get(&lane).copied();
                let entry = by_class.entry(self.lanes.class(lane)).or_insert(number);
                if *entry != number {
                    *entry = None;
                }
            }
        }
        let results = node.outputs().iter().flatten();
        let lanes = results.filter_map(|&value| self.lanes.axes(Place::Value(value))).flatten();
        let number = |lane: u32| {
            let number = by_class.get(&self.lanes.class(lane)).copied().flatten()?;
            Some((lane, function(number)?))
        };
        Some(lanes.flat_map(|axis| axis.lanes()).filter_map(number).collect())
    }

    /// By unit: what it adds to the nodes behind it if it is dead; none if it is not. Each product is read once.
    fn shifts(&self, group: &Group) -> Option<Vec<Option<Shifts>>> {
        let mut units: Vec<Option<Shifts>> = vec![Some(Vec::new()); group.len()];
        let mut seen: BTreeSet<ValueId> = BTreeSet::new();
        for member in &group.activations {
            let axis = *self.lanes.axes(member.place)?.get(member.axis)?;
            if self.graph.is_output(member.value) {
                return None;
            }
            let first = seen.insert(member.value);
            for consumer in self.graph.consumers(member.value) {
                let node = self.graph.get_node(consumer.node)?;
                if consumer.slot == Slot::Input(0)
                    && let Some(product) = Product::read(self.graph, self.lanes, consumer.node)
                    && product.inputs == axis
                {
                    let movable = !node.is("MatMul") && product.bias.is_some();
                    for (unit, shifts) in units.iter_mut().enumerate() {
                        let own = shifts.take();
                        *shifts = own.and_then(|mut own| {
                            for &index in member.of_unit(unit) {
                                own.push((
                                    consumer.node,
                                    self.shift(&product, axis, index as usize, movable)?,
                                ));
                            }
                            Some(own)
                        });
                    }
                } else if first && !is_transparent(node) {
                    return None;
                }
            }
        }
        Some(units)
    }

    /// What lane `index` of the operand adds to the result of a product; none if that cannot go into a bias.
    fn shift(&self, product: &Product, axis: Axis, index: usize, movable: bool) -> Option<Vec<f64>> {
        let number = axis.lane(index).and_then(|lane| self.known.get(&lane)).copied();
        let shift = product.shift(index, number)?;
        (movable || shift.iter().all(|&shift| shift == 0.0)).then_some(shift)
    }
}

/// What is added to the channels of the results of nodes.
type Shifts = Vec<(NodeId, Vec<f64>)>;

/// By index along an axis: the number that all elements there are, if they are one.
fn uniform_slices(tensor: &Tensor, axis: usize) -> Vec<Option<f64>> {
    let size = tensor.shape()[axis];
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let Some(values) = tensor.to_f64() else { return vec![None; size] };
    let mut slices: Vec<Option<Option<f64>>> = vec![None; size];
    for (position, row) in values.chunks(inner.max(1)).enumerate() {
        let slot = &mut slices[position % size];
        for &value in row {
            *slot = match *slot {
                None => Some(Some(value)),
                Some(Some(known)) if known == value => Some(Some(value)),
                _ => Some(None),
            };
        }
    }
    slices.into_iter().map(Option::flatten).collect()
}

/// What an operator makes of a number that fills the slices it takes.
fn function(graph: &Graph, node: &Node) -> Option<Box<dyn Fn(f64) -> Option<f64>>> {
    let plain: fn(f64) -> f64 = match node.op_type() {
        "Concat" | "Dropout" | "Expand" | "Flatten" | "Identity" | "Reshape" | "Slice" | "Split"
        | "Squeeze" | "Tile" | "Transpose" | "Unsqueeze" | "DepthToSpace" | "SpaceToDepth"
        | "GlobalAveragePool" | "GlobalMaxPool" | "MaxPool" | "ReduceMax" | "ReduceMean" | "ReduceMin" => {
            |x| x
        }
        "Abs" => f64::abs,
        "Exp" => f64::exp,
        "Neg" => |x| -x,
        "Relu" => |x| x.max(0.0),
        "Sigmoid" => |x| 1.0 / (1.0 + (-x).exp()),
        "Sqrt" => f64::sqrt,
        "Tanh" => f64::tanh,
        // Zero stays zero, whatever its neighbours on the border are.
        "AveragePool" | "Celu" | "Elu" | "Erf" | "Gelu" | "HardSwish" | "Mish" | "Selu" | "Softsign"
        | "Swish" => {
            return Some(Box::new(|x| (x == 0.0).then_some(0.0)));
        }
        "LeakyRelu" => {
            let alpha = f64::from(node.float("alpha")?);
            return Some(Box::new(move |x| Some(if x < 0.0 { alpha * x } else { x })));
        }
        "Clip" if graph.opset() >= 11 => {
            let bound = |slot: usize, open: f64| match node.input(slot) {
                Some(bound) => graph.constant(bound)?.single_f64(),
                None => Some(open),
            };
            let (low, high) = (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?);
            return Some(Box::new(move |x| Some(x.max(low).min(high))));
        }
        _ => return None,
    };
    Some(Box::new(move |x| Some(plain(x))))
}

/// Whether every channel of the results comes from the same channel of the operands.
fn is_transparent(node: &Node) -> bool {
    const ALONE: &[&str] = &[
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "DepthToSpace",
        "Div",
        "Dropout",
        "Expand",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "Mul",
        "PRelu",
        "Pow",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ];
    ALONE.iter().any(|op_type| node.is(op_type))
        || crate::rules::facts::is_unary(node)
        || node.op_type().starts_with("Reduce") && node.operator().is_some()
}

/// Adds a number to each channel of the result of a product.
fn add_bias(graph: &mut Graph, id: NodeId, shift: &[f64]) -> Option<()> {
    let node = graph.node(id);
    let element = graph.element(node.input(1)?)?;
    let beta = if node.is("Gemm") { f64::from(node.float("beta").unwrap_or(1.0)) } else { 1.0 };
    let old = match node.input(2) {
        Some(bias) => graph.constant(bias)?.to_f64()?,
        None => vec![0.0; shift.len()],
    };
    let old = if old.len() == 1 { vec![old[0]; shift.len()] } else { old };
    if beta == 0.0 || old.len() != shift.len() || node.is("MatMul") {
        return None;
    }
    let sums: Vec<f64> = old.iter().zip(shift).map(|(old, shift)| old + shift / beta).collect();
    let before = node.input(2);
    let bias = graph.add_constant(Tensor::from_f64(element, &[sums.len()], &sums)?);
    graph.set_input(id, 2, Some(bias)).ok()?;
    if let Some(before) = before {
        graph.remove_unused_constant(before);
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::testing::Fixture;

    /// Conv [4, 2, 1, 1] with these rows, an operator, and a convolution with these columns behind it.
    fn pruned(
        rows: &[f32; 4],
        bias: &[f32; 4],
        op_type: &str,
        columns: &[f32; 4],
        pads: i64,
    ) -> (Graph, usize) {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 2, 3, 3]);
        let rows: Vec<f32> = rows.iter().flat_map(|&row| [row, row]).collect();
        let (w, b) = (f.floats(&[4, 2, 1, 1], &rows), f.floats(&[4], bias));
        let a = f.op("Conv", &[x, w, b]);
        let a = f.op(op_type, &[a]);
        let v = f.floats(&[1, 4, 1, 1], columns);
        let y = f.node(NewNode::new("Conv", [a, v]).with("pads", vec![pads; 4]));
        let graph = f.with_output(y).graph;
        without_dead(&graph).unwrap_or((graph, 0))
    }

    /// Channels between the convolutions, and the bias of the second.
    fn left(graph: &Graph) -> (usize, Option<Vec<f64>>) {
        let order = graph.topological_order().unwrap();
        let convs: Vec<&Node> =
            order.iter().map(|&id| graph.node(id)).filter(|node| node.is("Conv")).collect();
        let weight = graph.constant(convs[0].input(1).unwrap()).unwrap();
        let bias = convs[1].input(2).map(|bias| graph.constant(bias).unwrap().to_f64().unwrap());
        (weight.shape()[0], bias)
    }

    #[test]
    fn zeros_go_and_numbers_go_into_the_bias() {
        // One channel is zero, one is 2 and weighs 3, one is cut off by Relu.
        let (graph, count) =
            pruned(&[1.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 2.0, -1.0], "Relu", &[1.0, 1.0, 3.0, 1.0], 0);
        assert_eq!((count, left(&graph)), (3, (1, Some(vec![6.0]))));
        // Where zeros are around it, a number is none on the border.
        let (graph, count) =
            pruned(&[1.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 2.0, -1.0], "Relu", &[1.0, 1.0, 3.0, 1.0], 1);
        assert_eq!((count, left(&graph)), (2, (2, None)));
        // Half is what becomes of zero.
        let (graph, count) = pruned(&[1.0, 0.0, 1.0, 1.0], &[0.0; 4], "Sigmoid", &[1.0, 4.0, 1.0, 1.0], 0);
        assert_eq!((count, left(&graph)), (1, (3, Some(vec![2.0]))));
    }

    #[test]
    fn channels_that_nobody_weighs_go() {
        let (graph, count) = pruned(&[1.0; 4], &[1.0; 4], "Sin", &[1.0, 0.0, 0.0, 1.0], 1);
        assert_eq!((count, left(&graph)), (2, (2, None)));
        assert_eq!(pruned(&[1.0; 4], &[0.0; 4], "Sin", &[1.0; 4], 0).1, 0);
    }
}
