//! Messages to graph. Nothing is dropped: what the graph does not model stays beside it as it was read.

use std::sync::Arc;

use bytes::Bytes;
use onnx_opt_proto::{
    AttributeProto, Document, ExternalData, ExternalError, GraphProto, ModelProto, NodeProto, Payload,
    TensorProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use thiserror::Error;

use crate::attributes::{Attribute, AttributeValue, Attributes};
use crate::graph::{
    Context, Form, FunctionId, Graph, GraphError, Name, NamedOperator, Node, NodeExtra, NodeId, Producer,
    ValueId,
};
use crate::infer::infer_graph;
use crate::model::Model;
use crate::regular::{implied_imports, irregularities};
use crate::schema::{canonical_domain, domain_title};
use crate::tensor::{Tensor, TensorError};
use crate::types::Type;
use crate::types_proto;

/// Why a model is not a legal graph.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The model has no graph.
    #[error("the model holds no graph")]
    NoGraph,
    /// A node says no operator.
    #[error("node `{node}` names no operator")]
    NoOperator {
        /// Name of the node, or its place.
        node: String,
    },
    /// An operand or output that nothing produces.
    #[error("{user} reads `{value}`, which nothing produces")]
    Dangling {
        /// Who reads it.
        user: String,
        /// The value.
        value: String,
    },
    /// Two versions of one operator set.
    #[error("version {one} and version {other} of domain `{domain}` are imported")]
    TwoVersions {
        /// The domain.
        domain: String,
        /// A version.
        one: i64,
        /// Another one.
        other: i64,
    },
    /// Two producers of one value.
    #[error("`{value}` is produced twice")]
    DuplicateValue {
        /// The value.
        value: String,
    },
    /// The graph has a cycle.
    #[error("node `{node}` depends on its own result")]
    Cycle {
        /// A node on or behind the cycle.
        node: String,
    },
    /// A tensor is malformed.
    #[error("tensor `{name}`: {source}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        source: TensorError,
    },
    /// The data of a tensor could not be loaded.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// Bodies are nested too deeply.
    #[error("bodies are nested more than {0} deep")]
    TooDeep(usize),
    /// An inconsistency that a method of the graph found.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Bodies may be nested this deep. (The protobuf decoder gives up at about 30.)
const MAX_DEPTH: usize = 64;

/// Builds the graph of a model and infers its types. What is irregular in it, and contradictions that inference meets,
/// become notes.
///
/// # Errors
/// If the model is not a legal graph.
pub fn import(document: Document) -> Result<Model, ImportError> {
    let mut model = assemble(document)?;
    model.notes.splice(0..0, irregularities(&model));
    Ok(model)
}

/// [`import`] without a look at what is irregular, which can be looked for while others read the model.
///
/// # Errors
/// If the model is not a legal graph.
pub fn assemble(document: Document) -> Result<Model, ImportError> {
    let mut model = document.model;
    let graph = model.graph.take().ok_or(ImportError::NoGraph)?;
    refuse_two_versions(&model)?;
    let context = context_of(&model, implied_imports(&model, &graph));
    let external = document.folder.map(ExternalData::new);
    let mut importer = Importer::new(context, external);
    let (mut graph, _) = importer.graph(graph, Vec::new())?;
    let mut notes = importer.notes;
    notes.extend(infer_graph(&mut graph).iter().map(ToString::to_string));
    if document.unknown_fields > 0 {
        notes.push(format!(
            "{} bytes of the file are not in the schema of IR version 14 and will be lost",
            document.unknown_fields
        ));
    }
    Ok(Model { graph, rest: model, notes })
}

/// The graph of a message that stands alone and holds no external data. Its types are not inferred.
///
/// # Errors
/// If it is not a legal graph.
pub(crate) fn import_graph(proto: GraphProto, context: &Context) -> Result<Graph, ImportError> {
    let mut importer = Importer::new(context.clone(), None);
    importer.graph(proto, Vec::new()).map(|(graph, _)| graph)
}

/// Where a domain is imported twice, the version must be the same.
fn refuse_two_versions(model: &ModelProto) -> Result<(), ImportError> {
    let mut versions: FxHashMap<&str, i64> = FxHashMap::default();
    for import in &model.opset_import {
        let domain = canonical_domain(import.domain());
        let one = *versions.entry(domain).or_insert(import.version());
        if one != import.version() {
            let domain = domain_title(domain).to_owned();
            return Err(ImportError::TwoVersions { domain, one, other: import.version() });
        }
    }
    Ok(())
}

