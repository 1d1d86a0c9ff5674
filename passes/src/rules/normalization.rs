//! Normalization as exporters decompose it: (x − mean)/√(variance + ε), scaled and shifted.

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Attributes, Dim, ElementType, Graph, Node, NodeId, Tensor, ValueId};

use super::reduction::{Reduction, reduction_of};
use super::support::{enclosed, scalar, supports};
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

rules! {
    /// (x − mean)/√(variance + ε) over the axes behind the channels, scaled and shifted by channel, is
    /// InstanceNormalization(x).
    instance_normalization [rounding, since 6, shared]: Div(a, ..rest) | Mul(a, ..rest)
        => do |site| { instance_normalization_of(site) };

    /// (x − mean)/√(variance + ε) over the last axes, scaled and shifted or not, is LayerNormalization(x).
    layer_normalization [rounding, since 17, shared]: Div(a, ..rest) | Mul(a, ..rest)
        => do |site| { layer_normalization_of(site) };

    /// x·f + (β − mean·f) with f = γ/√(variance + ε), as TensorFlow writes it, is LayerNormalization(x).
    layer_normalization_by_factor [rounding, since 17, shared]: Add(a, b) | Sub(a, b)
        => do |site| { layer_normalization_by_factor_of(site) };

    /// x/√(mean x² + ε) over the last axes, scaled or not, is RMSNormalization(x).
    rms_normalization [rounding, since 23, shared]: Div(a, ..rest) | Mul(a, ..rest)
        => do |site| { rms_normalization_of(site) };

    /// InstanceNormalization of channels taken together in groups, scaled and shifted by channel, is
    /// GroupNormalization.
    group_normalization [rounding, since 21, shared]:
        Reshape(InstanceNormalization(Reshape(x, to) as grouped, const scale, const bias){epsilon: float epsilon}, back) as y
        => do |site| {
            let parts = Parts { x, grouped, scale, bias, epsilon, y };
            group_normalization_of(site, &parts)
        };
}

/// A scale or bias without effect is stored only up to this many elements, lest the file grow.
const SPELLED: i64 = 256;

/// A quotient by a root mean square: `x`, less its mean where `centered`.
struct Core {
    x: ValueId,
    centered: bool,
    axes: Vec<usize>,
    epsilon: f64,
    /// The operators.
    nodes: Vec<NodeId>,
}

/// The value under casts between floats; the casts are added to `nodes`.
fn under_cast(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> ValueId {
    let is_float = |value| graph.element(value).is_some_and(ElementType::is_float);
    match graph.producer_of(value, "Cast").and_then(|(id, cast)| Some((id, cast.input(0)?))) {
        Some((id, inner)) if is_float(value) && is_float(inner) => {
            nodes.push(id);
            inner
        }
        _ => value,
    }
}

/// The operands of an operator of two where the second is a scalar constant.
fn with_scalar(graph: &Graph, node: &Node) -> Option<(ValueId, f64)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    scalar(graph, b, a).map(|constant| (a, constant))
}

