//! Rules written as Rust functions, for what patterns cannot say.

use super::{ErrorClass, Rewrite, Rule, Site};

/// A rule that is a function.
#[derive(Clone, Copy, Debug)]
pub struct FunctionRule {
    /// Name for the command line, in snake case.
    pub name: &'static str,
    /// The algebra, in a line.
    pub doc: &'static str,
    /// How exact it is.
    pub class: ErrorClass,
    /// The first version of the default operator set in which the replacement exists.
    pub since: i64,
    /// The operators at which it is tried, those of other domains as in `ai.onnx.ml:LabelEncoder`.
    pub roots: &'static [&'static str],
    /// The replacement at a site.
    pub rewrite: fn(&Site<'_>) -> Rewrite,
}

impl Rule for FunctionRule {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn class(&self) -> ErrorClass {
        self.class
    }

    fn since(&self) -> i64 {
        self.since
    }

    fn roots(&self) -> Vec<&'static str> {
        self.roots.to_vec()
    }

    fn rewrite(&self, site: &Site<'_>) -> Rewrite {
        (self.rewrite)(site)
    }
}
