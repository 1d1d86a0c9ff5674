//! Whether a node is what the standard says of its operator: counts, attributes, types, bodies.

use onnx_opt_proto::attribute_proto::AttributeType;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::attributes::{Attribute, AttributeValue};
use crate::graph::{Graph, Node, ValueId};
use crate::schema::{self, Arity, Operator, Parameter, TypeKind, domain_title};
use crate::types::ElementType;

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
pub(super) fn operator_of(graph: &Graph, node: &Node) -> Result<Option<&'static Operator>, String> {
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

pub(super) fn at_most(what: &str, count: usize, most: Option<usize>) -> Result<(), String> {
    match most {
        Some(most) if count > most => Err(format!("{count} {what}, at most {most} allowed")),
        _ => Ok(()),
    }
}

pub(super) fn check_counts(operator: &Operator, node: &Node) -> Result<(), String> {
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

pub(super) fn check_attributes_once(node: &Node) -> Result<(), String> {
    if node.attributes().len() < 2 {
        return Ok(());
    }
    let mut seen = FxHashSet::default();
    match node.attributes().iter().find(|attribute| !seen.insert(&*attribute.name)) {
        Some(twice) => Err(format!("attribute `{}` is given twice", twice.name)),
        None => Ok(()),
    }
}

pub(super) fn check_attributes(operator: &Operator, node: &Node, ir_version: i64) -> Result<(), String> {
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
pub(super) fn check_types(operator: &Operator, graph: &Graph, node: &Node) -> Result<(), String> {
    let mut bound: SmallVec<[(&str, TypeKind, ValueId); 4]> = SmallVec::new();
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
pub(super) fn check_bodies(graph: &Graph, node: &Node) -> Result<(), String> {
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

/// The element type that the operands of its producer bind for a value, without inference.
pub(super) fn bound_element(graph: &Graph, value: ValueId) -> Option<ElementType> {
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