/// `v` of √v, in both spellings.
fn under_root(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<ValueId> {
    let (id, node, _) = graph.producer(value)?;
    let inner = if node.is("Sqrt") {
        node.input(0)?
    } else {
        with_scalar(graph, node).filter(|&(_, exponent)| node.is("Pow") && exponent == 0.5)?.0
    };
    nodes.push(id);
    Some(inner)
}

/// `v` of 1/√v, in any spelling.
fn under_reciprocal_root(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<ValueId> {
    let (id, node, _) = graph.producer(value)?;
    nodes.push(id);
    if node.is("Reciprocal") {
        return under_root(graph, node.input(0)?, nodes);
    }
    let (a, b) = (node.input(0)?, node.input(1)?);
    if node.is("Div") {
        return if scalar(graph, a, b) == Some(1.0) { under_root(graph, b, nodes) } else { None };
    }
    with_scalar(graph, node)
        .filter(|&(_, exponent)| node.is("Pow") && exponent == -0.5)
        .map(|(inner, _)| inner)
}

/// `n` and `v` of n/√v.
fn quotient(graph: &Graph, root: NodeId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, ValueId)> {
    let node = graph.node(root);
    if !node.is("Div") && !node.is("Mul") {
        return None;
    }
    let (a, b) = (node.input(0)?, node.input(1)?);
    let start = nodes.len();
    let orders: &[(ValueId, ValueId)] = if node.is("Div") { &[(a, b)] } else { &[(a, b), (b, a)] };
    for &(numerator, denominator) in orders {
        nodes.truncate(start);
        let denominator = under_cast(graph, denominator, nodes);
        let inner = if node.is("Div") {
            under_root(graph, denominator, nodes)
        } else {
            under_reciprocal_root(graph, denominator, nodes)
        };
        if let Some(inner) = inner {
            return Some((numerator, inner));
        }
    }
    None
}

/// `d` of d².
fn under_square(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<ValueId> {
    let (id, node, _) = graph.producer(value)?;
    let (a, b) = (node.input(0)?, node.input(1)?);
    let squared = (node.is("Mul") && a == b) || (node.is("Pow") && scalar(graph, b, a) == Some(2.0));
    nodes.push(id);
    squared.then_some(a)
}

/// `d` and ε of mean d² + ε, and the reduction.
fn under_mean_square(
    graph: &Graph,
    value: ValueId,
    nodes: &mut Vec<NodeId>,
) -> Option<(ValueId, Reduction, f64)> {
    let (id, add) = graph.producer_of(value, "Add")?;
    let (a, b) = (add.input(0)?, add.input(1)?);
    let (mean, epsilon) = match scalar(graph, b, a) {
        Some(epsilon) => (a, epsilon),
        None => (b, scalar(graph, a, b)?),
    };
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return None;
    }
    let reduction = reduction_of(graph, mean, "ReduceMean").filter(|mean| mean.keepdims)?;
    nodes.extend([id, graph.producer(mean)?.0]);
    Some((under_square(graph, reduction.x, nodes)?, reduction, epsilon))
}

/// `x` and the reduction of x − mean x.
fn under_centering(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, Reduction)> {
    let (id, node) = graph.producer_of(value, "Sub")?;
    let (x, mean) = (node.input(0)?, node.input(1)?);
    let reduction = reduction_of(graph, mean, "ReduceMean").filter(|mean| mean.x == x && mean.keepdims)?;
    nodes.extend([id, graph.producer(mean)?.0]);
    Some((x, reduction))
}

/// Whether a node is the division in a normalization.
pub(super) fn normalizes(graph: &Graph, node: NodeId) -> bool {
    core(graph, node).is_some()
}

/// Reads a node as the division in a normalization.
fn core(graph: &Graph, root: NodeId) -> Option<Core> {
    let mut nodes = vec![root];
    let (numerator, variance) = quotient(graph, root, &mut nodes)?;
    let (squared, reduction, epsilon) = under_mean_square(graph, variance, &mut nodes)?;
    let deviation = if squared == numerator { squared } else { under_cast(graph, squared, &mut nodes) };
    let rank = graph.rank(numerator)?;
    let axes = reduction.axes_of(rank)?;
    match under_centering(graph, numerator, &mut nodes) {
        Some((x, mean)) if mean.axes_of(rank).as_ref() == Some(&axes) => {
            // PyTorch may write the difference twice.
            let same = deviation == numerator
                || under_centering(graph, deviation, &mut nodes)
                    .is_some_and(|(other, again)| other == x && again.axes_of(rank).as_ref() == Some(&axes));
            same.then_some(Core { x, centered: true, axes, epsilon, nodes })
        }
        Some(_) => None,
        None => {
            (deviation == numerator).then_some(Core { x: numerator, centered: false, axes, epsilon, nodes })
        }
    }
}

/// A normalization that subtracts the mean last.
struct Factored {
    core: Core,
    scale: Option<ValueId>,
    bias: Option<ValueId>,
}

/// The operands of a product in both orders.
fn factors(graph: &Graph, value: ValueId) -> Option<(NodeId, [(ValueId, ValueId); 2])> {
    let (id, node) = graph.producer_of(value, "Mul")?;
    let (a, b) = (node.input(0)?, node.input(1)?);
    Some((id, [(a, b), (b, a)]))
}

/// Reads a node as x·f + (β − mean·f) or x·f − mean·f.
fn factored(graph: &Graph, root: NodeId) -> Option<Factored> {
    let node = graph.node(root);
    let (a, b) = (node.input(0)?, node.input(1)?);
    if node.is("Sub") {
        return factored_difference(graph, vec![root], a, b, None);
    }
    [(a, b), (b, a)].into_iter().find_map(|(scaled, shift)| {
        let (id, sub) = graph.producer_of(shift, "Sub")?;
        factored_difference(graph, vec![root, id], scaled, sub.input(1)?, sub.input(0))
    })
}

/// `scaled` as x·f and `shift` as mean·f.
fn factored_difference(
    graph: &Graph,
    nodes: Vec<NodeId>,
    scaled: ValueId,
    shift: ValueId,
    bias: Option<ValueId>,
) -> Option<Factored> {
    let ((outer, ways), (inner, shifts)) = (factors(graph, scaled)?, factors(graph, shift)?);
    for (x, factor) in ways {
        let Some(&(mean, _)) = shifts.iter().find(|&&(_, other)| other == factor) else { continue };
        let mut nodes = nodes.clone();
        nodes.extend([outer, inner]);
        // The scale is a factor of f, or there is none.
        let mut choices = vec![(factor, None)];
        if let Some((id, orders)) = factors(graph, factor) {
            nodes.push(id);
            choices = orders.map(|(root, scale)| (root, Some(scale))).to_vec();
        }
        for (reciprocal, scale) in choices {
            let mut nodes = nodes.clone();
            let core = under_reciprocal_root(graph, reciprocal, &mut nodes)
                .and_then(|variance| factored_core(graph, x, mean, variance, nodes));
            if let Some(core) = core {
                return Some(Factored { core, scale, bias });
            }
        }
    }
    None
}

fn factored_core(
    graph: &Graph,
    x: ValueId,
    mean: ValueId,
    variance: ValueId,
    mut nodes: Vec<NodeId>,
) -> Option<Core> {
    let rank = graph.rank(x)?;
    let (deviation, reduction, epsilon) = under_mean_square(graph, variance, &mut nodes)?;
    let axes = reduction.axes_of(rank)?;
    let own = reduction_of(graph, mean, "ReduceMean").filter(|own| own.x == x && own.keepdims)?;
    nodes.push(graph.producer(mean)?.0);
    let (centered, again) = under_centering(graph, deviation, &mut nodes)?;
    let same = centered == x
        && own.axes_of(rank).as_ref() == Some(&axes)
        && again.axes_of(rank).as_ref() == Some(&axes);
    same.then_some(Core { x, centered: true, axes, epsilon, nodes })
}

/// The one user of a value, if it is of this operator, and its other operand.
fn only_user(graph: &Graph, value: ValueId, op_type: &str) -> Option<(NodeId, Option<ValueId>)> {
    if !graph.is_inner(value) {
        return None;
    }
    let consumer = graph.consumers(value).next()?;
    let node = graph.node(consumer.node);
    match consumer.slot {
        Slot::Input(index) if node.is(op_type) => {
            Some((consumer.node, node.input(1_usize.checked_sub(index as usize)?)))
        }
        _ => None,
    }
}

/// A normalization and what follows it, as far as one operator takes it all.
struct Affine<'a> {
    graph: &'a Graph,
    patch: Patch,
    nodes: Vec<NodeId>,
    /// The result so far.
    end: ValueId,
}

impl<'a> Affine<'a> {
    fn new(graph: &'a Graph, nodes: Vec<NodeId>, end: ValueId) -> Self {
        Self { graph, patch: Patch::new(), nodes, end }
    }

    /// Takes an operator with the result so far and an operand that `operand` can use.
    fn take(
        &mut self,
        op_type: &str,
        operand: impl Fn(&Graph, &mut Patch, ValueId) -> Option<Operand>,
    ) -> Option<Operand> {
        let (id, other) = only_user(self.graph, self.end, op_type)?;
        let operand = operand(self.graph, &mut self.patch, other?)?;
        self.end = self.graph.node(id).output(0)?;
        self.nodes.push(id);
        Some(operand)
    }

    /// Goes around a computation in single precision: from `x` before its cast to the result cast back.
    fn take_casts(&mut self, x: ValueId) -> Option<ValueId> {
        let (_, cast) = self.graph.producer_of(x, "Cast")?;
        let (outer, _) = only_user(self.graph, self.end, "Cast")?;
        let inner = cast.input(0)?;
        let end = self.graph.node(outer).output(0)?;
        let element = self.graph.element(inner)?;
        let narrow = matches!(element, ElementType::Float16 | ElementType::Bfloat16);
        if !narrow
            || self.graph.element(x) != Some(ElementType::Float)
            || self.graph.element(end) != Some(element)
        {
            return None;
        }
        self.nodes.push(outer);
        self.end = end;
        Some(inner)
    }

    /// Replaces all that was taken.
    fn finish(mut self, op_type: &str, inputs: Vec<Operand>, attributes: Attributes) -> Rewrite {
        enclosed(self.graph, &self.nodes, self.end)?;
        let new = self.patch.node(op_type, inputs, attributes);
        self.patch.replace(self.end, new);
        Ok(self.patch)
    }
}

/// A tensor of this shape whose elements are all `value`: as a constant if they are few.
fn spelled(graph: &Graph, patch: &mut Patch, x: ValueId, shape: &[Dim], value: f64) -> Result<Operand, Miss> {
    let sizes: Option<Vec<i64>> = shape.iter().map(Dim::as_fixed).collect();
    let sizes = sizes.ok_or("the size of a scale is not known")?;
    let count = sizes.iter().try_fold(1_i64, |count, &size| count.checked_mul(size)).unwrap_or(i64::MAX);
    let shape: Vec<usize> = sizes.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
    let element = graph.element(x).ok_or("the element type is not known")?;
    if count > SPELLED {
        let one = Tensor::from_f64(element, &[1], &[value]).ok_or("the element type has no numbers")?;
        let sizes = patch.constant(Tensor::vector_i64(&sizes));
        let value = Attributes::from_pairs([("value", std::sync::Arc::new(one).into())]);
        return Ok(patch.node("ConstantOfShape", [sizes], value));
    }
    let values = vec![value; usize::try_from(count).unwrap_or_default()];
    let tensor = Tensor::from_f64(element, &shape, &values).ok_or("the element type has no numbers")?;
    Ok(patch.constant(tensor))
}

/// A value as scale or bias of this shape: it has that shape, or is a constant that has it behind sizes of 1.
fn of_shape(graph: &Graph, patch: &mut Patch, value: ValueId, shape: &[Dim]) -> Option<Operand> {
    let own = graph.shape(value)?;
    if own == shape {
        return Some(value.into());
    }
    let lead = own.len().checked_sub(shape.len())?;
    let (ones, rest) = own.split_at(lead);
    if rest != shape || ones.iter().any(|size| size.as_fixed() != Some(1)) {
        return None;
    }
    let tensor = graph.constant(value)?;
    let reshaped = tensor.reshaped(tensor.shape().get(lead..)?)?;
    Some(patch.constant(reshaped))
}

/// A constant with one element for each of the channels of `x` and sizes of 1 elsewhere, as a vector.
fn of_channels(graph: &Graph, patch: &mut Patch, value: ValueId, x: ValueId) -> Option<Operand> {
    let (shape, tensor) = (graph.shape(x)?, graph.constant(value)?);
    let channels = usize::try_from(shape.get(1)?.as_fixed()?).ok()?;
    let place = (tensor.rank() + 1).checked_sub(shape.len())?;
    let fits = tensor.rank() <= shape.len()
        && tensor
            .shape()
            .iter()
            .enumerate()
            .all(|(axis, &size)| size == if axis == place { channels } else { 1 })
        && place < tensor.rank();
    if fits { Some(patch.constant(tensor.reshaped(&[channels])?)) } else { None }
}

/// Whether axes are all from `first` on.
fn are_last(axes: &[usize], first: usize, rank: usize) -> bool {
    first < rank && axes.iter().copied().eq(first..rank)
}

/// The sizes from the first normalized axis on, and the attribute for that axis, counted from the end.
fn normalized<'g>(graph: &'g Graph, core: &Core) -> Result<(&'g [Dim], i64), Miss> {
    let shape = graph.shape(core.x).ok_or("the shape is not known")?;
    let first = core.axes.first().copied().ok_or("there are no axes")?;
    ensure(are_last(&core.axes, first, shape.len()), "the axes are not the last ones")?;
    let sizes = shape.get(first..).ok_or("the axes are out of range")?;
    Ok((sizes, -(sizes.len() as i64)))
}

