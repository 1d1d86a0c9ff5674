//! Operators with bodies. [`formals`] tells a body what its formal inputs are before it is inferred, the rules tell
//! what leaves it.

use std::collections::BTreeSet;

use super::join::{collect_symbols, escape, join, member, outline};
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::attributes::AttributeValue;
use crate::dim::{Dim, Symbol};
use crate::graph::{Graph, Node, ValueId};
use crate::types::{ElementType, Shape, Type};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "If" => branch,
        "Loop" => repeat,
        "Scan" => scan,
        "SequenceMap" => sequence_map,
        _ => return None,
    })
}

/// What is known of the formal inputs of the bodies of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Formals {
    /// Their types at the first iteration, in order.
    pub types: Vec<Option<Type>>,
    /// Formal inputs that carry a state, with the formal output that gives its next value.
    pub states: Vec<(usize, usize)>,
}

/// The formal inputs of the bodies of `node`.
pub(super) fn formals(graph: &Graph, node: &Node) -> Formals {
    let ty = |index: usize| node.input(index).and_then(|value| graph.ty(value));
    let count = node.inputs().len();
    match node.op_type() {
        "Loop" if node.is("Loop") => {
            let mut types =
                vec![Some(Type::tensor(ElementType::Int64, [])), Some(Type::tensor(ElementType::Bool, []))];
            types.extend((2..count).map(|index| ty(index).cloned()));
            Formals { types, states: (2..count).map(|index| (index, index - 1)).collect() }
        }
        "Scan" if node.is("Scan") => {
            let Some(layout) = ScanLayout::new(node) else { return Formals::default() };
            let state = |index: usize| without_axes(ty(index + layout.first)?, 0, layout.batch_axes);
            let slice = |index: usize| {
                let ty = ty(layout.first + layout.states + index)?;
                let axis = layout.axis(node, "scan_input_axes", index, ty.shape()?.len())?;
                without_axes(&without_axes(ty, axis, 1)?, 0, layout.batch_axes)
            };
            let slices = count.saturating_sub(layout.first + layout.states);
            let types = (0..layout.states).map(state).chain((0..slices).map(slice)).collect();
            Formals { types, states: (0..layout.states).map(|index| (index, index)).collect() }
        }
        "SequenceMap" if node.is("SequenceMap") => {
            let formal = |index: usize| match ty(index)? {
                Type::Sequence(inner) => Some(member(graph.context(), inner.as_deref()?)),
                ty => Some(ty.clone()),
            };
            Formals { types: (0..count).map(formal).collect(), states: Vec::new() }
        }
        _ => Formals::default(),
    }
}

/// A tensor without `count` axes from `axis` on.
fn without_axes(ty: &Type, axis: usize, count: usize) -> Option<Type> {
    let mut shape = Shape::from(ty.shape()?);
    if axis.checked_add(count)? > shape.len() {
        return None;
    }
    shape.drain(axis..axis + count);
    Some(Type::tensor(ty.element()?, shape))
}

fn body<'a>(node: &'a Node, name: &str) -> Option<&'a Graph> {
    match node.attributes().get(name)? {
        AttributeValue::Graph(body) => Some(body),
        _ => None,
    }
}

fn result(body: &Graph, index: usize) -> Option<ValueId> {
    body.outputs().get(index).map(|output| output.value)
}

/// One of two branches runs; a constant condition tells which.
fn branch(cx: &Inference<'_>) -> Answer {
    let (Some(then), Some(other)) = (body(cx.node(), "then_branch"), body(cx.node(), "else_branch")) else {
        return cx.unknown();
    };
    let fact = |body: &Graph, index: usize| match result(body, index) {
        Some(value) => Fact { ty: body.ty(value).cloned(), elements: body.elements(value).map(Into::into) },
        None => Fact::unknown(),
    };
    let condition = cx.constant(0).and_then(|condition| condition.single_i64());
    let joined = |index: usize| {
        let (a, b) = (fact(then, index), fact(other, index));
        match condition {
            Some(0) => return b,
            Some(_) => return a,
            None => {}
        }
        let ty = match (&a.ty, &b.ty) {
            (Some(a), Some(b)) => join(cx.graph().context(), a, b),
            _ => None,
        };
        Fact { ty, elements: a.elements.filter(|elements| b.elements.as_ref() == Some(elements)) }
    };
    Ok((0..cx.output_count()).map(joined).collect())
}

