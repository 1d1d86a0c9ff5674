//! What files say that the standard forbids, though the meaning is plain: accepted, told, and set right on demand.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_proto::{GraphProto, ModelProto, OperatorSetIdProto};
use rustc_hash::FxHashSet;

use crate::functions::visit;
use crate::graph::Producer;
use crate::model::Model;
use crate::schema::{canonical_domain, domain_title, latest_opset, versions};

/// Domains outside the standard that have one version.
pub(crate) const OF_ONE_VERSION: &[&str] = &["com.microsoft", "com.microsoft.experimental"];

/// Versions of domains that a graph uses and the model does not import, where only one can be meant.
pub(crate) fn implied_imports(model: &ModelProto, graph: &GraphProto) -> Vec<(String, i64)> {
    let imported: BTreeSet<&str> =
        model.opset_import.iter().map(|import| canonical_domain(import.domain())).collect();
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    visit(&graph.node, &mut |node| {
        let domain = canonical_domain(node.domain());
        let is_function = |function: &onnx_opt_proto::FunctionProto| {
            canonical_domain(function.domain()) == domain && function.name() == node.op_type()
        };
        if !imported.contains(domain) && !model.functions.iter().any(is_function) {
            used.entry(domain).or_default().insert(node.op_type());
        }
    });
    let implied = |(domain, operators): (&str, BTreeSet<&str>)| -> Option<(String, i64)> {
        let mut version = 1;
        if latest_opset(domain).is_none() {
            return OF_ONE_VERSION.contains(&domain).then(|| (domain.to_owned(), version));
        }
        for operator in operators {
            match versions(domain, operator) {
                // Before IR version 3, models did not say their opset: there was one.
                [first, ..] if domain.is_empty() && model.ir_version() < 3 && first.since_version == 1 => {}
                [only] if model.ir_version() >= 3 => version = version.max(only.since_version),
                _ => return None,
            }
        }
        Some((domain.to_owned(), version))
    };
    used.into_iter().filter_map(implied).collect()
}

/// What is irregular in a model as it was read.
pub fn irregularities(model: &Model) -> Vec<String> {
    let Model { graph, rest: model, .. } = model;
    let mut found = Vec::new();
    let mut tell = |count: usize, one: &str, many: &str| match count {
        0 => {}
        1 => found.push(one.to_owned()),
        count => found.push(format!("{count} {many}")),
    };
    tell(usize::from(!graph.is_in_order()), "nodes stand before those whose results they read", "");
    tell(graph.namesakes(), "a node bears the name of another one", "nodes bear the names of others");
    tell(
        graph.shadows(),
        "a value of a body bears the name of one around it",
        "values of bodies bear the names of others around them",
    );
    tell(repeated(&model.opset_import), "a domain is imported twice", "domains are imported twice");
    tell(usize::from(graph.has_long_domains()), "the default domain is written as `ai.onnx`", "");
    let inputs = |is: fn(&Producer) -> bool| {
        graph.inputs().iter().filter(|input| is(graph.value(input.value).producer())).count()
    };
    tell(
        inputs(|producer| matches!(producer, Producer::Constant(_))),
        "an initializer is listed among the inputs, as IR version 3 demands",
        "initializers are listed among the inputs, as IR version 3 demands",
    );
    tell(
        inputs(|producer| matches!(producer, Producer::Input { default: Some(_) })),
        "an initializer is an input that callers may give another value: it is no constant",
        "initializers are inputs that callers may give other values: they are no constants",
    );
    let imported =
        |domain: &str| model.opset_import.iter().any(|import| canonical_domain(import.domain()) == domain);
    for (domain, version) in graph.context().opsets().filter(|(domain, _)| !imported(domain)) {
        let name = domain_title(domain);
        found.push(format!("domain `{name}` is used and not imported: version {version} is meant"));
    }
    found
}

/// How many imports repeat an earlier one.
fn repeated(imports: &[OperatorSetIdProto]) -> usize {
    let domains: BTreeSet<&str> = imports.iter().map(|import| canonical_domain(import.domain())).collect();
    imports.len() - domains.len()
}

