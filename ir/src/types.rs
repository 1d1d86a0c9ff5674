//! Element types, shapes and the types of values.

use std::fmt;

use smallvec::SmallVec;

use crate::dim::Dim;

macro_rules! element_types {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $bits:literal;)*) => {
        /// The type of one element of a tensor (`TensorProto.DataType`).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(i32)]
        pub enum ElementType { $($(#[$doc])* $variant = $code,)* }

        impl ElementType {
            /// Every element type of the schema.
            pub const ALL: &[ElementType] = &[$(ElementType::$variant,)*];

            /// The type with this `TensorProto.DataType` code; `None` for `UNDEFINED` and unknown codes.
            pub fn from_code(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The name that the operator specification uses in `tensor(...)`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bits of one element in `raw_data`; 0 for strings, which have no raw form.
            pub fn bits(self) -> usize {
                match self { $(Self::$variant => $bits,)* }
            }
        }
    };
}

element_types! {
    /// IEEE 754 single precision.
    Float = 1, "float", 32;
    /// Unsigned 8-bit integer.
    Uint8 = 2, "uint8", 8;
    /// Signed 8-bit integer.
    Int8 = 3, "int8", 8;
    /// Unsigned 16-bit integer.
    Uint16 = 4, "uint16", 16;
    /// Signed 16-bit integer.
    Int16 = 5, "int16", 16;
    /// Signed 32-bit integer.
    Int32 = 6, "int32", 32;
    /// Signed 64-bit integer.
    Int64 = 7, "int64", 64;
    /// Byte string.
    String = 8, "string", 0;
    /// One byte, 0 or 1.
    Bool = 9, "bool", 8;
    /// IEEE 754 half precision.
    Float16 = 10, "float16", 16;
    /// IEEE 754 double precision.
    Double = 11, "double", 64;
    /// Unsigned 32-bit integer.
    Uint32 = 12, "uint32", 32;
    /// Unsigned 64-bit integer.
    Uint64 = 13, "uint64", 64;
    /// Two single-precision floats.
    Complex64 = 14, "complex64", 64;
    /// Two double-precision floats.
    Complex128 = 15, "complex128", 128;
    /// The upper 16 bits of a single-precision float.
    Bfloat16 = 16, "bfloat16", 16;
    /// 8-bit float, 4 exponent bits, no infinities.
    Float8E4M3FN = 17, "float8e4m3fn", 8;
    /// 8-bit float, 4 exponent bits, no infinities, no negative zero.
    Float8E4M3FNUZ = 18, "float8e4m3fnuz", 8;
    /// 8-bit float, 5 exponent bits.
    Float8E5M2 = 19, "float8e5m2", 8;
    /// 8-bit float, 5 exponent bits, no infinities, no negative zero.
    Float8E5M2FNUZ = 20, "float8e5m2fnuz", 8;
    /// Unsigned 4-bit integer, two in a byte, the first in the low bits.
    Uint4 = 21, "uint4", 4;
    /// Signed 4-bit integer, two in a byte, the first in the low bits.
    Int4 = 22, "int4", 4;
    /// 4-bit float, two in a byte.
    Float4E2M1 = 23, "float4e2m1", 4;
    /// 8-bit power of two, used as a scale.
    Float8E8M0 = 24, "float8e8m0", 8;
    /// Unsigned 2-bit integer, four in a byte.
    Uint2 = 25, "uint2", 2;
    /// Signed 2-bit integer, four in a byte.
    Int2 = 26, "int2", 2;
    /// 6-bit float, 2 exponent bits.
    Float6E2M3 = 27, "float6e2m3", 6;
    /// 6-bit float, 3 exponent bits.
    Float6E3M2 = 28, "float6e3m2", 6;
}

impl ElementType {
    /// The `TensorProto.DataType` code.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Bytes that `count` elements take in `raw_data`; sub-byte elements are packed, the last byte padded.
    /// `None` when the product overflows, and for strings.
    pub fn raw_len(self, count: usize) -> Option<usize> {
        if self == Self::String {
            return None;
        }
        count.checked_mul(self.bits()).map(|bits| bits.div_ceil(8))
    }

    /// Real floating-point types of any width.
    pub fn is_float(self) -> bool {
        use ElementType::*;
        matches!(
            self,
            Float
                | Float16
                | Double
                | Bfloat16
                | Float8E4M3FN
                | Float8E4M3FNUZ
                | Float8E5M2
                | Float8E5M2FNUZ
                | Float4E2M1
                | Float8E8M0
                | Float6E2M3
                | Float6E3M2
        )
    }

    /// Signed integers of any width.
    pub fn is_signed_integer(self) -> bool {
        use ElementType::*;
        matches!(self, Int2 | Int4 | Int8 | Int16 | Int32 | Int64)
    }

    /// Unsigned integers of any width; not `Bool`.
    pub fn is_unsigned_integer(self) -> bool {
        use ElementType::*;
        matches!(self, Uint2 | Uint4 | Uint8 | Uint16 | Uint32 | Uint64)
    }

    /// Integers of any width; not `Bool`.
    pub fn is_integer(self) -> bool {
        self.is_signed_integer() || self.is_unsigned_integer()
    }

    /// Complex types.
    pub fn is_complex(self) -> bool {
        matches!(self, Self::Complex64 | Self::Complex128)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sizes of a tensor's axes. An axis of unknown size holds an anonymous symbol.
pub type Shape = SmallVec<[Dim; 4]>;

/// Element type and, where the rank is known, shape of a tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Type of the elements.
    pub element: ElementType,
    /// Axis sizes; `None` when not even the rank is known.
    pub shape: Option<Shape>,
}

/// The type of a value (`TypeProto`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    SparseTensor(TensorType),
    /// A sequence of values of one type; the element type is `None` where the file does not say it.
    Sequence(Option<Box<Type>>),
    /// A value that may be absent.
    Optional(Option<Box<Type>>),
    /// A map.
    Map {
        /// Type of the keys (an integer type or string).
        key: ElementType,
        /// Type of the values, `None` where the file does not say it.
        value: Option<Box<Type>>,
    },
    /// A type known by name only.
    Opaque {
        /// Domain of the name.
        domain: String,
        /// The name.
        name: String,
    },
}

impl Type {
    /// A tensor of known shape.
    pub fn tensor(element: ElementType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self::Tensor(TensorType { element, shape: Some(shape.into_iter().collect()) })
    }

    /// A tensor of unknown rank.
    pub fn unranked(element: ElementType) -> Self {
        Self::Tensor(TensorType { element, shape: None })
    }

    /// The tensor type, if this is a dense tensor.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The element type, if this is a dense tensor.
    pub fn element(&self) -> Option<ElementType> {
        self.as_tensor().map(|tensor| tensor.element)
    }

    /// The shape, if this is a dense tensor of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        self.as_tensor().and_then(|tensor| tensor.shape.as_deref())
    }

    /// Whether no value can have both types: other kinds, element types, ranks, or sizes that provably differ.
    pub fn contradicts(&self, other: &Type) -> bool {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) | (Self::SparseTensor(a), Self::SparseTensor(b)) => {
                a.element != b.element
                    || match (&a.shape, &b.shape) {
                        (Some(a), Some(b)) => {
                            a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.proves_ne(b))
                        }
                        _ => false,
                    }
            }
            (Self::Sequence(a), Self::Sequence(b)) | (Self::Optional(a), Self::Optional(b)) => {
                matches!((a, b), (Some(a), Some(b)) if a.contradicts(b))
            }
            (Self::Map { key: a, value: v }, Self::Map { key: b, value: w }) => {
                a != b || matches!((v, w), (Some(v), Some(w)) if v.contradicts(w))
            }
            (Self::Opaque { .. }, Self::Opaque { .. }) => self != other,
            _ => true,
        }
    }

    /// What is known when a value has both types. Where both name a size, a fixed one wins over a symbolic one
    /// and a named symbol over an anonymous one. The types must not contradict each other.
    pub fn refine(&self, other: &Type) -> Type {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) => Self::Tensor(a.refine(b)),
            (Self::SparseTensor(a), Self::SparseTensor(b)) => Self::SparseTensor(a.refine(b)),
            (Self::Sequence(a), Self::Sequence(b)) => Self::Sequence(refine_boxed(a, b)),
            (Self::Optional(a), Self::Optional(b)) => Self::Optional(refine_boxed(a, b)),
            _ => self.clone(),
        }
    }
}

