//! Constant folding: what depends on constants alone is computed once, as long as the file does not grow by it.
//!
//! Sizes are known from inference before anything runs, so that a node that asks for terabytes is declined by looking
//! at it. Nodes are tried from the last one back: a chain whose middle is large folds as a whole when its end is small.

use std::sync::Arc;

use onnx_opt_ir::engine::ConstEval;
use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::tensor::element_count;
use onnx_opt_ir::{ElementType, Graph, Node, NodeId, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::evaluate::BuiltIn;
use crate::pass::{FoldBudget, Pass, PassContext, for_each_graph};
use crate::rewrite::{ErrorClass, Statistics};

/// Computes nodes whose operands are all constants.
pub struct FoldConstants {
    /// How results may differ from those of the runtime: another engine may round otherwise.
    pub class: ErrorClass,
}

/// Bytes that a node takes in a file beside its attributes, and a constant beside its elements. Names are left out of
/// account, since they change from run to run.
const NODE_BYTES: usize = 40;
const CONSTANT_BYTES: usize = 24;

/// A fold is followed so far upstream to see what it frees.
const MAX_FREED: usize = 1000;

/// Quantized tensors stay quantized, and float tensors keep the pairs that mark them as quantized. What iterates over
/// a sequence adds up differences of rounding.
const KEPT: &[&str] =
    &["Attention", "DequantizeLinear", "DynamicQuantizeLinear", "GRU", "LSTM", "QuantizeLinear", "RNN"];

/// Operators on floats that every engine must compute alike.
const EXACT: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "ArgMin",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Compress",
    "Concat",
    "ConstantOfShape",
    "DepthToSpace",
    "Div",
    "Equal",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Mul",
    "Neg",
    "NonZero",
    "OneHot",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    "Relu",
    "Reshape",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sign",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
];

/// Operators whose results have sizes that only a run tells, though never many times those of their operands.
const UNSIZED: &[&str] = &["Compress", "NonZero", "Unique"];

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn doc(&self) -> &'static str {
        "Computes what depends on constants alone, where the file does not grow by it"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>, statistics: &mut Statistics) {
        let mut budget = context.fold;
        for_each_graph(graph, &mut |graph| {
            let constant = constant_nodes(graph, self.class);
            if constant.is_empty() {
                return;
            }
            let mut folder = Folder {
                places: constant.iter().enumerate().map(|(place, &node)| (node, place)).collect(),
                graph,
                engine: context.const_eval,
                budget: &mut budget,
                computed: FxHashMap::default(),
                failed: FxHashSet::default(),
            };
            let folded = folder.fold_all(&constant);
            if folded > 0 {
                *statistics.fired.entry("fold_constants").or_default() += folded;
            }
        });
    }
}

/// The nodes that depend on constants alone and may be folded, in topological order.
fn constant_nodes(graph: &Graph, class: ErrorClass) -> Vec<NodeId> {
    let Ok(order) = graph.topological_order() else { return Vec::new() };
    let mut constant: FxHashSet<NodeId> = FxHashSet::default();
    let depends_on_constants = |value: ValueId, constant: &FxHashSet<NodeId>| match graph.producer(value) {
        Some((producer, ..)) => constant.contains(&producer),
        None => graph.constant(value).is_some(),
    };
    order
        .into_iter()
        .filter(|&id| {
            let node = graph.node(id);
            let folds = is_foldable(graph, node, class)
                && node.operands().all(|value| depends_on_constants(value, &constant));
            if folds {
                constant.insert(id);
            }
            folds
        })
        .collect()
}

/// Whether a node may be folded once its operands are constants.
fn is_foldable(graph: &Graph, node: &Node, class: ErrorClass) -> bool {
    let op_type = node.op_type();
    if !node.is(op_type) || node.inputs().is_empty() || node.is_random() || node.bodies().next().is_some() {
        return false;
    }
    let element = |value: ValueId| graph.element(value);
    let results: Option<Vec<ElementType>> =
        node.outputs().iter().flatten().map(|&value| element(value)).collect();
    // What is no dense tensor, as a sequence, has no element type.
    let Some(elements) = results else { return false };
    let mut elements = elements.into_iter().chain(node.operands().filter_map(element));
    // Engines differ in how they compute with half precision.
    let rounds = elements.any(|element| {
        let float = element.is_float() || element.is_complex();
        float && (class == ErrorClass::Exact || element.bits() < 32)
    });
    !KEPT.contains(&op_type) && (!rounds || EXACT.contains(&op_type))
}

