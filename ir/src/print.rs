//! Graphs as text: stable, one node a line, for people, snapshots and diffs.
//!
//! ```text
//! ir_version 8, opset 17
//! graph "main"
//!   input %x: float[N, 64]
//!   output %y: float[N, 10]
//!   constant %w: float[64, 10] #1a2b3c4d
//!   %y: float[N, 10] = Gemm(%x, %w) {alpha = 0.5} "node name"
//! ```
//!
//! Small constants show their elements, large ones a hash of their content. A body stands indented below its node.
//! What has no name, values and unknown sizes, is numbered in order of appearance.

use std::fmt::{self, Display, Write};

use onnx_opt_proto::ValueInfoProto;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::attributes::{Attribute, AttributeValue};
use crate::dim::{Dim, Symbol};
use crate::graph::{Context, Graph, Node, NodeId, Producer, ValueId};
use crate::model::Model;
use crate::tensor::Tensor;
use crate::types::{ElementType, TensorType, Type};
use crate::types_proto;

/// Tensors of at most this many elements show them.
const MAX_SHOWN: usize = 8;
/// Strings of at most this many bytes in all are shown.
const MAX_SHOWN_BYTES: usize = 256;

/// The text of a model or a graph.
pub fn print(what: &impl Display) -> String {
    what.to_string()
}

impl Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ir_version {}", self.ir_version())?;
        for (domain, version) in self.graph.context().opsets() {
            let separator = if domain.is_empty() { "" } else { " " };
            write!(f, ", opset{separator}{domain} {version}")?;
        }
        writeln!(f)?;
        for function in &self.rest.functions {
            let names =
                |names: &[String]| names.iter().map(|name| value_text(name)).collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "function {}({}) -> ({}): {} nodes",
                operator_text(function.domain(), function.name(), function.overload()),
                names(&function.input),
                names(&function.output),
                function.node.len()
            )?;
        }
        Display::fmt(&self.graph, f)
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer::default();
        printer.collect_names(self);
        writeln!(f, "graph {:?}", self.name())?;
        printer.graph(f, self, &[], 1)
    }
}

#[derive(Default)]
struct Printer<'a> {
    /// Names that values have, which no unnamed one may take.
    taken: FxHashSet<&'a str>,
    unnamed: usize,
    /// Numbers of unknown sizes.
    sizes: FxHashMap<Symbol, usize>,
}

impl<'a> Printer<'a> {
    fn collect_names(&mut self, graph: &'a Graph) {
        self.taken.extend(graph.values().filter_map(|(_, value)| value.name()));
        for (_, node) in graph.nodes() {
            node.bodies().for_each(|body| self.collect_names(body));
        }
    }

    fn fresh(&mut self) -> String {
        loop {
            let name = self.unnamed.to_string();
            self.unnamed += 1;
            if !self.taken.contains(name.as_str()) {
                return value_text(&name);
            }
        }
    }

