//! Declarations of inner values: what inference knows, written out.

use onnx_opt_proto::{TypeProto, ValueInfoProto, tensor_shape_proto::Dimension, type_proto};
use rustc_hash::FxHashMap;

use super::{Graph, ValueId};
use crate::types::Type;
use crate::types_proto;

impl Graph {
    /// Declares the type of each inner value as far as inference knows it, those of bodies included.
    ///
    /// A declaration that is there already keeps its place and what inference does not know; where it contradicts
    /// inference, it gives way. Formal inputs and outputs, and initializers, are declared elsewhere; an output of a body
    /// whose type the file leaves out gets it there.
    pub fn declare_types(&mut self) {
        let places: FxHashMap<ValueId, usize> = (self.value_info.iter().enumerate())
            .filter_map(|(place, (value, _))| value.map(|value| (value, place)))
            .collect();
        for (_, value) in self.inner_values() {
            let Some(ty) = self.ty(value).filter(|ty| is_whole(ty)).cloned() else { continue };
            match places.get(&value) {
                None => {
                    let declaration = ValueInfoProto {
                        name: self.value(value).name().map(str::to_owned),
                        r#type: Some(types_proto::to_proto(&ty)),
                        ..ValueInfoProto::default()
                    };
                    self.value_info.push((Some(value), declaration));
                }
                Some(&place) => {
                    let said = self.value_info[place].1.r#type.take();
                    self.value_info[place].1.r#type = Some(self.merged(&ty, said));
                }
            }
        }
        let owners: Vec<_> = self.nodes().map(|(id, _)| id).collect();
        for owner in owners {
            for body in self.bodies_mut(owner) {
                body.declare_types();
                body.declare_outputs();
            }
        }
    }

    fn declare_outputs(&mut self) {
        for index in 0..self.outputs.len() {
            let output = &self.outputs[index];
            let said = output.declaration.r#type.as_ref().is_some_and(|ty| ty.value.is_some());
            if let Some(ty) = self.ty(output.value).filter(|ty| !said && is_whole(ty)) {
                self.outputs[index].declaration.r#type = Some(types_proto::to_proto(ty));
            }
        }
    }

    /// Results of nodes that are no formal outputs, in the order of the file.
    fn inner_values(&self) -> Vec<(u32, ValueId)> {
        let inner = self.values().map(|(value, _)| value).filter(|&value| !self.is_output(value));
        let mut inner: Vec<_> =
            inner.filter_map(|value| Some((self.producer_position(value)?, value))).collect();
        inner.sort_unstable();
        inner
    }

    /// What is known, completed by what the file says where that does not contradict it.
    fn merged(&self, known: &Type, said: Option<TypeProto>) -> TypeProto {
        let Some(said) = said else { return types_proto::to_proto(known) };
        match types_proto::from_proto(&said, &self.context) {
            Some(ty) if !known.contradicts(&ty) => {
                with_denotations(types_proto::to_proto(&known.refine(&ty)), &said)
            }
            _ => types_proto::to_proto(known),
        }
    }
}

/// Whether a type says what the standard demands of a declaration: what sequences, optionals and maps hold.
fn is_whole(ty: &Type) -> bool {
    match ty {
        Type::Sequence(inner) | Type::Optional(inner) | Type::Map { value: inner, .. } => {
            inner.as_deref().is_some_and(is_whole)
        }
        _ => true,
    }
}

