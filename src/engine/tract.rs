//! tract as constant folder and as executor of models.
//!
//! Three precautions: what it is known to get wrong is refused ([`known_errors`]), what it has no types for is
//! computed by a kernel of ours or under another type of the same width, and its panics become errors.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use onnx_opt_ir::engine::{ConstEval, EngineError, Executor, Named, Runner};
use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Context, ElementType, Graph, Model, Node, NodeId, Tensor, export, export_node, import};
use onnx_opt_proto::{ModelProto, TensorProto, encode, for_each_tensor, read_bytes};
use prost::Message as _;
use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::{branches, guarded, in_a_line, known_errors, lowering, quantize_kernel};

const ENGINE: &str = "tract";

/// A folded node gives at most this many elements: a node of a few bytes may ask for terabytes.
const MAX_ELEMENTS: u128 = 1 << 28;

/// Operators that move elements without looking at them.
pub(super) const MOVEMENT: &[&str] = &[
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

fn unsupported(what: impl Into<String>) -> EngineError {
    EngineError::Unsupported { engine: ENGINE, what: what.into() }
}

fn failed(reason: impl std::fmt::Display) -> EngineError {
    EngineError::Failed { engine: ENGINE, reason: in_a_line(&reason.to_string()) }
}

fn tract_failed(error: TractError) -> EngineError {
    failed(format!("{error:#}"))
}

/// Evaluates single nodes with tract.
pub struct TractEval {
    /// Its operators, registered when the first is asked for: most models need none.
    onnx: OnceCell<Onnx>,
    model: pb::ModelProto,
}

impl TractEval {
    /// The folder; one serves any number of models.
    pub fn new() -> Self {
        Self { onnx: OnceCell::new(), model: pb::ModelProto::default() }
    }

    fn run(
        &self,
        context: &Context,
        node: &Node,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Option<Tensor>>, EngineError> {
        let carriers = Carriers::of(node, inputs)?;
        let mut message = message_of(node)?;
        let operands: TVec<TValue> = inputs
            .iter()
            .flatten()
            .map(|tensor| Ok(to_tract(&carriers.load(tensor)?)?.into_tvalue()))
            .collect::<Result<_, EngineError>>()?;
        // Absent operands at the end count as operands in some of tract's readers.
        while message.input.last().is_some_and(String::is_empty) {
            message.input.pop();
        }

        let onnx = self.onnx.get_or_init(tract_onnx::onnx);
        let builder = onnx.op_register.0.get(node.op_type()).ok_or_else(|| unsupported(node.op_type()))?;
        let parsing = ParsingContext {
            onnx_operator_set_version: context.opset("").unwrap_or(0),
            framework: onnx,
            model: &self.model,
            parent_graphs: vec![],
            model_dir: None,
            template: InferenceModel::default(),
        };
        let (op, closures) = builder(&parsing, &message).map_err(tract_failed)?;
        if !closures.is_empty() {
            return Err(unsupported(format!("{} outside a graph", node.op_type())));
        }
        let results = op
            .eval_out_of_plan(operands)
            .map_err(tract_failed)?
            .ok_or_else(|| unsupported(format!("{} outside a graph", node.op_type())))?;
        if results.len() < message.output.len() {
            return Err(failed(format!("{} gave {} results", node.op_type(), results.len())));
        }
        let mut results = results.into_iter();
        let outputs = node.outputs().iter().map(|output| match (output, results.next()) {
            (Some(_), Some(result)) => Ok(Some(carriers.unload(from_tract(result.into_arc_tensor())?)?)),
            _ => Ok(None),
        });
        outputs.collect()
    }
}

impl Default for TractEval {
    fn default() -> Self {
        Self::new()
    }
}

impl ConstEval for TractEval {
    fn evaluate(
        &self,
        context: &Context,
        node: &Node,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Option<Tensor>>, EngineError> {
        let operands: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_deref).collect();
        if let Some(result) = quantize_kernel::evaluate(node, &operands) {
            return result.map(|tensor| vec![Some(tensor)]);
        }
        let element = |index: usize| operands.get(index).copied().flatten().map(Tensor::element);
        if let Some(what) = known_errors::refusal(node, element) {
            return Err(unsupported(what));
        }
        if let Some(what) = known_errors::refusal_of_operands(node, &operands) {
            return Err(unsupported(format!("{} {what}", node.op_type())));
        }
        if !node.domain().is_empty() || node.bodies().next().is_some() || !node.captures().is_empty() {
            return Err(unsupported(format!("{} outside a graph", node.op_type())));
        }
        if result_elements(node, &operands).is_none_or(|count| count > MAX_ELEMENTS) {
            return Err(unsupported(format!("{} with a result of this size", node.op_type())));
        }
        guarded(ENGINE, || self.run(context, node, inputs))
    }
}

/// An upper bound of the elements of a result where a small operand asks for a large one; `None` if it overflows or
/// makes no sense, 0 where results are not larger than operands.
fn result_elements(node: &Node, operands: &[Option<&Tensor>]) -> Option<u128> {
    let operand = |index: usize| operands.get(index).copied().flatten();
    let sizes = |index: usize| operand(index).and_then(Tensor::to_i64);
    let product = |values: Vec<i64>| {
        values
            .into_iter()
            .try_fold(1u128, |product, size| product.checked_mul(u128::from(size.unsigned_abs()).max(1)))
    };
    let length = operand(0).map_or(1, |tensor| tensor.len() as u128);
    match node.op_type() {
        "ConstantOfShape" => product(sizes(0)?),
        // Broadcasting in both directions: no more than the product of both.
        "Expand" => product(sizes(1)?)?.checked_mul(length.max(1)),
        "Tile" => product(sizes(1)?)?.checked_mul(length),
        "Range" => {
            let at = |index: usize| operand(index).and_then(Tensor::single_f64);
            let count = (at(1)? - at(0)?) / at(2)?;
            count.is_finite().then(|| count.max(0.0).ceil() as u128)
        }
        "OneHot" => length.checked_mul(operand(1)?.single_f64()?.abs() as u128),
        "Pad" => {
            let pads = match operand(1) {
                Some(pads) => pads.to_i64()?,
                None => node.ints("pads").unwrap_or_default().to_vec(),
            };
            let shape = operand(0)?.shape();
            // The largest size that any axis may reach, whichever axes the pads belong to.
            let grow = pads.iter().map(|pad| u128::from(pad.unsigned_abs())).max().unwrap_or(0);
            shape.iter().try_fold(1u128, |product, &size| product.checked_mul(size as u128 + 2 * grow))
        }
        "Resize" | "Upsample" => {
            let scales = operand(2).and_then(Tensor::to_f64).unwrap_or_default();
            let grown = scales.iter().fold(length as f64, |product, scale| product * scale.abs().max(1.0));
            let sizes = product(sizes(3).unwrap_or_default())?;
            (grown < 1e30).then(|| sizes.max(grown as u128))
        }
        _ => Some(0),
    }
}

/// Element types that tract has not, carried by unsigned integers of the same width through operators that only move
/// elements.
struct Carriers {
    hidden: Option<(ElementType, ElementType)>,
}

impl Carriers {
    fn of(node: &Node, inputs: &[Option<Arc<Tensor>>]) -> Result<Self, EngineError> {
        let Some(foreign) = inputs
            .iter()
            .flatten()
            .map(|tensor| tensor.element())
            .find(|&element| datum_type(element).is_none())
        else {
            return Ok(Self { hidden: None });
        };
        let carrier = match foreign.bits() {
            8 => ElementType::Uint8,
            16 => ElementType::Uint16,
            _ => return Err(unsupported(format!("tensors of {foreign}"))),
        };
        let moves = MOVEMENT.contains(&node.op_type());
        // An operand that has the carrier's own type could not be told from carried ones.
        let clash = inputs.iter().flatten().any(|tensor| tensor.element() == carrier);
        if !moves || clash {
            return Err(unsupported(format!("{} of {foreign}", node.op_type())));
        }
        Ok(Self { hidden: Some((foreign, carrier)) })
    }

    fn load(&self, tensor: &Tensor) -> Result<Tensor, EngineError> {
        match self.hidden {
            Some((foreign, carrier)) if tensor.element() == foreign => relabelled(tensor, carrier),
            _ => Ok(tensor.clone()),
        }
    }

    fn unload(&self, tensor: Tensor) -> Result<Tensor, EngineError> {
        match self.hidden {
            Some((foreign, carrier)) if tensor.element() == carrier => relabelled(&tensor, foreign),
            _ => Ok(tensor),
        }
    }
}

/// The same bits under another element type of the same width.
fn relabelled(tensor: &Tensor, element: ElementType) -> Result<Tensor, EngineError> {
    Tensor::from_raw(element, tensor.shape(), tensor.raw().clone()).map_err(failed)
}

/// The message of a node in tract's own schema. All results are named, those left out as well, because tract counts
/// only named ones.
fn message_of(node: &Node) -> Result<pb::NodeProto, EngineError> {
    let inputs = node.inputs().iter().enumerate();
    let inputs =
        inputs.map(|(index, value)| if value.is_some() { format!("i{index}") } else { String::new() });
    let used = node.outputs().iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let outputs = (0..used).map(|index| format!("o{index}"));
    let mut message = export_node(node, inputs.collect(), outputs.collect());
    for attribute in &mut message.attribute {
        if let Some(tensor) = &mut attribute.t {
            make_raw(tensor);
        }
    }
    pb::NodeProto::decode(message.encode_to_vec().as_slice()).map_err(failed)
}

/// A model that failed is tried in other ways for so long, or longer if it will run many times.
const PATIENCE: Duration = Duration::from_secs(3);
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// How tract goes about a model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Analysed, with the operators that it has.
    AsIs,
    /// Simplified by rules of its own.
    Simplified,
    /// Put on its fastest kernels.
    Optimized,
}

/// Runs models with tract, as they are where that works: analysed, not optimized, unless told so.
pub struct TractExecutor {
    onnx: Onnx,
    optimized: bool,
}

impl TractExecutor {
    /// The executor; one serves any number of models.
    pub fn new() -> Self {
        let onnx = tract_onnx::onnx().with_ignore_output_types(true).with_ignore_value_info(true);
        Self { onnx, optimized: false }
    }

    /// With tract's fastest kernels, for models that run many times. Loading takes longer.
    #[must_use]
    pub fn optimized(self) -> Self {
        Self { optimized: true, ..self }
    }

    /// Refuses what tract cannot do or gets wrong.
    fn check(&self, graph: &Graph) -> Result<(), EngineError> {
        for (_, node) in graph.nodes() {
            if let Some(what) = known_errors::refusal(node, |index| graph.element(node.input(index)?)) {
                return Err(unsupported(what));
            }
            if !self.onnx.op_register.0.contains_key(node.op_type()) {
                return Err(unsupported(node.op_type()));
            }
            node.bodies().try_for_each(|body| self.check(body))?;
        }
        for (_, value) in graph.values() {
            if matches!(value.producer(), Producer::Sparse(_)) {
                return Err(unsupported("sparse initializers"));
            }
            match value.ty() {
                Some(ty) if ty.as_tensor().is_none() => {
                    return Err(unsupported(format!("values of type {ty}")));
                }
                Some(ty) => {
                    if let Some(element) = ty.element().filter(|&element| datum_type(element).is_none()) {
                        return Err(unsupported(format!("tensors of {element}")));
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The model in tract's schema, freed of what tract cannot read.
    fn read(&self, bytes: &[u8]) -> Result<pb::ModelProto, EngineError> {
        let document = read_bytes(Bytes::copy_from_slice(bytes)).map_err(failed)?;
        let untouched = document.model.clone();
        let mut model = import(document).map_err(failed)?;
        let inlined = model.inline_functions(&mut |_, _| {}) > 0;
        let lowered = lower(&mut model)? || inlined;
        self.check(&model.graph)?;
        if branches::may_give_constants(&model.graph) {
            return Err(unsupported("If with a constant for a result of its first branch"));
        }
        if merges_zeros(&model.graph) {
            return Err(unsupported("constants that differ in the sign of zero"));
        }
        let mut proto = if lowered { export(&model) } else { untouched };
        let named = name_omitted(&mut proto);
        let mut rewritten = false;
        for_each_tensor(&mut proto, &mut |tensor| rewritten |= make_raw(tensor));
        if lowered || named || rewritten {
            pb::ModelProto::decode(encode(&proto)).map_err(failed)
        } else {
            pb::ModelProto::decode(bytes).map_err(failed)
        }
    }

    /// Loads a model for inputs of these types and shapes; where `constants` says so, with the inputs that are no
    /// floats as constants.
    fn load(
        &self,
        proto: &pb::ModelProto,
        inputs: &[(String, Tensor)],
        constants: bool,
        plan: Plan,
    ) -> Result<Loaded, EngineError> {
        let mut proto = proto.clone();
        let graph = proto.graph.as_mut().ok_or_else(|| failed("no graph"))?;
        let (mut given, mut fixed) = (Vec::new(), Vec::new());
        let initialized: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
        for input in &graph.input {
            let tensor = inputs.iter().find(|(name, _)| *name == input.name).map(|(_, tensor)| tensor);
            let has_default = initialized.contains(&input.name);
            match tensor {
                None if has_default => {}
                None => return Err(failed(format!("no data for input `{}`", input.name))),
                Some(tensor) if has_default || constants && !tensor.element().is_float() => {
                    let message = TensorProto { name: Some(input.name.clone()), ..plain(tensor)?.to_proto() };
                    let message =
                        pb::TensorProto::decode(message.encode_to_vec().as_slice()).map_err(failed)?;
                    graph.initializer.retain(|other| other.name != input.name);
                    graph.initializer.push(message);
                    fixed.push((input.name.clone(), tensor.clone()));
                }
                Some(tensor) => {
                    given.push((input.name.clone(), tensor.element(), tensor.shape().to_vec()));
                }
            }
        }
        let outputs: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let parsed = self.onnx.parse(&proto, None).map_err(tract_failed)?;
        if let Some(missing) = parsed.unresolved_inputs.first() {
            return Err(failed(format!("nothing produces `{missing}`")));
        }
        let mut model = parsed.model;
        for (index, (_, element, shape)) in given.iter().enumerate() {
            let datum = datum_type(*element).ok_or_else(|| unsupported(format!("tensors of {element}")))?;
            model.set_input_fact(index, InferenceFact::dt_shape(datum, shape)).map_err(tract_failed)?;
        }
        let mut model = model.into_typed().map_err(tract_failed)?;
        match plan {
            Plan::AsIs => {}
            Plan::Simplified => model.declutter().map_err(tract_failed)?,
            Plan::Optimized => model = model.into_optimized().map_err(tract_failed)?,
        }
        let plan = TypedSimplePlan::new(model).map_err(tract_failed)?;
        Ok(Loaded { given, fixed, outputs, plan })
    }
}

/// A model that tract has loaded for inputs of certain types and shapes.
struct Loaded {
    /// Inputs in the order of tract.
    given: Vec<(String, ElementType, Vec<usize>)>,
    /// Inputs that became constants.
    fixed: Named,
    outputs: Vec<String>,
    plan: Arc<TypedSimplePlan>,
}

impl Loaded {
    /// The inputs in the order of tract, if it was loaded for such.
    fn arrange<'a>(&self, inputs: &'a [(String, Tensor)]) -> Option<Vec<&'a Tensor>> {
        let find = |name: &str| inputs.iter().find(|(found, _)| found == name).map(|(_, tensor)| tensor);
        if inputs.len() != self.given.len() + self.fixed.len()
            || self.fixed.iter().any(|(name, tensor)| find(name) != Some(tensor))
        {
            return None;
        }
        let given = self.given.iter().map(|(name, element, shape)| {
            find(name).filter(|tensor| tensor.element() == *element && tensor.shape() == shape)
        });
        given.collect()
    }

    fn run(&self, operands: &[&Tensor]) -> Result<Named, EngineError> {
        let operands = operands.iter().map(|tensor| Ok(to_tract(tensor)?.into_tvalue()));
        let operands = operands.collect::<Result<TVec<TValue>, EngineError>>()?;
        let results = self.plan.run(operands).map_err(tract_failed)?;
        if results.len() != self.outputs.len() {
            return Err(failed(format!("{} results for {} outputs", results.len(), self.outputs.len())));
        }
        let outputs = self.outputs.iter().zip(results);
        outputs.map(|(name, result)| Ok((name.clone(), from_tract(result.into_arc_tensor())?))).collect()
    }
}

/// A model that tract has read, and, as far as inputs keep their shapes, loaded.
struct TractRunner<'a> {
    executor: &'a TractExecutor,
    proto: pb::ModelProto,
    loaded: Option<Loaded>,
    /// The way that worked last.
    way: Option<(bool, Plan)>,
}

impl TractRunner<'_> {
    /// Ways to try in order. Shapes and axes must be constants for tract; what failed with variables may work with
    /// constants.
    fn ways(&self) -> Vec<(bool, Plan)> {
        let plans: &[Plan] = match self.executor.optimized {
            true => &[Plan::Optimized, Plan::AsIs],
            false => &[Plan::AsIs, Plan::Simplified],
        };
        let ways = plans.iter().flat_map(|&plan| [(false, plan), (true, plan)]);
        self.way.into_iter().chain(ways.filter(|way| Some(*way) != self.way)).collect()
    }
}

impl Runner for TractRunner<'_> {
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Named, EngineError> {
        if let Some(loaded) = &self.loaded
            && let Some(operands) = loaded.arrange(inputs)
        {
            return guarded(ENGINE, || loaded.run(&operands));
        }
        self.loaded = None;
        let whole = inputs.iter().any(|(_, tensor)| !tensor.element().is_float());
        let begin = Instant::now();
        let patience = if self.executor.optimized { LONG_PATIENCE } else { PATIENCE };
        let mut first = None;
        for (constants, plan) in self.ways() {
            if constants && !whole || first.is_some() && begin.elapsed() > patience {
                continue;
            }
            let attempt = guarded(ENGINE, || {
                let loaded = self.executor.load(&self.proto, inputs, constants, plan)?;
                let operands =
                    loaded.arrange(inputs).ok_or_else(|| failed("an input that the model has not"))?;
                Ok((loaded.run(&operands)?, loaded))
            });
            match attempt {
                Ok((outputs, loaded)) => {
                    (self.loaded, self.way) = (Some(loaded), Some((constants, plan)));
                    return Ok(outputs);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| failed("nothing was tried")))
    }
}

impl Default for TractExecutor {
    fn default() -> Self {
        Self::new()
    }
}

impl Executor for TractExecutor {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn prepare<'a>(&'a self, model: &[u8]) -> Result<Box<dyn Runner + 'a>, EngineError> {
        let proto = guarded(ENGINE, || self.read(model))?;
        Ok(Box::new(TractRunner { executor: self, proto, loaded: None, way: None }))
    }
}

