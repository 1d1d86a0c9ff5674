//! What a legal graph is: its parts are in step, its names tell values apart, and each node is what the standard says
//! of its operator. Operators of other domains and model-local functions pass as they are.

use onnx_opt_proto::{
    FunctionProto, GraphProto, NodeProto, TypeProto, attribute_proto::AttributeType, type_proto,
};
use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;

use crate::attributes::{Attribute, AttributeValue};
use crate::graph::{Graph, Name, Node, NodeId, Producer, ValueId};
use crate::model::Model;
use crate::schema::{self, Arity, Operator, Parameter, TypeKind, canonical_domain, domain_title};
use crate::types::ElementType;

/// Why a graph is not legal.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// Parts of the graph are out of step: an edit went wrong.
    #[error("the graph is inconsistent: {0}")]
    Inconsistent(String),
    /// The graph has a cycle.
    #[error("node `{node}` depends on its own result")]
    Cycle {
        /// A node on or behind the cycle.
        node: String,
    },
    /// Two values of one graph have one name.
    #[error("two values are named `{0}`")]
    DuplicateName(String),
    /// An initializer without a name.
    #[error("an initializer or graph input has no name")]
    Unnamed,
    /// A formal input or output whose value goes by another name.
    #[error("`{formal}` of the interface is a value named `{value}`")]
    Renamed {
        /// The formal name.
        formal: String,
        /// The name of the value.
        value: String,
    },
    /// An element type that the schema does not know.
    #[error("`{value}` has an unknown element type ({code})")]
    UnknownElementType {
        /// The value.
        value: String,
        /// The code in the file.
        code: i32,
    },
    /// An output whose declaration says another type than its producer gives.
    #[error("output `{value}` is declared {declared}, but is {actual}")]
    Declaration {
        /// The output.
        value: String,
        /// Element type in the file.
        declared: ElementType,
        /// Element type that its producer gives.
        actual: ElementType,
    },
    /// A node that its operator does not allow.
    #[error("{op_type} `{node}`: {reason}")]
    Node {
        /// Name of the node, or of its first result.
        node: String,
        /// The operator.
        op_type: String,
        /// What does not fit.
        reason: String,
    },
    /// Two model-local functions of one domain, name and overload.
    #[error("function `{0}` is defined twice")]
    DuplicateFunction(String),
    /// A model-local function that calls itself, perhaps by way of others.
    #[error("function `{0}` calls itself")]
    RecursiveFunction(String),
}

/// Checks a model: its graph with all bodies, and its functions.
///
/// # Errors
/// The first thing that is not legal.
pub fn check(model: &Model) -> Result<(), CheckError> {
    check_functions(&model.rest.functions)?;
    Checker { functions: &model.rest.functions }.graph(&model.graph, &[])
}

/// Checks a graph by itself; calls of model-local functions pass.
///
/// # Errors
/// The first thing that is not legal.
pub fn check_graph(graph: &Graph) -> Result<(), CheckError> {
    Checker { functions: &[] }.graph(graph, &[])
}

/// Checks a graph that calls these functions, if any.
///
/// # Errors
/// The first thing that is not legal.
pub(crate) fn check_calling(graph: &Graph, functions: &[FunctionProto]) -> Result<(), CheckError> {
    Checker { functions }.graph(graph, &[])
}

struct Checker<'a> {
    functions: &'a [FunctionProto],
}