/// The context of a model that imports these versions besides those that it says.
pub(crate) fn context_of(model: &ModelProto, implied: impl IntoIterator<Item = (String, i64)>) -> Context {
    let opsets = model.opset_import.iter().map(|import| (import.domain().to_owned(), import.version()));
    let opsets = opsets.chain(implied);
    let functions = model.functions.iter().map(|function| FunctionId {
        domain: canonical_domain(function.domain()).to_owned(),
        name: function.name().to_owned(),
    });
    Context::new(model.ir_version(), opsets, functions)
}

struct Importer {
    context: Context,
    external: Option<ExternalData>,
    /// The graphs under construction, outermost first.
    frames: Vec<Frame>,
    /// Operators met so far by name, with the domains they were met in.
    operators: FxHashMap<Name, SmallVec<[NamedOperator; 1]>>,
    /// What is worth telling.
    notes: Vec<String>,
}

/// A node that stands in the graph without its operands.
struct Pending {
    node: NodeId,
    inputs: Vec<String>,
    attributes: Vec<AttributeProto>,
}

struct Frame {
    graph: Graph,
    names: FxHashMap<Name, ValueId>,
    /// Values of the graph outside that this body and its siblings capture, by index.
    captures: Vec<ValueId>,
    /// Outer values that this body captured already.
    captured: FxHashMap<ValueId, ValueId>,
}

impl Importer {
    fn new(context: Context, external: Option<ExternalData>) -> Self {
        Self { context, external, frames: Vec::new(), operators: FxHashMap::default(), notes: Vec::new() }
    }

