//! Constant tensors: element type, shape and little-endian bytes that usually point into the mapped file.

mod concatenate;
mod element;
mod magnitudes;
mod proto;
mod transpose;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use bytes::Bytes;
use half::{bf16, f16};
pub use onnx_opt_proto::{Payload, Recipe};
use onnx_opt_proto::{TensorProto, WIDEST};
use prost::Message as _;
use rustc_hash::FxHasher;
use smallvec::SmallVec;

pub use self::magnitudes::Magnitudes;
pub use self::proto::TensorError;
use crate::dim::Dim;
use crate::types::{ElementType, Type};

/// An immutable tensor. Share it as `Arc<Tensor>`; its bytes are shared with the file until something computes new
/// ones, and many new ones are made where they are read or written, not before.
#[derive(Clone)]
pub struct Tensor {
    element: ElementType,
    shape: SmallVec<[usize; 4]>,
    data: Data,
    /// The message it was read from, kept (without `raw_data`) when the canonical one would not give the same bytes.
    origin: Option<Box<TensorProto>>,
    /// What is known of the magnitudes of its numbers.
    magnitudes: OnceLock<Option<Magnitudes>>,
}

/// Fewest bytes that are worth being deferred: fewer are soon made, and kept where they are read again.
const DEFERRED: usize = 1 << 16;

#[derive(Clone)]
enum Data {
    /// Little-endian elements, sub-byte elements packed as in `raw_data`.
    Raw(Payload),
    /// Elements in the typed fields of `origin`, converted on first use.
    Typed(OnceLock<Bytes>),
    /// Byte strings.
    Strings(Vec<Bytes>),
}

impl Tensor {
    /// A tensor over raw little-endian bytes.
    ///
    /// # Errors
    /// When the number of bytes does not fit the shape, or the element type has no raw form.
    pub fn from_raw(element: ElementType, shape: &[usize], raw: Bytes) -> Result<Self, TensorError> {
        Self::from_payload(element, shape, raw.into())
    }

    /// A tensor whose bytes are made by `recipe` where they are needed; at once, if there are few.
    ///
    /// # Errors
    /// When the element type has no raw form, or elements are smaller than a byte.
    pub fn deferred(
        element: ElementType,
        shape: &[usize],
        recipe: impl Recipe + 'static,
    ) -> Result<Self, TensorError> {
        if element.bits() < 8 {
            return Err(TensorError::NoRawForm(element));
        }
        let length = element_count(shape).and_then(|count| element.raw_len(count));
        let length = length.ok_or(TensorError::TooLarge)?;
        let payload = Payload::deferred(length, recipe);
        Self::from_payload(
            element,
            shape,
            if length < DEFERRED { payload.to_bytes().into() } else { payload },
        )
    }

    fn from_payload(element: ElementType, shape: &[usize], raw: Payload) -> Result<Self, TensorError> {
        if element == ElementType::String {
            return Err(TensorError::NoRawForm(element));
        }
        let expected = element_count(shape).and_then(|count| element.raw_len(count));
        let expected = expected.ok_or(TensorError::TooLarge)?;
        if raw.len() != expected {
            return Err(TensorError::Length { unit: "bytes", expected, found: raw.len() });
        }
        Ok(Self {
            element,
            shape: shape.into(),
            data: Data::Raw(raw),
            origin: None,
            magnitudes: OnceLock::new(),
        })
    }

    /// A tensor of byte strings.
    ///
    /// # Errors
    /// When the number of strings does not fit the shape.
    pub fn from_strings(shape: &[usize], strings: Vec<Bytes>) -> Result<Self, TensorError> {
        let expected = element_count(shape).ok_or(TensorError::TooLarge)?;
        if strings.len() != expected {
            return Err(TensorError::Length { unit: "strings", expected, found: strings.len() });
        }
        Ok(Self {
            element: ElementType::String,
            shape: shape.into(),
            data: Data::Strings(strings),
            origin: None,
            magnitudes: OnceLock::new(),
        })
    }