impl Checker<'_> {
    /// A graph; `captured` are the names of what its owner captures for it.
    fn graph(&self, graph: &Graph, captured: &[Option<Name>]) -> Result<(), CheckError> {
        graph.check_invariants().map_err(CheckError::Inconsistent)?;
        if let Err(node) = graph.topological_order() {
            return Err(CheckError::Cycle { node: describe(graph, node) });
        }
        let names = names(graph, captured);
        check_names(graph, &names)?;
        check_interface(graph, &names)?;
        for (id, node) in graph.nodes() {
            let reason = |reason| CheckError::Node {
                node: describe(graph, id),
                op_type: node.op_type().to_owned(),
                reason,
            };
            self.node(graph, node).map_err(reason)?;
            let captured: Vec<Option<Name>> =
                node.captures().iter().map(|value| names.get(value).cloned()).collect();
            for body in node.bodies() {
                self.graph(body, &captured)?;
            }
        }
        check_declarations(graph)
    }

    fn node(&self, graph: &Graph, node: &Node) -> Result<(), String> {
        check_attributes_once(node)?;
        match operator_of(graph, node)? {
            Some(operator) => {
                check_counts(operator, node)?;
                check_attributes(operator, node, graph.context().ir_version())?;
                check_types(operator, graph, node)?;
                check_bodies(graph, node)
            }
            None => self.check_call(node),
        }
    }

    /// Calls of functions give no more operands than the function has, and take no more results.
    fn check_call(&self, node: &Node) -> Result<(), String> {
        let overload = node.extra().and_then(|extra| extra.overload.as_deref()).unwrap_or_default();
        let called = self.functions.iter().find(|function| {
            canonical_domain(function.domain()) == node.domain()
                && function.name() == node.op_type()
                && function.overload() == overload
        });
        let Some(function) = called else { return Ok(()) };
        at_most("operands", node.inputs().len(), Some(function.input.len()))?;
        at_most("results", node.outputs().len(), Some(function.output.len()))
    }
}

/// Operators that no release of the standard has, but old exporters wrote and runtimes still accept.
const EXPERIMENTAL: &[&str] = &[
    "ATen",
    "Affine",
    "ConstantFill",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
];

/// What the standard says of a node; `None` where it says nothing.
fn operator_of(graph: &Graph, node: &Node) -> Result<Option<&'static Operator>, String> {
    let (context, domain) = (graph.context(), node.domain());
    let Some(latest) = schema::latest_opset(domain) else { return Ok(None) };
    if context.is_function(domain, node.op_type()) {
        return Ok(None);
    }
    match (node.operator(), context.opset(domain)) {
        (Some(operator), _) if operator.deprecated => {
            Err(format!("the operator was withdrawn in opset {}", operator.since_version))
        }
        (Some(operator), _) => Ok(Some(operator)),
        // Before IR version 3, models did not say their opset.
        (None, None) if context.ir_version() < 3 => Ok(None),
        (None, None) => Err(format!("the model imports no opset for domain `{}`", domain_title(domain))),
        (None, Some(version)) if version > latest => Ok(None),
        (None, Some(_)) if domain.is_empty() && EXPERIMENTAL.contains(&node.op_type()) => Ok(None),
        (None, Some(version)) => Err(format!("opset {version} has no such operator")),
    }
}

fn at_most(what: &str, count: usize, most: Option<usize>) -> Result<(), String> {
    match most {
        Some(most) if count > most => Err(format!("{count} {what}, at most {most} allowed")),
        _ => Ok(()),
    }
}

fn check_counts(operator: &Operator, node: &Node) -> Result<(), String> {
    let counted = |what: &str, values: &[Option<ValueId>], parameters: &[Parameter], (fewest, most)| {
        if values.len() < fewest {
            return Err(format!("{} {what}, at least {fewest} needed", values.len()));
        }
        at_most(what, values.len(), most)?;
        for (parameter, value) in parameters.iter().zip(values) {
            if parameter.arity == Arity::Single && value.is_none() {
                return Err(format!("`{}` is left out but required", parameter.name));
            }
        }
        Ok(())
    };
    counted("operands", node.inputs(), operator.inputs, operator.input_count())?;
    counted("results", node.outputs(), operator.outputs, operator.output_count())
}

fn check_attributes_once(node: &Node) -> Result<(), String> {
    let mut seen = FxHashSet::default();
    match node.attributes().iter().find(|attribute| !seen.insert(&*attribute.name)) {
        Some(twice) => Err(format!("attribute `{}` is given twice", twice.name)),
        None => Ok(()),
    }
}

fn check_attributes(operator: &Operator, node: &Node, ir_version: i64) -> Result<(), String> {
    for attribute in node.attributes().iter() {
        let name = &*attribute.name;
        let Some(schema) = operator.attribute(name) else {
            // Names in double underscores are private to tools.
            if name.starts_with("__") && name.ends_with("__") {
                continue;
            }
            return Err(format!("the operator has no attribute `{name}`"));
        };
        match kind_of(attribute) {
            // IR version 1 did not say the kind.
            None if ir_version < 2 => {}
            None => return Err(format!("attribute `{name}` holds no value")),
            Some(kind) if kind as i32 != schema.kind.code() => {
                let found = kind.as_str_name();
                return Err(format!("attribute `{name}` is {found}, not {:?}", schema.kind));
            }
            Some(_) => {}
        }
    }
    let missing = operator
        .attributes
        .iter()
        .find(|attribute| attribute.required && node.attributes().get(attribute.name).is_none());
    match missing {
        Some(attribute) => Err(format!("attribute `{}` is required", attribute.name)),
        None => Ok(()),
    }
}