    /// The lines of a graph below its heading. `captured`: how the surrounding graph prints what this body captures.
    fn graph(&mut self, f: &mut dyn Write, graph: &Graph, captured: &[String], depth: usize) -> fmt::Result {
        let order = order_of(graph);
        let constants = constants_of(graph, &order);
        let names = self.names(graph, captured, &constants, &order);
        let text = |value: ValueId| names.get(&value).map_or("%?", String::as_str);
        let indent = "  ".repeat(depth);

        for input in graph.inputs() {
            let ty = self.ty(graph.ty(input.value));
            write!(f, "{indent}input {}{ty}", text(input.value))?;
            if let Producer::Input { default: Some(tensor) } = graph.value(input.value).producer() {
                write!(f, " = {}", content(tensor))?;
            }
            writeln!(f)?;
        }
        for output in graph.outputs() {
            let declared = declared_type(&output.declaration);
            let ty = self.ty(graph.ty(output.value).or(declared.as_ref()));
            let name = value_text(output.declaration.name());
            let value = text(output.value);
            let source = if name == value { String::new() } else { format!(" = {value}") };
            writeln!(f, "{indent}output {name}{ty}{source}")?;
        }
        for &constant in &constants {
            let content = match graph.value(constant).producer() {
                Producer::Constant(constant) => content(&constant.tensor),
                _ => "sparse".to_owned(),
            };
            let ty = self.ty(graph.ty(constant));
            writeln!(f, "{indent}constant {}{ty} {content}", text(constant))?;
        }
        for id in order {
            let Some(node) = graph.get_node(id) else { continue };
            let left_out = |value: &Option<ValueId>| value.map_or("_", text).to_owned();
            let results: Vec<String> = node
                .outputs()
                .iter()
                .map(|output| match output {
                    Some(value) => format!("{}{}", text(*value), self.ty(graph.ty(*value))),
                    None => "_".to_owned(),
                })
                .collect();
            let operands: Vec<String> = node.inputs().iter().map(left_out).collect();
            let overload = node.extra().and_then(|extra| extra.overload.as_deref()).unwrap_or_default();
            let operator = operator_text(node.domain(), node.op_type(), overload);
            write!(f, "{indent}{} = {operator}({})", results.join(", "), operands.join(", "))?;
            let attributes: Vec<String> = node
                .attributes()
                .iter()
                .filter(|attribute| attribute.value.graphs().is_empty())
                .map(|attribute| format!("{} = {}", attribute.name, attribute_text(attribute)))
                .collect();
            if !attributes.is_empty() {
                write!(f, " {{{}}}", attributes.join(", "))?;
            }
            if let Some(name) = node.name().filter(|name| !name.is_empty()) {
                write!(f, " {name:?}")?;
            }
            let captures: Vec<String> = node.captures().iter().map(|&value| text(value).to_owned()).collect();
            if !captures.is_empty() {
                write!(f, " captures {}", captures.join(", "))?;
            }
            writeln!(f)?;
            self.bodies(f, node, &captures, depth + 1)?;
        }
        Ok(())
    }

    fn bodies(&mut self, f: &mut dyn Write, node: &Node, captured: &[String], depth: usize) -> fmt::Result {
        for attribute in node.attributes().iter() {
            for body in attribute.value.graphs() {
                writeln!(f, "{}{} = graph {:?}", "  ".repeat(depth), attribute.name, body.name())?;
                self.graph(f, body, captured, depth + 1)?;
            }
        }
        Ok(())
    }

    /// How the values of a graph print.
    fn names(
        &mut self,
        graph: &Graph,
        captured: &[String],
        constants: &[ValueId],
        order: &[NodeId],
    ) -> FxHashMap<ValueId, String> {
        let mut names = FxHashMap::default();
        for (id, value) in graph.values() {
            match (value.producer(), value.name()) {
                (Producer::Captured { index, .. }, _) => {
                    if let Some(name) = captured.get(*index as usize) {
                        names.insert(id, name.clone());
                    }
                }
                (_, Some(name)) => {
                    names.insert(id, value_text(name));
                }
                _ => {}
            }
        }
        let results = order.iter().filter_map(|&id| graph.get_node(id)).flat_map(Node::outputs).flatten();
        for &value in constants.iter().chain(results) {
            names.entry(value).or_insert_with(|| self.fresh());
        }
        names
    }

    /// A type after a colon; nothing for an unknown one.
    fn ty(&mut self, ty: Option<&Type>) -> String {
        ty.map_or_else(String::new, |ty| format!(": {}", self.numbered(ty)))
    }

    /// A type whose unknown sizes are numbered in order of appearance.
    fn numbered(&mut self, ty: &Type) -> Type {
        let boxed = |printer: &mut Self, inner: &Option<Box<Type>>| {
            inner.as_ref().map(|inner| Box::new(printer.numbered(inner)))
        };
        match ty {
            Type::Tensor(tensor) => Type::Tensor(self.numbered_tensor(tensor)),
            Type::SparseTensor(tensor) => Type::SparseTensor(self.numbered_tensor(tensor)),
            Type::Sequence(inner) => Type::Sequence(boxed(self, inner)),
            Type::Optional(inner) => Type::Optional(boxed(self, inner)),
            Type::Map { key, value } => Type::Map { key: *key, value: boxed(self, value) },
            Type::Opaque { .. } => ty.clone(),
        }
    }

    fn numbered_tensor(&mut self, tensor: &TensorType) -> TensorType {
        let shape =
            tensor.shape.as_ref().map(|shape| shape.iter().map(|dim| self.numbered_dim(dim)).collect());
        TensorType { element: tensor.element, shape }
    }