    /// A tensor of numbers, rounded to the nearest value of the element type (integers saturate, NaN becomes 0;
    /// booleans are `value != 0`). `None` when the counts differ or the type is a string or complex.
    pub fn from_f64(element: ElementType, shape: &[usize], values: &[f64]) -> Option<Self> {
        if element_count(shape)? != values.len() {
            return None;
        }
        let raw = element::encode(element, values.len(), |index| values[index])?;
        Self::from_raw(element, shape, raw.into()).ok()
    }

    /// A single-precision tensor. `None` when the counts differ.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Option<Self> {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::from_raw(ElementType::Float, shape, raw.into()).ok()
    }

    /// A 64-bit integer vector.
    pub fn vector_i64(values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self {
            element: ElementType::Int64,
            shape: SmallVec::from_slice(&[values.len()]),
            data: Data::Raw(raw.into()),
            origin: None,
            magnitudes: OnceLock::new(),
        }
    }

    /// A 64-bit integer tensor. `None` when the counts differ.
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Option<Self> {
        Self::vector_i64(values).reshaped(shape)
    }

    /// An integer tensor of any integer type or `Bool`. `None` when a value does not fit the type or counts differ.
    pub fn from_integers(element: ElementType, shape: &[usize], values: &[i64]) -> Option<Self> {
        if element_count(shape)? != values.len() {
            return None;
        }
        let raw = element::encode_integers(element, values)?;
        Self::from_raw(element, shape, raw.into()).ok()
    }

    /// A scalar (rank 0) of a numeric type. `None` for strings and complex types.
    pub fn scalar(element: ElementType, value: f64) -> Option<Self> {
        Self::from_f64(element, &[], &[value])
    }

    /// Type of the elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // An empty tensor may have axes whose sizes multiply to more than there are numbers.
        element_count(&self.shape).unwrap_or(0)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of a value that holds this tensor.
    pub fn ty(&self) -> Type {
        Type::tensor(self.element, self.shape.iter().map(|&size| Dim::fixed(size as i64)))
    }

    /// Bytes that the elements take in a file, near enough for budgets and reports.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Strings(strings) => strings.iter().map(|string| string.len() + 2).sum(),
            _ => self.element.raw_len(self.len()).unwrap_or(0),
        }
    }

    /// Bytes that the tensor takes in its file: more or less than [`Tensor::byte_len`] where elements are written as
    /// varints.
    pub fn file_len(&self) -> usize {
        let message = self.origin.as_deref().map_or(0, TensorProto::encoded_len);
        match &self.data {
            Data::Raw(raw) => message + raw.len(),
            Data::Typed(_) => message,
            Data::Strings(_) => message + self.byte_len(),
        }
    }

    /// The elements as little-endian bytes, packed as in `raw_data`; empty for strings. Deferred ones are made, and kept.
    pub fn raw(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match &self.data {
            Data::Raw(raw) => raw.bytes(),
            Data::Typed(raw) => raw.get_or_init(|| match &self.origin {
                Some(origin) => proto::typed_to_raw(self.element, origin).unwrap_or_default(),
                None => Bytes::new(),
            }),
            Data::Strings(_) => &EMPTY,
        }
    }

    /// The bytes of [`raw`](Self::raw) for one use: deferred ones are made, and gone when the caller drops them.
    pub fn to_raw(&self) -> Bytes {
        match &self.data {
            Data::Raw(raw) => raw.to_bytes(),
            _ => self.raw().clone(),
        }
    }

    /// The bytes of [`raw`](Self::raw), deferred ones as they are.
    pub fn payload(&self) -> Payload {
        match &self.data {
            Data::Raw(raw) => raw.clone(),
            _ => self.raw().clone().into(),
        }
    }

    /// The byte strings of a string tensor.
    pub fn strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(strings) => Some(strings),
            _ => None,
        }
    }

    /// Element `index` (row-major) as a double; 64-bit integers may round. `None` for strings, complex types and
    /// indices past the end.
    pub fn f64_at(&self, index: usize) -> Option<f64> {
        if index >= self.len() {
            return None;
        }
        element::decode(self.element, self.raw(), index)
    }

    /// Element `index` (row-major) of an integer or boolean tensor.
    pub fn i64_at(&self, index: usize) -> Option<i64> {
        if index >= self.len() {
            return None;
        }
        element::decode_integer(self.element, self.raw(), index)
    }

    /// All elements as doubles. `None` for strings and complex types.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let raw = self.raw();
        (0..self.len()).map(|index| element::decode(self.element, raw, index)).collect()
    }

    /// All elements of a tensor of at most 32-bit floats, as single precision (exact). `None` for other types.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let raw = self.raw();
        match self.element {
            ElementType::Float => {
                Some(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            ElementType::Float16 => {
                Some(raw.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            ElementType::Bfloat16 => {
                Some(raw.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            element if element.is_float() && element != ElementType::Double => {
                (0..self.len()).map(|index| Some(element::decode(element, raw, index)? as f32)).collect()
            }
            _ => None,
        }
    }

    /// All elements of an integer or boolean tensor. `None` for other types and for `Uint64` above `i64::MAX`.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let raw = self.raw();
        (0..self.len()).map(|index| element::decode_integer(self.element, raw, index)).collect()
    }

    /// The only element, whatever the rank, as a double.
    pub fn single_f64(&self) -> Option<f64> {
        if self.len() == 1 { self.f64_at(0) } else { None }
    }

    /// The only element, whatever the rank, of an integer or boolean tensor.
    pub fn single_i64(&self) -> Option<i64> {
        if self.len() == 1 { self.i64_at(0) } else { None }
    }

    /// The value that all elements share bit by bit; `None` for strings, complex types and empty tensors.
    pub fn uniform(&self) -> Option<f64> {
        if self.is_empty() || self.element.is_complex() {
            return None;
        }
        if let Data::Raw(raw) = &self.data
            && raw.is_deferred()
        {
            // Most tensors differ in their first elements, and need not be made.
            let mut pair = [0; 2 * WIDEST];
            let width = self.element.bits() / 8;
            let pair = &mut pair[..raw.len().min(2 * width)];
            raw.fill(0, pair);
            if pair.chunks(width).any(|element| element != &pair[..width]) {
                return None;
            }
        }
        let raw = self.raw();
        let same = match self.element.bits() {
            bits if bits >= 8 => {
                let width = bits / 8;
                let first = raw.get(..width)?;
                raw.chunks_exact(width).all(|chunk| chunk == first)
            }
            _ => {
                let first = element::decode(self.element, raw, 0)?.to_bits();
                (1..self.len())
                    .all(|index| element::decode(self.element, raw, index).map(f64::to_bits) == Some(first))
            }
        };
        if same { self.f64_at(0) } else { None }
    }

    /// The same elements under another shape. `None` when the counts differ.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if element_count(shape)? != self.len() {
            return None;
        }
        let data = match &self.data {
            Data::Typed(_) => Data::Raw(self.payload()),
            data => data.clone(),
        };
        let magnitudes = self.magnitudes.clone();
        Some(Self { element: self.element, shape: shape.into(), data, origin: None, magnitudes })
    }

    /// The axes in another order: axis `i` of the result is axis `permutation[i]` of this tensor. `None` when
    /// `permutation` is not one, and for sub-byte elements and strings.
    pub fn transposed(&self, permutation: &[usize]) -> Option<Self> {
        let rank = self.rank();
        let mut seen = vec![false; rank];
        for &axis in permutation {
            if std::mem::replace(seen.get_mut(axis)?, true) {
                return None;
            }
        }
        if permutation.len() != rank || !self.element.bits().is_multiple_of(8) || self.element.bits() == 0 {
            return None;
        }
        let width = self.element.bits() / 8;
        let shape: SmallVec<[usize; 4]> = permutation.iter().map(|&axis| self.shape[axis]).collect();
        // Where axes of size one alone change places, the elements stay where they are.
        if permutation.iter().filter(|&&axis| self.shape[axis] != 1).is_sorted() {
            return self.reshaped(&shape);
        }
        let recipe = transpose::Transposed::new(self.payload(), width, &self.shape, permutation)?;
        let magnitudes = self.magnitudes.clone();
        Some(Self { magnitudes, ..Self::deferred(self.element, &shape, recipe).ok()? })
    }

    /// A 64-bit hash of type, shape and content: the same on every machine and in every run.
    pub fn content_hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        self.element.code().hash(&mut hasher);
        self.shape.hash(&mut hasher);
        match &self.data {
            Data::Strings(strings) => strings.hash(&mut hasher),
            _ => hasher.write(self.raw()),
        }
        hasher.finish()
    }

    /// A hash like `content_hash` of the first, middle and last bytes alone: equal for equal tensors, and cheap enough to
    /// tell most large ones apart without reading them.
    pub fn content_sample(&self) -> u64 {
        const PART: usize = 64;
        let raw = self.payload();
        if raw.len() <= 3 * PART {
            return self.content_hash();
        }
        let mut hasher = FxHasher::default();
        let mut part = [0; PART];
        // The middle lies between two elements of any width.
        for start in [0, raw.len() / 2 / WIDEST * WIDEST, raw.len() - PART] {
            raw.fill(start, &mut part);
            hasher.write(&part);
        }
        hasher.finish()
    }

    /// Whether the tensor is written with typed fields, doc strings, metadata or other extras in its message.
    pub(crate) fn origin(&self) -> Option<&TensorProto> {
        self.origin.as_deref()
    }
}

