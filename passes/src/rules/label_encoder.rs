//! LabelEncoder of `ai.onnx.ml`: a table of labels and what stands for them.

use std::sync::Arc;

use bytes::Bytes;
use onnx_opt_ir::{AttributeValue, Attributes, ElementType, Graph, Node, Tensor, ValueId};
use rustc_hash::FxHashMap;

use super::facts::only_use;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

const DOMAIN: &str = "ai.onnx.ml";
const LABEL_ENCODER: &str = "LabelEncoder";

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "label_encoder_of_label_encoder",
        doc: "Two LabelEncoders in a row are one: the values of the first, looked up in the second.",
        class: ErrorClass::Exact,
        since: 1,
        roots: &["ai.onnx.ml:LabelEncoder"],
        rewrite: label_encoder_of_label_encoder,
    })]
}

/// A label, or what stands for one.
#[derive(Clone, Debug)]
enum Label {
    Text(Bytes),
    Integer(i64),
    /// Of single or double precision.
    Number(f64),
}

/// Labels of one element type.
struct Labels {
    element: ElementType,
    labels: Vec<Label>,
}

impl Labels {
    /// Those that `keys` or `values` of a node are.
    fn of(node: &Node, which: &str) -> Option<Self> {
        let get = |form: &str| node.attributes().get(&format!("{which}_{form}"));
        let lists = [get("tensor"), get("strings"), get("int64s"), get("floats")];
        let mut written = lists.into_iter().flatten();
        // One alone may be there.
        match (written.next()?, written.next()) {
            (list, None) => Self::read(list),
            _ => None,
        }
    }

    fn read(list: &AttributeValue) -> Option<Self> {
        let (element, labels) = match list {
            AttributeValue::Strings(texts) => {
                (ElementType::String, texts.iter().cloned().map(Label::Text).collect())
            }
            AttributeValue::Ints(numbers) => {
                (ElementType::Int64, numbers.iter().copied().map(Label::Integer).collect())
            }
            AttributeValue::Floats(numbers) => {
                (ElementType::Float, numbers.iter().map(|&number| Label::Number(number.into())).collect())
            }
            AttributeValue::Tensor(tensor) => (tensor.element(), labels_of(tensor)?),
            _ => return None,
        };
        Some(Self { element, labels })
    }

    /// As an attribute: a list where there are lists of the type and `as_tensors` does not say otherwise.
    fn write(&self, attributes: &mut Attributes, which: &str, as_tensors: bool) -> Option<()> {
        if as_tensors {
            attributes.set(&format!("{which}_tensor"), self.tensor()?);
            return Some(());
        }
        let texts = self.labels.iter().filter_map(Label::text);
        let integers = self.labels.iter().filter_map(Label::integer);
        let numbers = self.labels.iter().filter_map(Label::number).map(|number| number as f32);
        match self.element {
            ElementType::String => {
                attributes.set(&format!("{which}_strings"), AttributeValue::Strings(texts.collect()));
            }
            ElementType::Int64 => attributes.set(&format!("{which}_int64s"), integers.collect::<Vec<i64>>()),
            ElementType::Float => {
                attributes.set(&format!("{which}_floats"), AttributeValue::Floats(numbers.collect()));
            }
            _ => return None,
        }
        Some(())
    }

    fn tensor(&self) -> Option<AttributeValue> {
        let shape = [self.labels.len()];
        let texts = self.labels.iter().filter_map(Label::text).collect();
        let integers: Vec<i64> = self.labels.iter().filter_map(Label::integer).collect();
        let numbers: Vec<f64> = self.labels.iter().filter_map(Label::number).collect();
        let tensor = match self.element {
            ElementType::String => Tensor::from_strings(&shape, texts).ok(),
            element if element.is_integer() => Tensor::from_integers(element, &shape, &integers),
            element => Tensor::from_f64(element, &shape, &numbers),
        };
        tensor.map(|tensor| AttributeValue::Tensor(Arc::new(tensor)))
    }
}