impl Model {
    /// Sets right what the standard forbids though its meaning is plain, apart from the order of nodes, and tells how
    /// many places it changed: each node and each value has a name of its own, each domain is imported once, and the
    /// default one has its short name.
    pub fn regularize(&mut self) -> usize {
        let mut changed = self.graph.tell_namesakes_apart() + self.graph.shorten_domains();
        changed += self.graph.tell_shadows_apart(&FxHashSet::default());
        changed += repeated(&self.rest.opset_import);
        let mut seen = BTreeSet::new();
        self.rest.opset_import.retain(|import| seen.insert(canonical_domain(import.domain()).to_owned()));
        for import in &mut self.rest.opset_import {
            if import.domain.as_deref() == Some("ai.onnx") {
                import.domain = Some(String::new());
                changed += 1;
            }
        }
        for (domain, version) in self.graph.context().opsets() {
            if !seen.contains(domain) {
                let import = OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
                self.rest.opset_import.push(import);
                changed += 1;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_proto::{
        AttributeProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
    };

    use super::*;
    use crate::{ImportError, check, export, import};

    fn node(op_type: &str, domain: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op_type.to_owned()),
            domain: Some(domain.to_owned()),
            name: Some("n".to_owned()),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    fn model(imports: &[(&str, i64)], nodes: Vec<NodeProto>) -> ModelProto {
        let formal = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
        let imported = |&(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        let graph = GraphProto {
            node: nodes,
            input: vec![formal("x")],
            output: vec![formal("y")],
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: imports.iter().map(imported).collect(),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    fn imported(model: ModelProto) -> Result<Model, ImportError> {
        import(model.into())
    }

    #[test]
    fn what_is_plain_is_told_and_set_right() {
        let nodes =
            vec![node("Relu", "", "b", "y"), node("Abs", "ai.onnx", "a", "b"), node("Neg", "", "x", "a")];
        let proto = model(&[("ai.onnx", 13), ("", 13)], nodes);
        let mut model = imported(proto.clone()).unwrap();
        assert_eq!(model.notes.len(), 4, "{:?}", model.notes);
        assert_eq!(export(&model), proto);
        assert_eq!(model.regularize(), 5);
        assert_eq!(model.regularize(), 0);
        model.graph.sort().unwrap();
        check(&model).unwrap();
        let told = export(&model);
        assert_eq!(
            told.opset_import,
            [OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }]
        );
        let nodes = told.graph.as_ref().unwrap().node.iter();
        let names: Vec<(&str, &str)> = nodes.clone().map(|node| (node.op_type(), node.name())).collect();
        assert_eq!(names, [("Neg", "n_2"), ("Abs", "n_1"), ("Relu", "n")]);
        assert!(nodes.clone().all(|node| node.domain().is_empty()));
        assert!(imported(told).unwrap().notes.is_empty());
    }

    #[test]
    fn a_domain_is_implied_where_it_has_one_version() {
        let implied = |nodes: Vec<NodeProto>, ir_version: i64| {
            let mut proto = model(&[], nodes);
            proto.ir_version = Some(ir_version);
            implied_imports(&proto, proto.graph.as_ref().unwrap())
        };
        let of = |domain: &str, version| vec![(domain.to_owned(), version)];
        assert_eq!(implied(vec![node("Gelu", "com.microsoft", "x", "y")], 8), of("com.microsoft", 1));
        assert_eq!(implied(vec![node("Scaler", "ai.onnx.ml", "x", "y")], 8), of("ai.onnx.ml", 1));
        assert_eq!(implied(vec![node("TreeEnsemble", "ai.onnx.ml", "x", "y")], 8), of("ai.onnx.ml", 5));
        assert!(implied(vec![node("LabelEncoder", "ai.onnx.ml", "x", "y")], 8).is_empty());
        assert!(implied(vec![node("Relu", "", "x", "y")], 8).is_empty());
        assert_eq!(implied(vec![node("Relu", "", "x", "y")], 2), of("", 1));
        assert!(implied(vec![node("Gelu", "", "x", "y")], 2).is_empty());
        assert!(implied(vec![node("Relu", "own", "x", "y")], 8).is_empty());

        let mut model = imported(model(&[("", 13)], vec![node("Scaler", "ai.onnx.ml", "x", "y")])).unwrap();
        model.set_opset(14);
        assert_eq!(model.graph.context().opset("ai.onnx.ml"), Some(1));
        assert_eq!((model.regularize(), model.rest.opset_import.len()), (1, 2));
    }

    #[test]
    fn values_of_bodies_have_names_of_their_own() {
        let body = |operator: &str| GraphProto {
            node: vec![node(operator, "", "x", "a")],
            output: vec![ValueInfoProto { name: Some("a".to_owned()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let branch = |name: &str, operator: &str| AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(Box::new(body(operator))),
            ..AttributeProto::default()
        };
        let mut choice = node("If", "", "c", "r");
        choice.attribute = vec![branch("then_branch", "Relu"), branch("else_branch", "Neg")];
        let mut sum = node("Add", "", "a", "y");
        sum.input.push("r".to_owned());
        let mut nodes = vec![node("Cast", "", "x", "c"), node("Abs", "", "x", "a"), choice, sum];
        for (number, node) in nodes.iter_mut().enumerate() {
            node.name = Some(number.to_string());
        }
        let to = AttributeProto {
            name: Some("to".to_owned()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(9),
            ..AttributeProto::default()
        };
        nodes[0].attribute = vec![to];
        let mut model = imported(model(&[("", 13)], nodes)).unwrap();
        assert_eq!(model.notes, ["2 values of bodies bear the names of others around them"]);
        assert_eq!((model.regularize(), model.regularize()), (2, 0));
        check(&model).unwrap();
        let told = export(&model).graph.unwrap();
        for branch in &told.node[2].attribute {
            let body = branch.g.as_ref().unwrap();
            assert_eq!((body.node[0].output[0].as_str(), body.output[0].name()), ("a_1", "a_1"));
        }
        assert_eq!(told.node[3].input, ["a", "r"]);
    }

    #[test]
    fn what_can_be_meant_in_two_ways_is_refused() {
        let two = imported(model(&[("", 13), ("ai.onnx", 17)], vec![node("Relu", "", "x", "y")]));
        assert!(matches!(two, Err(ImportError::TwoVersions { one: 13, other: 17, .. })));
        let weight = |value: f32| TensorProto {
            name: Some("w".to_owned()),
            data_type: Some(1),
            float_data: vec![value],
            ..TensorProto::default()
        };
        let with = |weights: [f32; 2]| {
            let mut proto = model(&[("", 13)], vec![node("Relu", "", "x", "y")]);
            proto.graph.as_mut().unwrap().initializer = weights.map(weight).to_vec();
            imported(proto)
        };
        assert!(matches!(with([1.0, 2.0]), Err(ImportError::DuplicateValue { .. })));
        assert_eq!(
            with([1.0, 1.0]).unwrap().notes,
            ["initializer `w` is written twice with the same content"]
        );
    }
}
