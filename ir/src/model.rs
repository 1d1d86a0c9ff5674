//! A model: its main graph and what surrounds it.

use onnx_opt_proto::{ModelProto, OperatorSetIdProto};

use crate::graph::{Graph, Producer};
use crate::import::context_of;
use crate::regular::OF_ONE_VERSION;
use crate::schema::{canonical_domain, ir_version_for_opset};

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// Everything else: versions, producer, metadata, functions, training info, device configurations. Its own graph
    /// field is empty.
    pub rest: ModelProto,
    /// What the import had to say that is no error.
    pub notes: Vec<String>,
}

impl Model {
    /// Version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.rest.ir_version()
    }

    /// Makes a model of an older version one of IR version 4, where initializers need not be inputs of the graph: the
    /// list of inputs then holds what a caller gives, and constants may be added. Tells whether it did. A body whose
    /// inputs hold constants is let alone, since there a place among them means something.
    pub fn raise_ir_version(&mut self) -> bool {
        let old = self.rest.ir_version.is_some_and(|version| version < 4);
        if !old || self.rest.opset_import.is_empty() || lists_constants(&self.graph) {
            return false;
        }
        self.rest.ir_version = Some(4);
        self.graph.drop_constant_inputs();
        self.renew_context();
        true
    }

    /// Imports another version of the default domain's operator set, in the model and in its functions where they are
    /// behind, and raises the IR version to the first that was released with it. Nodes keep the versions of their
    /// operators until [`Graph::restate_node`] gives them others.
    pub fn set_opset(&mut self, version: i64) {
        let imports = self.rest.opset_import.iter_mut();
        let functions = self.rest.functions.iter_mut().flat_map(|function| &mut function.opset_import);
        for import in imports.chain(functions.filter(|import| import.version() < version)) {
            if canonical_domain(import.domain()).is_empty() {
                import.version = Some(version);
            }
        }
        if let Some(needed) = ir_version_for_opset("", version)
            && let Some(ir_version) = &mut self.rest.ir_version
        {
            *ir_version = needed.max(*ir_version);
        }
        self.renew_context();
    }

    /// Imports the domains outside the standard of which operators were added, where one version alone can be meant.
    /// Tells whether there were any.
    pub fn import_used(&mut self) -> bool {
        let is_missing =
            |domain: &&&str| self.graph.context().opset(domain).is_none() && uses(&self.graph, domain);
        let missing: Vec<&str> = OF_ONE_VERSION.iter().filter(is_missing).copied().collect();
        let import =
            |domain: &&str| OperatorSetIdProto { domain: Some((*domain).to_owned()), version: Some(1) };
        self.rest.opset_import.extend(missing.iter().map(import));
        if !missing.is_empty() {
            self.renew_context();
        }
        !missing.is_empty()
    }

    /// Tells all graphs what `rest` says of versions and functions now.
    pub(crate) fn renew_context(&mut self) {
        let old = self.graph.context();
        let imported = |domain: &str| {
            self.rest.opset_import.iter().any(|import| canonical_domain(import.domain()) == domain)
        };
        let implied = old.opsets().filter(|(domain, _)| !imported(domain) && uses(&self.graph, domain));
        let implied = implied.map(|(domain, version)| (domain.to_owned(), version));
        let context = old.with_facts_of(context_of(&self.rest, implied));
        self.graph.set_context(&context);
    }
}

/// Whether an operator of the graph or its bodies is of this domain.
fn uses(graph: &Graph, domain: &str) -> bool {
    graph.nodes().any(|(_, node)| node.domain() == domain || node.bodies().any(|body| uses(body, domain)))
}

