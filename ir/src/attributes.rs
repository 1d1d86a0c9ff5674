//! The attributes of a node.

use std::sync::Arc;

use bytes::Bytes;
use onnx_opt_proto::{AttributeProto, SparseTensorProto, TypeProto};

use crate::graph::{Graph, Name};
use crate::tensor::Tensor;

/// The value of an attribute, one variant for each `AttributeProto.AttributeType`.
#[derive(Clone, Debug)]
pub enum AttributeValue {
    /// `FLOAT`
    Float(f32),
    /// `INT`
    Int(i64),
    /// `STRING`
    String(Bytes),
    /// `TENSOR`
    Tensor(Arc<Tensor>),
    /// `GRAPH`: a body, whose captured values are operands of the owning node.
    Graph(Box<Graph>),
    /// `SPARSE_TENSOR`
    SparseTensor(Box<SparseTensorProto>),
    /// `TYPE_PROTO`
    Type(Box<TypeProto>),
    /// `FLOATS`
    Floats(Vec<f32>),
    /// `INTS`
    Ints(Vec<i64>),
    /// `STRINGS`
    Strings(Vec<Bytes>),
    /// `TENSORS`
    Tensors(Vec<Arc<Tensor>>),
    /// `GRAPHS`
    Graphs(Vec<Graph>),
    /// Anything that survives only as it was read: an attribute reference of a function body, an undefined
    /// type, lists of sparse tensors or of types.
    Other,
}

/// A named attribute.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Name of the attribute.
    pub name: Name,
    /// Its value.
    pub value: AttributeValue,
    /// The message it was read from, kept when `value` alone would not give the same bytes back.
    pub(crate) origin: Option<Box<AttributeProto>>,
}

impl Attribute {
    /// A new attribute.
    pub fn new(name: &str, value: impl Into<AttributeValue>) -> Self {
        Self { name: name.into(), value: value.into(), origin: None }
    }
}

/// The attributes of a node, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<Attribute>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attributes from name and value pairs.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, AttributeValue)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| Attribute::new(name, value)).collect())
    }

    /// The attributes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Attribute> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Attribute> {
        self.0.iter_mut()
    }

    pub(crate) fn push(&mut self, attribute: Attribute) {
        self.0.push(attribute);
    }

    /// Number of attributes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the attribute of this name, if it is written on the node. No default is guessed:
    /// [`crate::graph::Node::int`] and its siblings know those of the operator table.
    pub fn get(&self, name: &str) -> Option<&AttributeValue> {
        self.0.iter().find(|attribute| &*attribute.name == name).map(|attribute| &attribute.value)
    }

    /// Sets an attribute, in its place when it exists, else at the end.
    pub fn set(&mut self, name: &str, value: impl Into<AttributeValue>) {
        let new = Attribute::new(name, value);
        match self.0.iter_mut().find(|attribute| &*attribute.name == name) {
            Some(old) => *old = new,
            None => self.0.push(new),
        }
    }

    /// Removes an attribute and tells whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|attribute| &*attribute.name != name);
        self.0.len() != before
    }

    /// The bodies in order.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.0.iter().flat_map(|attribute| attribute.value.graphs())
    }
}

impl AttributeValue {
    /// The bodies of this value.
    pub fn graphs(&self) -> &[Graph] {
        match self {
            Self::Graph(graph) => std::slice::from_ref(&**graph),
            Self::Graphs(graphs) => graphs,
            _ => &[],
        }
    }

    pub(crate) fn graphs_mut(&mut self) -> &mut [Graph] {
        match self {
            Self::Graph(graph) => std::slice::from_mut(&mut **graph),
            Self::Graphs(graphs) => graphs,
            _ => &mut [],
        }
    }

    /// The value of an `INT`.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a `FLOAT`.
    pub fn as_float(&self) -> Option<f32> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a `STRING` that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// The values of an `INTS`.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match self {
            Self::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// The values of a `FLOATS`.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match self {
            Self::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// The values of a `STRINGS`.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match self {
            Self::Strings(values) => Some(values),
            _ => None,
        }
    }

    /// The value of a `TENSOR`.
    pub fn as_tensor(&self) -> Option<&Arc<Tensor>> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

impl PartialEq for AttributeValue {
    /// Bitwise equality of floats and tensors; bodies and raw messages are never equal.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Tensor(a), Self::Tensor(b)) => a == b,
            (Self::Floats(a), Self::Floats(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Self::Ints(a), Self::Ints(b)) => a == b,
            (Self::Strings(a), Self::Strings(b)) => a == b,
            (Self::Tensors(a), Self::Tensors(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            _ => false,
        }
    }
}

macro_rules! from {
    ($($source:ty => |$value:ident| $variant:ident($expression:expr);)*) => {
        $(impl From<$source> for AttributeValue {
            fn from($value: $source) -> Self { Self::$variant($expression) }
        })*
    };
}

from! {
    i64 => |value| Int(value);
    f32 => |value| Float(value);
    &str => |value| String(Bytes::copy_from_slice(value.as_bytes()));
    Vec<i64> => |value| Ints(value);
    &[i64] => |value| Ints(value.to_vec());
    Vec<f32> => |value| Floats(value);
    Arc<Tensor> => |value| Tensor(value);
    Graph => |value| Graph(Box::new(value));
}
