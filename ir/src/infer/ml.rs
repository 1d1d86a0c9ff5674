//! Operators of the domain `ai.onnx.ml`.
//!
//! A vector operand of a model is one row of features. Where runtimes disagree about a shape, it is left open.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::types::{ElementType, Shape, Type};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "ArrayFeatureExtractor" => array_feature_extractor,
        "Binarizer" | "Imputer" => |cx| same_shape(cx, cx.element(0)),
        "CastMap" => cast_map,
        "CategoryMapper" => |cx| same_shape(cx, of_labels(cx.element(0))),
        "DictVectorizer" => dict_vectorizer,
        "FeatureVectorizer" => feature_vectorizer,
        "LabelEncoder" => label_encoder,
        "LinearClassifier" => linear_classifier,
        "LinearRegressor" => |cx| scores(cx, Some(ElementType::Float), cx.node().int("targets")),
        "Normalizer" | "Scaler" => |cx| same_shape(cx, Some(ElementType::Float)),
        "OneHotEncoder" => one_hot_encoder,
        "SVMClassifier" => svm_classifier,
        "SVMRegressor" => |cx| scores(cx, Some(ElementType::Float), Some(1)),
        "TreeEnsemble" => |cx| scores(cx, cx.element(0), cx.node().int("n_targets")),
        "TreeEnsembleClassifier" => tree_ensemble_classifier,
        "TreeEnsembleRegressor" => |cx| scores(cx, Some(ElementType::Float), cx.node().int("n_targets")),
        "ZipMap" => zip_map,
        _ => return None,
    })
}

fn same_shape(cx: &Inference<'_>, element: Option<ElementType>) -> Answer {
    cx.one(Fact::ranked(element, cx.shape(0).map(Shape::from)))
}

/// Strings for numbers and numbers for strings.
fn of_labels(element: Option<ElementType>) -> Option<ElementType> {
    match element? {
        ElementType::String => Some(ElementType::Int64),
        ElementType::Int64 => Some(ElementType::String),
        _ => None,
    }
}

/// The number of rows of the first operand.
fn rows(cx: &Inference<'_>) -> Dim {
    match cx.shape(0) {
        Some([_]) => Dim::fixed(1),
        Some([rows, _]) => rows.clone(),
        _ => cx.fresh(),
    }
}

/// A row of this many numbers for each row of the operand.
fn table(cx: &Inference<'_>, element: Option<ElementType>, columns: Option<i64>) -> Fact {
    Fact::tensor(element, [rows(cx), columns.map_or_else(|| cx.fresh(), Dim::fixed)])
}

fn scores(cx: &Inference<'_>, element: Option<ElementType>, columns: Option<i64>) -> Answer {
    cx.one(table(cx, element, columns))
}

/// How long an attribute is.
fn length(cx: &Inference<'_>, attribute: &str) -> Option<i64> {
    let length = match cx.node().attributes().get(attribute)? {
        AttributeValue::Ints(values) => values.len(),
        AttributeValue::Floats(values) => values.len(),
        AttributeValue::Strings(values) => values.len(),
        _ => return None,
    };
    i64::try_from(length).ok().filter(|&length| length > 0)
}

/// The type and number of the labels, which stand in one of these attributes.
fn labels(cx: &Inference<'_>, strings: &str, ints: &str) -> (ElementType, Option<i64>) {
    match length(cx, strings) {
        Some(count) => (ElementType::String, Some(count)),
        None => (ElementType::Int64, length(cx, ints)),
    }
}

/// A label and a row of scores for each row of the operand.
fn classes(cx: &Inference<'_>, label: ElementType, columns: Option<i64>) -> Answer {
    let scores = table(cx, Some(ElementType::Float), columns);
    let rows = scores.ty.as_ref().and_then(|ty| ty.shape()?.first().cloned());
    Ok(Facts::from_iter([Fact::tensor(Some(label), rows), scores]))
}