/// A type with what another one of the same rank says of the meaning of its axes.
fn with_denotations(mut ty: TypeProto, said: &TypeProto) -> TypeProto {
    ty.denotation.clone_from(&said.denotation);
    if let (Some(type_proto::Value::TensorType(new)), Some(type_proto::Value::TensorType(old))) =
        (&mut ty.value, &said.value)
        && let (Some(new), Some(old)) = (&mut new.shape, &old.shape)
    {
        let axes = new.dim.iter_mut().zip(&old.dim);
        axes.for_each(|(new, old): (&mut Dimension, _)| new.denotation.clone_from(&old.denotation));
    }
    ty
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
        attribute_proto::AttributeType,
    };

    use crate::export::value_info;
    use crate::{Context, Dim, ElementType, Model, Type, check, export, import};

    fn node(op_type: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op_type.to_owned()),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    /// Two values `a` and `b` between an input of shape `[n, 4]` and an output.
    fn model(declarations: Vec<ValueInfoProto>) -> Model {
        let x = float(&[Dim::symbol("n"), Dim::fixed(4)]);
        let graph = GraphProto {
            node: vec![node("Relu", "x", "a"), node("NonZero", "a", "b"), node("Abs", "b", "y")],
            input: vec![value_info("x", &x)],
            output: vec![value_info("y", &Type::unranked(ElementType::Int64))],
            value_info: declarations,
            ..GraphProto::default()
        };
        imported(graph)
    }

    fn imported(graph: GraphProto) -> Model {
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
        let model =
            ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..ModelProto::default() };
        import(model.into()).unwrap()
    }

    fn declared(mut model: Model) -> Vec<ValueInfoProto> {
        model.graph.declare_types();
        check(&model).unwrap();
        let once = export(&model);
        model.graph.declare_types();
        assert_eq!(export(&model), once);
        once.graph.unwrap().value_info
    }

    fn float(sizes: &[Dim]) -> Type {
        Type::tensor(ElementType::Float, sizes.iter().cloned())
    }

    #[test]
    fn what_inference_knows_is_declared() {
        let (n, four) = (Dim::symbol("n"), Dim::fixed(4));
        let all = declared(model(Vec::new()));
        assert_eq!(all.iter().map(ValueInfoProto::name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all[0], value_info("a", &float(&[n, four])));
        // The number of places is open.
        let open = Context::with_opset(17).fresh_dim();
        assert_eq!(all[1], value_info("b", &Type::tensor(ElementType::Int64, [Dim::fixed(2), open])));
    }

    #[test]
    fn what_the_file_says_is_merged_where_it_does_not_contradict() {
        let (n, m, four) = (Dim::symbol("n"), Dim::symbol("m"), Dim::fixed(4));
        let places = |count: Dim| Type::tensor(ElementType::Int64, [Dim::symbol("k"), count]);
        // In the order of the file; another name for a known size yields, a name for an unknown one stays.
        let said = vec![
            ValueInfoProto { doc_string: Some("places".into()), ..value_info("b", &places(m.clone())) },
            value_info("a", &float(&[m.clone(), Dim::symbol("q")])),
        ];
        let all = declared(model(said));
        assert_eq!((all[0].name(), all[0].doc_string()), ("b", "places"));
        let known = value_info("b", &Type::tensor(ElementType::Int64, [Dim::fixed(2), m]));
        assert_eq!(all[0].r#type, known.r#type);
        assert_eq!(all[1], value_info("a", &float(&[n.clone(), four.clone()])));
        // What contradicts gives way.
        let wrong = value_info("a", &float(&[n.clone(), Dim::fixed(5)]));
        assert_eq!(declared(model(vec![wrong]))[0], value_info("a", &float(&[n, four])));
    }
    #[test]
    fn bodies_declare_their_own() {
        let said = value_info("result", &Type::unranked(ElementType::Float));
        let unsaid = ValueInfoProto { name: Some("result".to_owned()), ..ValueInfoProto::default() };
        let branch = |name: &str, result: &ValueInfoProto| {
            let body = GraphProto {
                node: vec![node("Neg", "x", "inner"), node("Abs", "inner", "result")],
                output: vec![result.clone()],
                ..GraphProto::default()
            };
            AttributeProto {
                name: Some(name.to_owned()),
                r#type: Some(AttributeType::Graph as i32),
                g: Some(Box::new(body)),
                ..AttributeProto::default()
            }
        };
        let mut choice = node("If", "c", "y");
        choice.attribute = vec![branch("then_branch", &said), branch("else_branch", &unsaid)];
        let x = float(&[Dim::symbol("n")]);
        let mut model = imported(GraphProto {
            node: vec![choice],
            input: vec![value_info("x", &x), value_info("c", &Type::tensor(ElementType::Bool, []))],
            output: vec![value_info("y", &Type::unranked(ElementType::Float))],
            ..GraphProto::default()
        });
        model.graph.declare_types();
        let graph = export(&model).graph.unwrap();
        assert!(graph.value_info.is_empty());
        let expected = [said, value_info("result", &x)];
        for (branch, result) in graph.node[0].attribute.iter().zip(expected) {
            let body = branch.g.as_ref().unwrap();
            assert_eq!(
                (&body.value_info[..], &body.output[..]),
                (&[value_info("inner", &x)][..], &[result][..])
            );
        }
    }
}