/// Computes with kernels of ours what has constant operands and types that tract has not, writes zero points out where
/// only `output_dtype` names the type, and products where it lacks what stands for them. Tells whether anything changed.
fn lower(model: &mut Model) -> Result<bool, EngineError> {
    let graph = &mut model.graph;
    let taken_apart = lowering::lower(graph);
    let order = graph.topological_order().map_err(|_| failed("the graph has a cycle"))?;
    let mut changed = false;
    for id in order {
        changed |= fold(graph, id) || give_zero_point(graph, id);
    }
    let dead: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    if changed {
        graph.remove_dead(dead, |_, _| {});
    }
    Ok(changed || taken_apart)
}

fn fold(graph: &mut Graph, id: NodeId) -> bool {
    let Some(node) = graph.get_node(id) else { return false };
    let mut operands: Vec<Option<Arc<Tensor>>> = Vec::new();
    for input in node.inputs() {
        match input {
            None => operands.push(None),
            Some(value) => match graph.constant(*value) {
                Some(tensor) => operands.push(Some(tensor.clone())),
                None => return false,
            },
        }
    }
    let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_deref).collect();
    let (Some(Ok(result)), Some(old)) = (quantize_kernel::evaluate(node, &operands), node.single_output())
    else {
        return false;
    };
    let new = graph.add_constant(result);
    graph.replace_all_uses(old, new).is_ok()
}

