//! How many elements values have.

use std::collections::BTreeMap;

use onnx_opt_ir::{Graph, ValueId};

/// Sizes that nobody knows count as this, the first axis as one.
const UNKNOWN: u64 = 64;

/// How many elements the values of a graph have: by their types, else as samples had them, else as good as can be guessed.
pub(super) struct Sizes<'a> {
    pub graph: &'a Graph,
    /// Elements in a run, by name.
    pub seen: &'a BTreeMap<String, f64>,
}

impl Sizes<'_> {
    /// Number of elements of a value.
    pub fn elements(&self, value: ValueId) -> f64 {
        if let Some(shape) = self.graph.fixed_shape(value) {
            return shape.iter().map(|&size| size as f64).product();
        }
        match self.seen.get(&self.graph.display_name(value)) {
            Some(&elements) => elements,
            None => self.guess(value),
        }
    }

    fn guess(&self, value: ValueId) -> f64 {
        let Some(shape) = self.graph.shape(value) else { return 1e5 };
        let sizes = shape.iter().enumerate().map(|(axis, size)| {
            let guess = if axis == 0 { 1 } else { UNKNOWN };
            size.as_fixed().map_or(guess, |size| u64::try_from(size).unwrap_or(guess))
        });
        sizes.map(|size| size as f64).product()
    }
}