/// The indices, flattened, choose along the last axis; a vector is a row.
fn array_feature_extractor(cx: &Inference<'_>) -> Answer {
    let shape = cx.shape(0).and_then(|shape| {
        let count = cx.shape(1).map_or_else(|| cx.fresh(), Dim::product);
        let (_, outer) = shape.split_last()?;
        let row = outer.is_empty().then(|| Dim::fixed(1));
        Some(outer.iter().cloned().chain(row).chain([count]).collect::<Shape>())
    });
    cx.one(Fact::ranked(cx.element(0), shape))
}

/// The standard speaks of a vector, onnxruntime gives a row.
fn cast_map(cx: &Inference<'_>) -> Answer {
    let element = match cx.node().string("cast_to") {
        Some("TO_FLOAT") => Some(ElementType::Float),
        Some("TO_INT64") => Some(ElementType::Int64),
        Some("TO_STRING") => Some(ElementType::String),
        _ => None,
    };
    cx.one(Fact::ranked(element, None))
}

/// The standard speaks of a vector and of a row.
fn dict_vectorizer(cx: &Inference<'_>) -> Answer {
    let element = match cx.ty(0) {
        Some(Type::Map { value, .. }) => value.as_deref().and_then(Type::element),
        _ => None,
    };
    cx.one(Fact::ranked(element, None))
}

/// Operands side by side, each as wide as its attribute says.
fn feature_vectorizer(cx: &Inference<'_>) -> Answer {
    let sum = |widths: &[i64]| widths.iter().try_fold(0_i64, |sum, width| sum.checked_add(*width));
    scores(cx, Some(ElementType::Float), cx.node().ints("inputdimensions").and_then(sum))
}

/// The type is that of the values; the first version had one kind of map.
fn label_encoder(cx: &Inference<'_>) -> Answer {
    let attributes = cx.node().attributes();
    let has = |name: &str| attributes.get(name).is_some();
    let element = if cx.version() < 2 {
        of_labels(cx.element(0))
    } else if let Some(values) = attributes.get("values_tensor").and_then(AttributeValue::as_tensor) {
        Some(values.element())
    } else if has("values_strings") {
        Some(ElementType::String)
    } else if has("values_int64s") {
        Some(ElementType::Int64)
    } else if has("values_floats") {
        Some(ElementType::Float)
    } else {
        None
    };
    same_shape(cx, element)
}

/// One intercept may stand for two classes.
fn linear_classifier(cx: &Inference<'_>) -> Answer {
    let (label, count) = labels(cx, "classlabels_strings", "classlabels_ints");
    let columns = match (length(cx, "intercepts"), count) {
        (Some(1), Some(2)) => Some(2),
        (intercepts, _) => intercepts,
    };
    classes(cx, label, columns)
}

/// One axis more, as long as there are categories.
fn one_hot_encoder(cx: &Inference<'_>) -> Answer {
    let count = length(cx, "cats_int64s").or_else(|| length(cx, "cats_strings"));
    let count = count.map_or_else(|| cx.fresh(), Dim::fixed);
    let shape = cx.shape(0).map(|shape| shape.iter().cloned().chain([count]).collect());
    cx.one(Fact::ranked(Some(ElementType::Float), shape))
}

/// Without probabilities, onnxruntime scores each pair of more than two classes, and the standard each class.
fn svm_classifier(cx: &Inference<'_>) -> Answer {
    let (label, count) = labels(cx, "classlabels_strings", "classlabels_ints");
    let agreed = length(cx, "prob_a").is_some() || count == Some(2);
    classes(cx, label, count.filter(|_| agreed))
}

/// Of a single class, runtimes give one score or two.
fn tree_ensemble_classifier(cx: &Inference<'_>) -> Answer {
    let (label, count) = labels(cx, "classlabels_strings", "classlabels_int64s");
    classes(cx, label, count.filter(|&count| count > 1))
}