/// A state has its first type if the body never runs, else the one that the body gives it. An optional may become
/// what it holds.
fn state(cx: &Inference<'_>, first: Option<&Type>, next: Option<&Type>) -> Fact {
    let ty = match (first, next) {
        (Some(first), Some(next)) => join(cx.graph().context(), first, next),
        (Some(Type::Optional(_)), None) => None,
        (first, next) => first.or(next).map(outline),
    };
    Fact { ty, elements: None }
}

/// Symbols that mean the same in each iteration.
fn outer_symbols(cx: &Inference<'_>) -> BTreeSet<Symbol> {
    let mut symbols = BTreeSet::new();
    for value in cx.node().operands() {
        if let Some(ty) = cx.graph().ty(value) {
            collect_symbols(ty, &mut symbols);
        }
        if let Some(elements) = cx.graph().get_value(value).and_then(|value| value.elements()) {
            symbols.extend(elements.iter().flat_map(Dim::symbols));
        }
    }
    symbols
}

/// The results of all iterations of one output of a body, stacked along a new axis.
fn stacked(
    cx: &Inference<'_>,
    ty: Option<&Type>,
    outer: &BTreeSet<Symbol>,
    length: &Dim,
    place: impl Fn(usize) -> Option<usize>,
) -> Option<Type> {
    let ty = escape(cx.graph().context(), ty?, outer);
    let element = ty.element()?;
    let Some(shape) = ty.shape() else { return Some(Type::unranked(element)) };
    let mut shape = Shape::from(shape);
    let Some(axis) = place(shape.len() + 1).filter(|&axis| axis <= shape.len()) else {
        return Some(Type::unranked(element));
    };
    shape.insert(axis, length.clone());
    Some(Type::tensor(element, shape))
}

fn repeat(cx: &Inference<'_>) -> Answer {
    let Some(body) = body(cx.node(), "body") else { return cx.unknown() };
    let states = cx.input_count().saturating_sub(2);
    let outer = outer_symbols(cx);
    let length = trip_count(cx, body).unwrap_or_else(|| cx.fresh());
    let ty = |index: usize| result(body, index).and_then(|value| body.ty(value));
    let fact = |index: usize| {
        let next = ty(index + 1);
        if index < states {
            let escaped = next.map(|next| escape(cx.graph().context(), next, &outer));
            return state(cx, cx.ty(index + 2), escaped.as_ref());
        }
        Fact { ty: stacked(cx, next, &outer, &length, |_| Some(0)), elements: None }
    };
    Ok((0..cx.output_count()).map(fact).collect())
}

/// How often a loop runs that no condition ends early.
fn trip_count(cx: &Inference<'_>, body: &Graph) -> Option<Dim> {
    let always = |graph: &Graph, value: ValueId| {
        graph.constant(value).and_then(|condition| condition.single_i64()).is_some_and(|value| value != 0)
    };
    if cx.input(1).is_some_and(|value| !always(cx.graph(), value)) {
        return None;
    }
    let mut next = result(body, 0)?;
    while let Some((_, node)) = body.producer_of(next, "Identity") {
        next = node.input(0)?;
    }
    if body.inputs().get(1).map(|input| input.value) != Some(next) && !always(body, next) {
        return None;
    }
    let count = cx.elements(0)?;
    match &count[..] {
        [count] => Some(count.max(&Dim::fixed(0))),
        _ => None,
    }
}

/// How the operands of a `Scan` are laid out. Version 8 has a batch axis in front and an operand of lengths.
struct ScanLayout {
    /// The first operand that is a state.
    first: usize,
    /// Number of states.
    states: usize,
    /// Axes that the body does not see: 1 in version 8.
    batch_axes: usize,
}

impl ScanLayout {
    fn new(node: &Node) -> Option<Self> {
        let scanned = usize::try_from(node.int("num_scan_inputs")?).ok()?;
        let batch_axes = usize::from(node.operator()?.since_version < 9);
        let states = node.inputs().len().checked_sub(batch_axes)?.checked_sub(scanned)?;
        Some(Self { first: batch_axes, states, batch_axes })
    }

