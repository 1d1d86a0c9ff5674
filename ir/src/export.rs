//! Graph to messages. A graph that no pass changed gives the bytes it was read from.

use onnx_opt_proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use rustc_hash::FxHashSet;

use crate::attributes::{Attribute, AttributeValue};
use crate::graph::{Constant, Form, Graph, Name, Node, Producer, Value, ValueId};
use crate::model::Model;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::types_proto;

/// The message of a model. Values without a name get one that no value of the model has.
pub fn export(model: &Model) -> ModelProto {
    let mut exporter = Exporter { taken: FxHashSet::default(), fresh: 0 };
    exporter.collect_names(&model.graph);
    let graph = exporter.graph(&model.graph, &[]);
    ModelProto { graph: Some(graph), ..model.rest.clone() }
}

/// The message of one node without bodies, its operands and results under these names (empty where one is left out).
pub fn export_node(node: &Node, inputs: Vec<String>, outputs: Vec<String>) -> NodeProto {
    Exporter { taken: FxHashSet::default(), fresh: 0 }.node(node, inputs, outputs, &[])
}

/// The message of an attribute without bodies.
pub(crate) fn export_attribute(attribute: &Attribute) -> AttributeProto {
    Exporter { taken: FxHashSet::default(), fresh: 0 }.attribute(attribute, &[])
}

struct Exporter<'a> {
    taken: FxHashSet<&'a str>,
    fresh: usize,
}

/// Names of the values of one graph, by id.
type Names = Vec<Option<Name>>;

impl<'a> Exporter<'a> {
    fn collect_names(&mut self, graph: &'a Graph) {
        self.taken.extend(graph.values().filter_map(|(_, value)| value.name()));
        for (_, node) in graph.nodes() {
            node.bodies().for_each(|body| self.collect_names(body));
        }
    }

    fn fresh_name(&mut self, stem: &str) -> Name {
        loop {
            let name = format!("{stem}_{}", self.fresh);
            self.fresh += 1;
            if !self.taken.contains(name.as_str()) {
                return name.into();
            }
        }
    }

    /// Names of all values; `captured` are those of the values that the owner of this body captures.
    fn names(&mut self, graph: &Graph, captured: &[Name], order: &[&Node]) -> Names {
        let mut names: Names = Vec::new();
        let mut put = |id: ValueId, name: Name| {
            if names.len() <= id.index() {
                names.resize(id.index() + 1, None);
            }
            names[id.index()] = Some(name);
        };
        for (id, value) in graph.values() {
            match (value.producer(), &value.name()) {
                (Producer::Captured { index, .. }, _) => {
                    if let Some(name) = captured.get(*index as usize) {
                        put(id, name.clone());
                    }
                }
                (Producer::Constant(_), None) => put(id, self.fresh_name("constant")),
                (_, Some(name)) => put(id, (*name).into()),
                _ => {}
            }
        }
        for node in order {
            for &output in node.outputs().iter().flatten() {
                if graph.value(output).name().is_none() {
                    put(output, self.fresh_name(node.op_type()));
                }
            }
        }
        names
    }

    fn graph(&mut self, graph: &Graph, captured: &[Name]) -> GraphProto {
        let mut order: Vec<&Node> = graph.nodes().map(|(_, node)| node).collect();
        order.sort_by_key(|node| node.position());
        let names = self.names(graph, captured, &order);
        let name_of = |value: ValueId| names.get(value.index()).and_then(Option::as_ref);
        let text_of = |value: ValueId| name_of(value).map(ToString::to_string).unwrap_or_default();

        let mut proto = graph.rest.clone();
        let initializers = || graph.values().filter_map(|(id, value)| Some((id, initializer(value)?)));
        proto.initializer.reserve_exact(initializers().count());
        proto.initializer.extend(
            initializers().map(|(id, tensor)| TensorProto { name: Some(text_of(id)), ..tensor.to_proto() }),
        );
        let mut constants: Vec<(u32, NodeProto)> = Vec::new();
        for (id, value) in graph.values() {
            if let Producer::Constant(constant) = value.producer()
                && let Form::Node { position, origin } = &constant.form
            {
                let node = constant_node(&constant.tensor, origin.as_deref());
                constants.push((*position, NodeProto { output: vec![text_of(id)], ..node }));
            }
        }
        constants.sort_by_key(|(position, _)| *position);
        proto.node.reserve_exact(order.len() + constants.len());

        let mut constants = constants.into_iter().peekable();
        for node in order {
            while let Some((_, constant)) = constants.next_if(|(position, _)| *position <= node.position()) {
                proto.node.push(constant);
            }
            let captured: Vec<Name> = node
                .captures()
                .iter()
                .map(|&value| name_of(value).cloned().unwrap_or_else(|| "".into()))
                .collect();
            let text = |value: &Option<ValueId>| value.map(text_of).unwrap_or_default();
            let inputs = node.inputs().iter().map(text).collect();
            let outputs = node.outputs().iter().map(text).collect();
            proto.node.push(self.node(node, inputs, outputs, &captured));
        }
        proto.node.extend(constants.map(|(_, constant)| constant));

        proto.input = graph.inputs().iter().map(|input| input.declaration.clone()).collect();
        proto.output = graph.outputs().iter().map(|output| output.declaration.clone()).collect();
        proto.value_info = graph
            .value_info
            .iter()
            .filter_map(|(value, declaration)| match value {
                None => Some(declaration.clone()),
                Some(value) => {
                    let known = graph.get_value(*value)?;
                    let name = text_of(*value);
                    // A value that became an output is declared there.
                    let moved = name != declaration.name();
                    if moved && graph.is_output(*value)
                        || matches!(known.producer(), Producer::Captured { .. })
                    {
                        return None;
                    }
                    Some(ValueInfoProto { name: Some(name), ..declaration.clone() })
                }
            })
            .collect();
        proto
    }

