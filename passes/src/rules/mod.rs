//! The rewrite rules, a file a theme. Each file brings its examples, on which the tests try every rule.

pub mod activation;
pub mod arithmetic;
pub mod attention;
pub mod batch_normalization;
pub mod blocks;
pub mod cast;
mod chain;
pub mod clip;
pub mod concat;
pub mod constant_chain;
pub mod contrib;
pub mod convolution;
pub mod einsum;
pub mod factor;
pub(crate) mod facts;
pub mod gather;
pub mod gemm;
pub mod grid;
pub mod heads;
pub mod identity;
mod idiom;
pub mod label_encoder;
pub mod neutral;
pub mod normalization;
pub mod pad;
pub mod parallel;
pub mod parts;
mod product;
pub mod quantize;
pub mod recurrent;
pub mod reduction;
pub mod repeated;
pub mod reshape;
pub mod rotary;
pub mod rows;
mod scaling;
pub mod scatter;
pub mod sequence;
pub mod shape;
pub mod slice;
pub mod softmax;
pub mod squeeze;
mod support;
pub mod transpose;
mod weights;

use crate::rewrite::Rule;
#[cfg(any(test, feature = "testing"))]
use crate::testing::Example;

/// Every rule, in the order in which they are tried at a node.
pub fn all() -> Vec<Box<dyn Rule>> {
    let mut rules = Vec::new();
    // First: fewer operators in between let more patterns match.
    rules.extend(identity::rules());
    rules.extend(clip::rules());
    rules.extend(neutral::rules());
    rules.extend(cast::rules());
    rules.extend(transpose::rules());
    rules.extend(squeeze::rules());
    rules.extend(reshape::rules());
    rules.extend(slice::rules());
    rules.extend(concat::rules());
    rules.extend(shape::rules());
    rules.extend(gather::rules());
    rules.extend(scatter::rules());
    rules.extend(sequence::rules());
    rules.extend(grid::rules());
    rules.extend(arithmetic::rules());
    rules.extend(constant_chain::rules());
    rules.extend(activation::rules());
    rules.extend(pad::rules());
    rules.extend(reduction::rules());
    rules.extend(repeated::rules());
    rules.extend(softmax::rules());
    rules.extend(normalization::rules());
    rules.extend(attention::rules());
    rules.extend(heads::rules());
    rules.extend(contrib::rules());
    rules.extend(rotary::rules());
    rules.extend(recurrent::rules());
    rules.extend(label_encoder::rules());
    rules.extend(blocks::rules());
    rules.extend(convolution::rules());
    rules.extend(parts::rules());
    rules.extend(rows::rules());
    rules.extend(einsum::rules());
    rules.extend(parallel::rules());
    rules.extend(gemm::rules());
    rules.extend(batch_normalization::rules());
    rules.extend(quantize::rules());
    // Last: a sum that one of the above takes in whole is no sum of products.
    rules.extend(factor::rules());
    rules
}

/// The examples of every rule.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    examples.extend(identity::examples());
    examples.extend(clip::examples());
    examples.extend(neutral::examples());
    examples.extend(cast::examples());
    examples.extend(transpose::examples());
    examples.extend(squeeze::examples());
    examples.extend(reshape::examples());
    examples.extend(slice::examples());
    examples.extend(concat::examples());
    examples.extend(shape::examples());
    examples.extend(gather::examples());
    examples.extend(scatter::examples());
    examples.extend(sequence::examples());
    examples.extend(grid::examples());
    examples.extend(arithmetic::examples());
    examples.extend(constant_chain::examples());
    examples.extend(activation::examples());
    examples.extend(pad::examples());
    examples.extend(reduction::examples());
    examples.extend(repeated::examples());
    examples.extend(softmax::examples());
    examples.extend(normalization::examples());
    examples.extend(attention::examples());
    examples.extend(heads::examples());
    examples.extend(contrib::examples());
    examples.extend(rotary::examples());
    examples.extend(recurrent::examples());
    examples.extend(label_encoder::examples());
    examples.extend(blocks::examples());
    examples.extend(convolution::examples());
    examples.extend(parts::examples());
    examples.extend(rows::examples());
    examples.extend(einsum::examples());
    examples.extend(parallel::examples());
    examples.extend(gemm::examples());
    examples.extend(batch_normalization::examples());
    examples.extend(quantize::examples());
    examples.extend(factor::examples());
    examples
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{all, examples};

    #[test]
    fn names_are_unique_and_rules_are_documented() {
        let rules = all();
        let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), rules.len());
        assert!(rules.iter().all(|rule| !rule.doc().trim().is_empty() && !rule.roots().is_empty()));
    }

    #[test]
    fn every_rule_fires_on_its_examples_and_not_on_their_near_misses() {
        let examples = examples();
        let mut tried = BTreeSet::new();
        for rule in all() {
            let count = |mut fixture: crate::testing::Fixture| {
                let statistics = fixture.rewrite([&*rule]);
                statistics.fired.get(rule.name()).copied().unwrap_or(0)
            };
            for example in examples.iter().filter(|example| example.rule == rule.name()) {
                assert!(count(example.fires.clone()) > 0, "{} does not fire", rule.name());
                assert_eq!(count(example.near_miss.clone()), 0, "{} fires on the near miss", rule.name());
                tried.insert(rule.name());
            }
            assert!(tried.contains(rule.name()), "{} has no example", rule.name());
        }
        assert!(examples.iter().all(|example| tried.contains(example.rule)), "an example names no rule");
    }
}
