//! What the ONNX standard says of its operators: parameters, attributes, defaults, versions.
//!
//! The one source of such facts, made by `scripts/operator_table.py` from the `onnx` package.

mod operator;
#[rustfmt::skip]
mod table;
mod type_set;

pub use operator::{Arity, AttributeDefault, AttributeKind, AttributeSchema, Operator, Parameter};
pub use type_set::{TypeKind, TypeSet};

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use table::{IR_VERSIONS, LATEST_OPSETS, OPERATORS};

/// The version of an operator that is in force in version `opset` of its domain's operator set: the last one that
/// is not newer. `None` if the standard has no such operator at that version.
///
/// It may be [deprecated](Operator::deprecated). Versions past [`latest_opset`] are answered with the newest one.
pub fn lookup(domain: &str, op_type: &str, opset: i64) -> Option<&'static Operator> {
    let versions = versions(domain, op_type);
    let newer = versions.partition_point(|operator| operator.since_version <= opset);
    versions.get(..newer)?.last()
}

/// All versions of an operator, oldest first; empty if the standard does not have it.
pub fn versions(domain: &str, op_type: &str) -> &'static [Operator] {
    static VERSIONS: LazyLock<FxHashMap<(&str, &str), &[Operator]>> = LazyLock::new(|| {
        let by_name = OPERATORS.chunk_by(|a, b| (a.domain, a.op_type) == (b.domain, b.op_type));
        by_name.map(|versions| ((versions[0].domain, versions[0].op_type), versions)).collect()
    });
    VERSIONS.get(&(canonical_domain(domain), op_type)).copied().unwrap_or_default()
}

/// Every version of every operator, ascending by domain, name and version.
pub fn operators() -> &'static [Operator] {
    OPERATORS
}

/// The latest version of a domain's operator set; `None` if the domain is not of the standard.
pub fn latest_opset(domain: &str) -> Option<i64> {
    let domain = canonical_domain(domain);
    LATEST_OPSETS.iter().find(|(name, _)| *name == domain).map(|(_, version)| *version)
}

/// The first IR version that was released with this version, or a later one, of the operator set; a model that
/// imports it needs at least that one. `None` if the table does not know the domain or its version.
pub fn ir_version_for_opset(domain: &str, opset: i64) -> Option<i64> {
    let domain = canonical_domain(domain);
    let mut versions = IR_VERSIONS.iter().filter(|(name, ..)| *name == domain);
    versions.find(|(_, version, _)| *version >= opset).map(|(.., ir_version)| *ir_version)
}