    fn numbered_dim(&mut self, dim: &Dim) -> Dim {
        if !dim.has_anonymous() {
            return dim.clone();
        }
        for symbol in dim.symbols() {
            let next = self.sizes.len();
            if matches!(symbol, Symbol::Anonymous(_)) {
                self.sizes.entry(symbol).or_insert(next);
            }
        }
        dim.substitute(&|symbol| self.sizes.get(symbol).map(|number| Dim::symbol(&format!("?{number}"))))
    }
}

/// Nodes in topological order; as in the file where there is none.
fn order_of(graph: &Graph) -> Vec<NodeId> {
    graph.topological_order().unwrap_or_else(|_| {
        let mut order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        order.sort_by_key(|&id| graph.get_node(id).map(Node::position));
        order
    })
}

/// Constants in order of their first use, then those that nothing uses.
fn constants_of(graph: &Graph, order: &[NodeId]) -> Vec<ValueId> {
    let mut seen = FxHashSet::default();
    let operands = order.iter().filter_map(|&id| graph.get_node(id)).flat_map(Node::operands);
    let outputs = graph.outputs().iter().map(|output| output.value);
    let all = graph.values().map(|(id, _)| id);
    let inputs: FxHashSet<ValueId> = graph.inputs().iter().map(|input| input.value).collect();
    operands
        .chain(outputs)
        .chain(all)
        .filter(|value| {
            graph.get_value(*value).is_some_and(|entry| match entry.producer() {
                Producer::Constant(_) => true,
                Producer::Sparse(_) => !inputs.contains(value),
                _ => false,
            })
        })
        .filter(|&value| seen.insert(value))
        .collect()
}

fn declared_type(declaration: &ValueInfoProto) -> Option<Type> {
    let scratch = Context::new(0, [], []);
    // Sizes without a name would be mistaken for those that inference numbered.
    let named = |ty: &Type| match ty.shape() {
        Some(shape) => !shape.iter().any(Dim::has_anonymous),
        None => true,
    };
    declaration.r#type.as_ref().and_then(|ty| types_proto::from_proto(ty, &scratch)).filter(named)
}

/// A value's name, in quotes where it could be misread.
fn value_text(name: &str) -> String {
    let odd =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '(' | ')' | '"' | '=' | '{' | '}');
    if name.is_empty() || name.contains(odd) { format!("%{name:?}") } else { format!("%{name}") }
}

fn operator_text(domain: &str, name: &str, overload: &str) -> String {
    let domain = if domain.is_empty() { String::new() } else { format!("{domain}.") };
    let overload = if overload.is_empty() { String::new() } else { format!(":{overload}") };
    format!("{domain}{name}{overload}")
}

/// The elements of a small tensor, or a hash.
fn content(tensor: &Tensor) -> String {
    match elements(tensor) {
        Some(elements) if tensor.rank() == 0 => elements.concat(),
        Some(elements) => format!("[{}]", elements.join(", ")),
        None => format!("#{:08x}", tensor.content_hash() >> 32),
    }
}

fn elements(tensor: &Tensor) -> Option<Vec<String>> {
    if tensor.len() > MAX_SHOWN {
        return None;
    }
    if let Some(strings) = tensor.strings() {
        let short = tensor.byte_len() <= MAX_SHOWN_BYTES;
        return short.then(|| strings.iter().map(|string| string_text(string)).collect());
    }
    let decimal = |index| match tensor.element() {
        ElementType::Bool => tensor.i64_at(index).map(|value| (value != 0).to_string()),
        ElementType::Double => tensor.f64_at(index).map(|value| value.to_string()),
        element if element.is_float() => tensor.f64_at(index).map(|value| (value as f32).to_string()),
        _ => tensor.i64_at(index).map(|value| value.to_string()),
    };
    (0..tensor.len()).map(decimal).collect()
}

fn string_text(string: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(string))
}