fn refine_boxed(a: &Option<Box<Type>>, b: &Option<Box<Type>>) -> Option<Box<Type>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Box::new(a.refine(b))),
        (a, b) => a.clone().or_else(|| b.clone()),
    }
}

impl TensorType {
    fn refine(&self, other: &TensorType) -> TensorType {
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                Some(a.iter().zip(b).map(|(a, b)| more_definite(a, b).clone()).collect())
            }
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        TensorType { element: self.element, shape }
    }
}

/// The size that says more: fixed before symbolic, without anonymous symbols before with; else the first.
fn more_definite<'a>(a: &'a Dim, b: &'a Dim) -> &'a Dim {
    let rank = |dim: &Dim| match dim.as_fixed() {
        Some(_) => 0,
        None if !dim.has_anonymous() => 1,
        None => 2,
    };
    if rank(b) < rank(a) { b } else { a }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boxed = |f: &mut fmt::Formatter<'_>, kind: &str, inner: &Option<Box<Type>>| match inner {
            Some(inner) => write!(f, "{kind}({inner})"),
            None => write!(f, "{kind}(?)"),
        };
        match self {
            Self::Tensor(tensor) => write!(f, "{tensor}"),
            Self::SparseTensor(tensor) => write!(f, "sparse({tensor})"),
            Self::Sequence(inner) => boxed(f, "seq", inner),
            Self::Optional(inner) => boxed(f, "optional", inner),
            Self::Map { key, value } => match value {
                Some(value) => write!(f, "map({key}, {value})"),
                None => write!(f, "map({key}, ?)"),
            },
            Self::Opaque { domain, name } => write!(f, "opaque({domain}, {name})"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            None => write!(f, "{}[...]", self.element),
            Some(shape) => {
                write!(f, "{}[", self.element)?;
                for (axis, dim) in shape.iter().enumerate() {
                    write!(f, "{}{dim}", if axis == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}
