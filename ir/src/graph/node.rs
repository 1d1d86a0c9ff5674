//! Nodes: one operator each.

use onnx_opt_proto::{NodeDeviceConfigurationProto, StringStringEntryProto};
use smallvec::SmallVec;

use super::{Context, Graph, Name, ValueId};
use crate::attributes::{AttributeValue, Attributes};
use crate::schema::{self, AttributeDefault, Operator, canonical_domain};

/// One operator with its operands, results and attributes.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) op_type: Name,
    /// As written: absent, empty or a name.
    pub(crate) domain: Option<Name>,
    pub(super) name: Option<Name>,
    pub(super) inputs: SmallVec<[Option<ValueId>; 4]>,
    pub(super) captures: Vec<ValueId>,
    pub(super) outputs: SmallVec<[Option<ValueId>; 2]>,
    pub(super) attributes: Attributes,
    pub(super) position: u32,
    pub(super) operator: Option<&'static Operator>,
    pub(crate) extra: Option<Box<NodeExtra>>,
}

/// What few nodes have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeExtra {
    /// Overload of a model-local function.
    pub overload: Option<String>,
    /// Documentation.
    pub doc_string: Option<String>,
    /// Metadata.
    pub metadata: Vec<StringStringEntryProto>,
    /// Multi-device configurations.
    pub device_configurations: Vec<NodeDeviceConfigurationProto>,
}

/// An operator by the names that a file gives it, and what the standard says of it.
#[derive(Clone, Debug)]
pub(crate) struct NamedOperator {
    pub(crate) op_type: Name,
    pub(crate) domain: Option<Name>,
    operator: Option<&'static Operator>,
}

impl NamedOperator {
    /// The operator that these names mean in a context.
    pub(crate) fn new(context: &Context, domain: Option<&str>, op_type: &str) -> Self {
        let operator = resolve_operator(context, domain.unwrap_or(""), op_type);
        Self { op_type: op_type.into(), domain: domain.map(Into::into), operator }
    }
}

impl Node {
    /// A node as read, without operands yet.
    pub(crate) fn imported(
        named: NamedOperator,
        name: Option<Name>,
        outputs: usize,
        position: u32,
        extra: Option<Box<NodeExtra>>,
    ) -> Self {
        Self {
            operator: named.operator,
            op_type: named.op_type,
            domain: named.domain,
            name,
            inputs: SmallVec::new(),
            captures: Vec::new(),
            outputs: SmallVec::from_elem(None, outputs),
            attributes: Attributes::new(),
            position,
            extra,
        }
    }

    /// Name of the operator.
    pub fn op_type(&self) -> &str {
        &self.op_type
    }

    /// Domain of the operator; the default one is the empty string.
    pub fn domain(&self) -> &str {
        canonical_domain(self.domain.as_deref().unwrap_or(""))
    }

    /// Name of the node.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether this is the operator `op_type` of the standard's default domain (not a model-local function of that
    /// name, nor a version past what the operator table knows).
    pub fn is(&self, op_type: &str) -> bool {
        &*self.op_type == op_type && self.operator.is_some() && self.domain().is_empty()
    }

    /// What the standard says of the operator; `None` for custom operators and model-local functions.
    pub fn operator(&self) -> Option<&'static Operator> {
        self.operator
    }

    /// Operands in order; `None` where an optional one is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Operand `index`, if it is there.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Values of the surrounding graph that the bodies of this node read.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// Operands and captured values that are there.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// Results in order; `None` where an optional one is left out.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// Result `index`, if it is there.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// The only result; `None` if there are several.
    pub fn single_output(&self) -> Option<ValueId> {
        let mut outputs = self.outputs.iter().flatten();
        match (outputs.next(), outputs.next()) {
            (Some(&value), None) => Some(value),
            _ => None,
        }
    }

    /// Attributes as written.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Bodies in the order of the attributes.
    pub fn bodies(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.graphs()
    }

    /// Place in the node list of the file.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Documentation, metadata and other rarities.
    pub fn extra(&self) -> Option<&NodeExtra> {
        self.extra.as_deref()
    }

    fn default_of(&self, name: &str) -> Option<AttributeDefault> {
        self.operator?.attribute(name)?.default
    }

    /// An `INT` attribute, or the operator's default.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(value) => value.as_int(),
            None => match self.default_of(name)? {
                AttributeDefault::Int(value) => Some(value),
                _ => None,
            },
        }
    }

    /// A `FLOAT` attribute, or the operator's default.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attributes.get(name) {
            Some(value) => value.as_float(),
            None => match self.default_of(name)? {
                AttributeDefault::Float(value) => Some(value),
                _ => None,
            },
        }
    }

    /// A `STRING` attribute, or the operator's default.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(value) => value.as_str(),
            None => match self.default_of(name)? {
                AttributeDefault::String(value) => Some(value),
                _ => None,
            },
        }
    }

    /// An `INTS` attribute, or the operator's default.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(value) => value.as_ints(),
            None => match self.default_of(name)? {
                AttributeDefault::Ints(values) => Some(values),
                _ => None,
            },
        }
    }

    /// A `FLOATS` attribute; the standard has no defaults for these.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attributes.get(name)?.as_floats()
    }

    /// Whether running it twice may give different results: a random operator, or one whose bodies hold such.
    pub fn is_random(&self) -> bool {
        let random = self.operator.is_some_and(|operator| operator.random);
        // Dropout draws only in training mode: by attribute default never before opset 12, by operand since.
        let quiet_dropout = || self.is("Dropout") && self.inputs.get(2).is_none_or(Option::is_none);
        (random && !quiet_dropout())
            || self.bodies().any(|body| body.nodes().any(|(_, node)| node.is_random()))
    }

    /// The value of an attribute that must be there or have a default, compared with `expected`.
    pub fn attribute_is(&self, name: &str, expected: &AttributeValue) -> bool {
        match expected {
            AttributeValue::Int(value) => self.int(name) == Some(*value),
            AttributeValue::Float(value) => self.float(name) == Some(*value),
            AttributeValue::Ints(value) => self.ints(name) == Some(value),
            AttributeValue::String(value) => self.string(name).map(str::as_bytes) == Some(value),
            _ => self.attributes.get(name) == Some(expected),
        }
    }
}

/// What the standard says of an operator in this context: nothing for model-local functions and custom domains.
pub(super) fn resolve_operator(context: &Context, domain: &str, op_type: &str) -> Option<&'static Operator> {
    if context.is_function(domain, op_type) {
        return None;
    }
    let opset = context.opset(domain)?;
    // Past the newest version that the table knows, an operator may mean something else.
    if schema::latest_opset(domain).is_none_or(|latest| opset > latest) {
        return None;
    }
    schema::lookup(domain, op_type, opset)
}