    fn node(
        &mut self,
        node: &Node,
        inputs: Vec<String>,
        outputs: Vec<String>,
        captured: &[Name],
    ) -> NodeProto {
        let extra = node.extra().cloned().unwrap_or_default();
        NodeProto {
            input: inputs,
            output: outputs,
            name: node.name().map(str::to_owned),
            op_type: Some(node.op_type().to_owned()),
            domain: node.domain.as_deref().map(str::to_owned),
            overload: extra.overload,
            attribute: node
                .attributes()
                .iter()
                .map(|attribute| self.attribute(attribute, captured))
                .collect(),
            doc_string: extra.doc_string,
            metadata_props: extra.metadata,
            device_configurations: extra.device_configurations,
        }
    }

    fn attribute(&mut self, attribute: &Attribute, captured: &[Name]) -> AttributeProto {
        let mut proto = match &attribute.origin {
            Some(origin) => (**origin).clone(),
            None => plain_attribute(&attribute.name, &attribute.value),
        };
        match &attribute.value {
            AttributeValue::Graph(graph) => proto.g = Some(Box::new(self.graph(graph, captured))),
            AttributeValue::Graphs(graphs) => {
                proto.graphs = graphs.iter().map(|graph| self.graph(graph, captured)).collect();
            }
            AttributeValue::Tensor(tensor) => proto.t = Some(Box::new(tensor.to_proto())),
            AttributeValue::Tensors(tensors) => {
                proto.tensors = tensors.iter().map(|tensor| tensor.to_proto()).collect();
            }
            _ => {}
        }
        proto
    }
}

/// The tensor that a value has among the initializers of its graph.
fn initializer(value: &Value) -> Option<&Tensor> {
    match value.producer() {
        Producer::Constant(Constant { tensor, form: Form::Initializer }) => Some(tensor),
        Producer::Input { default } => default.as_deref(),
        _ => None,
    }
}

/// An attribute as it is written when nothing is known of how it was read; tensors and bodies are left out.
pub(crate) fn plain_attribute(name: &str, value: &AttributeValue) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match value {
        AttributeValue::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        AttributeValue::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        AttributeValue::String(value) => {
            proto.s = Some(value.clone().into());
            AttributeType::String
        }
        AttributeValue::Floats(values) => {
            proto.floats.clone_from(values);
            AttributeType::Floats
        }
        AttributeValue::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        AttributeValue::Strings(values) => {
            proto.strings = values.iter().cloned().map(Into::into).collect();
            AttributeType::Strings
        }
        AttributeValue::Type(ty) => {
            proto.tp = Some(ty.clone());
            AttributeType::TypeProto
        }
        AttributeValue::SparseTensor(tensor) => {
            proto.sparse_tensor = Some(tensor.clone());
            AttributeType::SparseTensor
        }
        AttributeValue::Tensor(_) => AttributeType::Tensor,
        AttributeValue::Tensors(_) => AttributeType::Tensors,
        AttributeValue::Graph(_) => AttributeType::Graph,
        AttributeValue::Graphs(_) => AttributeType::Graphs,
        AttributeValue::Other => AttributeType::Undefined,
    };
    proto.r#type = Some(kind as i32);
    proto
}

/// The node of a constant, as far as it was read; the import took the tensor out of it.
fn constant_node(tensor: &Tensor, origin: Option<&NodeProto>) -> NodeProto {
    let plain = || NodeProto {
        op_type: Some("Constant".to_owned()),
        attribute: vec![AttributeProto {
            name: Some("value".to_owned()),
            r#type: Some(AttributeType::Tensor as i32),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    };
    let mut node = origin.cloned().unwrap_or_else(plain);
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.r#type() == AttributeType::Tensor)
    {
        attribute.t = Some(Box::new(tensor.to_proto()));
    }
    node
}

/// The declaration of a value of this name and type.
pub(crate) fn value_info(name: &str, ty: &Type) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(types_proto::to_proto(ty)),
        ..ValueInfoProto::default()
    }
}
