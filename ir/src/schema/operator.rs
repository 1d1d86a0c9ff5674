//! What the standard says of one version of one operator.

use super::type_set::{TypeKind, TypeSet};

/// One version of one operator.
#[derive(Debug, PartialEq)]
pub struct Operator {
    /// Domain; empty for the default domain `ai.onnx`.
    pub domain: &'static str,
    /// Name, as in `NodeProto.op_type`.
    pub op_type: &'static str,
    /// First operator set version that has this version of the operator.
    pub since_version: i64,
    /// The operator was withdrawn at `since_version`: models of that version or later must not use it.
    pub deprecated: bool,
    /// The standard also defines the operator as a function of other operators.
    pub has_function: bool,
    /// The operator draws random numbers, so that two runs, or two equal nodes, differ.
    ///
    /// `Dropout` counts although it draws in training mode only. Operators with bodies (`If`, `Loop`, `Scan`,
    /// `SequenceMap`) do not: they are as random as what their bodies hold.
    pub random: bool,
    /// Inputs, in order. Only the last can be variadic.
    pub inputs: &'static [Parameter],
    /// Outputs, in order. Only the last can be variadic.
    pub outputs: &'static [Parameter],
    /// Attributes, ascending by name.
    pub attributes: &'static [AttributeSchema],
}

impl Operator {
    /// The parameter that input `index` of a node belongs to; `None` past the last one.
    pub fn input(&self, index: usize) -> Option<&'static Parameter> {
        parameter(self.inputs, index)
    }

    /// The parameter that output `index` of a node belongs to; `None` past the last one.
    pub fn output(&self, index: usize) -> Option<&'static Parameter> {
        parameter(self.outputs, index)
    }

    /// Fewest and most inputs of a node, omitted ones (empty names) before the last counted;
    /// `None`: any number.
    pub fn input_count(&self) -> (usize, Option<usize>) {
        count(self.inputs)
    }

    /// Fewest and most outputs of a node, omitted ones (empty names) before the last counted;
    /// `None`: any number.
    pub fn output_count(&self) -> (usize, Option<usize>) {
        count(self.outputs)
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&'static AttributeSchema> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// The types that a type variable (`"T"`) stands for, if a parameter has it.
    pub fn type_constraint(&self, name: &str) -> Option<&'static TypeSet> {
        let parameters = self.inputs.iter().chain(self.outputs);
        parameters.into_iter().find(|parameter| parameter.type_name == name).map(|parameter| parameter.types)
    }
}

/// The last parameter repeats if it is variadic.
fn parameter(parameters: &'static [Parameter], index: usize) -> Option<&'static Parameter> {
    parameters
        .get(index)
        .or_else(|| parameters.last().filter(|last| matches!(last.arity, Arity::Variadic { .. })))
}

fn count(parameters: &[Parameter]) -> (usize, Option<usize>) {
    let mut fewest = 0;
    for (index, parameter) in parameters.iter().enumerate() {
        match parameter.arity {
            Arity::Single => fewest = index + 1,
            Arity::Optional => {}
            Arity::Variadic { min, .. } => return (index + min, None),
        }
    }
    (fewest, Some(parameters.len()))
}

/// An input or an output of an operator.
#[derive(Debug, PartialEq)]
pub struct Parameter {
    /// Name in the standard, not a name in a model.
    pub name: &'static str,
    /// Type variable (`"T"`), or the one type allowed (`"tensor(int64)"`). Parameters of an operator with the same
    /// variable have the same type, unless they are variadic and heterogeneous.
    pub type_name: &'static str,
    /// The types allowed.
    pub types: &'static TypeSet,
    /// How many values it takes.
    pub arity: Arity,
}

impl Parameter {
    /// Whether a value of that type can stand here.
    pub fn allows(&self, kind: TypeKind) -> bool {
        self.types.contains(kind)
    }

    /// Whether it can be left out.
    pub fn is_optional(&self) -> bool {
        self.arity == Arity::Optional
    }
}

/// How many values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// One.
    Single,
    /// One or none.
    Optional,
    /// Any number from `min`.
    Variadic {
        /// Fewest values.
        min: usize,
        /// All have the same type.
        homogeneous: bool,
    },
}

/// An attribute of an operator.
#[derive(Debug, PartialEq)]
pub struct AttributeSchema {
    /// Name, as in `AttributeProto.name`.
    pub name: &'static str,
    /// Type.
    pub kind: AttributeKind,
    /// A node must have it.
    pub required: bool,
    /// What a node without it means; `None` also where the standard describes a default in words only.
    pub default: Option<AttributeDefault>,
}

/// Type of an attribute; the discriminants are the codes of `AttributeProto.AttributeType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum AttributeKind {
    Float = 1,
    Int = 2,
    String = 3,
    Tensor = 4,
    Graph = 5,
    Floats = 6,
    Ints = 7,
    Strings = 8,
    SparseTensor = 11,
    TypeProto = 13,
}

impl AttributeKind {
    /// Code of `AttributeProto.AttributeType`.
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// Default value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AttributeDefault {
    Float(f32),
    Int(i64),
    String(&'static str),
    Ints(&'static [i64]),
    Strings(&'static [&'static str]),
}

impl AttributeDefault {
    /// The value, if it is a float.
    pub fn as_float(self) -> Option<f32> {
        if let Self::Float(value) = self { Some(value) } else { None }
    }

    /// The value, if it is an integer.
    pub fn as_int(self) -> Option<i64> {
        if let Self::Int(value) = self { Some(value) } else { None }
    }

    /// The value, if it is a string.
    pub fn as_string(self) -> Option<&'static str> {
        if let Self::String(value) = self { Some(value) } else { None }
    }
}

// The words of the generated table.

pub(super) const fn single(
    name: &'static str,
    type_name: &'static str,
    types: &'static TypeSet,
) -> Parameter {
    Parameter { name, type_name, types, arity: Arity::Single }
}

pub(super) const fn optional(
    name: &'static str,
    type_name: &'static str,
    types: &'static TypeSet,
) -> Parameter {
    Parameter { name, type_name, types, arity: Arity::Optional }
}

pub(super) const fn variadic(
    name: &'static str,
    type_name: &'static str,
    types: &'static TypeSet,
    min: usize,
    homogeneous: bool,
) -> Parameter {
    Parameter { name, type_name, types, arity: Arity::Variadic { min, homogeneous } }
}

pub(super) const fn attribute(name: &'static str, kind: AttributeKind, required: bool) -> AttributeSchema {
    AttributeSchema { name, kind, required, default: None }
}

const fn default(name: &'static str, kind: AttributeKind, default: AttributeDefault) -> AttributeSchema {
    AttributeSchema { name, kind, required: false, default: Some(default) }
}

pub(super) const fn float(name: &'static str, value: f32) -> AttributeSchema {
    default(name, AttributeKind::Float, AttributeDefault::Float(value))
}

pub(super) const fn int(name: &'static str, value: i64) -> AttributeSchema {
    default(name, AttributeKind::Int, AttributeDefault::Int(value))
}

pub(super) const fn string(name: &'static str, value: &'static str) -> AttributeSchema {
    default(name, AttributeKind::String, AttributeDefault::String(value))
}

pub(super) const fn ints(name: &'static str, value: &'static [i64]) -> AttributeSchema {
    default(name, AttributeKind::Ints, AttributeDefault::Ints(value))
}

pub(super) const fn strings(name: &'static str, value: &'static [&'static str]) -> AttributeSchema {
    default(name, AttributeKind::Strings, AttributeDefault::Strings(value))
}