struct Folder<'a, 'b> {
    graph: &'a mut Graph,
    /// Places of the constant nodes in topological order.
    places: FxHashMap<NodeId, usize>,
    engine: Option<&'b dyn ConstEval>,
    budget: &'a mut FoldBudget,
    /// Results of nodes that stay for now, since others were folded through them.
    computed: FxHashMap<ValueId, Arc<Tensor>>,
    /// Nodes that no evaluator can run.
    failed: FxHashSet<NodeId>,
}

impl Folder<'_, '_> {
    /// Folds what it may of these nodes and tells how many folds that were.
    fn fold_all(&mut self, constant: &[NodeId]) -> usize {
        let mut folded = constant.iter().rev().filter(|&&node| self.fold(&[node])).count();
        // A constant with several users dies only with all of them.
        let shared: Vec<ValueId> = self.graph.values().map(|(id, _)| id).collect();
        for value in shared {
            if self.graph.use_count(value) < 2 || self.graph.constant(value).is_none() {
                continue;
            }
            let mut users: Vec<NodeId> = self.graph.consumers(value).map(|consumer| consumer.node).collect();
            users.dedup();
            if users.len() > 1 && users.iter().all(|user| self.places.contains_key(user)) {
                folded += usize::from(self.fold(&users));
            }
        }
        folded
    }

    /// Replaces the results of these nodes by constants, all or none.
    fn fold(&mut self, targets: &[NodeId]) -> bool {
        let mut results: Vec<ValueId> = Vec::new();
        for &target in targets {
            let Some(node) = self.graph.get_node(target) else { return false };
            results.extend(node.outputs().iter().flatten().filter(|&&value| self.graph.use_count(value) > 0));
        }
        if results.is_empty() || results.iter().any(|&value| self.graph.is_pinned(value)) {
            return false;
        }
        let room = self.room(targets);
        let fits = |bytes: Option<usize>| bytes.is_some_and(|bytes| bytes <= room);
        if !fits(results.iter().try_fold(0, |sum, &value| self.predicted_cost(value, sum))) {
            return false;
        }
        let Some(tensors) = self.evaluate(targets, &results) else { return false };
        if !fits(tensors.iter().try_fold(0usize, |sum, tensor| sum.checked_add(cost(tensor)))) {
            return false;
        }
        let folded = self.replace(&results, tensors);
        self.graph.remove_dead(targets.iter().copied(), |_, _| {});
        self.computed.retain(|&value, _| self.graph.get_value(value).is_some());
        folded
    }

    /// Bytes that the results of these nodes may take.
    fn room(&self, targets: &[NodeId]) -> usize {
        freed(self.graph, targets).saturating_add(self.budget.growth)
    }

    /// `sum` and the bytes of the constant that a value would be.
    fn predicted_cost(&self, value: ValueId, sum: usize) -> Option<usize> {
        match predicted_bytes(self.graph, value) {
            Some(bytes) => sum.checked_add(bytes)?.checked_add(CONSTANT_BYTES),
            None => self.is_unsized(value).then_some(sum),
        }
    }

    fn is_unsized(&self, value: ValueId) -> bool {
        let producer = self.graph.producer(value);
        producer.is_some_and(|(_, node, _)| UNSIZED.contains(&node.op_type()))
    }

    fn replace(&mut self, results: &[ValueId], tensors: Vec<Arc<Tensor>>) -> bool {
        let constants: Vec<ValueId> =
            tensors.into_iter().map(|tensor| self.graph.add_constant(tensor)).collect();
        let pairs = || results.iter().copied().zip(constants.iter().copied());
        let accepted = pairs().all(|(old, new)| self.graph.check_replacement(old, new).is_ok());
        if accepted {
            for (old, new) in pairs() {
                let replaced = self.graph.replace_all_uses(old, new);
                debug_assert!(replaced.is_ok(), "the replacement was checked");
            }
        }
        for constant in constants {
            self.graph.remove_unused_constant(constant);
        }
        accepted
    }