/// The kind of an attribute; `None` if it holds nothing.
fn kind_of(attribute: &Attribute) -> Option<AttributeType> {
    Some(match &attribute.value {
        AttributeValue::Float(_) => AttributeType::Float,
        AttributeValue::Int(_) => AttributeType::Int,
        AttributeValue::String(_) => AttributeType::String,
        AttributeValue::Tensor(_) => AttributeType::Tensor,
        AttributeValue::Graph(_) => AttributeType::Graph,
        AttributeValue::SparseTensor(_) => AttributeType::SparseTensor,
        AttributeValue::Type(_) => AttributeType::TypeProto,
        AttributeValue::Floats(_) => AttributeType::Floats,
        AttributeValue::Ints(_) => AttributeType::Ints,
        AttributeValue::Strings(_) => AttributeType::Strings,
        AttributeValue::Tensors(_) => AttributeType::Tensors,
        AttributeValue::Graphs(_) => AttributeType::Graphs,
        AttributeValue::Other => {
            let origin = attribute.origin.as_ref().filter(|origin| origin.ref_attr_name.is_some())?;
            return Some(origin.r#type());
        }
    })
}

/// The known types of operands and results are allowed, and those of one type variable are the same.
fn check_types(operator: &Operator, graph: &Graph, node: &Node) -> Result<(), String> {
    let mut bound: Vec<(&str, TypeKind, ValueId)> = Vec::new();
    let inputs = node.inputs().iter().enumerate().map(|(index, value)| (operator.input(index), value));
    let outputs = node.outputs().iter().enumerate().map(|(index, value)| (operator.output(index), value));
    for (parameter, value) in inputs.chain(outputs) {
        let (Some(parameter), &Some(value)) = (parameter, value) else { continue };
        let Some((ty, kind)) = graph.ty(value).and_then(|ty| Some((ty, TypeKind::of(ty)?))) else { continue };
        let name = || graph.display_name(value);
        if !parameter.allows(kind) {
            return Err(format!("`{}` is {ty}, which `{}` does not allow", name(), parameter.name));
        }
        if matches!(parameter.arity, Arity::Variadic { homogeneous: false, .. }) {
            continue;
        }
        match bound.iter().find(|(variable, ..)| *variable == parameter.type_name) {
            None => bound.push((parameter.type_name, kind, value)),
            Some((_, other, _)) if *other == kind || parameter.type_name.contains('(') => {}
            Some(&(_, _, other)) => {
                let known = graph.ty(other).map(ToString::to_string).unwrap_or_default();
                let other = graph.display_name(other);
                return Err(format!("`{}` is {ty}, `{other}` is {known}: the types must agree", name()));
            }
        }
    }
    Ok(())
}

/// Control flow gives its bodies as many values as they take, and takes no more than they give.
fn check_bodies(graph: &Graph, node: &Node) -> Result<(), String> {
    if !node.domain().is_empty() {
        return Ok(());
    }
    let body = |name: &str| node.attributes().get(name).and_then(|value| value.graphs().first());
    let (inputs, outputs) = (node.inputs().len(), node.outputs().len());
    let exactly = |what: &str, found: usize, expected: usize| {
        if found == expected {
            Ok(())
        } else {
            Err(format!("the body has {found} {what}, the node needs {expected}"))
        }
    };
    match node.op_type() {
        "If" => {
            let (Some(yes), Some(no)) = (body("then_branch"), body("else_branch")) else { return Ok(()) };
            for branch in [yes, no] {
                exactly("inputs", branch.inputs().len(), 0)?;
                exactly("outputs", branch.outputs().len(), outputs)?;
            }
            for (a, b) in yes.outputs().iter().zip(no.outputs()) {
                let elements = (yes.element(a.value), no.element(b.value));
                if let (Some(a), Some(b)) = elements
                    && a != b
                {
                    return Err(format!("one branch gives {a}, the other {b}"));
                }
            }
            Ok(())
        }
        "Loop" => {
            let Some(body) = body("body") else { return Ok(()) };
            exactly("inputs", body.inputs().len(), inputs.max(2))?;
            let given = body.outputs().len().checked_sub(1).ok_or("the body gives no condition")?;
            if given < inputs.saturating_sub(2) {
                return Err(format!("the body gives {given} values, {} are carried", inputs - 2));
            }
            at_most("results", outputs, Some(given))
        }
        "Scan" => {
            let Some(body) = body("body") else { return Ok(()) };
            let lengths = usize::from(graph.opset() < 9);
            exactly("inputs", body.inputs().len(), inputs.saturating_sub(lengths))?;
            let scanned = node.int("num_scan_inputs").and_then(|count| usize::try_from(count).ok());
            let scanned = scanned.filter(|&count| count >= 1 && count <= body.inputs().len());
            let scanned = scanned.ok_or("num_scan_inputs does not fit the operands")?;
            if body.outputs().len() < body.inputs().len() - scanned {
                return Err("the body gives fewer values than are carried".to_owned());
            }
            at_most("results", outputs, Some(body.outputs().len()))
        }
        _ => Ok(()),
    }
}

/// Names under which the values of a graph are written, as far as they have one.
fn names(graph: &Graph, captured: &[Option<Name>]) -> FxHashMap<ValueId, Name> {
    graph
        .values()
        .filter_map(|(id, value)| match value.producer() {
            Producer::Captured { index, .. } => {
                captured.get(*index as usize).cloned().flatten().map(|name| (id, name))
            }
            _ => value.name().map(|name| (id, name.into())),
        })
        .collect()
}

/// Names tell values apart. A body may use a name of the outer graph again for a value of its own, as runtimes accept,
/// as long as it does not read the outer one too. Captured values of one name are the same outer value.
fn check_names(graph: &Graph, names: &FxHashMap<ValueId, Name>) -> Result<(), CheckError> {
    let mut seen: FxHashMap<&Name, bool> = FxHashMap::default();
    for (id, value) in graph.values() {
        let Some(name) = names.get(&id) else { continue };
        let captured = matches!(value.producer(), Producer::Captured { .. });
        if name.is_empty() && !captured {
            return Err(CheckError::Unnamed);
        }
        if seen.insert(name, captured).is_some_and(|before| !(before && captured)) {
            return Err(CheckError::DuplicateName(name.to_string()));
        }
    }
    Ok(())
}

/// Formal names are those of their values.
fn check_interface(graph: &Graph, names: &FxHashMap<ValueId, Name>) -> Result<(), CheckError> {
    let inputs = graph.inputs().iter().map(|input| (input.value, &input.declaration));
    let outputs = graph.outputs().iter().map(|output| (output.value, &output.declaration));
    for (value, declaration) in inputs.chain(outputs) {
        let formal = declaration.name();
        // A captured value that has no name yet gets one at export.
        if let Some(name) = names.get(&value)
            && &**name != formal
        {
            return Err(CheckError::Renamed { formal: formal.to_owned(), value: name.to_string() });
        }
        if let Some(code) = declaration.r#type.as_ref().and_then(unknown_element) {
            return Err(CheckError::UnknownElementType { value: formal.to_owned(), code });
        }
    }
    Ok(())
}

