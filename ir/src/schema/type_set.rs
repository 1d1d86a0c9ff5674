//! Sets of types, shapes aside: what an operator allows for a parameter.

/// A type without its shape, as far as the standard operators tell types apart.
///
/// Element, key and value types are codes of `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeKind {
    /// `tensor(element)`
    Tensor(i32),
    /// `sparse_tensor(element)`
    SparseTensor(i32),
    /// `seq(tensor(element))`
    Sequence(i32),
    /// `optional(tensor(element))`
    Optional(i32),
    /// `optional(seq(tensor(element)))`
    OptionalSequence(i32),
    /// `map(key, value)`
    Map(i32, i32),
    /// `seq(map(key, value))`
    MapSequence(i32, i32),
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

    /// The element types of its tensors, ascending codes of `TensorProto.DataType`.
    pub fn tensor_elements(&self) -> impl Iterator<Item = i32> + use<> {
        let tensors = self.tensors;
        (0..64).filter(move |&code| has_bit(tensors, code))
    }
}

fn has_bit(bits: u64, code: i32) -> bool {
    (0..64).contains(&code) && bits >> code & 1 == 1
}

fn has_pair(pairs: &[(u64, u64)], key: i32, value: i32) -> bool {
    pairs.iter().any(|&(keys, values)| has_bit(keys, key) && has_bit(values, value))
}