    /// The tensors of these values, which `targets` give: runs whatever constant nodes lead there.
    fn evaluate(&mut self, targets: &[NodeId], results: &[ValueId]) -> Option<Vec<Arc<Tensor>>> {
        let mut needed: Vec<NodeId> = targets.to_vec();
        let mut seen: FxHashSet<NodeId> = needed.iter().copied().collect();
        let mut next = 0;
        while let Some(&node) = needed.get(next) {
            next += 1;
            if self.failed.contains(&node) {
                return None;
            }
            for operand in self.graph.node(node).operands() {
                if !self.computed.contains_key(&operand)
                    && let Some((producer, ..)) = self.graph.producer(operand)
                    && seen.insert(producer)
                {
                    needed.push(producer);
                }
            }
        }
        needed.sort_unstable_by_key(|node| self.places.get(node));
        for node in needed {
            if self.run(node).is_none() {
                self.failed.insert(node);
                return None;
            }
        }
        results.iter().map(|value| self.computed.get(value).cloned()).collect()
    }

    /// Runs one node whose operands are known, within the budget.
    fn run(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id);
        let tensor =
            |value: ValueId| self.graph.constant(value).or_else(|| self.computed.get(&value)).cloned();
        let inputs: Vec<Option<Arc<Tensor>>> = node
            .inputs()
            .iter()
            .map(|input| match input {
                Some(value) => tensor(*value).map(Some),
                None => Some(None),
            })
            .collect::<Option<_>>()?;
        let mut bytes = 0usize;
        for &value in node.outputs().iter().flatten() {
            bytes = match predicted_bytes(self.graph, value) {
                Some(predicted) => bytes.checked_add(predicted)?,
                None if self.is_unsized(value) => bytes,
                None => return None,
            };
        }
        let operations = operations(self.graph, node, &inputs)?;
        let left = (self.budget.bytes.checked_sub(bytes)?, self.budget.operations.checked_sub(operations)?);
        (self.budget.bytes, self.budget.operations) = left;

        let evaluate = |engine: &dyn ConstEval| engine.evaluate(self.graph.context(), node, &inputs).ok();
        let outputs = evaluate(&BuiltIn).or_else(|| evaluate(self.engine?))?;
        let mut tensors = Vec::with_capacity(outputs.len());
        for (index, value) in node.outputs().iter().enumerate() {
            let Some(value) = *value else { continue };
            let tensor = outputs.get(index)?.clone()?;
            let known = self.graph.ty(value)?;
            if self.graph.element(value) != Some(tensor.element()) || known.contradicts(&tensor.ty()) {
                return None;
            }
            tensors.push((value, Arc::new(tensor)));
        }
        self.computed.extend(tensors);
        Some(())
    }
}

/// Bytes of the elements of a value, if all its sizes are known.
fn predicted_bytes(graph: &Graph, value: ValueId) -> Option<usize> {
    let shape: Option<Vec<usize>> =
        graph.fixed_shape(value)?.into_iter().map(|size| usize::try_from(size).ok()).collect();
    let count = element_count(&shape?)?;
    match graph.element(value)? {
        // Each string has a length in front of it.
        ElementType::String => count.checked_mul(2),
        element => element.raw_len(count),
    }
}

fn cost(tensor: &Arc<Tensor>) -> usize {
    tensor.file_len().saturating_add(CONSTANT_BYTES)
}