    /// A graph, and the values of the surrounding graph that it captures: those of its siblings come first.
    fn graph(
        &mut self,
        mut proto: GraphProto,
        captures: Vec<ValueId>,
    ) -> Result<(Graph, Vec<ValueId>), ImportError> {
        if self.frames.len() == MAX_DEPTH {
            return Err(ImportError::TooDeep(MAX_DEPTH));
        }
        let nodes = std::mem::take(&mut proto.node);
        let initializers = std::mem::take(&mut proto.initializer);
        let inputs = std::mem::take(&mut proto.input);
        let outputs = std::mem::take(&mut proto.output);
        let value_info = std::mem::take(&mut proto.value_info);
        let mut graph = Graph::new(self.context.clone());
        graph.rest = proto;
        let results: usize = nodes.iter().map(|node| node.output.len()).sum();
        let values = initializers.len() + inputs.len() + results;
        let operands = nodes.iter().map(|node| node.input.len()).sum();
        graph.reserve(nodes.len(), operands, values);
        self.frames.push(Frame {
            graph,
            names: FxHashMap::with_capacity_and_hasher(values, Default::default()),
            captures,
            captured: FxHashMap::default(),
        });

        self.constants_and_inputs(initializers, inputs)?;
        let pending = self.declare_nodes(nodes)?;
        for node in pending {
            self.connect(node)?;
        }
        for declaration in outputs {
            let name = declaration.name().to_owned();
            let value = self
                .resolve(&name)
                .ok_or_else(|| ImportError::Dangling { user: "the output list".into(), value: name })?;
            self.top().graph.push_output(value, declaration)?;
        }
        let annotated: Vec<String> = self
            .top()
            .graph
            .rest
            .quantization_annotation
            .iter()
            .flat_map(|annotation| {
                let parameters = annotation.quant_parameter_tensor_names.iter().map(|entry| entry.value());
                parameters.chain([annotation.tensor_name()]).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let frame = self.top();
        for name in annotated {
            if let Some(&value) = frame.names.get(name.as_str()) {
                frame.graph.pin(value);
            }
        }
        frame.graph.value_info = value_info
            .into_iter()
            .map(|declaration| (frame.names.get(declaration.name()).copied(), declaration))
            .collect();

        let Some(frame) = self.frames.pop() else { return Err(ImportError::NoGraph) };
        if let Err(node) = frame.graph.topological_order() {
            return Err(ImportError::Cycle { node: describe(&frame.graph, node) });
        }
        Ok((frame.graph, frame.captures))
    }

    fn top(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn define(&mut self, name: &Name, value: ValueId) -> Result<(), ImportError> {
        match self.top().names.insert(name.clone(), value) {
            None => Ok(()),
            Some(_) => Err(ImportError::DuplicateValue { value: name.to_string() }),
        }
    }

    /// The operator of these names, which is looked up once.
    fn operator(&mut self, domain: Option<&str>, op_type: &str) -> NamedOperator {
        let known = self.operators.get(op_type).into_iter().flatten();
        if let Some(known) = known.clone().find(|known| known.domain.as_deref() == domain) {
            return known.clone();
        }
        let new = NamedOperator::new(&self.context, domain, op_type);
        self.operators.entry(new.op_type.clone()).or_default().push(new.clone());
        new
    }

    fn constants_and_inputs(
        &mut self,
        initializers: Vec<TensorProto>,
        inputs: Vec<ValueInfoProto>,
    ) -> Result<(), ImportError> {
        let overridable = self.context.ir_version() >= 4;
        let declared: FxHashMap<&str, &ValueInfoProto> =
            inputs.iter().map(|input| (input.name(), input)).collect();
        for mut proto in initializers {
            let name: Name = proto.name.take().unwrap_or_default().into();
            let tensor = Arc::new(self.tensor(proto, &name)?);
            let frame = self.top();
            let twin = frame.names.get(&name).and_then(|&twin| frame.graph.constant(twin));
            if twin.is_some_and(|twin| *twin == tensor) {
                self.notes.push(format!("initializer `{name}` is written twice with the same content"));
                continue;
            }
            let value = match declared.get(&*name).filter(|_| overridable) {
                Some(declaration) => {
                    let ty = self.declared_type(declaration);
                    let producer = Producer::Input { default: Some(tensor) };
                    self.top().graph.add_value(Some(name.clone()), producer, ty)
                }
                None => self.top().graph.add_constant_as(Some(name.clone()), tensor, Form::Initializer),
            };
            self.define(&name, value)?;
        }
        let sparse = self.top().graph.rest.sparse_initializer.clone();
        for proto in sparse {
            let name: Name = proto.values.as_ref().map(|values| values.name()).unwrap_or_default().into();
            let value =
                self.top().graph.add_value(Some(name.clone()), Producer::Sparse(Box::new(proto)), None);
            self.define(&name, value)?;
        }
        let mut listed: FxHashSet<ValueId> = FxHashSet::default();
        for declaration in inputs {
            let name: Name = declaration.name().into();
            let value = match self.top().names.get(&name) {
                Some(&initialized) => initialized,
                None => {
                    let ty = self.declared_type(&declaration);
                    let producer = Producer::Input { default: None };
                    let value = self.top().graph.add_value(Some(name.clone()), producer, ty);
                    self.define(&name, value)?;
                    value
                }
            };
            if !listed.insert(value) {
                return Err(ImportError::DuplicateValue { value: name.to_string() });
            }
            self.top().graph.push_input(value, declaration);
        }
        Ok(())
    }

    fn declared_type(&self, declaration: &ValueInfoProto) -> Option<Type> {
        declaration.r#type.as_ref().and_then(|ty| types_proto::from_proto(ty, &self.context))
    }

    /// Adds the nodes with their results, and the `Constant` nodes as the values that they are. Operands may be named in
    /// any order: a node that stands before one of them, or has bodies, which may read all values, is left for later.
    fn declare_nodes(&mut self, nodes: Vec<NodeProto>) -> Result<Vec<Pending>, ImportError> {
        let mut pending = Vec::new();
        for (position, mut proto) in nodes.into_iter().enumerate() {
            let position = position as u32;
            if let Some((name, tensor)) = self.constant_node(&mut proto)? {
                let form = Form::Node { position, origin: Some(Box::new(proto)) };
                let value = self.top().graph.add_constant_as(Some(name.clone()), tensor, form);
                self.define(&name, value)?;
                continue;
            }
            let Some(op_type) = proto.op_type.take().filter(|op_type| !op_type.is_empty()) else {
                let node = proto.name.clone().unwrap_or_else(|| format!("#{position}"));
                return Err(ImportError::NoOperator { node });
            };
            let extra = NodeExtra {
                overload: proto.overload.take(),
                doc_string: proto.doc_string.take(),
                metadata: std::mem::take(&mut proto.metadata_props),
                device_configurations: std::mem::take(&mut proto.device_configurations),
            };
            let names: SmallVec<[Option<Name>; 2]> = std::mem::take(&mut proto.output)
                .into_iter()
                .map(|name| if name.is_empty() { None } else { Some(name.into()) })
                .collect();
            let node = Node::imported(
                self.operator(proto.domain.as_deref(), &op_type),
                proto.name.take().map(Into::into),
                names.len(),
                position,
                if extra == NodeExtra::default() { None } else { Some(Box::new(extra)) },
            );
            let id = self.top().graph.insert_node(node, |index| names[index].clone().map(Some))?;
            for (index, name) in names.iter().enumerate() {
                if let Some(name) = name
                    && let Some(value) = self.top().graph.node(id).output(index)
                {
                    self.define(name, value)?;
                }
            }
            let node = Pending { node: id, inputs: proto.input, attributes: proto.attribute };
            match self.known_operands(&node) {
                Some(inputs) => self.fill(node, &inputs)?,
                None => pending.push(node),
            }
        }
        Ok(pending)
    }

    /// The operands of a node without bodies, if all are values of this graph that are there by now.
    fn known_operands(&mut self, node: &Pending) -> Option<SmallVec<[Option<ValueId>; 4]>> {
        if node.attributes.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()) {
            return None;
        }
        let names = &self.top().names;
        let known = |name: &String| match name.as_str() {
            "" => Some(None),
            name => names.get(name).copied().map(Some),
        };
        node.inputs.iter().map(known).collect()
    }

    fn connect(&mut self, pending: Pending) -> Result<(), ImportError> {
        let mut inputs: SmallVec<[Option<ValueId>; 4]> = SmallVec::new();
        for name in &pending.inputs {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(self.resolve(name).ok_or_else(|| ImportError::Dangling {
                    user: format!(
                        "node `{}`",
                        describe(&self.frames[self.frames.len() - 1].graph, pending.node)
                    ),
                    value: name.to_owned(),
                })?),
            });
        }
        self.fill(pending, &inputs)
    }