    /// The axis along which operand or result `index` is scanned, in a tensor of `rank`.
    fn axis(&self, node: &Node, attribute: &str, index: usize, rank: usize) -> Option<usize> {
        if self.batch_axes > 0 {
            return Some(1);
        }
        let axis = node.ints(attribute).and_then(|axes| axes.get(index)).copied().unwrap_or(0);
        let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    }
}

fn scan(cx: &Inference<'_>) -> Answer {
    let (Some(body), Some(layout)) = (body(cx.node(), "body"), ScanLayout::new(cx.node())) else {
        return cx.unknown();
    };
    let outer = outer_symbols(cx);
    let scanned = layout.first + layout.states..cx.input_count();
    let sizes = scanned.enumerate().filter_map(|(index, operand)| {
        let shape = cx.shape(operand)?;
        shape.get(layout.axis(cx.node(), "scan_input_axes", index, shape.len())?)
    });
    let length = sizes.min_by_key(|size| !size.is_fixed()).cloned().unwrap_or_else(|| cx.fresh());
    let batch = (layout.first..cx.input_count()).find_map(|operand| cx.shape(operand)?.first());
    let with_batch = |ty: Type| match (layout.batch_axes, batch, ty.element(), ty.shape()) {
        (0, ..) => ty,
        (_, Some(batch), Some(element), Some(shape)) => {
            Type::tensor(element, [batch].into_iter().chain(shape).cloned())
        }
        (_, _, Some(element), _) => Type::unranked(element),
        _ => ty,
    };
    let fact = |index: usize| {
        let next = result(body, index).and_then(|value| body.ty(value));
        if let Some(output) = index.checked_sub(layout.states) {
            let place = |rank: usize| match layout.batch_axes {
                0 => layout.axis(cx.node(), "scan_output_axes", output, rank),
                _ => Some(0),
            };
            return Fact { ty: stacked(cx, next, &outer, &length, place).map(with_batch), elements: None };
        }
        let next = next.map(|next| with_batch(escape(cx.graph().context(), next, &outer)));
        state(cx, cx.ty(layout.first + index), next.as_ref())
    };
    Ok((0..cx.output_count()).map(fact).collect())
}

