//! Nodes as a user names them.

use std::collections::BTreeSet;

use onnx_opt_ir::Graph;
use onnx_opt_passes::rewrite::place;
use regex::Regex;
use thiserror::Error;

use crate::similar::{did_you_mean, similar};

/// No node goes by a name.
#[derive(Debug, Error)]
#[error("no node is called `{pattern}`, nor has a name that this matches{}", did_you_mean(similar))]
pub struct NoSuchNode {
    /// The name or regular expression.
    pub pattern: String,
    /// What may be meant.
    pub similar: Option<String>,
}

impl NoSuchNode {
    /// The way out.
    pub(crate) const HELP: &'static str =
        "`onnx-opt inspect --text` lists the nodes; a node without a name has that of its first result";
}

/// The names of the nodes of a graph and its bodies that `patterns` name: a pattern that is the name of a node stands
/// for that one, another is a regular expression, which matches anywhere in a name.
///
/// # Errors
/// The first pattern that names none.
pub(crate) fn matching<'p>(
    graph: &Graph,
    patterns: impl IntoIterator<Item = &'p String>,
) -> Result<BTreeSet<String>, NoSuchNode> {
    let mut patterns = patterns.into_iter().peekable();
    let mut known = BTreeSet::new();
    if patterns.peek().is_some() {
        names(graph, &mut known);
    }
    let mut found = BTreeSet::new();
    for pattern in patterns {
        found.extend(named(&known, pattern)?);
    }
    Ok(found)
}

fn named(known: &BTreeSet<String>, pattern: &str) -> Result<BTreeSet<String>, NoSuchNode> {
    if known.contains(pattern) {
        return Ok(BTreeSet::from([pattern.to_owned()]));
    }
    let matched: BTreeSet<String> = match Regex::new(pattern) {
        Ok(pattern) => known.iter().filter(|name| pattern.is_match(name)).cloned().collect(),
        Err(_) => BTreeSet::new(),
    };
    if matched.is_empty() {
        let similar = similar(pattern, known.iter().map(String::as_str));
        return Err(NoSuchNode { pattern: pattern.to_owned(), similar });
    }
    Ok(matched)
}

fn names(graph: &Graph, known: &mut BTreeSet<String>) {
    for (_, node) in graph.nodes() {
        known.insert(place(graph, node));
        node.bodies().for_each(|body| names(body, known));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_itself_and_an_expression_for_all_that_it_matches() {
        let known: BTreeSet<String> = ["conv", "conv.1", "head/fc"].map(str::to_owned).into();
        let all = |pattern| named(&known, pattern).map(|found| found.into_iter().collect::<Vec<_>>());
        assert_eq!(all("conv").unwrap(), ["conv"]);
        assert_eq!(all("^conv").unwrap(), ["conv", "conv.1"]);
        assert_eq!(all("fc$").unwrap(), ["head/fc"]);
        assert_eq!(all("con.2").unwrap_err().similar.as_deref(), Some("conv.1"));
        assert!(all("(").is_err());
    }
}
