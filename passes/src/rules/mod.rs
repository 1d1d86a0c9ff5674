//! The rewrite rules, a file a theme.

pub mod activation;
pub mod identity;

use crate::rewrite::Rule;

/// Every rule, in the order in which they are tried at a node.
pub fn all() -> Vec<Box<dyn Rule>> {
    let mut rules = Vec::new();
    // First: fewer operators in between let more patterns match.
    rules.extend(identity::rules());
    rules.extend(activation::rules());
    rules
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn names_are_unique_and_rules_are_documented() {
        let rules = all();
        let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), rules.len());
        assert!(rules.iter().all(|rule| !rule.doc().trim().is_empty() && !rule.roots().is_empty()));
    }
}
