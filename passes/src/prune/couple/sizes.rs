//! Lists of sizes that nodes take as an operand: a constant, or a Concat of which some parts are constants.

use onnx_opt_ir::{Graph, Tensor, ValueId};

/// What takes the place of an operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A constant.
    Constant(Tensor),
    /// The same Concat with constants in place of some of its operands.
    Joined(Vec<Option<Tensor>>),
}

/// The entries of a list of sizes that are written as numbers; `None` for one that is computed. Nothing where not even
/// their number is known.
pub(super) fn written(graph: &Graph, sizes: ValueId) -> Option<Vec<Option<i64>>> {
    if let Some(tensor) = graph.constant(sizes) {
        return Some(tensor.to_i64()?.into_iter().map(Some).collect());
    }
    let (_, node) = graph.producer_of(sizes, "Concat")?;
    let mut entries = Vec::new();
    for &part in node.inputs() {
        match graph.constant(part?) {
            Some(tensor) => entries.extend(tensor.to_i64()?.into_iter().map(Some)),
            None => {
                let [length] = graph.fixed_shape(part?)?[..] else { return None };
                entries.extend(std::iter::repeat_n(None, usize::try_from(length).ok()?));
            }
        }
    }
    Some(entries)
}

/// A list of sizes with other numbers at some places, all of which are written.
pub(super) fn rewritten(graph: &Graph, sizes: ValueId, news: &[Option<i64>]) -> Option<Operand> {
    let changed = |tensor: &Tensor, news: &[Option<i64>]| {
        let old = tensor.to_i64()?;
        let new: Vec<i64> = old.iter().zip(news).map(|(&old, new)| new.unwrap_or(old)).collect();
        Tensor::from_integers(tensor.element(), tensor.shape(), &new)
    };
    if let Some(tensor) = graph.constant(sizes) {
        return changed(tensor, news).map(Operand::Constant);
    }
    let (_, node) = graph.producer_of(sizes, "Concat")?;
    let mut from = 0;
    let mut parts = Vec::new();
    for &part in node.inputs() {
        let constant = graph.constant(part?);
        let length = match constant {
            Some(tensor) => tensor.len(),
            None => usize::try_from(*graph.fixed_shape(part?)?.first()?).ok()?,
        };
        let own = news.get(from..from + length)?;
        from += length;
        parts.push(match (constant, own.iter().any(Option::is_some)) {
            (Some(tensor), true) => Some(changed(tensor, own)?),
            (None, true) => return None,
            (_, false) => None,
        });
    }
    Some(Operand::Joined(parts))
}