fn sequence_map(cx: &Inference<'_>) -> Answer {
    let Some(body) = body(cx.node(), "body") else { return cx.unknown() };
    let outer = outer_symbols(cx);
    let fact = |index: usize| {
        let ty = result(body, index).and_then(|value| body.ty(value));
        let member = ty.map(|ty| Box::new(escape(cx.graph().context(), ty, &outer)));
        Fact::from(Type::Sequence(member))
    };
    Ok((0..cx.output_count()).map(fact).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::{Context, NewNode};
    use crate::tensor::Tensor;

    fn float(shape: &str) -> Type {
        Type::tensor(ElementType::Float, crate::infer::testing::dims(shape))
    }

    /// A body that gives its formal inputs to `build`, which tells the outputs.
    fn body(
        context: &Context,
        formals: usize,
        build: impl Fn(&mut Graph, &[ValueId]) -> Vec<ValueId>,
    ) -> Graph {
        let mut body = Graph::new(context.clone());
        // The declared size is wrong on purpose.
        let inputs: Vec<ValueId> =
            (0..formals).map(|index| body.add_input(&format!("in{index}"), float("7"))).collect();
        for (index, output) in build(&mut body, &inputs).into_iter().enumerate() {
            body.add_output(&format!("out{index}"), output).unwrap();
        }
        body
    }

    fn apply(graph: &mut Graph, op_type: &str, operands: &[ValueId]) -> ValueId {
        let node = graph.add_node(NewNode::new(op_type, operands.iter().copied())).unwrap();
        graph.node(node).output(0).unwrap()
    }

    fn results(graph: &mut Graph, new: NewNode, outputs: usize) -> Vec<String> {
        let node = graph.add_node(NewNode { outputs, ..new }).unwrap();
        let outputs = graph.node(node).outputs().to_vec();
        outputs.iter().flatten().map(|&id| graph.ty(id).map_or("?".into(), Type::to_string)).collect()
    }

    #[test]
    fn branches_join() {
        let context = Context::with_opset(21);
        let constant = |shape: &[usize]| {
            let tensor = Tensor::from_f32(shape, &vec![0.0; shape.iter().product()]).unwrap();
            body(&context, 0, move |body, _| vec![body.add_constant(tensor.clone())])
        };
        let mut graph = Graph::new(context.clone());
        let condition = graph.add_input("condition", Type::tensor(ElementType::Bool, []));
        let always = graph.add_constant(Tensor::from_integers(ElementType::Bool, &[], &[1]).unwrap());
        let joined = |graph: &mut Graph, condition, other: &[usize]| {
            let new = NewNode::new("If", [condition])
                .with("then_branch", constant(&[2, 3]))
                .with("else_branch", constant(other));
            results(graph, new, 1).remove(0)
        };
        assert_eq!(joined(&mut graph, condition, &[2, 3]), "float[2, 3]");
        assert_eq!(joined(&mut graph, condition, &[3]), "float[...]");
        assert_eq!(joined(&mut graph, always, &[3]), "float[2, 3]");
        let partly = joined(&mut graph, condition, &[2, 1]);
        assert!(partly.starts_with("float[2, ?"), "{partly}");
    }

    /// One state keeps its size, one gets another from the first each time, and one grows in rank.
    #[test]
    fn loop_states_settle() {
        let context = Context::with_opset(21);
        let body = body(&context, 5, |body, formals| {
            let kept = apply(body, "Relu", &formals[2..3]);
            let changed = apply(body, "MatMul", &[formals[3], formals[2]]);
            let axes = body.add_constant(Tensor::vector_i64(&[0]));
            let grown = apply(body, "ReduceSum", &[formals[4], axes]);
            vec![formals[1], kept, changed, grown, kept, changed]
        });
        let mut graph = Graph::new(context);
        let count = graph.add_constant(Tensor::from_i64(&[], &[5]).unwrap());
        let always = graph.add_constant(Tensor::from_integers(ElementType::Bool, &[], &[1]).unwrap());
        let kept = graph.add_input("kept", float("K K"));
        let changed = graph.add_input("changed", float("N K"));
        let reduced = graph.add_input("reduced", float("3 N"));
        let new = NewNode::new("Loop", [count, always, kept, changed, reduced]).with("body", body);
        let types = results(&mut graph, new, 5);
        assert_eq!(types[..2], ["float[K, K]", "float[N, K]"]);
        assert!(types[2].starts_with("float[?") && types[2].ends_with(", N]"), "{}", types[2]);
        assert_eq!(types[3..], ["float[5, K, K]", "float[5, N, K]"]);
    }

    #[test]
    fn scan_slices_and_stacks() {
        let context = Context::with_opset(21);
        let body = body(&context, 2, |body, formals| {
            let sum = apply(body, "Add", formals);
            vec![sum, sum]
        });
        let mut graph = Graph::new(context);
        let state = graph.add_input("state", float("F"));
        let scanned = graph.add_input("scanned", float("F T"));
        let new = NewNode::new("Scan", [state, scanned])
            .with("body", body)
            .with("num_scan_inputs", 1)
            .with("scan_input_axes", vec![-1])
            .with("scan_output_axes", vec![1]);
        assert_eq!(results(&mut graph, new, 2), ["float[F]", "float[F, T]"]);
    }

    #[test]
    fn refining_an_input_reaches_all() {
        let mut graph = Graph::new(Context::with_opset(21));
        let a = graph.add_input("a", float("N 4"));
        let b = graph.add_input("b", float("4 N"));
        let product = apply(&mut graph, "MatMul", &[a, b]);
        assert_eq!(graph.ty(product).unwrap().to_string(), "float[N, N]");
        assert!(graph.set_input_type(0, float("2 4")).unwrap().is_empty());
        assert_eq!(graph.ty(product).unwrap().to_string(), "float[2, 2]");
        assert_eq!(graph.ty(b).unwrap().to_string(), "float[4, 2]");
        assert!(graph.set_input_type(0, float("2 5")).is_err());
        assert!(graph.set_input_type(2, float("2 5")).is_err());
    }
}