fn attributes(axis: i64, epsilon: f64) -> Attributes {
    Attributes::from_pairs([("axis", axis.into()), ("epsilon", (epsilon as f32).into())])
}

/// Whether the statistics, for which the operators know single precision only, lose nothing by that.
fn ensure_precision(graph: &Graph, x: ValueId) -> Result<(), Miss> {
    ensure(graph.element(x) != Some(ElementType::Double), "the operator computes in single precision")
}

fn layer_normalization_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let core = found(core(graph, site.root).filter(|core| core.centered))?;
    let (sizes, axis) = normalized(graph, &core)?;
    let mut affine = Affine::new(graph, core.nodes, site.output()?);
    let x = affine.take_casts(core.x).unwrap_or(core.x);
    ensure_precision(graph, x)?;
    supports(site, "LayerNormalization", x)?;
    let operand = |graph: &Graph, patch: &mut Patch, value| of_shape(graph, patch, value, sizes);
    let scale = affine.take("Mul", operand);
    let bias = affine.take("Add", operand);
    let scale = match scale {
        Some(scale) => scale,
        None => spelled(graph, &mut affine.patch, x, sizes, 1.0)?,
    };
    let inputs = vec![x.into(), scale, bias.unwrap_or(Operand::Absent)];
    affine.finish("LayerNormalization", inputs, attributes(axis, core.epsilon))
}