fn give_zero_point(graph: &mut Graph, id: NodeId) -> bool {
    let Some(node) = graph.get_node(id) else { return false };
    let code = node.attributes().get("output_dtype").and_then(onnx_opt_ir::AttributeValue::as_int);
    let element = code.and_then(|code| ElementType::from_code(i32::try_from(code).ok()?));
    let (true, None, Some(element)) = (node.is("QuantizeLinear"), node.input(2), element) else {
        return false;
    };
    let (Some(x), Some(scale)) = (node.input(0), node.input(1)) else { return false };
    let Some(shape) = graph.constant(scale).map(|scale| scale.shape().to_vec()) else { return false };
    let zeros = vec![0; shape.iter().product()];
    let Some(zero) = Tensor::from_integers(element, &shape, &zeros) else { return false };
    let zero = graph.add_constant(zero);
    graph.set_inputs(id, &[Some(x), Some(scale), Some(zero)]).is_ok()
        && graph.remove_attribute(id, "output_dtype").is_ok()
}

/// Whether two small constants differ in nothing but the sign of a zero: tract takes them for one.
fn merges_zeros(graph: &Graph) -> bool {
    const SMALL: usize = 16;
    let small = |(_, value): (_, &onnx_opt_ir::graph::Value)| match value.producer() {
        Producer::Constant(constant)
            if constant.tensor.element().is_float() && constant.tensor.len() <= SMALL =>
        {
            Some(constant.tensor.clone())
        }
        _ => None,
    };
    let constants: Vec<(Arc<Tensor>, Vec<f64>)> = graph
        .values()
        .filter_map(small)
        .filter_map(|tensor| Some((tensor.clone(), tensor.to_f64()?)))
        .collect();
    let signed = |values: &[f64]| values.iter().any(|&value| value == 0.0 && value.is_sign_negative());
    constants.iter().filter(|(_, values)| signed(values)).any(|(tensor, values)| {
        let alike = |(other, others): &(Arc<Tensor>, Vec<f64>)| {
            other.shape() == tensor.shape() && values == others && other != tensor
        };
        constants.iter().any(alike)
    })
}