/// The code of an element type that the schema does not know; 0 says nothing and passes.
fn unknown_element(ty: &TypeProto) -> Option<i32> {
    use type_proto::Value;
    let code = match ty.value.as_ref()? {
        Value::TensorType(tensor) => tensor.elem_type(),
        Value::SparseTensorType(tensor) => tensor.elem_type(),
        Value::SequenceType(inner) => return inner.elem_type.as_deref().and_then(unknown_element),
        Value::OptionalType(inner) => return inner.elem_type.as_deref().and_then(unknown_element),
        Value::MapType(_) | Value::OpaqueType(_) => return None,
    };
    (code != 0 && ElementType::from_code(code).is_none()).then_some(code)
}

/// The declared element types of outputs are those that their producers give.
fn check_declarations(graph: &Graph) -> Result<(), CheckError> {
    for output in graph.outputs() {
        let Some(type_proto::Value::TensorType(declared)) =
            output.declaration.r#type.as_ref().and_then(|ty| ty.value.as_ref())
        else {
            continue;
        };
        let declared = ElementType::from_code(declared.elem_type());
        let actual = graph.element(output.value).or_else(|| bound_element(graph, output.value));
        if let (Some(declared), Some(actual)) = (declared, actual)
            && declared != actual
        {
            return Err(CheckError::Declaration {
                value: output.declaration.name().to_owned(),
                declared,
                actual,
            });
        }
    }
    Ok(())
}

