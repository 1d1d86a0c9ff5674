//! Patterns of operators and how they match, from a root towards its operands.

use onnx_opt_ir::{AttributeValue, Graph, Node, NodeId, ValueId};
use smallvec::SmallVec;

use super::Miss;

/// What an operand must be.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Any value; the same name must meet the same value everywhere.
    Any(&'static str),
    /// A constant that no caller can replace.
    Constant(&'static str),
    /// An operand that may be left out.
    Optional(&'static str),
    /// A constant of one element with this value.
    Scalar(f64),
    /// The first result of an operator.
    Op(OpPattern),
}

/// An operator with its operands and attributes.
#[derive(Clone, Debug)]
pub struct OpPattern {
    /// Operator of the default domain.
    pub op_type: &'static str,
    /// Its operands. Missing ones must be left out, unless `rest` takes them.
    pub operands: Vec<Pattern>,
    /// Takes all further operands.
    pub rest: Option<&'static str>,
    /// Its attributes; those not named may be anything.
    pub attributes: Vec<AttributePattern>,
    /// Name for its first result.
    pub name: Option<&'static str>,
}

/// What an attribute must be.
#[derive(Clone, Debug)]
pub enum AttributePattern {
    /// Equal to a value, written or by the operator's default.
    Equals(&'static str, AttributeValue),
    /// Bound to a name.
    Bind(&'static str, &'static str),
}

#[derive(Clone, Debug, PartialEq)]
enum Bound {
    Value(Option<ValueId>),
    Values(Vec<ValueId>),
    Attribute(NodeId, &'static str),
}

/// The values, operands and attributes that a pattern bound.
#[derive(Clone, Debug, Default)]
pub struct Match {
    bound: SmallVec<[(&'static str, Bound); 8]>,
    nodes: SmallVec<[NodeId; 8]>,
}

/// Literals in exported models are single-precision roundings of what was meant.
const LITERAL_TOLERANCE: f64 = 1e-6;
/// The same for half precision.
const HALF_TOLERANCE: f64 = 1e-3;

impl Match {
    fn bind(&mut self, name: &'static str, bound: Bound) -> bool {
        match self.bound.iter().find(|(known, _)| *known == name) {
            Some((_, known)) => *known == bound,
            None => {
                self.bound.push((name, bound));
                true
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.truncate((0, 0));
    }

    /// Bindings and nodes so far.
    fn len(&self) -> (usize, usize) {
        (self.bound.len(), self.nodes.len())
    }

    /// Forgets what came after the first so many bindings and nodes.
    fn truncate(&mut self, (bound, nodes): (usize, usize)) {
        self.bound.truncate(bound);
        self.nodes.truncate(nodes);
    }

    fn get(&self, name: &str) -> Option<&Bound> {
        self.bound.iter().find(|(known, _)| *known == name).map(|(_, bound)| bound)
    }

    /// The value bound to a name.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] if the alternative that matched does not bind it.
    pub fn value(&self, name: &str) -> Result<ValueId, Miss> {
        match self.get(name) {
            Some(Bound::Value(Some(value))) => Ok(*value),
            _ => Err(Miss::NoMatch),
        }
    }

    /// The operand bound to a name, if it is there.
    pub fn optional(&self, name: &str) -> Option<ValueId> {
        match self.get(name) {
            Some(Bound::Value(value)) => *value,
            _ => None,
        }
    }

    /// The operands bound to a name.
    pub fn values(&self, name: &str) -> Vec<ValueId> {
        match self.get(name) {
            Some(Bound::Values(values)) => values.clone(),
            _ => Vec::new(),
        }
    }

    fn attribute<'a>(&self, graph: &'a Graph, name: &str) -> Option<(&'a Node, &'static str)> {
        match self.get(name) {
            Some(Bound::Attribute(node, attribute)) => Some((graph.get_node(*node)?, attribute)),
            _ => None,
        }
    }

    /// The `INT` attribute bound to a name.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] if it is not there and has no default.
    pub fn int(&self, graph: &Graph, name: &str) -> Result<i64, Miss> {
        let (node, attribute) = self.attribute(graph, name).ok_or(Miss::NoMatch)?;
        node.int(attribute).ok_or(Miss::NoMatch)
    }

    /// The `FLOAT` attribute bound to a name.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] if it is not there and has no default.
    pub fn float(&self, graph: &Graph, name: &str) -> Result<f32, Miss> {
        let (node, attribute) = self.attribute(graph, name).ok_or(Miss::NoMatch)?;
        node.float(attribute).ok_or(Miss::NoMatch)
    }

    /// The `INTS` attribute bound to a name, if it is there or has a default.
    pub fn ints(&self, graph: &Graph, name: &str) -> Option<Vec<i64>> {
        let (node, attribute) = self.attribute(graph, name)?;
        node.ints(attribute).map(<[i64]>::to_vec)
    }

    /// The matched nodes; the root is the last.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }
}

/// Operators whose first two operands may change places.
fn is_commutative(op_type: &str) -> bool {
    matches!(op_type, "Add" | "Mul" | "Max" | "Min" | "And" | "Or" | "Xor" | "Equal" | "Sum" | "Mean")
}

impl OpPattern {
    /// Matches a node, adding to `found` what it binds. On failure `found` is as before.
    pub fn matches(&self, graph: &Graph, id: NodeId, found: &mut Match) -> bool {
        let node = graph.node(id);
        if !node.is(self.op_type) {
            return false;
        }
        let count = node.inputs().len();
        if self.rest.is_none() && node.inputs().iter().skip(self.operands.len()).any(Option::is_some) {
            return false;
        }
        self.operands_match(graph, id, node, false, found)
            || count == 2
                && self.operands.len() == 2
                && is_commutative(self.op_type)
                && self.operands_match(graph, id, node, true, found)
    }

    /// Matches the operands in their order, or the other way round, and the rest of the node.
    fn operands_match(
        &self,
        graph: &Graph,
        id: NodeId,
        node: &Node,
        swapped: bool,
        found: &mut Match,
    ) -> bool {
        let place = |index| if swapped { 1 - index } else { index };
        // Most operands are of another kind, which is seen before anything is bound.
        let mut operands = self.operands.iter().enumerate();
        if !operands.all(|(index, pattern)| pattern.is_likely(graph, node.input(place(index)))) {
            return false;
        }
        let before = found.len();
        let fits = self.bind(graph, id, node, place, found);
        if !fits {
            found.truncate(before);
        }
        fits
    }

    /// Binds what the pattern names, where all of it matches; `place` tells which operand of the node is the next.
    fn bind(
        &self,
        graph: &Graph,
        id: NodeId,
        node: &Node,
        place: impl Fn(usize) -> usize,
        found: &mut Match,
    ) -> bool {
        for (index, pattern) in self.operands.iter().enumerate() {
            let operand = node.input(place(index));
            if !pattern.matches(graph, operand, found) {
                return false;
            }
            if let (Pattern::Scalar(_), Some(scalar)) = (pattern, operand)
                && !keeps_rank(graph, node, scalar)
            {
                return false;
            }
        }
        for attribute in &self.attributes {
            let fits = match attribute {
                AttributePattern::Equals(name, value) => node.attribute_is(name, value),
                AttributePattern::Bind(name, capture) => found.bind(capture, Bound::Attribute(id, name)),
            };
            if !fits {
                return false;
            }
        }
        if let Some(name) = self.rest {
            let rest = node.inputs().iter().skip(self.operands.len()).copied().collect::<Option<Vec<_>>>();
            if !rest.is_some_and(|rest| found.bind(name, Bound::Values(rest))) {
                return false;
            }
        }
        if let Some(name) = self.name
            && !found.bind(name, Bound::Value(node.output(0)))
        {
            return false;
        }
        if !found.nodes.contains(&id) {
            found.nodes.push(id);
        }
        true
    }
}

/// Whether a scalar operand cannot raise the rank of the result: it has rank 0, or another operand has its rank.
fn keeps_rank(graph: &Graph, node: &Node, scalar: ValueId) -> bool {
    match graph.rank(scalar) {
        Some(0) => true,
        Some(rank) => node
            .operands()
            .filter(|&other| other != scalar)
            .any(|other| graph.rank(other).is_some_and(|other| other >= rank)),
        None => false,
    }
}

impl Pattern {
    /// Whether an operand is of the kind that matches: a constant, or the result of the operator.
    fn is_likely(&self, graph: &Graph, operand: Option<ValueId>) -> bool {
        match (self, operand) {
            (Self::Optional(_), _) | (Self::Any(_), Some(_)) => true,
            (_, None) => false,
            (Self::Constant(_) | Self::Scalar(_), Some(value)) => graph.constant(value).is_some(),
            (Self::Op(pattern), Some(value)) => graph.producer_of(value, pattern.op_type).is_some(),
        }
    }

    fn matches(&self, graph: &Graph, operand: Option<ValueId>, found: &mut Match) -> bool {
        match (self, operand) {
            (Self::Optional(name), _) => found.bind(name, Bound::Value(operand)),
            (_, None) => false,
            (Self::Any(name), Some(_)) => found.bind(name, Bound::Value(operand)),
            (Self::Constant(name), Some(value)) => {
                graph.constant(value).is_some() && found.bind(name, Bound::Value(operand))
            }
            (Self::Scalar(expected), Some(value)) => scalar_is(graph, value, *expected),
            (Self::Op(pattern), Some(value)) => match graph.producer(value) {
                Some((node, _, 0)) => pattern.matches(graph, node, found),
                _ => false,
            },
        }
    }
}

/// Whether a value is a constant of one element equal to `expected`, within the rounding of its type.
pub fn scalar_is(graph: &Graph, value: ValueId, expected: f64) -> bool {
    let Some(tensor) = graph.constant(value) else { return false };
    let Some(found) = tensor.single_f64() else { return false };
    let tolerance = match tensor.element() {
        element if element.is_integer() => 0.0,
        element if element.bits() < 32 => HALF_TOLERANCE,
        _ => LITERAL_TOLERANCE,
    };
    (found - expected).abs() <= tolerance * expected.abs()
}

/// Whether inner results of a match are used by nothing but the match, so that they may disappear.
pub(super) fn escapes(graph: &Graph, found: &Match, root: NodeId) -> bool {
    found.nodes().iter().filter(|&&node| node != root).any(|&node| {
        graph.node(node).outputs().iter().flatten().any(|&value| {
            graph.is_output(value)
                || graph.is_pinned(value)
                || graph.consumers(value).any(|consumer| !found.nodes().contains(&consumer.node))
        })
    })
}