/// `ai.onnx` is the long name of the default domain, whose short one is empty.
pub fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The name of a domain in messages.
pub fn domain_title(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::ElementType::{self, Bfloat16, Double, Float, Float16, Int64, String};
    use crate::types::Type;

    fn onnx(op_type: &str, opset: i64) -> &'static Operator {
        lookup("", op_type, opset).unwrap()
    }

    fn since_versions(op_type: &str) -> Vec<i64> {
        versions("", op_type).iter().map(|operator| operator.since_version).collect()
    }

    #[test]
    fn table_is_sorted_and_complete() {
        let keys: Vec<_> = operators().iter().map(|o| (o.domain, o.op_type, o.since_version)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert_eq!(keys.len(), 659);
        let mut names: Vec<_> = keys.iter().map(|&(domain, op_type, _)| (domain, op_type)).collect();
        names.dedup();
        assert_eq!(names.len(), 227);
    }

    #[test]
    fn every_entry_is_found_and_well_formed() {
        for operator in operators() {
            let found = lookup(operator.domain, operator.op_type, operator.since_version).unwrap();
            assert!(std::ptr::eq(found, operator));
            assert!(operator.since_version <= latest_opset(operator.domain).unwrap());
            assert!(operator.attributes.is_sorted_by(|a, b| a.name < b.name));
            for parameters in [operator.inputs, operator.outputs] {
                let leading = parameters.split_last().map_or(parameters, |(_, leading)| leading);
                assert!(leading.iter().all(|p| !matches!(p.arity, Arity::Variadic { .. })), "{operator:?}");
                assert!(parameters.iter().all(|p| *p.types != TypeSet::EMPTY));
            }
        }
    }

    #[test]
    fn lookup_takes_the_version_in_force() {
        assert_eq!(since_versions("BatchNormalization"), [1, 6, 7, 9, 14, 15]);
        assert_eq!(onnx("BatchNormalization", 8).since_version, 7);
        assert_eq!(onnx("BatchNormalization", 1000).since_version, 15);
        assert!(lookup("", "Gelu", 19).is_none());
        assert_eq!(lookup("ai.onnx", "Gelu", 20), lookup("", "Gelu", 21));
        assert_eq!(versions("", "Attention")[0].since_version, 23);
        assert!(lookup("com.microsoft", "Gelu", 20).is_none());
        assert!(lookup("", "", i64::MIN).is_none());
        assert!(lookup("ai.onnx.ml", "TreeEnsemble", 5).is_some());
    }

    #[test]
    fn attributes_become_inputs() {
        let (old, new) = (onnx("Clip", 6), onnx("Clip", 11));
        assert_eq!(old.attribute("max").unwrap().default, Some(AttributeDefault::Float(f32::MAX)));
        assert_eq!(old.attribute("min").unwrap().default, Some(AttributeDefault::Float(f32::MIN)));
        assert_eq!(old.input_count(), (1, Some(1)));
        assert!(new.attributes.is_empty());
        assert_eq!(new.input_count(), (1, Some(3)));
        assert!(new.input(2).unwrap().is_optional());

        assert_eq!(onnx("Squeeze", 12).attribute("axes").unwrap().kind, AttributeKind::Ints);
        assert!(onnx("Squeeze", 13).attribute("axes").is_none());
        let axes = onnx("Squeeze", 13).input(1).unwrap();
        assert_eq!((axes.name, axes.type_name), ("axes", "tensor(int64)"));
        assert!(axes.allows(TypeKind::Tensor(Int64)) && !axes.allows(TypeKind::Tensor(Float)));
    }

    #[test]
    fn defaults() {
        let default = |op_type, opset, name| onnx(op_type, opset).attribute(name).unwrap().default;
        assert_eq!(default("Softmax", 12, "axis"), Some(AttributeDefault::Int(1)));
        assert_eq!(default("Softmax", 13, "axis"), Some(AttributeDefault::Int(-1)));
        assert_eq!(default("BatchNormalization", 15, "epsilon"), Some(AttributeDefault::Float(1e-5)));
        assert_eq!(default("Gelu", 20, "approximate"), Some(AttributeDefault::String("none")));
        assert_eq!(
            default("MeanVarianceNormalization", 13, "axes"),
            Some(AttributeDefault::Ints(&[0, 2, 3]))
        );
        assert_eq!(default("RNN", 14, "activations"), Some(AttributeDefault::Strings(&["Tanh", "Tanh"])));
        assert_eq!(default("Conv", 11, "strides"), None);
        assert!(onnx("Concat", 13).attribute("axis").unwrap().required);
        assert!(!onnx("Conv", 11).attribute("strides").unwrap().required);
    }

    #[test]
    fn parameters() {
        let concat = onnx("Concat", 13);
        assert_eq!(concat.input(7), concat.input(0));
        assert_eq!(concat.input_count(), (1, None));
        assert_eq!(concat.output(1), None);
        assert_eq!(onnx("Loop", 21).input_count(), (2, None));
        assert_eq!(onnx("Loop", 21).input(2).unwrap().arity, Arity::Variadic { min: 0, homogeneous: false });
        assert_eq!(onnx("Constant", 13).input_count(), (0, Some(0)));
        assert_eq!(onnx("BatchNormalization", 14).output_count(), (1, Some(3)));
    }

    #[test]
    fn types() {
        let gelu = onnx("Gelu", 20).type_constraint("T").unwrap();
        assert_eq!(gelu.tensor_elements().collect::<Vec<_>>(), [Float, Float16, Double, Bfloat16]);
        assert!(!gelu.contains(TypeKind::Sequence(Float)));
        let identity = onnx("Identity", 16).type_constraint("V").unwrap();
        assert!(
            identity.contains(TypeKind::Sequence(String))
                && identity.contains(TypeKind::OptionalSequence(Float))
        );
        let zip_map = lookup("ai.onnx.ml", "ZipMap", 1).unwrap().output(0).unwrap();
        assert!(zip_map.allows(TypeKind::MapSequence(String, Float)));
        assert!(!zip_map.allows(TypeKind::MapSequence(String, Int64)));
        let any = onnx("Optional", 28).type_constraint("V").unwrap();
        assert!(any.tensor_elements().eq(ElementType::ALL.iter().copied()));
    }

    #[test]
    fn kinds() {
        let boxed = |ty: &Type| Some(Box::new(ty.clone()));
        let float = Type::unranked(Float);
        let sequence = Type::Sequence(boxed(&float));
        let map = Type::Map { key: String, value: boxed(&float) };
        assert_eq!(TypeKind::of(&float), Some(TypeKind::Tensor(Float)));
        assert_eq!(TypeKind::of(&sequence), Some(TypeKind::Sequence(Float)));
        assert_eq!(TypeKind::of(&Type::Optional(boxed(&float))), Some(TypeKind::Optional(Float)));
        assert_eq!(TypeKind::of(&Type::Optional(boxed(&sequence))), Some(TypeKind::OptionalSequence(Float)));
        assert_eq!(TypeKind::of(&map), Some(TypeKind::Map(String, Float)));
        assert_eq!(TypeKind::of(&Type::Sequence(boxed(&map))), Some(TypeKind::MapSequence(String, Float)));
        assert_eq!(TypeKind::of(&Type::Sequence(None)), None);
        assert_eq!(TypeKind::of(&Type::Sequence(boxed(&sequence))), None);
    }

    #[test]
    fn flags() {
        assert!(onnx("Upsample", 10).deprecated && !onnx("Upsample", 9).deprecated);
        assert!(onnx("Gelu", 20).has_function && !onnx("Conv", 11).has_function);
        let mut random: Vec<_> = operators().iter().filter(|o| o.random).map(|o| o.op_type).collect();
        random.dedup();
        let expected =
            "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike";
        assert_eq!(random.join(" "), expected);
    }

    #[test]
    fn versions_of_sets() {
        assert_eq!(
            [latest_opset(""), latest_opset("ai.onnx"), latest_opset("ai.onnx.ml")],
            [Some(28), Some(28), Some(5)]
        );
        assert_eq!(latest_opset("com.microsoft"), None);
        let releases =
            [(3, 3), (8, 3), (9, 4), (11, 6), (22, 10), (23, 11), (24, 12), (25, 13), (27, 13), (28, 14)];
        for (opset, ir_version) in releases {
            assert_eq!(ir_version_for_opset("", opset), Some(ir_version), "opset {opset}");
        }
        assert_eq!(ir_version_for_opset("", 29), None);
        assert_eq!(ir_version_for_opset("ai.onnx.ml", 5), Some(10));
    }
}