fn layer_normalization_by_factor_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let Factored { core, scale, bias } = found(factored(graph, site.root))?;
    let (sizes, axis) = normalized(graph, &core)?;
    ensure_precision(graph, core.x)?;
    supports(site, "LayerNormalization", core.x)?;
    let mut all = Affine::new(graph, core.nodes, site.output()?);
    let scale = match scale {
        Some(scale) => of_shape(graph, &mut all.patch, scale, sizes).ok_or("the scale has another shape")?,
        None => spelled(graph, &mut all.patch, core.x, sizes, 1.0)?,
    };
    let bias = match bias {
        Some(bias) => of_shape(graph, &mut all.patch, bias, sizes).ok_or("the bias has another shape")?,
        None => Operand::Absent,
    };
    let inputs = vec![core.x.into(), scale, bias];
    all.finish("LayerNormalization", inputs, attributes(axis, core.epsilon))
}

fn rms_normalization_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let core = found(core(graph, site.root).filter(|core| !core.centered))?;
    let (sizes, axis) = normalized(graph, &core)?;
    let mut affine = Affine::new(graph, core.nodes, site.output()?);
    let x = affine.take_casts(core.x).unwrap_or(core.x);
    ensure_precision(graph, x)?;
    supports(site, "RMSNormalization", x)?;
    let scale = affine.take("Mul", |graph, patch, value| of_shape(graph, patch, value, sizes));
    let scale = match scale {
        Some(scale) => scale,
        None => spelled(graph, &mut affine.patch, x, sizes, 1.0)?,
    };
    affine.finish("RMSNormalization", vec![x.into(), scale], attributes(axis, core.epsilon))
}