/// Names results that are left out before others, and drops absent operands at the end: tract counts places by names.
fn name_omitted(model: &mut ModelProto) -> bool {
    let mut changed = false;
    let Some(graph) = &mut model.graph else { return false };
    for (index, node) in graph.node.iter_mut().enumerate() {
        for list in [&mut node.input, &mut node.output] {
            while list.last().is_some_and(|name| name.is_empty()) {
                list.pop();
                changed = true;
            }
        }
        for (place, name) in node.output.iter_mut().enumerate().filter(|(_, name)| name.is_empty()) {
            *name = format!("onnx-opt/unused/{index}/{place}");
            changed = true;
        }
    }
    changed
}

/// Moves the elements of a tensor to `raw_data`, and tells whether they were elsewhere: tract misreads narrow types
/// in other fields.
fn make_raw(proto: &mut TensorProto) -> bool {
    if proto.raw_data.is_some() || !proto.string_data.is_empty() || !proto.external_data.is_empty() {
        return false;
    }
    let name = proto.name.clone();
    match Tensor::from_proto(proto.clone(), None).ok().and_then(|tensor| plain(&tensor).ok()) {
        Some(tensor) => *proto = TensorProto { name, ..tensor.to_proto() },
        None => return false,
    }
    true
}

/// The tensor with its elements in `raw_data`.
fn plain(tensor: &Tensor) -> Result<Tensor, EngineError> {
    if tensor.strings().is_some() {
        return Ok(tensor.clone());
    }
    Tensor::from_raw(tensor.element(), tensor.shape(), tensor.raw().clone()).map_err(failed)
}

