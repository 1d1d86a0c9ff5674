//! What is known of a value that has one of two types.

use std::collections::BTreeSet;

use crate::dim::{Dim, Symbol};
use crate::graph::Context;
use crate::types::{Shape, TensorType, Type};

/// The type that both have: sizes that differ become fresh, ranks that differ unknown. `None` if kinds or element
/// types differ.
pub(super) fn join(context: &Context, a: &Type, b: &Type) -> Option<Type> {
    join_with(a, b, &|a, b| if a == b { a.clone() } else { context.fresh_dim() })
}

/// As [`join`], with sizes joined by `size`.
pub(super) fn join_with(a: &Type, b: &Type, size: &dyn Fn(&Dim, &Dim) -> Dim) -> Option<Type> {
    let tensors = |a: &TensorType, b: &TensorType| {
        let shape = match (&a.shape, &b.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                Some(a.iter().zip(b).map(|(a, b)| size(a, b)).collect::<Shape>())
            }
            _ => None,
        };
        (a.element == b.element).then_some(TensorType { element: a.element, shape })
    };
    let boxed = |a: &Option<Box<Type>>, b: &Option<Box<Type>>| match (a, b) {
        (Some(a), Some(b)) => join_with(a, b, size).map(Box::new),
        _ => None,
    };
    match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) => tensors(a, b).map(Type::Tensor),
        (Type::SparseTensor(a), Type::SparseTensor(b)) => tensors(a, b).map(Type::SparseTensor),
        (Type::Sequence(a), Type::Sequence(b)) => Some(Type::Sequence(boxed(a, b))),
        (Type::Optional(a), Type::Optional(b)) => Some(Type::Optional(boxed(a, b))),
        _ => (a == b).then(|| a.clone()),
    }
}

/// The type with each size replaced by what `size` gives for it, and without shapes if that is `None`.
pub(crate) fn map_sizes(ty: &Type, size: Option<&dyn Fn(&Dim) -> Dim>) -> Type {
    let tensor = |tensor: &TensorType| TensorType {
        element: tensor.element,
        shape: size.and_then(|size| Some(tensor.shape.as_ref()?.iter().map(size).collect())),
    };
    let boxed = |inner: &Option<Box<Type>>| inner.as_ref().map(|inner| Box::new(map_sizes(inner, size)));
    match ty {
        Type::Tensor(inner) => Type::Tensor(tensor(inner)),
        Type::SparseTensor(inner) => Type::SparseTensor(tensor(inner)),
        Type::Sequence(inner) => Type::Sequence(boxed(inner)),
        Type::Optional(inner) => Type::Optional(boxed(inner)),
        Type::Map { .. } | Type::Opaque { .. } => ty.clone(),
    }
}

/// The type without its shapes: kinds and element types never change along a loop.
pub(crate) fn outline(ty: &Type) -> Type {
    map_sizes(ty, None)
}

/// The type of one member of a collection: an anonymous size of the collection's type may be another in each.
pub(super) fn member(context: &Context, ty: &Type) -> Type {
    map_sizes(ty, Some(&|size| if size.has_anonymous() { context.fresh_dim() } else { size.clone() }))
}

/// The type seen from outside a body that runs many times: a size that depends on anonymous symbols other than
/// `outer` may be another in each run.
pub(super) fn escape(context: &Context, ty: &Type, outer: &BTreeSet<Symbol>) -> Type {
    let known = |symbol: &Symbol| matches!(symbol, Symbol::Named(_)) || outer.contains(symbol);
    let size = |size: &Dim| if size.symbols().iter().all(known) { size.clone() } else { context.fresh_dim() };
    map_sizes(ty, Some(&size))
}

/// Adds the symbols that a type names.
pub(super) fn collect_symbols(ty: &Type, symbols: &mut BTreeSet<Symbol>) {
    match ty {
        Type::Tensor(tensor) | Type::SparseTensor(tensor) => {
            symbols.extend(tensor.shape.iter().flatten().flat_map(Dim::symbols));
        }
        Type::Sequence(Some(inner)) | Type::Optional(Some(inner)) => collect_symbols(inner, symbols),
        _ => {}
    }
}
