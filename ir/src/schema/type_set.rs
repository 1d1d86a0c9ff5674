//! Sets of types, shapes aside: what an operator allows for a parameter.

use crate::types::{ElementType, Type};

/// A type without its shape, as far as the standard operators tell types apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeKind {
    /// `tensor(element)`
    Tensor(ElementType),
    /// `sparse_tensor(element)`
    SparseTensor(ElementType),
    /// `seq(tensor(element))`
    Sequence(ElementType),
    /// `optional(tensor(element))`
    Optional(ElementType),
    /// `optional(seq(tensor(element)))`
    OptionalSequence(ElementType),
    /// `map(key, value)`
    Map(ElementType, ElementType),
    /// `seq(map(key, value))`
    MapSequence(ElementType, ElementType),
}

impl TypeKind {
    /// The kind of a type; `None` where an inner type is unknown, or nested as in no standard operator.
    pub fn of(ty: &Type) -> Option<Self> {
        let element = |inner: &Option<Box<Type>>| inner.as_ref()?.element();
        Some(match ty {
            Type::Tensor(tensor) => Self::Tensor(tensor.element),
            Type::SparseTensor(tensor) => Self::SparseTensor(tensor.element),
            Type::Map { key, value } => Self::Map(*key, element(value)?),
            Type::Sequence(inner) => match inner.as_deref()? {
                Type::Map { key, value } => Self::MapSequence(*key, element(value)?),
                inner => Self::Sequence(inner.element()?),
            },
            Type::Optional(inner) => match inner.as_deref()? {
                Type::Sequence(inner) => Self::OptionalSequence(element(inner)?),
                inner => Self::Optional(inner.element()?),
            },
            Type::Opaque { .. } => return None,
        })
    }
}

/// A set of types: for each kind a bit per element type, for maps the pairs of a key's and a value's bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSet {
    pub(super) tensors: u64,
    pub(super) sparse_tensors: u64,
    pub(super) sequences: u64,
    pub(super) optionals: u64,
    pub(super) optional_sequences: u64,
    pub(super) maps: &'static [(u64, u64)],
    pub(super) map_sequences: &'static [(u64, u64)],
}

impl TypeSet {
    pub(super) const EMPTY: Self = Self {
        tensors: 0,
        sparse_tensors: 0,
        sequences: 0,
        optionals: 0,
        optional_sequences: 0,
        maps: &[],
        map_sequences: &[],
    };

    /// Whether the set holds a type.
    pub fn contains(&self, kind: TypeKind) -> bool {
        match kind {
            TypeKind::Tensor(element) => has_bit(self.tensors, element),
            TypeKind::SparseTensor(element) => has_bit(self.sparse_tensors, element),
            TypeKind::Sequence(element) => has_bit(self.sequences, element),
            TypeKind::Optional(element) => has_bit(self.optionals, element),
            TypeKind::OptionalSequence(element) => has_bit(self.optional_sequences, element),
            TypeKind::Map(key, value) => has_pair(self.maps, key, value),
            TypeKind::MapSequence(key, value) => has_pair(self.map_sequences, key, value),
        }
    }

    /// The element types of its tensors, in the order of their codes.
    pub fn tensor_elements(&self) -> impl Iterator<Item = ElementType> + use<> {
        let tensors = self.tensors;
        ElementType::ALL.iter().copied().filter(move |&element| has_bit(tensors, element))
    }
}

fn has_bit(bits: u64, element: ElementType) -> bool {
    bits >> element.code() & 1 == 1
}

fn has_pair(pairs: &[(u64, u64)], key: ElementType, value: ElementType) -> bool {
    pairs.iter().any(|&(keys, values)| has_bit(keys, key) && has_bit(values, value))
}