impl PartialEq for Tensor {
    /// The same element type, shape and bits (so that 0.0 and -0.0 differ and NaN equals itself).
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element
            && self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Strings(a), Data::Strings(b)) => a == b,
                _ => self.raw() == other.raw(),
            }
    }
}

impl Eq for Tensor {}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.element, self.shape)
    }
}

/// Number of elements of a shape; `None` on overflow.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}

/// Strides in elements of a dense row-major tensor.
pub fn row_major_strides(shape: &[usize]) -> SmallVec<[usize; 4]> {
    let mut strides = SmallVec::from_elem(1, shape.len());
    for axis in (1..shape.len()).rev() {
        // Only an empty tensor has axes so long that this wraps, and nobody steps through it.
        strides[axis - 1] = usize::wrapping_mul(strides[axis], shape[axis]);
    }
    strides
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Two tensors of the same numbers, the first one deferred.
    fn twins(value: impl Fn(usize) -> f32) -> (Tensor, Tensor) {
        let (rows, columns) = (150, 130);
        let numbers: Vec<f32> = (0..rows * columns).map(value).collect();
        let turned = Tensor::from_f32(&[rows, columns], &numbers).unwrap();
        let deferred = turned.transposed(&[1, 0]).unwrap();
        let there = Tensor::from_raw(ElementType::Float, deferred.shape(), deferred.to_raw()).unwrap();
        assert!(deferred.payload().is_deferred() && !there.payload().is_deferred());
        (deferred, there)
    }

    #[test]
    fn a_deferred_tensor_is_like_its_twin() {
        let (deferred, there) = twins(|place| (place % 1013) as f32);
        assert_eq!(deferred.byte_len(), there.byte_len());
        assert_eq!(deferred.file_len(), there.file_len());
        assert_eq!(deferred.content_sample(), there.content_sample());
        assert_eq!(deferred.uniform(), None);
        let reshaped = deferred.reshaped(&[19_500]).unwrap();
        assert!(deferred.payload().is_deferred() && reshaped.payload().is_deferred());
        assert_eq!(deferred.content_hash(), there.content_hash());
        assert!(deferred == there && reshaped.raw() == there.raw());
        assert_eq!(deferred.f64_at(149), there.f64_at(149));
    }

    #[test]
    fn a_deferred_tensor_of_one_number() {
        assert_eq!(twins(|_| 2.5).0.uniform(), Some(2.5));
        assert_eq!(twins(|place| if place < 19_000 { 2.5 } else { 3.0 }).0.uniform(), None);
    }

    #[test]
    fn few_bytes_are_made_at_once() {
        let tensor = Tensor::from_f32(&[3, 2], &[1.0; 6]).unwrap();
        assert!(!tensor.transposed(&[1, 0]).unwrap().payload().is_deferred());
    }
}