fn instance_normalization_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let core = found(core(graph, site.root).filter(|core| core.centered))?;
    let shape = graph.shape(core.x).ok_or("the shape is not known")?;
    found(are_last(&core.axes, 2, shape.len()).then_some(()))?;
    supports(site, "InstanceNormalization", core.x)?;
    let (x, epsilon) = (core.x, core.epsilon);
    let mut affine = Affine::new(graph, core.nodes, site.output()?);
    let operand = |graph: &Graph, patch: &mut Patch, value| of_channels(graph, patch, value, x);
    let scale = affine.take("Mul", operand);
    let bias = affine.take("Add", operand);
    // Without either, of three axes, it is a LayerNormalization rather, if the scale of that can be spelled out.
    let rather = shape.len() == 3 && shape.last().is_some_and(Dim::is_fixed);
    ensure(scale.is_some() || bias.is_some() || !rather, "no scale or bias is by channel")?;
    let channels = shape.get(1..2).unwrap_or_default();
    let mut operand = |operand: Option<Operand>, value| match operand {
        Some(operand) => Ok(operand),
        None => spelled(graph, &mut affine.patch, x, channels, value),
    };
    let inputs = vec![x.into(), operand(scale, 1.0)?, operand(bias, 0.0)?];
    let attributes = Attributes::from_pairs([("epsilon", (epsilon as f32).into())]);
    affine.finish("InstanceNormalization", inputs, attributes)
}

