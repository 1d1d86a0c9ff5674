//! What a legal graph is: its parts are in step, its names tell values apart, and each node is what the standard says
//! of its operator. Operators of other domains and model-local functions pass as they are.

mod operator;
#[cfg(test)]
mod tests;

use onnx_opt_proto::{FunctionProto, GraphProto, NodeProto, TypeProto, type_proto};
use rustc_hash::FxHashMap;
use thiserror::Error;

use self::operator::{
    at_most, bound_element, check_attributes, check_attributes_once, check_bodies, check_counts, check_types,
    operator_of,
};
use crate::graph::{Graph, Node, NodeId, Producer};
use crate::model::Model;
use crate::schema::canonical_domain;
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
    fn graph(&self, graph: &Graph, captured: &[Option<&str>]) -> Result<(), CheckError> {
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
            let captured: Vec<Option<&str>> =
                node.captures().iter().map(|value| names[value.index()]).collect();
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

/// Names under which the values of a graph are written, as far as they have one, by index of the value.
fn names<'a>(graph: &'a Graph, captured: &[Option<&'a str>]) -> Vec<Option<&'a str>> {
    let mut names = vec![None; graph.value_bound()];
    for (id, value) in graph.values() {
        names[id.index()] = match value.producer() {
            Producer::Captured { index, .. } => captured.get(*index as usize).copied().flatten(),
            _ => value.name(),
        };
    }
    names
}

/// Names tell values apart. A body may use a name of the outer graph again for a value of its own, as runtimes accept,
/// as long as it does not read the outer one too. Captured values of one name are the same outer value.
fn check_names(graph: &Graph, names: &[Option<&str>]) -> Result<(), CheckError> {
    let mut seen = FxHashMap::with_capacity_and_hasher(names.len(), Default::default());
    for (id, value) in graph.values() {
        let Some(name) = names[id.index()] else { continue };
        let captured = matches!(value.producer(), Producer::Captured { .. });
        if name.is_empty() && !captured {
            return Err(CheckError::Unnamed);
        }
        if seen.insert(name, captured).is_some_and(|before: bool| !(before && captured)) {
            return Err(CheckError::DuplicateName(name.to_string()));
        }
    }
    Ok(())
}

/// Formal names are those of their values.
fn check_interface(graph: &Graph, names: &[Option<&str>]) -> Result<(), CheckError> {
    let inputs = graph.inputs().iter().map(|input| (input.value, &input.declaration));
    let outputs = graph.outputs().iter().map(|output| (output.value, &output.declaration));
    for (value, declaration) in inputs.chain(outputs) {
        let formal = declaration.name();
        // A captured value that has no name yet gets one at export.
        if let Some(name) = names[value.index()]
            && name != formal
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
