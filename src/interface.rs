//! Sizes of inputs that the user fixes or names. They are set in the messages as they are read, so that everything
//! after sees a model that was written so: the passes, the verification and the file that is kept.

use std::collections::BTreeMap;

use onnx_opt_ir::Graph;
use onnx_opt_proto::tensor_shape_proto::{Dimension, dimension::Value};
use onnx_opt_proto::{GraphProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use thiserror::Error;

/// The size of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// A number.
    Fixed(i64),
    /// A name, the same size wherever it stands.
    Named(String),
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Sizes of inputs by name.
pub type Sizes = BTreeMap<String, Vec<Size>>;

/// Why an input cannot have these sizes.
#[derive(Debug, Error)]
#[error("input `{input}` {reason}")]
pub struct SizeError {
    /// The input.
    pub input: String,
    /// What stands in the way.
    pub reason: String,
}

/// What becomes of each named size.
type Renamed = BTreeMap<String, Size>;

/// Gives inputs these sizes. A named size that becomes a number or another name does so wherever the model declares
/// it. Sizes that are numbers stay: a graph that was made for a size may hold it anywhere.
///
/// # Errors
/// If an input is no tensor, has another rank, another fixed size, or a default value.
pub fn set_sizes(graph: &mut GraphProto, sizes: &Sizes) -> Result<(), SizeError> {
    let mut renamed = Renamed::new();
    for input in &mut graph.input {
        let Some(sizes) = sizes.get(input.name()) else { continue };
        let error = |reason: String| SizeError { input: input.name().to_owned(), reason };
        if graph.initializer.iter().any(|tensor| tensor.name() == input.name()) {
            return Err(error("has a default value, whose sizes are its own".to_owned()));
        }
        let kind = input.r#type.as_ref().and_then(|ty| ty.value.as_ref());
        let Some(type_proto::Value::TensorType(tensor)) = kind else {
            return Err(error("is no tensor".to_owned()));
        };
        let old = tensor
            .shape
            .clone()
            .unwrap_or_else(|| TensorShapeProto { dim: vec![Dimension::default(); sizes.len()] });
        if old.dim.len() != sizes.len() {
            return Err(error(format!("has {} axes, not {}", old.dim.len(), sizes.len())));
        }
        let mut shape = old;
        for (axis, (dim, size)) in shape.dim.iter_mut().zip(sizes).enumerate() {
            let (old, contradicts) = match &dim.value {
                Some(Value::DimValue(value)) if *value >= 0 => {
                    (value.to_string(), Size::Fixed(*value) != *size)
                }
                Some(Value::DimParam(name)) if !name.is_empty() && name != "?" => {
                    let first = renamed.entry(name.clone()).or_insert_with(|| size.clone());
                    (format!("{first} (another axis of size {name})"), first != size)
                }
                _ => (String::new(), false),
            };
            if contradicts {
                return Err(error(format!("has size {old} on axis {axis}, which cannot become {size}")));
            }
            dim.value = Some(value_of(size));
        }
        if let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_mut().and_then(|ty| ty.value.as_mut())
        {
            tensor.shape = Some(shape);
        }
    }
    rename(graph, &renamed);
    Ok(())
}

/// Writes out the sizes of outputs that follow from the inputs, where none is declared as a number.
pub fn tell_outputs(outputs: &mut [ValueInfoProto], graph: &Graph) {
    for (output, formal) in outputs.iter_mut().zip(graph.outputs()) {
        let Some(known) = graph.shape(formal.value) else { continue };
        let Some(shape) = output.r#type.as_mut().and_then(shape_of) else { continue };
        for (dim, known) in shape.dim.iter_mut().zip(known) {
            if let (false, Some(size)) = (matches!(dim.value, Some(Value::DimValue(_))), known.as_fixed()) {
                dim.value = Some(Value::DimValue(size));
            }
        }
    }
}

fn value_of(size: &Size) -> Value {
    match size {
        Size::Fixed(size) => Value::DimValue(*size),
        Size::Named(name) => Value::DimParam(name.clone()),
    }
}

/// The shape of a tensor, or of what a sequence or an optional holds.
fn shape_of(ty: &mut TypeProto) -> Option<&mut TensorShapeProto> {
    match ty.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => tensor.shape.as_mut(),
        type_proto::Value::SparseTensorType(tensor) => tensor.shape.as_mut(),
        type_proto::Value::SequenceType(sequence) => shape_of(sequence.elem_type.as_deref_mut()?),
        type_proto::Value::OptionalType(optional) => shape_of(optional.elem_type.as_deref_mut()?),
        _ => None,
    }
}