fn zip_map(cx: &Inference<'_>) -> Answer {
    let (key, _) = labels(cx, "classlabels_strings", "classlabels_int64s");
    let value = Some(Box::new(Type::tensor(ElementType::Float, [])));
    cx.one(Type::Sequence(Some(Box::new(Type::Map { key, value }))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use crate::attributes::AttributeValue;
    use crate::infer::testing::{Operand, shaped, ty, types};
    use crate::schema;
    use crate::types::ElementType::{self, Float, Int32, Int64};
    use crate::types::Type;

    fn first(
        version: i64,
        op_type: &str,
        operands: Vec<Operand>,
        attributes: &[(&str, AttributeValue)],
    ) -> String {
        ty(version, &format!("ai.onnx.ml:{op_type}"), operands, attributes).unwrap()
    }

    fn both(op_type: &str, shape: &str, attributes: &[(&str, AttributeValue)]) -> Vec<String> {
        let op_type = format!("ai.onnx.ml:{op_type}");
        types(3, &op_type, vec![shaped(Float, shape)], attributes, 2).unwrap()
    }

    fn names(count: usize) -> AttributeValue {
        AttributeValue::Strings(vec![Bytes::from_static(b"a"); count])
    }

    fn ints(values: &[i64]) -> AttributeValue {
        AttributeValue::Ints(values.to_vec())
    }

    fn floats(count: usize) -> AttributeValue {
        AttributeValue::Floats(vec![0.5; count])
    }

    #[test]
    fn every_operator_has_a_rule() {
        let operators = schema::operators().iter().filter(|operator| operator.domain == "ai.onnx.ml");
        let without = operators.filter(|operator| super::rule(operator.op_type).is_none());
        assert_eq!(without.map(|operator| operator.op_type).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn results_have_the_shape_of_the_operand() {
        let x = |element: ElementType| vec![shaped(element, "n 4")];
        assert_eq!(first(1, "Scaler", x(Int64), &[]), "float[n, 4]");
        assert_eq!(first(1, "Normalizer", x(Int32), &[]), "float[n, 4]");
        assert_eq!(first(1, "Imputer", x(Int64), &[]), "int64[n, 4]");
        assert_eq!(first(1, "Binarizer", x(Float), &[]), "float[n, 4]");
        assert_eq!(first(1, "CategoryMapper", x(Int64), &[]), "string[n, 4]");
        assert_eq!(first(1, "CategoryMapper", x(ElementType::String), &[]), "int64[n, 4]");
        assert_eq!(first(1, "LabelEncoder", x(ElementType::String), &[]), "int64[n, 4]");
        let encoded =
            |name: &str, values: AttributeValue| first(2, "LabelEncoder", x(Int64), &[(name, values)]);
        assert_eq!(encoded("values_floats", floats(1)), "float[n, 4]");
        assert_eq!(encoded("values_strings", names(1)), "string[n, 4]");
        assert_eq!(encoded("values_int64s", ints(&[1])), "int64[n, 4]");
        assert_eq!(first(1, "OneHotEncoder", x(Int64), &[("cats_int64s", ints(&[3, 5]))]), "float[n, 4, 2]");
        assert_eq!(first(1, "OneHotEncoder", x(Int64), &[("cats_strings", names(3))]), "float[n, 4, 3]");
    }

    #[test]
    fn features() {
        let extract = |shape: &str, indices: &str| {
            first(1, "ArrayFeatureExtractor", vec![shaped(Float, shape), shaped(Int64, indices)], &[])
        };
        assert_eq!(extract("n 4", "3"), "float[n, 3]");
        assert_eq!(extract("n 2 4", "3 k"), "float[n, 2, 3*k]");
        assert_eq!(extract("4", "1"), "float[1, 1]");
        assert_eq!(extract("n 4", ""), "float[n, 1]");
        let widths = [("inputdimensions", ints(&[4, 2]))];
        let parts = |shape: &str| vec![shaped(Int64, shape), shaped(Int64, shape)];
        assert_eq!(first(1, "FeatureVectorizer", parts("n 4"), &widths), "float[n, 6]");
        assert_eq!(first(1, "FeatureVectorizer", parts("4"), &widths), "float[1, 6]");
    }

    #[test]
    fn maps() {
        let map = |value: ElementType| {
            let value = Some(Box::new(Type::tensor(value, [])));
            vec![Operand::from(Type::Map { key: Int64, value })]
        };
        assert_eq!(first(1, "CastMap", map(Float), &[]), "float[...]");
        assert_eq!(first(1, "CastMap", map(Float), &[("cast_to", "TO_INT64".into())]), "int64[...]");
        assert_eq!(first(1, "DictVectorizer", map(ElementType::Double), &[]), "double[...]");
        let zipped = |labels: &str, values: AttributeValue| {
            first(1, "ZipMap", vec![shaped(Float, "n 2")], &[(labels, values)])
        };
        assert_eq!(zipped("classlabels_strings", names(2)), "seq(map(string, float[]))");
        assert_eq!(zipped("classlabels_int64s", ints(&[1, 2])), "seq(map(int64, float[]))");
    }

    #[test]
    fn regressions() {
        let x = || vec![shaped(Float, "n 4")];
        assert_eq!(first(1, "LinearRegressor", x(), &[]), "float[n, 1]");
        assert_eq!(first(1, "LinearRegressor", x(), &[("targets", 3.into())]), "float[n, 3]");
        assert_eq!(first(1, "LinearRegressor", vec![shaped(Float, "4")], &[]), "float[1, 1]");
        assert_eq!(first(1, "SVMRegressor", x(), &[]), "float[n, 1]");
        assert_eq!(first(3, "TreeEnsembleRegressor", x(), &[("n_targets", 2.into())]), "float[n, 2]");
        let double = vec![shaped(ElementType::Double, "n 4")];
        assert_eq!(first(5, "TreeEnsemble", double, &[("n_targets", 2.into())]), "double[n, 2]");
        let negative = ty(3, "ai.onnx.ml:TreeEnsembleRegressor", x(), &[("n_targets", (-2).into())]);
        assert!(negative.is_err());
    }

    #[test]
    fn classifications() {
        let labels = |count: usize| ("classlabels_strings", names(count));
        let intercepts = |count: usize| ("intercepts", floats(count));
        let linear = |shape: &str, count: usize, offsets: usize| {
            both("LinearClassifier", shape, &[labels(count), intercepts(offsets)])
        };
        assert_eq!(linear("n 4", 2, 1), ["string[n]", "float[n, 2]"]);
        assert_eq!(linear("4", 3, 3), ["string[1]", "float[1, 3]"]);
        let numbers = |name: &'static str, count: usize| (name, ints(&vec![7; count]));
        let trees = both("TreeEnsembleClassifier", "n 4", &[numbers("classlabels_int64s", 3)]);
        assert_eq!(trees, ["int64[n]", "float[n, 3]"]);
        let alone = both("TreeEnsembleClassifier", "2 4", &[numbers("classlabels_int64s", 1)]);
        assert_eq!(alone, ["int64[2]", "float[2, ?0]"]);
        let svm = |count: usize, more: Vec<(&str, AttributeValue)>| {
            let mut attributes = vec![numbers("classlabels_ints", count)];
            attributes.extend(more);
            both("SVMClassifier", "n 4", &attributes)
        };
        assert_eq!(svm(2, vec![]), ["int64[n]", "float[n, 2]"]);
        assert_eq!(svm(4, vec![]), ["int64[n]", "float[n, ?0]"]);
        assert_eq!(svm(4, vec![("prob_a", floats(6))]), ["int64[n]", "float[n, 4]"]);
    }
}