impl Label {
    fn text(&self) -> Option<Bytes> {
        if let Self::Text(text) = self { Some(text.clone()) } else { None }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// What is equal where the labels of a type are: the two zeros are.
    fn key(&self) -> (Option<&[u8]>, i64) {
        match self {
            Self::Text(text) => (Some(text.as_ref()), 0),
            Self::Integer(integer) => (None, *integer),
            Self::Number(number) => (None, (number + 0.0).to_bits().cast_signed()),
        }
    }
}

fn labels_of(tensor: &Tensor) -> Option<Vec<Label>> {
    if let Some(texts) = tensor.strings() {
        return Some(texts.iter().cloned().map(Label::Text).collect());
    }
    match tensor.element() {
        element if element.is_integer() => Some(tensor.to_i64()?.into_iter().map(Label::Integer).collect()),
        ElementType::Float | ElementType::Double => {
            Some(tensor.to_f64()?.into_iter().map(Label::Number).collect())
        }
        _ => None,
    }
}

/// What a LabelEncoder does.
struct Table {
    keys: Labels,
    values: Labels,
    /// What stands for all that is no key.
    default: Label,
}

impl Table {
    /// That of a node, as of version 2 of the operator.
    fn of(node: &Node) -> Option<Self> {
        let (keys, values) = (Labels::of(node, "keys")?, Labels::of(node, "values")?);
        let default = match (node.attributes().get("default_tensor"), values.element) {
            (Some(tensor), element) => {
                let tensor = tensor.as_tensor().filter(|tensor| tensor.element() == element)?;
                labels_of(tensor)?.into_iter().next()?
            }
            (None, ElementType::String) => {
                Label::Text(Bytes::copy_from_slice(node.string("default_string")?.as_bytes()))
            }
            (None, ElementType::Int64) => Label::Integer(node.int("default_int64")?),
            (None, ElementType::Float) => Label::Number(node.float("default_float")?.into()),
            _ => return None,
        };
        (keys.labels.len() == values.labels.len() && !keys.labels.is_empty()).then_some(Self {
            keys,
            values,
            default,
        })
    }

    /// What it gives for a label.
    ///
    /// # Errors
    /// If runtimes disagree about that: where a key is there twice, and, with older versions, where one is NaN.
    fn lookup(&self) -> Result<impl Fn(&Label) -> Label + '_, Miss> {
        let keys = &self.keys.labels;
        let places: FxHashMap<_, usize> =
            keys.iter().enumerate().map(|(place, key)| (key.key(), place)).collect();
        ensure(places.len() == keys.len(), "a key of the second is there twice")?;
        ensure(!keys.iter().any(|key| key.number().is_some_and(f64::is_nan)), "a key of the second is NaN")?;
        Ok(move |label: &Label| {
            let value = places.get(&label.key()).and_then(|&place| self.values.labels.get(place));
            value.unwrap_or(&self.default).clone()
        })
    }
}

/// Whether onnxruntime has the operator from one type to another.
fn runs(keys: ElementType, values: ElementType) -> bool {
    use ElementType::{Double, Float, Int16, Int64, String};
    matches!(
        (keys, values),
        (String, String | Int64 | Float | Double | Int16)
            | (Int64, String | Int64 | Float | Double)
            | (Float, String | Int64 | Float)
            | (Double, String | Int64 | Double)
    )
}

fn encoder(graph: &Graph, value: ValueId) -> Option<&Node> {
    let (_, node, _) = graph.producer(value)?;
    let is_encoder = node.domain() == DOMAIN && node.op_type() == LABEL_ENCODER && node.operator().is_some();
    is_encoder.then_some(node)
}

fn label_encoder_of_label_encoder(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let between = site.input(0)?;
    let first = found(encoder(graph, between))?;
    let x = found(first.input(0))?;
    only_use(graph, between)?;
    let (first, second) = (Table::of(first), Table::of(site.node()));
    let (first, second) = first.zip(second).ok_or("a table is of another form")?;
    ensure(first.values.element == second.keys.element, "the types of labels differ")?;
    let (keys, values) = (first.keys.element, second.values.element);
    if !runs(keys, values) {
        let (keys, values) = (keys.name(), values.name());
        return Err(format!("a LabelEncoder from {keys} to {values} is not supported").into());
    }
    let lookup = second.lookup()?;
    let labels = first.values.labels.iter().map(&lookup).collect();
    let default = lookup(&first.default);
    let listed = |element| matches!(element, ElementType::String | ElementType::Int64 | ElementType::Float);
    let as_tensors = !listed(keys) || !listed(values);
    let mut attributes = Attributes::new();
    found(first.keys.write(&mut attributes, "keys", as_tensors))?;
    found(Labels { element: values, labels }.write(&mut attributes, "values", as_tensors))?;
    match default {
        default if as_tensors => {
            let default = Labels { element: values, labels: vec![default] };
            attributes.set("default_tensor", found(default.tensor())?);
        }
        Label::Text(text) => attributes.set("default_string", AttributeValue::String(text)),
        Label::Integer(integer) => attributes.set("default_int64", integer),
        Label::Number(number) => attributes.set("default_float", number as f32),
    }
    let mut patch = Patch::new();
    let new = patch.node_of(DOMAIN, LABEL_ENCODER, [x], attributes, 1);
    finish(site, patch, new[0])
}