/// Renames sizes in every declaration, those of bodies included.
fn rename(graph: &mut GraphProto, renamed: &Renamed) {
    for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        let Some(shape) = value.r#type.as_mut().and_then(shape_of) else { continue };
        for dim in &mut shape.dim {
            let new = match &dim.value {
                Some(Value::DimParam(name)) => renamed.get(name).map(value_of),
                _ => None,
            };
            if new.is_some() {
                dim.value = new;
            }
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute
            .g
            .as_deref_mut()
            .into_iter()
            .chain(&mut attribute.graphs)
            .for_each(|body| rename(body, renamed));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Context, Dim, ElementType, Model, NewNode, Type, check, export, import};
    use onnx_opt_proto::{Document, ModelProto, OperatorSetIdProto, encode, read_bytes};

    use super::*;

    /// `y = Concat(Relu(a[N, C]), b[N, ?])` along the second axis; `y` is declared as `[M, ?]`.
    fn model() -> ModelProto {
        let mut graph = Graph::new(Context::with_opset(17));
        let (n, c) = (Dim::symbol("N"), Dim::symbol("C"));
        let unknown = graph.context().fresh_dim();
        let a = graph.add_input("a", Type::tensor(ElementType::Float, [n.clone(), c]));
        let b = graph.add_input("b", Type::tensor(ElementType::Float, [n, unknown]));
        let relu = graph.add_node(NewNode::new("Relu", [a])).unwrap();
        let relu = graph.node(relu).output(0).unwrap();
        let concat = graph.add_node(NewNode::new("Concat", [relu, b]).with("axis", 1i64)).unwrap();
        let concat = graph.node(concat).output(0).unwrap();
        graph.add_output("y", concat).unwrap();
        let opset = OperatorSetIdProto { domain: None, version: Some(17) };
        let rest = ModelProto { ir_version: Some(10), opset_import: vec![opset], ..ModelProto::default() };
        let mut proto = export(&Model { graph, rest, notes: vec![] });
        let output = &mut proto.graph.as_mut().unwrap().output[0];
        let shape = output.r#type.as_mut().and_then(shape_of).unwrap();
        shape.dim[0].value = Some(Value::DimParam("M".into()));
        shape.dim[1].value = None;
        proto
    }

    fn imported(proto: &ModelProto) -> Model {
        let document: Document = read_bytes(encode(proto)).unwrap();
        let model = import(document).unwrap();
        check(&model).unwrap();
        model
    }

    fn sizes(given: &[(&str, &[Size])]) -> Sizes {
        given.iter().map(|(name, sizes)| ((*name).to_owned(), sizes.to_vec())).collect()
    }

    fn dims(value: &ValueInfoProto) -> Vec<String> {
        let dim = |dim: &Dimension| match &dim.value {
            Some(Value::DimValue(size)) => size.to_string(),
            Some(Value::DimParam(name)) => name.clone(),
            None => "?".to_owned(),
        };
        let mut ty = value.r#type.clone().unwrap();
        shape_of(&mut ty).unwrap().dim.iter().map(dim).collect()
    }

    #[test]
    fn a_name_becomes_a_number_everywhere() {
        let mut proto = model();
        let new = sizes(&[
            ("a", &[Size::Fixed(2), Size::Named("C".into())]),
            ("b", &[Size::Fixed(2), Size::Fixed(5)]),
        ]);
        set_sizes(proto.graph.as_mut().unwrap(), &new).unwrap();
        let model = imported(&proto);
        let graph = proto.graph.as_mut().unwrap();
        tell_outputs(&mut graph.output, &model.graph);
        assert_eq!(dims(&graph.input[0]), ["2", "C"]);
        assert_eq!(dims(&graph.input[1]), ["2", "5"]);
        assert_eq!(dims(&graph.output[0]), ["2", "?"]);

        // The other input follows where only one is given.
        let mut proto = self::model();
        let new = sizes(&[("a", &[Size::Named("batch".into()), Size::Fixed(3)])]);
        set_sizes(proto.graph.as_mut().unwrap(), &new).unwrap();
        imported(&proto);
        let graph = proto.graph.unwrap();
        assert_eq!(dims(&graph.input[1])[0], "batch");
    }

    #[test]
    fn what_contradicts_is_refused() {
        let refused = |given: &[(&str, &[Size])]| {
            let mut proto = model();
            let fixed = sizes(&[("a", &[Size::Fixed(2), Size::Fixed(3)])]);
            set_sizes(proto.graph.as_mut().unwrap(), &fixed).unwrap();
            set_sizes(proto.graph.as_mut().unwrap(), &sizes(given)).unwrap_err().to_string()
        };
        assert!(refused(&[("a", &[Size::Fixed(2)])]).contains("has 2 axes, not 1"));
        let other = refused(&[("a", &[Size::Fixed(4), Size::Fixed(3)])]);
        assert_eq!(other, "input `a` has size 2 on axis 0, which cannot become 4");
        refused(&[("b", &[Size::Named("N".into()), Size::Fixed(3)])]);

        let mut proto = model();
        let twice =
            sizes(&[("a", &[Size::Fixed(2), Size::Fixed(3)]), ("b", &[Size::Fixed(4), Size::Fixed(3)])]);
        let error = set_sizes(proto.graph.as_mut().unwrap(), &twice).unwrap_err();
        assert!(error.to_string().contains("another axis of size N"), "{error}");
    }
}