/// The bytes that leave the file with these nodes: theirs, and those of all nodes and constants that only they use.
fn freed(graph: &Graph, targets: &[NodeId]) -> usize {
    let mut dying: Vec<NodeId> = targets.to_vec();
    let mut known: FxHashSet<NodeId> = dying.iter().copied().collect();
    let mut lost: FxHashMap<ValueId, usize> = FxHashMap::default();
    let mut bytes = 0usize;
    let mut next = 0;
    while let Some(&node) = dying.get(next).filter(|_| next < MAX_FREED) {
        next += 1;
        bytes = bytes.saturating_add(NODE_BYTES);
        for operand in graph.node(node).operands() {
            *lost.entry(operand).or_default() += 1;
            let is_lost = |value: ValueId| {
                graph.use_count(value) == lost.get(&value).copied().unwrap_or(0) && !graph.is_pinned(value)
            };
            if !is_lost(operand) {
                continue;
            }
            match graph.value(operand).producer() {
                Producer::Constant(constant)
                    if !graph.inputs().iter().any(|input| input.value == operand) =>
                {
                    bytes = bytes.saturating_add(cost(&constant.tensor));
                }
                Producer::Node { node, .. }
                    if graph.node(*node).outputs().iter().flatten().all(|&value| is_lost(value))
                        && known.insert(*node) =>
                {
                    dying.push(*node);
                }
                _ => {}
            }
        }
    }
    bytes
}