/// Graphs on which the rule fires, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{Dim, NewNode};

    use crate::testing::{Example, Fixture};

    type Pairs = Vec<(&'static str, AttributeValue)>;

    const RULE: &str = "label_encoder_of_label_encoder";

    fn texts(texts: &[&'static str]) -> AttributeValue {
        AttributeValue::Strings(texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect())
    }
    fn floats(numbers: &[f32]) -> AttributeValue {
        AttributeValue::Floats(numbers.to_vec())
    }
    fn tensor(element: ElementType, labels: Vec<Label>) -> AttributeValue {
        Labels { element, labels }.tensor().unwrap_or(AttributeValue::Other)
    }
    fn doubles(numbers: &[f64]) -> AttributeValue {
        tensor(ElementType::Double, numbers.iter().copied().map(Label::Number).collect())
    }
    fn integers(element: ElementType, integers: &[i64]) -> AttributeValue {
        tensor(element, integers.iter().copied().map(Label::Integer).collect())
    }
    fn encode(f: &mut Fixture, x: ValueId, attributes: Pairs) -> ValueId {
        let attributes = Attributes::from_pairs(attributes);
        f.node(NewNode { domain: DOMAIN.to_owned(), attributes, ..NewNode::new(LABEL_ENCODER, [x]) })
    }
    fn example(version: i64, element: ElementType, tables: impl Fn(bool) -> [Pairs; 2]) -> Example {
        Example::new(RULE, |fires| {
            let mut f = Fixture::importing(DOMAIN, version);
            let x = f.typed_input("x", element, [7].map(Dim::fixed));
            let [first, second] = tables(fires);
            let t = encode(&mut f, x, first);
            let y = encode(&mut f, t, second);
            f.with_output(y)
        })
    }

    vec![
        // By names, of which the second does not know all; one that it knows twice.
        example(2, ElementType::Int64, |fires| {
            let names = texts(&["a", "b", "c"]);
            let known = texts(&["b", if fires { "_Unused" } else { "b" }]);
            let first = vec![("keys_int64s", vec![0, 1, 3].into()), ("values_strings", names)];
            [first, vec![("keys_strings", known), ("values_floats", floats(&[0.5, -2.0]))]]
        }),
        // With defaults of their own; a key that is NaN.
        example(3, ElementType::String, |fires| {
            let numbers = floats(&[0.5, -0.0]);
            let keys = floats(&[0.25, if fires { 0.0 } else { f32::NAN }]);
            let first = vec![
                ("keys_strings", texts(&["word1", "word2"])),
                ("values_floats", numbers),
                ("default_float", 0.25.into()),
            ];
            let values = vec![7, 8];
            [
                first,
                vec![("keys_floats", keys), ("values_int64s", values.into()), ("default_int64", 9.into())],
            ]
        }),
        // As tensors; to a type to which onnxruntime has no way from integers.
        example(4, ElementType::Int64, |fires| {
            let keys = ("keys_tensor", integers(ElementType::Int64, &[2, 3, 5]));
            if fires {
                let first =
                    [("values_tensor", doubles(&[0.5, 1.5, 2.5])), ("default_tensor", doubles(&[4.0]))];
                let second = [("values_tensor", doubles(&[9.0, 8.0])), ("default_tensor", doubles(&[7.0]))];
                let known = ("keys_tensor", doubles(&[1.5, 4.0]));
                return [[vec![keys], first.into()].concat(), [vec![known], second.into()].concat()];
            }
            let first = vec![keys, ("values_strings", texts(&["a", "b", "c"]))];
            let shorts = |values| integers(ElementType::Int16, values);
            let second = [("values_tensor", shorts(&[1])), ("default_tensor", shorts(&[2]))];
            [first, [vec![("keys_strings", texts(&["b"]))], second.into()].concat()]
        }),
    ]
}