    /// Gives a node its operands and attributes.
    fn fill(&mut self, pending: Pending, inputs: &[Option<ValueId>]) -> Result<(), ImportError> {
        let mut attributes = Attributes::new();
        let mut captures = Vec::new();
        for attribute in pending.attributes {
            attributes.push(self.attribute(attribute, &mut captures)?);
        }
        self.top().graph.fill_node(pending.node, inputs, captures, attributes);
        Ok(())
    }

    /// The value of this name in the innermost graph; a name of an outer graph becomes a captured value.
    fn resolve(&mut self, name: &str) -> Option<ValueId> {
        let known = |(depth, frame): (usize, &Frame)| {
            frame.names.get_key_value(name).map(|(key, &value)| (depth, key.clone(), value))
        };
        let (depth, key, mut value) = self.frames.iter().enumerate().rev().find_map(known)?;
        for frame in &mut self.frames[depth + 1..] {
            value = *frame.captured.entry(value).or_insert_with(|| {
                let index = frame.captures.iter().position(|&known| known == value).unwrap_or_else(|| {
                    frame.captures.push(value);
                    frame.captures.len() - 1
                });
                let producer = Producer::Captured { index: index as u32, constant: None };
                frame.graph.add_value(Some(key.clone()), producer, None)
            });
            frame.names.entry(key.clone()).or_insert(value);
        }
        Some(value)
    }

    /// Name and tensor of a plain `Constant` node. A tensor that is a message is taken out of it.
    fn constant_node(&mut self, proto: &mut NodeProto) -> Result<Option<(Name, Arc<Tensor>)>, ImportError> {
        let domain = canonical_domain(proto.domain());
        if proto.op_type() != "Constant"
            || !domain.is_empty()
            || self.context.is_function(domain, "Constant")
            || !proto.input.is_empty()
        {
            return Ok(None);
        }
        let ([output], [attribute]) = (&proto.output[..], &mut proto.attribute[..]) else { return Ok(None) };
        if output.is_empty() || attribute.ref_attr_name.is_some() {
            return Ok(None);
        }
        let name: Name = output.as_str().into();
        let bytes = |value: &Payload| Bytes::from(value.clone());
        let tensor = match (attribute.name(), attribute.r#type()) {
            ("value", AttributeType::Tensor) => match attribute.t.take() {
                Some(tensor) => Some(self.tensor(*tensor, &name)?),
                None => None,
            },
            ("value_float", AttributeType::Float) => Tensor::from_f32(&[], &[attribute.f()]),
            ("value_int", AttributeType::Int) => Tensor::from_i64(&[], &[attribute.i()]),
            ("value_floats", AttributeType::Floats) => {
                Tensor::from_f32(&[attribute.floats.len()], &attribute.floats)
            }
            ("value_ints", AttributeType::Ints) => Some(Tensor::vector_i64(&attribute.ints)),
            ("value_string", AttributeType::String) => {
                Tensor::from_strings(&[], attribute.s.iter().map(bytes).collect()).ok()
            }
            ("value_strings", AttributeType::Strings) => Tensor::from_strings(
                &[attribute.strings.len()],
                attribute.strings.iter().map(bytes).collect(),
            )
            .ok(),
            _ => None,
        };
        Ok(tensor.map(|tensor| (name, Arc::new(tensor))))
    }