/// Whether a body lists a constant among its inputs.
fn lists_constants(graph: &Graph) -> bool {
    let listed = |body: &Graph| {
        let mut inputs = body.inputs().iter();
        inputs.any(|input| matches!(body.value(input.value).producer(), Producer::Constant(_)))
    };
    graph.nodes().flat_map(|(_, node)| node.bodies()).any(|body| listed(body) || lists_constants(body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_proto::{GraphProto, TensorProto, ValueInfoProto};

    use super::*;
    use crate::{check, export, import};

    #[test]
    fn initializers_leave_the_inputs_of_an_old_model() {
        for (version, expected) in [(Some(3), &["x"][..]), (Some(4), &["x", "w"]), (None, &["x", "w"])] {
            let formal =
                |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
            let weight = TensorProto {
                name: Some("w".to_owned()),
                data_type: Some(1),
                float_data: vec![1.0],
                ..TensorProto::default()
            };
            let graph = GraphProto {
                input: vec![formal("x"), formal("w")],
                output: vec![formal("x")],
                initializer: vec![weight],
                ..GraphProto::default()
            };
            let model = ModelProto {
                ir_version: version,
                opset_import: vec![OperatorSetIdProto { domain: None, version: Some(8) }],
                graph: Some(graph),
                ..ModelProto::default()
            };
            let mut model = import(model.into()).unwrap();
            assert_eq!(model.raise_ir_version(), version == Some(3));
            let exported = export(&model);
            assert_eq!(
                exported.graph.unwrap().input.iter().map(ValueInfoProto::name).collect::<Vec<_>>(),
                expected
            );
            assert_eq!(model.graph.context().ir_version(), exported.ir_version.unwrap_or(0));
            assert!(!model.raise_ir_version());
        }
    }

    #[test]
    fn domains_of_added_operators_are_imported_once() {
        use crate::{Context, ElementType, NewNode, Type};
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", Type::unranked(ElementType::Float));
        let mut add = |domain: &str| {
            let new = NewNode { domain: domain.to_owned(), ..NewNode::new("QuickGelu", [x]) };
            let node = graph.add_node(new).unwrap();
            graph.node(node).output(0).unwrap()
        };
        let outputs = ["mine", "com.microsoft", "com.microsoft"].map(&mut add);
        for (output, name) in outputs.into_iter().zip(["a", "b", "c"]) {
            graph.add_output(name, output).unwrap();
        }
        let import = OperatorSetIdProto { domain: None, version: Some(17) };
        let rest = ModelProto { ir_version: Some(8), opset_import: vec![import], ..ModelProto::default() };
        let mut model = Model { graph, rest, notes: Vec::new() };
        assert!(model.import_used() && !model.import_used());
        assert_eq!(model.graph.context().opset("com.microsoft"), Some(1));
        let imported = model.rest.opset_import.iter().map(OperatorSetIdProto::domain);
        assert_eq!(imported.collect::<Vec<_>>(), ["", "com.microsoft"]);
    }

    #[test]
    fn operators_keep_their_version_until_they_are_put_otherwise() {
        use crate::{Attributes, Context, Dim, ElementType, NewNode, Type};
        let mut graph = Graph::new(Context::with_opset(11));
        let x = graph.add_input("x", Type::tensor(ElementType::Float, [1, 4].map(Dim::fixed)));
        let node = graph.add_node(NewNode::new("Squeeze", [x]).with("axes", vec![0i64])).unwrap();
        let y = graph.node(node).output(0).unwrap();
        graph.add_output("y", y).unwrap();
        let import = OperatorSetIdProto { domain: Some("ai.onnx".to_owned()), version: Some(11) };
        let rest = ModelProto { ir_version: Some(6), opset_import: vec![import], ..ModelProto::default() };
        let mut model = Model { graph, rest, notes: Vec::new() };

        model.set_opset(19);
        assert_eq!((model.ir_version(), model.graph.opset()), (9, 19));
        assert_eq!(model.graph.node(node).operator().map(|operator| operator.since_version), Some(11));
        let axes = model.graph.add_constant(crate::Tensor::vector_i64(&[0]));
        model.graph.restate_node(node, "Squeeze", &[Some(x), Some(axes)], Attributes::new()).unwrap();
        assert_eq!(model.graph.node(node).operator().map(|operator| operator.since_version), Some(13));
        assert_eq!(model.graph.fixed_shape(y), Some(vec![4]));
        check(&model).unwrap();
    }
}
