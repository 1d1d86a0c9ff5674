//! Types to and from their messages.

use onnx_opt_proto::{TensorShapeProto, TypeProto, tensor_shape_proto, type_proto};

use crate::dim::{Dim, Symbol};
use crate::graph::Context;
use crate::types::{ElementType, Shape, TensorType, Type};

/// The type that a message declares; `None` if it declares none or one that the schema does not know.
pub(crate) fn from_proto(proto: &TypeProto, context: &Context) -> Option<Type> {
    use type_proto::Value;
    let boxed = |inner: &Option<Box<TypeProto>>| {
        inner.as_ref().and_then(|inner| from_proto(inner, context)).map(Box::new)
    };
    Some(match proto.value.as_ref()? {
        Value::TensorType(tensor) => Type::Tensor(TensorType {
            element: ElementType::from_code(tensor.elem_type())?,
            shape: tensor.shape.as_ref().map(|shape| shape_from_proto(shape, context)),
        }),
        Value::SparseTensorType(tensor) => Type::SparseTensor(TensorType {
            element: ElementType::from_code(tensor.elem_type())?,
            shape: tensor.shape.as_ref().map(|shape| shape_from_proto(shape, context)),
        }),
        Value::SequenceType(sequence) => Type::Sequence(boxed(&sequence.elem_type)),
        Value::OptionalType(optional) => Type::Optional(boxed(&optional.elem_type)),
        Value::MapType(map) => {
            Type::Map { key: ElementType::from_code(map.key_type())?, value: boxed(&map.value_type) }
        }
        Value::OpaqueType(opaque) => {
            Type::Opaque { domain: opaque.domain().to_owned(), name: opaque.name().to_owned() }
        }
    })
}

fn shape_from_proto(shape: &TensorShapeProto, context: &Context) -> Shape {
    use tensor_shape_proto::dimension::Value;
    let dim = |value: &Option<Value>| match value {
        Some(Value::DimValue(size)) if *size >= 0 => Dim::fixed(*size),
        // Exporters write "?" for every axis of unknown size, whether or not the sizes agree.
        Some(Value::DimParam(name)) if !name.is_empty() && name != "?" => Dim::symbol(name),
        _ => context.fresh_dim(),
    };
    shape.dim.iter().map(|dimension| dim(&dimension.value)).collect()
}

/// The message of a type. Sizes that are expressions are written as text; anonymous ones are left open.
pub(crate) fn to_proto(ty: &Type) -> TypeProto {
    use type_proto::Value;
    let boxed = |inner: &Option<Box<Type>>| inner.as_ref().map(|inner| Box::new(to_proto(inner)));
    let value = match ty {
        Type::Tensor(tensor) => Value::TensorType(type_proto::Tensor {
            elem_type: Some(tensor.element.code()),
            shape: tensor.shape.as_deref().map(shape_to_proto),
        }),
        Type::SparseTensor(tensor) => Value::SparseTensorType(type_proto::SparseTensor {
            elem_type: Some(tensor.element.code()),
            shape: tensor.shape.as_deref().map(shape_to_proto),
        }),
        Type::Sequence(inner) => {
            Value::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed(inner) }))
        }
        Type::Optional(inner) => {
            Value::OptionalType(Box::new(type_proto::Optional { elem_type: boxed(inner) }))
        }
        Type::Map { key, value } => {
            Value::MapType(Box::new(type_proto::Map { key_type: Some(key.code()), value_type: boxed(value) }))
        }
        Type::Opaque { domain, name } => {
            Value::OpaqueType(type_proto::Opaque { domain: Some(domain.clone()), name: Some(name.clone()) })
        }
    };
    TypeProto { value: Some(value), denotation: None }
}

fn shape_to_proto(shape: &[Dim]) -> TensorShapeProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let value = |dim: &Dim| match (dim.as_fixed(), dim.as_symbol()) {
        (Some(size), _) => Some(Value::DimValue(size)),
        (_, Some(Symbol::Named(name))) => Some(Value::DimParam(name.to_string())),
        _ if dim.has_anonymous() => None,
        _ => Some(Value::DimParam(dim.to_string())),
    };
    TensorShapeProto {
        dim: shape.iter().map(|dim| Dimension { value: value(dim), denotation: None }).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_names_make_sizes_equal() {
        use tensor_shape_proto::{Dimension, dimension::Value};
        let param =
            |name: &str| Dimension { value: Some(Value::DimParam(name.to_owned())), ..Dimension::default() };
        let proto = TensorShapeProto { dim: ["N", "N", "?", "?", "", ""].map(param).to_vec() };
        let shape = shape_from_proto(&proto, &Context::with_opset(20));
        assert_eq!(shape[0], shape[1]);
        assert!(shape[2] != shape[3] && shape[4] != shape[5]);
    }
}
