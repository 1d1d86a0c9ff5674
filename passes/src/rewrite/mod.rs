//! Local rewrites: what a rule is, how it matches, and the engine that applies a set of rules until none fires.

mod admit;
mod commit;
mod engine;
mod function;
mod kinds;
#[macro_use]
pub(crate) mod language;
mod patch;
mod pattern;

pub use engine::{Rewriter, Statistics, place};
pub use function::FunctionRule;
pub use language::DeclaredRule;
pub use patch::{Operand, Patch};
pub use pattern::{AttributePattern, Match, OpPattern, Pattern};

use std::fmt;

use onnx_opt_ir::{Graph, Node, NodeId, ValueId};

use self::kinds::Kinds;

/// How the result of a rewrite relates to the original.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum ErrorClass {
    /// Bit-identical.
    Exact,
    /// The same real number, rounded otherwise.
    Rounding,
    /// Another number that is close enough only if the user says so.
    Approximate,
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exact => "exact",
            Self::Rounding => "rounding",
            Self::Approximate => "approximate",
        })
    }
}

/// Why a rule did not fire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Miss {
    /// The operators are not those of the pattern.
    NoMatch,
    /// They are, but something else does not fit.
    Declined(String),
}

impl From<&str> for Miss {
    fn from(reason: &str) -> Self {
        Self::Declined(reason.to_owned())
    }
}

impl From<String> for Miss {
    fn from(reason: String) -> Self {
        Self::Declined(reason)
    }
}

/// A replacement, or why there is none.
pub type Rewrite = Result<Patch, Miss>;

/// `Ok` if the condition holds, else the reason why the rule is declined.
///
/// # Errors
/// The reason.
pub fn ensure(condition: bool, reason: &str) -> Result<(), Miss> {
    if condition { Ok(()) } else { Err(reason.into()) }
}

/// The value, or `NoMatch`: for rules in Rust that look for operators step by step.
///
/// # Errors
/// [`Miss::NoMatch`] for `None`.
pub fn found<T>(option: Option<T>) -> Result<T, Miss> {
    option.ok_or(Miss::NoMatch)
}

/// A place where a rule is tried: a node of a graph.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The node.
    pub root: NodeId,
    kinds: Kinds,
}

impl<'a> Site<'a> {
    /// The place of a node.
    pub fn new(graph: &'a Graph, root: NodeId) -> Self {
        Self { graph, root, kinds: Kinds::of_operands(graph, graph.node(root)) }
    }

    /// The node.
    pub fn node(&self) -> &'a Node {
        self.graph.node(self.root)
    }

    /// First result of the node.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] if it is left out.
    pub fn output(&self) -> Result<ValueId, Miss> {
        found(self.node().output(0))
    }

    /// Operand `index` of the node.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] if it is left out.
    pub fn input(&self, index: usize) -> Result<ValueId, Miss> {
        found(self.node().input(index))
    }
}

/// A local rewrite.
pub trait Rule: Send + Sync {
    /// Name for the command line, in snake case.
    fn name(&self) -> &'static str;
    /// The algebra, in a line.
    fn doc(&self) -> &'static str;
    /// How exact it is.
    fn class(&self) -> ErrorClass;
    /// The first version of the default operator set in which the replacement exists.
    fn since(&self) -> i64 {
        1
    }
    /// The operators at which it is tried, those of other domains as in `ai.onnx.ml:LabelEncoder`.
    fn roots(&self) -> Vec<&'static str>;
    /// The replacement at this node. Nothing in the graph changes here.
    ///
    /// # Errors
    /// Why the rule does not apply.
    fn rewrite(&self, site: &Site<'_>) -> Rewrite;
}