fn datum_type(element: ElementType) -> Option<DatumType> {
    Some(match element {
        ElementType::Bool => DatumType::Bool,
        ElementType::Uint8 => DatumType::U8,
        ElementType::Uint16 => DatumType::U16,
        ElementType::Uint32 => DatumType::U32,
        ElementType::Uint64 => DatumType::U64,
        ElementType::Int8 => DatumType::I8,
        ElementType::Int16 => DatumType::I16,
        ElementType::Int32 => DatumType::I32,
        ElementType::Int64 => DatumType::I64,
        ElementType::Float16 => DatumType::F16,
        ElementType::Float => DatumType::F32,
        ElementType::Double => DatumType::F64,
        ElementType::String => DatumType::String,
        _ => return None,
    })
}

fn to_tract(tensor: &Tensor) -> Result<tract_onnx::prelude::Tensor, EngineError> {
    let element = tensor.element();
    let datum = datum_type(element).ok_or_else(|| unsupported(format!("tensors of {element}")))?;
    if let Some(strings) = tensor.strings() {
        let texts: Result<Vec<String>, _> =
            strings.iter().map(|string| String::from_utf8(string.to_vec())).collect();
        let texts = texts.map_err(|_| unsupported("strings that are not UTF-8"))?;
        let array = tract_ndarray::ArrayD::from_shape_vec(tensor.shape(), texts).map_err(failed)?;
        return Ok(array.into());
    }
    let normalized: Vec<u8>;
    let raw: &[u8] = if element == ElementType::Bool {
        normalized = tensor.raw().iter().map(|&byte| u8::from(byte != 0)).collect();
        &normalized
    } else {
        tensor.raw()
    };
    // SAFETY: every bit pattern is a value of these types (booleans are 0 or 1), and the length is checked.
    unsafe { tract_onnx::prelude::Tensor::from_raw_dt(datum, tensor.shape(), raw) }.map_err(tract_failed)
}