fn attribute_text(attribute: &Attribute) -> String {
    let list = |texts: Vec<String>| format!("[{}]", texts.join(", "));
    match &attribute.value {
        AttributeValue::Float(value) => value.to_string(),
        AttributeValue::Int(value) => value.to_string(),
        AttributeValue::String(value) => string_text(value),
        AttributeValue::Tensor(tensor) => typed_content(tensor),
        AttributeValue::Floats(values) => list(values.iter().map(ToString::to_string).collect()),
        AttributeValue::Ints(values) => list(values.iter().map(ToString::to_string).collect()),
        AttributeValue::Strings(values) => list(values.iter().map(|value| string_text(value)).collect()),
        AttributeValue::Tensors(tensors) => {
            list(tensors.iter().map(|tensor| typed_content(tensor)).collect())
        }
        AttributeValue::SparseTensor(_) => "sparse".to_owned(),
        AttributeValue::Type(ty) => {
            declared_type(&ValueInfoProto { r#type: Some((**ty).clone()), ..ValueInfoProto::default() })
                .map_or_else(|| "type".to_owned(), |ty| ty.to_string())
        }
        AttributeValue::Graph(_) | AttributeValue::Graphs(_) => list(Vec::new()),
        AttributeValue::Other => match attribute.origin.as_ref().map(|origin| origin.ref_attr_name()) {
            Some(reference) if !reference.is_empty() => format!("@{reference}"),
            _ => "?".to_owned(),
        },
    }
}

fn typed_content(tensor: &Tensor) -> String {
    format!("{} {}", tensor.ty(), content(tensor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::graph::NewNode;

    fn add(graph: &mut Graph, node: NewNode) -> ValueId {
        let id = graph.add_node(node).unwrap();
        graph.node(id).single_output().unwrap()
    }

    #[test]
    fn a_graph() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::symbol("N"), Dim::fixed(3)]));
        let odd = graph.add_input("a b", Type::unranked(ElementType::Bool));
        let small = graph.add_constant(Tensor::from_f32(&[3], &[1.0, -0.5, 1e-5]).unwrap());
        let large = graph.add_constant(Tensor::from_f32(&[3, 3], &[0.0; 9]).unwrap());
        let inner = add(&mut graph, NewNode::new("MatMul", [x, large]).with("0", 1));
        let custom = NewNode {
            domain: "custom".into(),
            name: Some("it".into()),
            ..NewNode::new("Op", [inner, small, odd])
        };
        let y = add(&mut graph, custom.with("mode", "fast").with("scale", 2.0));
        graph.add_output("y", y).unwrap();
        let text: Vec<String> = print(&graph).lines().map(str::to_owned).collect();
        assert_eq!(text[0], "graph \"\"");
        assert_eq!(text[1], "  input %x: float[N, 3]");
        assert_eq!(text[2], "  input %\"a b\": bool[...]");
        assert_eq!(text[3], "  output %y");
        assert!(text[4].starts_with("  constant %0: float[3, 3] #"), "{}", text[4]);
        assert_eq!(text[5], "  constant %1: float[3] [1, -0.5, 0.00001]");
        assert!(text[6].starts_with("  %2") && text[6].ends_with("= MatMul(%x, %0) {0 = 1}"), "{}", text[6]);
        assert_eq!(text[7], "  %y = custom.Op(%2, %1, %\"a b\") {mode = \"fast\", scale = 2} \"it\"");
    }

    #[test]
    fn numbers_do_not_take_names() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("0", Type::unranked(ElementType::Float));
        let y = add(&mut graph, NewNode::new("Custom", [x]));
        add(&mut graph, NewNode::new("Custom", [y]));
        assert!(print(&graph).contains("%1 = Custom(%0)"), "{graph}");
    }

    #[test]
    fn unknown_sizes_are_numbered_by_appearance() {
        let mut graph = Graph::new(Context::with_opset(17));
        let (a, b) = (Dim::anonymous(71), Dim::anonymous(70));
        graph.add_input("x", Type::tensor(ElementType::Float, [a.clone(), b.clone()]));
        graph.add_input("y", Type::tensor(ElementType::Float, [b, a]));
        let text = print(&graph);
        assert!(text.contains("%x: float[?0, ?1]") && text.contains("%y: float[?1, ?0]"), "{text}");
    }

    #[test]
    fn exotic_elements() {
        let strings = Tensor::from_strings(&[2], vec!["a\n".into(), "".into()]).unwrap();
        assert_eq!(content(&strings), r#"["a\n", ""]"#);
        assert_eq!(
            content(&Tensor::from_integers(ElementType::Bool, &[2], &[1, 0]).unwrap()),
            "[true, false]"
        );
        assert_eq!(content(&Tensor::scalar(ElementType::Float16, 0.1).unwrap()), "0.099975586");
        let complex = Tensor::from_raw(ElementType::Complex64, &[1], vec![0; 8].into()).unwrap();
        assert!(content(&complex).starts_with('#'));
        assert_eq!(content(&Tensor::vector_i64(&[])), "[]");
    }
}