/// About how many operations on elements a node takes.
fn operations(graph: &Graph, node: &Node, inputs: &[Option<Arc<Tensor>>]) -> Option<u64> {
    let operand = |index: usize| inputs.get(index).and_then(Option::as_deref);
    let length = |index: usize| operand(index).map_or(0, Tensor::len) as u64;
    let results = node
        .outputs()
        .iter()
        .flatten()
        .filter_map(|&value| predicted_bytes(graph, value))
        .fold(0u64, |sum, bytes| sum.saturating_add(bytes as u64));
    let touched = (0..inputs.len()).fold(results, |sum, index| sum.saturating_add(length(index)));
    let of_products = match node.op_type() {
        "MatMul" | "MatMulInteger" => {
            results.checked_mul(operand(0)?.shape().last().copied().unwrap_or(1) as u64)?
        }
        "Gemm" => results.checked_mul(operand(0)?.shape().iter().copied().max()? as u64)?,
        "Conv" | "ConvInteger" => {
            let channels = operand(1)?.shape().first().copied()?.max(1) as u64;
            results.checked_mul(length(1) / channels)?
        }
        "Attention" | "ConvTranspose" | "DFT" | "DeformConv" | "Det" | "Einsum" | "GRU" | "LSTM"
        | "QLinearConv" | "QLinearMatMul" | "RNN" | "STFT" => length(0).checked_mul(length(1).max(1))?,
        _ => 0,
    };
    Some(touched.saturating_add(of_products))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::engine::EngineError;
    use onnx_opt_ir::{Attributes, Context, NewNode, check_graph};

    use super::*;
    use crate::testing::Fixture;

    fn fold(f: &mut Fixture) -> Vec<String> {
        fold_with(f, ErrorClass::Rounding, &PassContext::default())
    }

    fn fold_with(f: &mut Fixture, class: ErrorClass, context: &PassContext<'_>) -> Vec<String> {
        FoldConstants { class }.run(&mut f.graph, context, &mut Statistics::default());
        check_graph(&f.graph).unwrap();
        f.operators()
    }

    /// With `y = x + value`.
    fn added(f: &mut Fixture, value: ValueId) {
        let x = f.input("x", &[1]);
        let y = f.op("Add", &[x, value]);
        f.output("y", y);
    }

    /// The constant that the remaining `Add` adds.
    fn addend(f: &Fixture) -> Arc<Tensor> {
        let (_, node) = f.graph.nodes().find(|(_, node)| node.is("Add")).unwrap();
        f.graph.constant(node.input(1).unwrap()).unwrap().clone()
    }

    fn turned(f: &mut Fixture, value: ValueId) -> ValueId {
        f.op("Transpose", &[value])
    }

    #[test]
    fn a_chain_folds() {
        let mut f = Fixture::new(17);
        let weight = f.floats(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, -0.0]);
        let turned = turned(&mut f, weight);
        let negated = f.op("Neg", &[turned]);
        added(&mut f, negated);
        assert_eq!(fold(&mut f), ["Add"]);
        assert_eq!(*addend(&f), Tensor::from_f32(&[3, 2], &[-0.0, -3.0, -1.0, -4.0, -2.0, 0.0]).unwrap());
        assert_eq!(f.graph.values().filter(|(id, _)| f.graph.constant(*id).is_some()).count(), 1);
    }

    #[test]
    fn what_a_caller_gives_stays() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[2, 3]);
        let y = turned(&mut f, x);
        f.output("y", y);
        assert_eq!(fold(&mut f), ["Transpose"]);
    }

    #[test]
    fn a_large_middle_folds_with_its_small_end() {
        let mut f = Fixture::new(17);
        let (one, shape) = (f.floats(&[1], &[3.0]), f.integers(&[1 << 14]));
        let wide = f.op("Expand", &[one, shape]);
        let (from, to) = (f.integers(&[5]), f.integers(&[6]));
        let end = f.op("Slice", &[wide, from, to]);
        added(&mut f, end);
        assert_eq!(fold(&mut f), ["Add"]);
        assert_eq!(addend(&f).to_f32().unwrap(), [3.0]);
    }

    #[test]
    fn bombs_stay() {
        // As many bytes as there are numbers, all but four.
        for sizes in [&[1 << 20, 1 << 20][..], &[64], &[(1 << 62) - 1]] {
            let mut f = Fixture::new(17);
            let (one, shape) = (f.floats(&[1], &[3.0]), f.integers(sizes));
            let wide = f.op("Expand", &[one, shape]);
            added(&mut f, wide);
            assert_eq!(fold(&mut f), ["Expand", "Add"]);
        }
    }

    #[test]
    fn large_weights_that_are_turned_come_where_they_belong() {
        let mut f = Fixture::new(17);
        let weights = [f.weights(&[130, 140]), f.weights(&[150, 130]), f.weights(&[131, 150])];
        let expected = weights.map(|weight| f.graph.constant(weight).unwrap().transposed(&[1, 0]).unwrap());
        let turned = weights.map(|weight| turned(&mut f, weight));
        let mut y = f.input("x", &[1, 140]);
        for weight in turned {
            y = f.op("MatMul", &[y, weight]);
        }
        f.output("y", y);
        assert_eq!(fold(&mut f), ["MatMul"; 3]);
        let weight = |(_, node): (NodeId, &Node)| f.graph.constant(node.input(1).unwrap()).unwrap();
        let found: Vec<_> = f.graph.nodes().map(weight).collect();
        assert!(found.iter().all(|weight| expected.contains(weight)));
        assert_eq!(found.iter().map(|weight| weight.shape()[0]).sum::<usize>(), 140 + 130 + 150);
    }

    #[test]
    fn shared_weights_stay_shared() {
        let mut f = Fixture::new(17);
        let weight = f.weights(&[16, 16]);
        let turned = turned(&mut f, weight);
        let x = f.input("x", &[1, 16]);
        let narrow = f.op("MatMul", &[x, weight]);
        let y = f.op("MatMul", &[narrow, turned]);
        f.output("y", y);
        assert_eq!(fold(&mut f), ["Transpose", "MatMul", "MatMul"]);
    }

    #[test]
    fn all_users_of_a_constant_fold_together() {
        let mut f = Fixture::new(17);
        let weight = f.weights(&[64, 2]);
        let x = f.input("x", &[1, 2]);
        let mut sum = x;
        for half in 0..2 {
            let (from, to) = (f.integers(&[32 * half]), f.integers(&[32 * half + 32]));
            let part = f.op("Slice", &[weight, from, to]);
            sum = f.op("Add", &[sum, part]);
        }
        f.output("y", sum);
        assert_eq!(fold(&mut f), ["Add", "Add"]);
    }

    #[test]
    fn narrow_weights_stay_narrow() {
        for (from, stays) in [(ElementType::Float16, true), (ElementType::Double, false)] {
            let mut f = Fixture::new(17);
            let values = vec![0.5; 256];
            let weight = f.graph.add_constant(Tensor::from_f64(from, &[256], &values).unwrap());
            let code = i64::from(ElementType::Float.code());
            let wide = f.node(NewNode::new("Cast", [weight]).with("to", code));
            added(&mut f, wide);
            assert_eq!(fold(&mut f).len() == 2, stays);
        }
    }

    #[test]
    fn quantized_constants_stay_quantized() {
        let mut f = Fixture::new(17);
        let weight = Tensor::from_integers(ElementType::Int32, &[4], &[1, 2, 3, 4]).unwrap();
        let (weight, scale) = (f.graph.add_constant(weight), f.scalar(0.5));
        let wide = f.op("DequantizeLinear", &[weight, scale]);
        added(&mut f, wide);
        let engine = Engine;
        let context = PassContext { const_eval: Some(&engine), ..PassContext::default() };
        assert_eq!(fold_with(&mut f, ErrorClass::Rounding, &context), ["DequantizeLinear", "Add"]);
    }

    /// Gives ones of the type that inference knows.
    struct Engine;

    impl ConstEval for Engine {
        fn evaluate(
            &self,
            _: &Context,
            _: &Node,
            inputs: &[Option<Arc<Tensor>>],
        ) -> Result<Vec<Option<Tensor>>, EngineError> {
            let x = inputs[0].as_deref().unwrap();
            Ok(vec![Tensor::from_f64(ElementType::Float, x.shape(), &vec![1.0; x.len()])])
        }
    }

    #[test]
    fn the_engine_computes_what_rounds_but_not_where_bits_count() {
        for (class, budget, expected) in [
            (ErrorClass::Exact, FoldBudget::default(), &["Exp", "Add"][..]),
            (ErrorClass::Rounding, FoldBudget::default(), &["Add"]),
            (ErrorClass::Rounding, FoldBudget { operations: 7, ..FoldBudget::default() }, &["Exp", "Add"]),
            (ErrorClass::Rounding, FoldBudget { bytes: 7, ..FoldBudget::default() }, &["Exp", "Add"]),
        ] {
            let mut f = Fixture::new(17);
            let weight = f.floats(&[2], &[0.0, 1.0]);
            let value = f.op("Exp", &[weight]);
            added(&mut f, value);
            let context = PassContext { const_eval: Some(&Engine), fold: budget, ..PassContext::default() };
            assert_eq!(fold_with(&mut f, class, &context), expected, "{class:?} {budget:?}");
        }
    }

    #[test]
    fn an_engine_that_errs_in_the_type_is_not_believed() {
        let mut f = Fixture::new(17);
        let weight = f.graph.add_constant(Tensor::from_f64(ElementType::Double, &[1], &[0.0]).unwrap());
        let value = f.op("Exp", &[weight]);
        f.output("y", value);
        let context = PassContext { const_eval: Some(&Engine), ..PassContext::default() };
        assert_eq!(fold_with(&mut f, ErrorClass::Rounding, &context), ["Exp"]);
    }

    #[test]
    fn constants_of_bodies_fold() {
        let mut f = Fixture::new(17);
        let weight = f.floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let (count, always) = (
            f.graph.add_constant(Tensor::from_i64(&[], &[3]).unwrap()),
            f.graph.add_constant(Tensor::scalar(ElementType::Bool, 1.0).unwrap()),
        );
        let mut body = Graph::new(f.graph.context().clone());
        body.add_input("i", onnx_opt_ir::Type::tensor(ElementType::Int64, []));
        let goes_on = body.add_input("goes_on", onnx_opt_ir::Type::tensor(ElementType::Bool, []));
        let state = body.add_input("state", onnx_opt_ir::Type::tensor(ElementType::Float, []));
        let captured = body.add_capture(0);
        let turned = body.add_node(NewNode::new("Transpose", [captured])).unwrap();
        let turned = body.node(turned).output(0).unwrap();
        let sum = body.add_node(NewNode::new("Add", [state, turned])).unwrap();
        let sum = body.node(sum).output(0).unwrap();
        let still = body.add_node(NewNode::new("Identity", [goes_on])).unwrap();
        let still = body.node(still).output(0).unwrap();
        body.add_output("still", still).unwrap();
        body.add_output("sum", sum).unwrap();
        let x = f.input("x", &[2, 2]);
        let attributes = Attributes::from_pairs([("body", body.into())]);
        let new = NewNode { attributes, captures: vec![weight], ..NewNode::new("Loop", [count, always, x]) };
        let y = f.node(new);
        f.output("y", y);
        fold(&mut f);
        let (_, node) = f.graph.nodes().next().unwrap();
        let body = node.bodies().next().unwrap();
        assert_eq!(body.nodes().map(|(_, node)| node.op_type()).collect::<Vec<_>>(), ["Add", "Identity"]);
        assert!(node.captures().is_empty());
    }
}
