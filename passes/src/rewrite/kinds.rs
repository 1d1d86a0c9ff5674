//! What the operands of a node are, as a set that is compared with that of a pattern at once.

use std::hash::{Hash, Hasher};

use onnx_opt_ir::{Graph, Node, ValueId};
use rustc_hash::FxHasher;

use super::pattern::{OpPattern, Pattern};

/// A set of kinds of operands: constants, and results of an operator, by a hash of its name. What is in it is found in it;
/// so may be what is not, where two names share a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds(u64);

impl Kinds {
    const NONE: Self = Self(0);
    const CONSTANT: Self = Self(1);

    fn of_operator(op_type: &str) -> Self {
        let mut hasher = FxHasher::default();
        op_type.hash(&mut hasher);
        // The first place is that of constants.
        Self(2 << (hasher.finish() % 63))
    }

    fn of_value(graph: &Graph, value: ValueId) -> Self {
        match graph.producer(value) {
            Some((_, node, _)) => Self::of_operator(node.op_type()),
            None if graph.constant(value).is_some() => Self::CONSTANT,
            None => Self::NONE,
        }
    }

    /// Those of the operands of a node.
    pub(super) fn of_operands(graph: &Graph, node: &Node) -> Self {
        node.inputs().iter().flatten().map(|&value| Self::of_value(graph, value)).collect()
    }

    /// Those that the operands of a matching node have at least.
    pub(super) fn of_pattern(pattern: &OpPattern) -> Self {
        let kinds = pattern.operands.iter().map(|operand| match operand {
            Pattern::Any(_) | Pattern::Optional(_) => Self::NONE,
            Pattern::Constant(_) | Pattern::Scalar(_) => Self::CONSTANT,
            Pattern::Op(pattern) => Self::of_operator(pattern.op_type),
        });
        kinds.collect()
    }

    /// Whether all of `others` are among these.
    pub(super) fn include(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl FromIterator<Self> for Kinds {
    fn from_iter<I: IntoIterator<Item = Self>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, |all, Self(kind)| Self(all.0 | kind))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    fn pattern(operands: Vec<Pattern>) -> OpPattern {
        OpPattern { op_type: "Add", operands, rest: None, attributes: Vec::new(), name: None }
    }

    #[test]
    fn what_a_pattern_asks_of_operands() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[2]);
        let one = f.weights(&[2]);
        let relu = f.op("Relu", &[x]);
        let mut fits = |operands: &[ValueId], patterns: Vec<Pattern>| {
            let y = f.op("Add", operands);
            let (node, ..) = f.graph.producer(y).unwrap();
            let kinds = Kinds::of_operands(&f.graph, f.graph.node(node));
            kinds.include(Kinds::of_pattern(&pattern(patterns)))
        };
        let any = || Pattern::Any("x");
        let relu_of_any = || Pattern::Op(OpPattern { op_type: "Relu", ..pattern(vec![any()]) });
        assert!(fits(&[x, x], vec![any(), Pattern::Optional("y")]));
        assert!(fits(&[relu, one], vec![Pattern::Scalar(1.0), relu_of_any()]));
        assert!(fits(&[one, relu], vec![relu_of_any(), Pattern::Constant("c")]));
        assert!(!fits(&[x, relu], vec![any(), Pattern::Scalar(1.0)]));
        assert!(!fits(&[x, one], vec![relu_of_any(), any()]));
        assert!(!fits(&[x, x], vec![any(), Pattern::Constant("c")]));
    }
}