/// The elements of a tensor of tract, which lives as long as they are read: results may be large, and are not copied.
struct Elements(Arc<tract_onnx::prelude::Tensor>);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        self.0.try_as_plain_ram().map(|view| view.as_bytes()).unwrap_or_default()
    }
}

fn from_tract(tensor: Arc<tract_onnx::prelude::Tensor>) -> Result<Tensor, EngineError> {
    if tensor.datum_type() == DatumType::TDim {
        let integers = tensor.cast_to_dt(DatumType::I64).map_err(tract_failed)?;
        return from_tract(integers.into_owned().into_arc_tensor());
    }
    let view = tensor.try_as_plain_ram().map_err(tract_failed)?;
    if tensor.datum_type() == DatumType::String {
        let strings = view.as_slice::<String>().map_err(tract_failed)?;
        let strings = strings.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        return Tensor::from_strings(tensor.shape(), strings).map_err(failed);
    }
    let element =
        ElementType::ALL.iter().copied().find(|&element| datum_type(element) == Some(tensor.datum_type()));
    let element = element.ok_or_else(|| unsupported(format!("results of {:?}", tensor.datum_type())))?;
    let shape = tensor.shape().to_vec();
    Tensor::from_raw(element, &shape, Bytes::from_owner(Elements(tensor))).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{AttributeValue, NewNode, Type};

    use super::*;

    fn evaluate(
        op_type: &str,
        operands: &[Option<Tensor>],
        outputs: usize,
        attributes: &[(&str, AttributeValue)],
    ) -> Result<Vec<Option<Tensor>>, EngineError> {
        let context = Context::with_opset(17);
        let mut graph = Graph::new(context.clone());
        let inputs =
            operands.iter().map(|operand| operand.clone().map(|tensor| graph.add_constant(tensor))).collect();
        let mut new = NewNode { op_type: op_type.into(), inputs, outputs, ..NewNode::default() };
        for (name, value) in attributes {
            new = new.with(name, value.clone());
        }
        let node = graph.add_node(new).unwrap();
        let operands: Vec<_> = operands.iter().cloned().map(|operand| operand.map(Arc::new)).collect();
        TractEval::new().evaluate(&context, graph.node(node), &operands)
    }

    fn only(result: Result<Vec<Option<Tensor>>, EngineError>) -> Tensor {
        result.unwrap().remove(0).unwrap()
    }

    #[test]
    fn folds_arithmetic_and_shapes() {
        let x = Tensor::from_f32(&[2, 1], &[1.0, 2.0]).unwrap();
        let y = Tensor::from_f32(&[2], &[10.0, 20.0]).unwrap();
        let sum = only(evaluate("Add", &[Some(x.clone()), Some(y)], 1, &[]));
        assert_eq!((sum.shape(), sum.to_f32().unwrap()), (&[2, 2][..], vec![11.0, 21.0, 12.0, 22.0]));
        let shape = only(evaluate("Shape", &[Some(x)], 1, &[]));
        assert_eq!((shape.element(), shape.to_i64().unwrap()), (ElementType::Int64, vec![2, 1]));
    }

    #[test]
    fn an_operand_left_out_is_dropped() {
        let x = Tensor::from_f32(&[3], &[-1.0, 0.5, 7.0]).unwrap();
        let max = Tensor::from_f32(&[], &[6.0]).unwrap();
        let y = only(evaluate("Clip", &[Some(x), None, Some(max)], 1, &[]));
        assert_eq!(y.to_f32().unwrap(), [-1.0, 0.5, 6.0]);
    }

    #[test]
    fn foreign_types_travel_through_movement_only() {
        let x = Tensor::from_f64(ElementType::Bfloat16, &[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let y = only(evaluate("Transpose", &[Some(x.clone())], 1, &[]));
        assert_eq!((y.element(), y.to_f64().unwrap()), (ElementType::Bfloat16, vec![1.0, 3.0, 2.0, 4.0]));
        assert!(evaluate("Neg", &[Some(x)], 1, &[]).is_err());
    }

    #[test]
    fn bombs_and_panics_are_errors() {
        let huge = Tensor::vector_i64(&[1 << 20, 1 << 20]);
        assert!(matches!(
            evaluate("ConstantOfShape", &[Some(huge)], 1, &[]),
            Err(EngineError::Unsupported { .. })
        ));
        let one = Tensor::from_i64(&[], &[1]).unwrap();
        let zero = Tensor::from_i64(&[], &[0]).unwrap();
        assert!(evaluate("Div", &[Some(one), Some(zero)], 1, &[]).is_err());
    }

    #[test]
    fn strings_are_folded() {
        let x = Tensor::from_strings(&[2], vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]).unwrap();
        let shape = Tensor::vector_i64(&[1, 2]);
        let y = only(evaluate("Reshape", &[Some(x), Some(shape)], 1, &[]));
        assert_eq!((y.shape(), y.strings().unwrap()[1].as_ref()), (&[1, 2][..], &b"b"[..]));
    }

    /// The bytes of a model with one input and one node.
    fn model(opset: i64, new: impl FnOnce(&mut Graph) -> NewNode) -> Vec<u8> {
        let mut graph = Graph::new(Context::with_opset(opset));
        let node = new(&mut graph);
        let id = graph.add_node(node).unwrap();
        let output = graph.node(id).output(0).unwrap();
        graph.add_output("y", output).unwrap();
        let rest = ModelProto {
            ir_version: Some(10),
            opset_import: vec![onnx_opt_proto::OperatorSetIdProto { domain: None, version: Some(opset) }],
            ..ModelProto::default()
        };
        encode(&export(&Model { graph, rest, notes: vec![] })).to_vec()
    }

    #[test]
    fn runs_a_model_and_lowers_narrow_types() {
        let bytes = model(21, |graph| {
            let x = graph.add_input("x", Type::tensor(ElementType::Float, [onnx_opt_ir::Dim::fixed(2)]));
            let weight = Tensor::from_integers(ElementType::Int4, &[2], &[3, -4]).unwrap();
            let weight = graph.add_constant(weight);
            let scale = graph.add_constant(Tensor::from_f32(&[], &[0.5]).unwrap());
            let node = graph.add_node(NewNode::new("DequantizeLinear", [weight, scale])).unwrap();
            let weight = graph.node(node).output(0).unwrap();
            NewNode::new("Mul", [x, weight])
        });
        let x = Tensor::from_f32(&[2], &[2.0, 3.0]).unwrap();
        let outputs = TractExecutor::new().run(&bytes, &[("x".into(), x)]).unwrap();
        assert_eq!(outputs[0].0, "y");
        assert_eq!(outputs[0].1.to_f32().unwrap(), [3.0, -6.0]);
    }

    #[test]
    fn names_what_it_cannot_run() {
        let bytes = model(17, |graph| {
            let x = graph.add_input("x", Type::tensor(ElementType::Float, [onnx_opt_ir::Dim::fixed(2)]));
            NewNode::new("Bernoulli", [x])
        });
        let x = Tensor::from_f32(&[2], &[2.0, 3.0]).unwrap();
        let error = TractExecutor::new().run(&bytes, &[("x".into(), x)]).unwrap_err();
        assert!(error.to_string().contains("Bernoulli"), "{error}");
    }
}