/// The element type that the operands of its producer bind for a value, without inference.
fn bound_element(graph: &Graph, value: ValueId) -> Option<ElementType> {
    let (_, node, output) = graph.producer(value)?;
    let operator = node.operator()?;
    let homogeneous = |parameter: &&'static Parameter| {
        !matches!(parameter.arity, Arity::Variadic { homogeneous: false, .. })
    };
    let result = operator.output(output).filter(homogeneous)?;
    node.inputs().iter().enumerate().find_map(|(index, input)| {
        let parameter = operator.input(index).filter(homogeneous)?;
        if parameter.type_name == result.type_name { graph.element((*input)?) } else { None }
    })
}

/// No function is defined twice or calls itself.
fn check_functions(functions: &[FunctionProto]) -> Result<(), CheckError> {
    let mut places: FxHashMap<(&str, &str, &str), usize> = FxHashMap::default();
    for (place, function) in functions.iter().enumerate() {
        let key = (canonical_domain(function.domain()), function.name(), function.overload());
        if places.insert(key, place).is_some() {
            return Err(CheckError::DuplicateFunction(function.name().to_owned()));
        }
    }
    let calls: Vec<Vec<usize>> = functions
        .iter()
        .map(|function| {
            let mut calls = Vec::new();
            for_each_node(&function.node, &mut |node| {
                let key = (canonical_domain(node.domain()), node.op_type(), node.overload());
                calls.extend(places.get(&key));
            });
            calls
        })
        .collect();
    // Functions that call only finished ones are finished; what never is calls itself.
    let mut waiting: Vec<usize> = calls.iter().map(Vec::len).collect();
    let mut callers = vec![Vec::new(); functions.len()];
    for (caller, called) in calls.iter().enumerate() {
        for &called in called {
            callers[called].push(caller);
        }
    }
    let mut finished: Vec<usize> = (0..functions.len()).filter(|&place| waiting[place] == 0).collect();
    while let Some(place) = finished.pop() {
        for &caller in &callers[place] {
            waiting[caller] -= 1;
            if waiting[caller] == 0 {
                finished.push(caller);
            }
        }
    }
    match functions.iter().zip(&waiting).find(|(_, waiting)| **waiting > 0) {
        Some((function, _)) => Err(CheckError::RecursiveFunction(function.name().to_owned())),
        None => Ok(()),
    }
}

fn for_each_node<'a>(nodes: &'a [NodeProto], visit: &mut impl FnMut(&'a NodeProto)) {
    for node in nodes {
        visit(node);
        for attribute in &node.attribute {
            let bodies = attribute.g.as_deref().into_iter().chain(&attribute.graphs);
            for body in bodies {
                let GraphProto { node, .. } = body;
                for_each_node(node, visit);
            }
        }
    }
}

