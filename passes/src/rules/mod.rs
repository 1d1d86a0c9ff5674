//! The rewrite rules, a file a theme.

pub mod activation;

use crate::rewrite::Rule;

/// Every rule, in the order in which they are tried at a node.
pub fn all() -> Vec<Box<dyn Rule>> {
    let mut rules = Vec::new();
    rules.extend(activation::rules());
    rules
}