/// What the pattern of a group normalization binds.
struct Parts {
    x: ValueId,
    grouped: ValueId,
    scale: ValueId,
    bias: ValueId,
    epsilon: f32,
    y: ValueId,
}

fn group_normalization_of(site: &Site<'_>, parts: &Parts) -> Rewrite {
    let graph = site.graph;
    let &Parts { x, grouped, scale, bias, epsilon, y } = parts;
    supports(site, "GroupNormalization", x)?;
    let uniform = |value| graph.constant(value).and_then(|tensor| tensor.uniform());
    ensure(uniform(scale) == Some(1.0) && uniform(bias) == Some(0.0), "the groups are scaled")?;
    let (Some(shape), Some(groups)) = (graph.shape(x), graph.shape(grouped)) else {
        return Err("a shape is not known".into());
    };
    ensure(graph.shape(y) == Some(shape), "the shape does not come back")?;
    let (&[ref batch, ref channels, ref rest @ ..], [outer, count, _]) = (shape, groups) else {
        return Err("the axes are not batch, groups and elements".into());
    };
    ensure(!rest.is_empty() && batch == outer, "the batch is taken apart")?;
    let (Some(size), Some(count)) = (channels.as_fixed(), count.as_fixed()) else {
        return Err("the number of channels or groups is not known".into());
    };
    ensure(count > 0 && size % count == 0, "the groups differ in size")?;
    let instance = found(graph.producer_of(y, "Reshape").and_then(|(_, node)| node.input(0)))?;
    let nodes =
        [y, instance, grouped].into_iter().filter_map(|value| Some(graph.producer(value)?.0)).collect();
    let mut affine = Affine::new(graph, nodes, y);
    let operand = |graph: &Graph, patch: &mut Patch, value| of_channels(graph, patch, value, x);
    let scale = affine.take("Mul", operand);
    let bias = affine.take("Add", operand);
    let sizes = std::slice::from_ref(channels);
    let mut operand = |operand: Option<Operand>, value| match operand {
        Some(operand) => Ok(operand),
        None => spelled(graph, &mut affine.patch, x, sizes, value),
    };
    let inputs = vec![x.into(), operand(scale, 1.0)?, operand(bias, 0.0)?];
    let attributes = Attributes::from_pairs([("epsilon", epsilon.into()), ("num_groups", count.into())]);
    affine.finish("GroupNormalization", inputs, attributes)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{NewNode, schema};

    use crate::testing::{Example, Fixture};

    fn mean(f: &mut Fixture, x: ValueId, axes: &[i64]) -> ValueId {
        let operator = schema::lookup("", "ReduceMean", f.graph.opset());
        if operator.is_some_and(|operator| operator.attribute("axes").is_some()) {
            return f.node(NewNode::new("ReduceMean", [x]).with("axes", axes.to_vec()));
        }
        let axes = f.integers(axes);
        f.op("ReduceMean", &[x, axes])
    }
    fn with(f: &mut Fixture, op_type: &str, x: ValueId, c: f64) -> ValueId {
        let c = f.scalar(c);
        f.op(op_type, &[x, c])
    }
    /// √(mean d² + ε).
    fn deviation(f: &mut Fixture, d: ValueId, axes: &[i64], power: bool) -> ValueId {
        let t = if power { with(f, "Pow", d, 2.0) } else { f.op("Mul", &[d, d]) };
        let t = mean(f, t, axes);
        let t = with(f, "Add", t, 1e-5);
        f.op("Sqrt", &[t])
    }
    fn centered(f: &mut Fixture, x: ValueId, axes: &[i64]) -> ValueId {
        let t = mean(f, x, axes);
        f.op("Sub", &[x, t])
    }
    fn affine(f: &mut Fixture, t: ValueId, shape: &[usize]) -> ValueId {
        let (scale, bias) = (f.weights(shape), f.weights(shape));
        let t = f.op("Mul", &[scale, t]);
        f.op("Add", &[t, bias])
    }
    fn example(
        rule: &'static str,
        opset: i64,
        shape: &[i64],
        build: impl Fn(&mut Fixture, ValueId, bool) -> ValueId,
    ) -> Example {
        Example::new(rule, |fires| {
            let mut f = Fixture::new(opset);
            let x = f.input("x", shape);
            let y = build(&mut f, x, fires);
            f.with_output(y)
        })
    }

    vec![
        // As PyTorch exports it; over an axis that is not the last one.
        example("layer_normalization", 17, &[2, 3, 8], |f, x, fires| {
            let axes = [if fires { -1 } else { 1 }];
            let d = centered(f, x, &axes);
            let s = deviation(f, d, &axes, true);
            let t = f.op("Div", &[d, s]);
            affine(f, t, &[8])
        }),
        // Two differences, axes as an operand, two normalized axes; with no equal differences.
        example("layer_normalization", 18, &[2, 3, 4], |f, x, fires| {
            let d = centered(f, x, &[1, 2]);
            let other = centered(f, x, if fires { &[-1, -2] } else { &[-1] });
            let s = deviation(f, other, &[1, 2], false);
            let t = f.op("Div", &[d, s]);
            affine(f, t, &[1, 3, 4])
        }),
        // By the reciprocal, no bias; what is divided is not what was squared.
        example("layer_normalization", 17, &[2, 3, 300], |f, x, fires| {
            let d = centered(f, x, &[-1]);
            let s = deviation(f, d, &[-1], true);
            let t = f.op("Reciprocal", &[s]);
            let t = f.op("Mul", &[t, if fires { d } else { x }]);
            let scale = f.weights(&[300]);
            f.op("Mul", &[t, scale])
        }),
        // More ones than are worth storing; a scale along another axis stays.
        example("layer_normalization", 17, &[2, 3, 300], |f, x, fires| {
            let d = centered(f, x, &[-1]);
            let s = deviation(f, if fires { d } else { x }, &[-1], true);
            let t = f.op("Div", &[d, s]);
            let scale = f.weights(&[3, 1]);
            f.op("Mul", &[t, scale])
        }),
        // By a power, no scale and no bias; the root of the variance leaves the graph.
        example("layer_normalization", 17, &[2, 3, 4], |f, x, fires| {
            let d = centered(f, x, &[-1]);
            let t = f.op("Mul", &[d, d]);
            let t = mean(f, t, &[-1]);
            let t = with(f, "Add", t, 1e-5);
            let s = with(f, "Pow", t, -0.5);
            if !fires {
                f.output("s", s);
            }
            f.op("Mul", &[d, s])
        }),
        // Half precision with statistics in single precision; in double precision.
        Example::new("layer_normalization", |fires| {
            let mut f = Fixture::new(17);
            let element = if fires { ElementType::Float16 } else { ElementType::Double };
            let x = f.typed_input("x", element, [2, 4].map(Dim::fixed));
            let to = |f: &mut Fixture, x, element: ElementType| {
                f.node(NewNode::new("Cast", [x]).with("to", i64::from(element.code())))
            };
            let wide = if fires { to(&mut f, x, ElementType::Float) } else { x };
            let d = centered(&mut f, wide, &[-1]);
            let t = f.op("Mul", &[d, d]);
            let t = mean(&mut f, t, &[-1]);
            let wide = if fires { ElementType::Float } else { element };
            let epsilon = f.graph.add_constant(Tensor::scalar(wide, 1e-5).unwrap_or(Tensor::vector_i64(&[])));
            let t = f.op("Add", &[t, epsilon]);
            let t = f.op("Sqrt", &[t]);
            let t = f.op("Div", &[d, t]);
            let y = if fires { to(&mut f, t, element) } else { t };
            f.with_output(y)
        }),
        // The mean of another axis is no mean of this one.
        example("layer_normalization_by_factor", 17, &[2, 8, 8], |f, x, fires| {
            let m = mean(f, x, &[-1]);
            let d = f.op("Sub", &[x, m]);
            let s = deviation(f, d, &[-1], false);
            let t = f.op("Reciprocal", &[s]);
            let (scale, bias) = (f.weights(&[8]), f.weights(&[8]));
            let factor = f.op("Mul", &[t, scale]);
            let m = if fires { m } else { mean(f, x, &[1]) };
            let shift = f.op("Mul", &[m, factor]);
            let shift = f.op("Sub", &[bias, shift]);
            let t = f.op("Mul", &[x, factor]);
            f.op("Add", &[shift, t])
        }),
        // Without scale and bias; another value is scaled.
        example("layer_normalization_by_factor", 17, &[2, 8], |f, x, fires| {
            let m = mean(f, x, &[-1]);
            let d = f.op("Sub", &[x, m]);
            let s = deviation(f, d, &[-1], true);
            let factor = f.op("Reciprocal", &[s]);
            let shift = f.op("Mul", &[factor, m]);
            let other = if fires { x } else { f.op("Abs", &[x]) };
            let t = f.op("Mul", &[other, factor]);
            f.op("Sub", &[t, shift])
        }),
        // By channels of unknown length, where a LayerNormalization has no scale to be spelled out.
        Example::new("instance_normalization", |fires| {
            let mut f = Fixture::new(17);
            let x = f.symbolic_input("x", &["2", "3", if fires { "length" } else { "4" }]);
            let d = centered(&mut f, x, &[-1]);
            let s = deviation(&mut f, d, &[-1], true);
            let y = f.op("Div", &[d, s]);
            f.with_output(y)
        }),
        example("rms_normalization", 23, &[2, 3, 8], |f, x, fires| {
            let s = deviation(f, x, &[-1], true);
            let t = f.op("Reciprocal", &[s]);
            let t = f.op("Mul", &[x, t]);
            let scale = if fires { f.weights(&[8]) } else { f.weights(&[2, 3, 8]) };
            let t = f.op("Mul", &[scale, t]);
            if !fires {
                f.output("s", s);
            }
            t
        }),
        // That of a difference with the mean is a LayerNormalization.
        example("rms_normalization", 23, &[2, 3, 8], |f, x, fires| {
            let d = if fires { with(f, "Sub", x, 0.5) } else { centered(f, x, &[-1]) };
            let s = deviation(f, d, &[-1], false);
            f.op("Div", &[d, s])
        }),
        example("instance_normalization", 13, &[2, 3, 4, 5], |f, x, fires| {
            let axes: &[i64] = if fires { &[2, 3] } else { &[1, 2, 3] };
            let d = centered(f, x, axes);
            let s = deviation(f, d, axes, true);
            let t = f.op("Div", &[d, s]);
            affine(f, t, &[3, 1, 1])
        }),
        example("instance_normalization", 18, &[2, 3, 8], |f, x, fires| {
            let d = centered(f, x, &[-1]);
            let s = deviation(f, d, &[-1], true);
            let t = f.op("Div", &[d, s]);
            affine(f, t, if fires { &[1, 3, 1] } else { &[8] })
        }),
        example("group_normalization", 21, &[2, 6, 4, 5], |f, x, fires| {
            let (to, back) = (f.integers(&[0, 3, -1]), f.integers(&[2, 6, 4, 5]));
            let t = f.op("Reshape", &[x, to]);
            let ones = f.floats(&[3], &[1.0, 1.0, if fires { 1.0 } else { 2.0 }]);
            let zeros = f.floats(&[3], &[0.0; 3]);
            let t = f.op("InstanceNormalization", &[t, ones, zeros]);
            let t = f.op("Reshape", &[t, back]);
            affine(f, t, &[6, 1, 1])
        }),
    ]
}