/// The name of a node for people: its own, or that of its first result.
fn describe(graph: &Graph, id: NodeId) -> String {
    let Some(node) = graph.get_node(id) else { return String::new() };
    match (node.name(), node.outputs().iter().flatten().next()) {
        (Some(name), _) if !name.is_empty() => name.to_owned(),
        (_, Some(&output)) => graph.display_name(output),
        _ => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_proto::{
        AttributeProto, Document, ModelProto, OperatorSetIdProto, TensorShapeProto, ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
    };

    use super::*;
    use crate::dim::Dim;
    use crate::graph::{Context, NewNode};
    use crate::import::import;
    use crate::types::Type;

    /// Operator, operands and results; `_` for one that is left out.
    fn node(op_type: &str, inputs: &str, outputs: &str) -> NodeProto {
        let names = |text: &str| text.split_whitespace().map(|name| name.replace('_', "")).collect();
        let (domain, op_type) = op_type.rsplit_once(':').unwrap_or(("", op_type));
        NodeProto {
            op_type: Some(op_type.to_owned()),
            domain: Some(domain.to_owned()),
            input: names(inputs),
            output: names(outputs),
            ..NodeProto::default()
        }
    }

    fn with(mut node: NodeProto, name: &str, attribute: AttributeProto) -> NodeProto {
        node.attribute.push(AttributeProto { name: Some(name.to_owned()), ..attribute });
        node
    }

    fn int(value: i64) -> AttributeProto {
        let kind = Some(AttributeType::Int as i32);
        AttributeProto { r#type: kind, i: Some(value), ..AttributeProto::default() }
    }

    fn float(value: f32) -> AttributeProto {
        let kind = Some(AttributeType::Float as i32);
        AttributeProto { r#type: kind, f: Some(value), ..AttributeProto::default() }
    }

    fn formal(name: &str, code: i32, shape: &[i64]) -> ValueInfoProto {
        let dim =
            |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
        let tensor = type_proto::Tensor {
            elem_type: Some(code),
            shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
        };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
    }

    /// A body whose formal inputs and outputs have no types.
    fn body(inputs: &str, nodes: Vec<NodeProto>, outputs: &str) -> AttributeProto {
        let formals = |names: &str| {
            let formal =
                |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
            names.split_whitespace().map(formal).collect()
        };
        let graph = GraphProto {
            node: nodes,
            input: formals(inputs),
            output: formals(outputs),
            ..GraphProto::default()
        };
        let kind = Some(AttributeType::Graph as i32);
        AttributeProto { r#type: kind, g: Some(Box::new(graph)), ..AttributeProto::default() }
    }

    /// Inputs `x`: float[2], `i`: int64[2], `n`: int64[] and `flag`: bool[].
    fn model(opset: i64, nodes: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
        let graph = GraphProto {
            node: nodes,
            input: vec![
                formal("x", 1, &[2]),
                formal("i", 7, &[2]),
                formal("n", 7, &[]),
                formal("flag", 9, &[]),
            ],
            output: outputs,
            ..GraphProto::default()
        };
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![import("", opset), import("local", 1)],
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    fn verdict(model: ModelProto) -> Result<(), CheckError> {
        check(&import(Document { model, file_bytes: 0, unknown_fields: 0, folder: None }).unwrap())
    }

    /// What is wrong with a node.
    fn reason(opset: i64, node: NodeProto) -> String {
        match verdict(model(opset, vec![node], Vec::new())) {
            Err(CheckError::Node { reason, .. }) => reason,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn operators_that_an_opset_has_not() {
        assert_eq!(reason(10, node("Upsample", "x x", "y")), "the operator was withdrawn in opset 10");
        assert_eq!(reason(17, node("Gelu", "x", "y")), "opset 17 has no such operator");
        assert_eq!(
            reason(17, node("ai.onnx.ml:LabelEncoder", "x", "y")),
            "the model imports no opset for domain `ai.onnx.ml`"
        );
        assert_eq!(reason(17, node("other:Anything", "x", "y")), "Ok(())");
    }

    #[test]
    fn counts() {
        for (node, expected) in [
            (node("Add", "x", "y"), "1 operands, at least 2 needed"),
            (node("Relu", "x x", "y"), "2 operands, at most 1 allowed"),
            (node("Add", "_ x", "y"), "`A` is left out but required"),
            (node("Relu", "x", ""), "0 results, at least 1 needed"),
            (node("Relu", "x", "y z"), "2 results, at most 1 allowed"),
            (node("Relu", "x", "_"), "`Y` is left out but required"),
            (node("Clip", "x _ _", "y"), "Ok(())"),
        ] {
            assert_eq!(reason(17, node), expected);
        }
    }

    #[test]
    fn attributes() {
        let leaky = || node("LeakyRelu", "x", "y");
        for (node, expected) in [
            (with(leaky(), "beta", float(1.0)), "the operator has no attribute `beta`"),
            (with(leaky(), "__beta__", float(1.0)), "Ok(())"),
            (with(leaky(), "alpha", AttributeProto::default()), "attribute `alpha` holds no value"),
            (with(leaky(), "alpha", int(1)), "attribute `alpha` is INT, not Float"),
            (
                with(with(leaky(), "alpha", float(1.0)), "alpha", float(1.0)),
                "attribute `alpha` is given twice",
            ),
            (node("Cast", "x", "y"), "attribute `to` is required"),
        ] {
            assert_eq!(reason(17, node), expected);
        }
    }

    #[test]
    fn types() {
        assert_eq!(reason(17, node("Relu", "flag", "y")), "`flag` is bool[], which `X` does not allow");
        assert_eq!(
            reason(17, node("Add", "x i", "y")),
            "`i` is int64[2], `x` is float[2]: the types must agree"
        );
    }

    #[test]
    fn branches() {
        let identity = |from: &str, outputs: &str| body("", vec![node("Identity", from, "t")], outputs);
        let branches = |yes: AttributeProto, no: AttributeProto| {
            let node = with(node("If", "flag", "y"), "then_branch", yes);
            reason(17, with(node, "else_branch", no))
        };
        assert_eq!(branches(identity("x", "t"), identity("x", "t")), "Ok(())");
        assert_eq!(
            branches(body("a", vec![node("Identity", "x", "t")], "t"), identity("x", "t")),
            "the body has 1 inputs, the node needs 0"
        );
        assert_eq!(
            branches(identity("x", "t"), identity("x", "t t")),
            "the body has 2 outputs, the node needs 1"
        );
        assert_eq!(
            branches(identity("x", "t"), identity("i", "t")),
            "one branch gives float, the other int64"
        );
    }

    #[test]
    fn loops() {
        let looping = |outputs: &str, body: AttributeProto| {
            reason(17, with(node("Loop", "n flag x", outputs), "body", body))
        };
        let step = || vec![node("Identity", "go", "on"), node("Abs", "state", "next")];
        assert_eq!(looping("y", body("k go state", step(), "on next")), "Ok(())");
        assert_eq!(
            looping("y", body("go state", step(), "on next")),
            "the body has 2 inputs, the node needs 3"
        );
        assert_eq!(looping("y", body("k go state", step(), "")), "the body gives no condition");
        assert_eq!(looping("y", body("k go state", step(), "on")), "the body gives 0 values, 1 are carried");
        assert_eq!(looping("y z", body("k go state", step(), "on next")), "2 results, at most 1 allowed");
    }

    #[test]
    fn scans() {
        let scan = |count: i64, outputs: &str, body: AttributeProto| {
            let node = with(node("Scan", "x i", outputs), "num_scan_inputs", int(count));
            reason(17, with(node, "body", body))
        };
        let step = || vec![node("Abs", "state", "next"), node("Abs", "element", "out")];
        assert_eq!(scan(1, "y z", body("state element", step(), "next out")), "Ok(())");
        assert_eq!(
            scan(1, "y", body("state element more", step(), "next")),
            "the body has 3 inputs, the node needs 2"
        );
        for count in [-1, 0, 3] {
            let found = scan(count, "y", body("state element", step(), "next"));
            assert_eq!(found, "num_scan_inputs does not fit the operands");
        }
        assert_eq!(
            scan(1, "y", body("state element", step(), "")),
            "the body gives fewer values than are carried"
        );
        assert_eq!(scan(1, "y z", body("state element", step(), "next")), "2 results, at most 1 allowed");
    }

    /// `local:NAME` of one operand and one result, which computes by this operator.
    fn function(name: &str, op_type: &str) -> FunctionProto {
        FunctionProto {
            name: Some(name.to_owned()),
            domain: Some("local".to_owned()),
            input: vec!["a".to_owned()],
            output: vec!["b".to_owned()],
            node: vec![node(op_type, "a", "b")],
            ..FunctionProto::default()
        }
    }

    #[test]
    fn functions() {
        let verdict = |call: NodeProto, functions: Vec<FunctionProto>| {
            verdict(ModelProto { functions, ..model(17, vec![call], Vec::new()) })
                .map_err(|error| error.to_string())
        };
        let refused = |text: &str| Err(text.to_owned());
        let call = || node("local:F", "x", "y");
        let simple = || vec![function("F", "Relu")];
        assert_eq!(verdict(call(), simple()), Ok(()));
        assert_eq!(
            verdict(node("local:F", "x x", "y"), simple()),
            refused("F `y`: 2 operands, at most 1 allowed")
        );
        assert_eq!(
            verdict(node("local:F", "x", "y z"), simple()),
            refused("F `y`: 2 results, at most 1 allowed")
        );
        assert_eq!(
            verdict(call(), vec![function("F", "Relu"), function("F", "Abs")]),
            refused("function `F` is defined twice")
        );
        assert_eq!(
            verdict(call(), vec![function("G", "local:F"), function("F", "local:G")]),
            refused("function `G` calls itself")
        );
    }

    #[test]
    fn the_interface() {
        let relu = || vec![node("Relu", "x", "y")];
        assert_eq!(verdict(model(17, relu(), vec![formal("y", 1, &[2])])), Ok(()));
        assert_eq!(
            verdict(model(17, relu(), vec![formal("y", 7, &[2])])),
            Err(CheckError::Declaration {
                value: "y".to_owned(),
                declared: ElementType::Int64,
                actual: ElementType::Float
            })
        );
        assert_eq!(
            verdict(model(17, relu(), vec![formal("y", 99, &[2])])),
            Err(CheckError::UnknownElementType { value: "y".to_owned(), code: 99 })
        );
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", vector());
        graph.push_output(x, formal("y", 1, &[2])).unwrap();
        let renamed = CheckError::Renamed { formal: "y".to_owned(), value: "x".to_owned() };
        assert_eq!(check_graph(&graph), Err(renamed));
    }

    fn vector() -> Type {
        Type::tensor(ElementType::Float, [Dim::fixed(2)])
    }

    #[test]
    fn names_of_values() {
        let inputs = |names: [&str; 2]| {
            let mut graph = Graph::new(Context::with_opset(17));
            names.into_iter().for_each(|name| {
                graph.add_input(name, vector());
            });
            check_graph(&graph)
        };
        assert_eq!(inputs(["a", "b"]), Ok(()));
        assert_eq!(inputs(["a", "a"]), Err(CheckError::DuplicateName("a".to_owned())));
        assert_eq!(inputs(["a", ""]), Err(CheckError::Unnamed));
    }

    /// A branch that reads `x` once or twice from outside, and one of whose own values has this name.
    fn reading(twice: bool, name: &str) -> Result<(), CheckError> {
        let mut graph = Graph::new(Context::with_opset(17));
        let condition = graph.add_input("flag", Type::tensor(ElementType::Bool, []));
        let x = graph.add_input("x", vector());
        let branch = || {
            let mut body = Graph::new(graph.context().clone());
            let (a, b) = (body.add_capture(0), body.add_capture(u32::from(twice)));
            let node = body.add_node(NewNode::new("Add", [a, b])).unwrap();
            body.add_output(name, body.node(node).output(0).unwrap()).unwrap();
            body
        };
        let node =
            NewNode::new("If", [condition]).with("then_branch", branch()).with("else_branch", branch());
        let captures = if twice { vec![x, x] } else { vec![x] };
        graph.add_node(NewNode { captures, ..node }).unwrap();
        check_graph(&graph)
    }

    #[test]
    fn names_of_captured_values() {
        // Twice under two indices and twice under one is the same value of the same name.
        assert_eq!(reading(true, "t"), Ok(()));
        assert_eq!(reading(false, "t"), Ok(()));
        assert_eq!(reading(true, "x"), Err(CheckError::DuplicateName("x".to_owned())));
        // What the body does not read may have the name.
        assert_eq!(reading(true, "flag"), Ok(()));
    }

    #[test]
    fn parts_out_of_step() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", vector());
        let node = graph.add_node(NewNode::new("Relu", [x])).unwrap();
        assert_eq!(check_graph(&graph), Ok(()));
        let gone = graph.node(node).output(0).unwrap();
        graph.remove_node(node).unwrap();
        graph.pin(gone);
        assert!(matches!(check_graph(&graph), Err(CheckError::Inconsistent(_))));
    }

    #[test]
    fn a_cycle() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", vector());
        let [first, second] =
            ["Relu", "Abs"].map(|op_type| graph.add_node(NewNode::new(op_type, [x])).unwrap());
        let results = [first, second].map(|node| graph.node(node).output(0).unwrap());
        graph.set_inputs(second, &[Some(results[0])]).unwrap();
        assert_eq!(check_graph(&graph), Ok(()));
        graph.set_inputs(first, &[Some(results[1])]).unwrap();
        assert!(matches!(check_graph(&graph), Err(CheckError::Cycle { .. })));
    }
}