    fn tensor(&mut self, proto: TensorProto, name: &str) -> Result<Tensor, ImportError> {
        let external = if proto.data_location == Some(DataLocation::External as i32) {
            let named = |source| ImportError::Tensor { name: name.to_owned(), source };
            let files = self.external.as_mut().ok_or_else(|| named(TensorError::External))?;
            let labelled = TensorProto { name: Some(name.to_owned()), ..proto.clone() };
            Some(files.bytes(&labelled)?)
        } else {
            None
        };
        Tensor::from_proto(proto, external)
            .map_err(|source| ImportError::Tensor { name: name.to_owned(), source })
    }

    fn attribute(
        &mut self,
        mut proto: AttributeProto,
        captures: &mut Vec<ValueId>,
    ) -> Result<Attribute, ImportError> {
        let name: Name = proto.name().into();
        let mut heavy = Vec::new();
        let value = if proto.ref_attr_name.is_some() {
            AttributeValue::Other
        } else {
            match proto.r#type() {
                AttributeType::Float => AttributeValue::Float(proto.f()),
                AttributeType::Int => AttributeValue::Int(proto.i()),
                AttributeType::String => AttributeValue::String(proto.s.clone().unwrap_or_default().into()),
                AttributeType::Floats => AttributeValue::Floats(proto.floats.clone()),
                AttributeType::Ints => AttributeValue::Ints(proto.ints.clone()),
                AttributeType::Strings => {
                    AttributeValue::Strings(proto.strings.iter().cloned().map(Bytes::from).collect())
                }
                AttributeType::Tensor => match proto.t.take() {
                    Some(tensor) => AttributeValue::Tensor(Arc::new(self.tensor(*tensor, &name)?)),
                    None => AttributeValue::Other,
                },
                AttributeType::Tensors => {
                    let tensors = std::mem::take(&mut proto.tensors).into_iter();
                    let tensors = tensors.map(|tensor| self.tensor(tensor, &name).map(Arc::new));
                    AttributeValue::Tensors(tensors.collect::<Result<_, _>>()?)
                }
                AttributeType::Graph => match proto.g.take() {
                    Some(graph) => AttributeValue::Graph(Box::new(self.body(*graph, captures)?)),
                    None => AttributeValue::Other,
                },
                AttributeType::Graphs => {
                    for graph in std::mem::take(&mut proto.graphs) {
                        heavy.push(self.body(graph, captures)?);
                    }
                    AttributeValue::Graphs(heavy)
                }
                AttributeType::TypeProto => match proto.tp.clone() {
                    Some(ty) => AttributeValue::Type(ty),
                    None => AttributeValue::Other,
                },
                AttributeType::SparseTensor => match proto.sparse_tensor.clone() {
                    Some(tensor) => AttributeValue::SparseTensor(tensor),
                    None => AttributeValue::Other,
                },
                _ => AttributeValue::Other,
            }
        };
        let origin = (proto != crate::export::plain_attribute(&name, &value)).then(|| Box::new(proto));
        Ok(Attribute { name, value, origin })
    }

    fn body(&mut self, proto: GraphProto, captures: &mut Vec<ValueId>) -> Result<Graph, ImportError> {
        let (body, all) = self.graph(proto, std::mem::take(captures))?;
        *captures = all;
        Ok(body)
    }
}

/// The name of a node for people.
fn describe(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    match node.name() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => match node.outputs().iter().flatten().next() {
            Some(&output) => format!("{} -> {}", node.op_type(), graph.display_name(output)),
            None => node.op_type().to_owned(),
        },
    }
}
