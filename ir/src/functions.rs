//! Model-local functions: putting their bodies in the place of their calls.

use std::collections::BTreeMap;

use onnx_opt_proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::check::check_calling;
use crate::export::export_attribute;
use crate::graph::{Consumer, Graph, GraphError, Node, NodeId, Slot, ValueId};
use crate::import::import_graph;
use crate::infer::infer_graph;
use crate::model::Model;
use crate::schema::{self, canonical_domain};

/// The most nodes that inlining may make: a few functions that call each other twice could make any number.
const MAX_NODES: usize = 1 << 18;

/// Domain, name and overload.
type Key = (String, String, String);

fn key(domain: &str, name: &str, overload: &str) -> Key {
    (canonical_domain(domain).to_owned(), name.to_owned(), overload.to_owned())
}

fn key_of_function(function: &FunctionProto) -> Key {
    key(function.domain(), function.name(), function.overload())
}

fn key_of_call(call: &NodeProto) -> Key {
    key(call.domain(), call.op_type(), call.overload())
}

fn key_of_node(node: &Node) -> Key {
    let overload = node.extra().and_then(|extra| extra.overload.as_deref()).unwrap_or_default();
    key(node.domain(), node.op_type(), overload)
}

impl Model {
    /// Replaces calls of model-local functions by the bodies of the functions, and drops functions that nothing
    /// calls. `declined` hears calls of which function stay and why. Returns how many calls and functions went.
    ///
    /// A function is inlined if it does not lead to itself and its operators mean the same in the operator sets that
    /// the model imports.
    pub fn inline_functions(&mut self, declined: &mut dyn FnMut(&str, String)) -> usize {
        if self.rest.functions.is_empty() {
            return 0;
        }
        let functions = std::mem::take(&mut self.rest.functions);
        let imported = self.rest.opset_import.len();
        let plan = Plan::new(&functions, &mut self.rest.opset_import, &mut *declined);
        self.rest.functions = functions.clone();
        self.renew_context();

        let mut total = 0usize;
        plan.for_each_call(&self.graph, &mut |size| total = total.saturating_add(size));
        let mut changes = 0;
        if total <= MAX_NODES {
            changes += plan.inline(&mut self.graph, declined);
        } else {
            declined("the model", format!("it would have {total} nodes"));
        }

        let called = called(&self.graph, &functions);
        self.rest.functions.retain(|function| called.contains(&key_of_function(function)));
        changes += functions.len() - self.rest.functions.len();
        self.drop_imports(imported, &functions);
        self.renew_context();
        changes
    }

    /// Drops imports from `first` on, and those of domains that only functions had, where no node needs them.
    fn drop_imports(&mut self, first: usize, functions: &[FunctionProto]) {
        let mut used: FxHashSet<String> = FxHashSet::default();
        visit_nodes(&self.graph, &mut |node| {
            used.insert(node.domain().to_owned());
        });
        let has = |functions: &[FunctionProto], domain: &str| {
            functions.iter().any(|function| canonical_domain(function.domain()) == domain)
        };
        let left = &self.rest.functions;
        let mut index = 0;
        self.rest.opset_import.retain(|import| {
            let domain = canonical_domain(import.domain());
            index += 1;
            used.contains(domain)
                || index <= first && (domain.is_empty() || has(left, domain) || !has(functions, domain))
        });
    }
}

/// An operator of the default domain in the body of a model-local function.
#[derive(Debug)]
pub struct FunctionOperator<'a> {
    /// The function.
    pub function: &'a str,
    /// The version of the default domain that the function imports.
    pub opset: i64,
    /// The operator.
    pub op_type: &'a str,
    /// Names of its attributes.
    pub attributes: Vec<&'a str>,
    /// Number of operands.
    pub inputs: usize,
    /// Number of results.
    pub outputs: usize,
}

impl Model {
    /// Visits the operators of the default domain in the bodies of model-local functions.
    pub fn for_each_function_operator<'a>(&'a self, see: &mut dyn FnMut(FunctionOperator<'a>)) {
        for function in &self.rest.functions {
            let default = |import: &&OperatorSetIdProto| canonical_domain(import.domain()).is_empty();
            let Some(import) = function.opset_import.iter().find(default) else { continue };
            visit(&function.node, &mut |node| {
                if canonical_domain(node.domain()).is_empty() {
                    see(FunctionOperator {
                        function: function.name(),
                        opset: import.version(),
                        op_type: node.op_type(),
                        attributes: node.attribute.iter().map(AttributeProto::name).collect(),
                        inputs: node.input.len(),
                        outputs: node.output.len(),
                    });
                }
            });
        }
    }
}

/// Which functions are inlined.
struct Plan<'a> {
    all: &'a [FunctionProto],
    functions: FxHashMap<Key, &'a FunctionProto>,
    /// Nodes that a call becomes, for functions that may be inlined.
    sizes: FxHashMap<Key, usize>,
}

impl<'a> Plan<'a> {
    /// Adds to `imports` the domains that only functions import.
    fn new(
        functions: &'a [FunctionProto],
        imports: &mut Vec<OperatorSetIdProto>,
        declined: &mut dyn FnMut(&str, String),
    ) -> Self {
        let mut plan = Self { all: functions, functions: FxHashMap::default(), sizes: FxHashMap::default() };
        for function in functions {
            plan.functions.entry(key_of_function(function)).or_insert(function);
        }
        let versions = |imports: &[OperatorSetIdProto]| -> BTreeMap<String, i64> {
            let version = |import: &OperatorSetIdProto| {
                (canonical_domain(import.domain()).to_owned(), import.version())
            };
            imports.iter().map(version).collect()
        };
        let mut known = versions(imports);
        for (key, function) in plan.in_order() {
            let mut size = 0usize;
            let mut missing: BTreeMap<String, i64> = BTreeMap::new();
            let own = versions(&function.opset_import);
            let mut reason = None;
            visit(&function.node, &mut |node| {
                let callee = key_of_call(node);
                let is_call = plan.functions.contains_key(&callee);
                let inner = if is_call { plan.sizes.get(&callee).copied() } else { None };
                size = size.saturating_add(inner.unwrap_or(1));
                let domain = callee.0.as_str();
                match (own.get(domain), known.get(domain)) {
                    (Some(&version), None) => {
                        missing.insert(domain.to_owned(), version);
                    }
                    (Some(a), Some(b)) if is_call || a == b => {}
                    (Some(&a), Some(&b)) if means_the_same(domain, node.op_type(), a, b) => {}
                    (None, _) if is_call => {}
                    _ => reason = Some(node.op_type().to_owned()),
                }
            });
            if let Some(operator) = reason {
                let reason = format!("{operator} means something else in the model's opset");
                declined(function.name(), reason);
                continue;
            }
            for (domain, version) in missing {
                known.insert(domain.clone(), version);
                imports.push(OperatorSetIdProto { domain: Some(domain), version: Some(version) });
            }
            plan.sizes.insert(key, size);
        }
        plan
    }

    /// Functions so that each comes after those it calls. Those that lead to themselves are left out.
    fn in_order(&self) -> Vec<(Key, &'a FunctionProto)> {
        let mut callers: FxHashMap<Key, Vec<Key>> = FxHashMap::default();
        let mut waiting: BTreeMap<Key, usize> = BTreeMap::new();
        for (key, function) in &self.functions {
            let mut callees: FxHashSet<Key> = FxHashSet::default();
            visit(&function.node, &mut |node| {
                let callee = key_of_call(node);
                if self.functions.contains_key(&callee) && callees.insert(callee.clone()) {
                    callers.entry(callee).or_default().push(key.clone());
                }
            });
            waiting.insert(key.clone(), callees.len());
        }
        let mut ready: Vec<Key> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key.clone()).collect();
        let mut order = Vec::new();
        while let Some(key) = ready.pop() {
            let mut freed: Vec<Key> = Vec::new();
            for caller in callers.get(&key).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(caller) {
                    *count -= 1;
                    if *count == 0 {
                        freed.push(caller.clone());
                    }
                }
            }
            freed.sort_unstable();
            ready.extend(freed);
            if let Some(function) = self.functions.get(&key) {
                order.push((key, *function));
            }
        }
        order
    }

    /// Tells the sizes of the calls in a graph and its bodies.
    fn for_each_call(&self, graph: &Graph, visit: &mut dyn FnMut(usize)) {
        visit_nodes(graph, &mut |node| {
            if let Some(&size) = self.sizes.get(&key_of_node(node)) {
                visit(size);
            }
        });
    }

    /// Inlines calls in a graph and its bodies until none is left; returns how many.
    fn inline(&self, graph: &mut Graph, declined: &mut dyn FnMut(&str, String)) -> usize {
        let mut inlined = 0;
        let mut refused: FxHashSet<NodeId> = FxHashSet::default();
        loop {
            let is_call =
                |node: &Node| node.operator().is_none() && self.sizes.contains_key(&key_of_node(node));
            let calls: Vec<NodeId> = graph
                .nodes()
                .filter(|(id, node)| is_call(node) && !refused.contains(id))
                .map(|(id, _)| id)
                .collect();
            if calls.is_empty() {
                break;
            }
            // A call of a body that was inlined may get the index of one before it.
            for id in calls {
                let Some(node) = graph.get_node(id).filter(|node| is_call(node)) else { continue };
                let name = node.op_type().to_owned();
                match self.body(graph, node).and_then(|body| {
                    graph.inline_graph(id, &body).map_err(|error: GraphError| error.to_string())
                }) {
                    Ok(()) => inlined += 1,
                    Err(reason) => {
                        declined(&name, reason);
                        refused.insert(id);
                    }
                }
            }
        }
        let owners: Vec<NodeId> = graph
            .nodes()
            .filter(|(_, node)| {
                let mut calls = 0;
                node.bodies().for_each(|body| self.for_each_call(body, &mut |_| calls += 1));
                calls > 0
            })
            .map(|(id, _)| id)
            .collect();
        for owner in owners {
            let edited = graph.edit_bodies(owner, |bodies| {
                bodies.iter_mut().map(|body| self.inline(body, declined)).sum::<usize>()
            });
            inlined += edited.unwrap_or(0);
        }
        inlined
    }

    /// The body of the function that a node calls, with the attributes of the call. It must be legal on the operands:
    /// nobody checks the bodies of functions otherwise.
    fn body(&self, graph: &Graph, call: &Node) -> Result<Graph, String> {
        let function = self.functions.get(&key_of_node(call)).ok_or("no such function")?;
        let mut given: FxHashMap<&str, AttributeProto> = FxHashMap::default();
        for default in &function.attribute_proto {
            given.insert(default.name(), default.clone());
        }
        for attribute in call.attributes().iter() {
            if !attribute.value.graphs().is_empty() {
                return Err("an attribute of the call is a graph".to_owned());
            }
            given.insert(&attribute.name, export_attribute(attribute));
        }
        let mut nodes = function.node.clone();
        substitute(&mut nodes, &given)?;
        let formals = |names: &[String]| {
            let formal =
                |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
            names.iter().map(formal).collect()
        };
        let proto = GraphProto {
            node: nodes,
            input: formals(&function.input),
            output: formals(&function.output),
            ..GraphProto::default()
        };
        let mut body = import_graph(proto, graph.context()).map_err(|error| error.to_string())?;
        let ty = |input: &Option<ValueId>| input.and_then(|value| graph.ty(value).cloned());
        body.set_input_types(&call.inputs().iter().map(ty).collect::<Vec<_>>());
        // What contradicts itself in the body does so in the call.
        infer_graph(&mut body);
        let absent: Vec<ValueId> = body
            .inputs()
            .iter()
            .enumerate()
            .filter(|(index, _)| call.input(*index).is_none())
            .map(|(_, input)| input.value)
            .collect();
        let readers: Vec<Consumer> = absent.iter().flat_map(|&value| body.consumers(value)).collect();
        for Consumer { node, slot } in readers {
            if let Slot::Input(index) = slot {
                body.set_input(node, index as usize, None).map_err(|error| error.to_string())?;
            }
        }
        check_calling(&body, self.all).map_err(|error| error.to_string())?;
        Ok(body)
    }
}

/// Puts the attributes of a call, and defaults, where the nodes of a function refer to them. An attribute that refers
/// to one that is not given is left out.
fn substitute(nodes: &mut [NodeProto], given: &FxHashMap<&str, AttributeProto>) -> Result<(), String> {
    for node in nodes {
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for mut attribute in std::mem::take(&mut node.attribute) {
            match attribute.ref_attr_name.take().filter(|name| !name.is_empty()) {
                None => {
                    let bodies = attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs);
                    for body in bodies {
                        substitute(&mut body.node, given)?;
                    }
                    attributes.push(attribute);
                }
                Some(name) => {
                    let Some(value) = given.get(name.as_str()) else { continue };
                    if attribute.r#type.is_some_and(|wanted| wanted != 0 && Some(wanted) != value.r#type) {
                        return Err(format!("attribute `{name}` of the call has another type"));
                    }
                    attributes.push(AttributeProto { name: attribute.name, ..value.clone() });
                }
            }
        }
        node.attribute = attributes;
    }
    Ok(())
}

/// Whether an operator is the same in two versions of a domain.
fn means_the_same(domain: &str, op_type: &str, a: i64, b: i64) -> bool {
    let latest = schema::latest_opset(domain).unwrap_or(0);
    match (schema::lookup(domain, op_type, a), schema::lookup(domain, op_type, b)) {
        (Some(first), Some(second)) => a.max(b) <= latest && std::ptr::eq(first, second),
        _ => false,
    }
}

/// Functions that a graph calls, directly or through others.
fn called(graph: &Graph, functions: &[FunctionProto]) -> FxHashSet<Key> {
    let mut called: FxHashSet<Key> = FxHashSet::default();
    let mut pending: Vec<Key> = Vec::new();
    visit_nodes(graph, &mut |node| pending.push(key_of_node(node)));
    let by_key: FxHashMap<Key, &FunctionProto> =
        functions.iter().map(|function| (key_of_function(function), function)).collect();
    while let Some(key) = pending.pop() {
        if let Some(function) = by_key.get(&key)
            && called.insert(key)
        {
            visit(&function.node, &mut |node| pending.push(key_of_call(node)));
        }
    }
    called
}

/// Visits nodes and those of their bodies.
pub(crate) fn visit<'n>(nodes: &'n [NodeProto], see: &mut dyn FnMut(&'n NodeProto)) {
    for node in nodes {
        see(node);
        for attribute in &node.attribute {
            for body in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                visit(&body.node, see);
            }
        }
    }
}

/// Visits the nodes of a graph and its bodies.
fn visit_nodes(graph: &Graph, see: &mut dyn FnMut(&Node)) {
    for (_, node) in graph.nodes() {
        see(node);
        node.bodies().for_each(|body| visit_nodes(body, see));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_proto::{ModelProto, attribute_proto::AttributeType, type_proto};

    use super::*;
    use crate::{check, export, import};

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(|name| if name == "-" { "" } else { name }.to_owned()).collect()
    }

    /// A node `domain.Operator` with these operands and results; `-` is one left out.
    fn node(operator: &str, inputs: &str, outputs: &str) -> NodeProto {
        let (domain, op_type) = operator.split_once('.').unwrap_or(("", operator));
        NodeProto {
            name: Some(format!("n_{outputs}")),
            domain: Some(domain.to_owned()),
            op_type: Some(op_type.to_owned()),
            input: names(inputs),
            output: names(outputs),
            ..NodeProto::default()
        }
    }

    fn with(mut node: NodeProto, name: &str, value: f32, reference: Option<&str>) -> NodeProto {
        node.attribute.push(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Float as i32),
            f: reference.is_none().then_some(value),
            ref_attr_name: reference.map(str::to_owned),
            ..AttributeProto::default()
        });
        node
    }

    fn imports(versions: &[(&str, i64)]) -> Vec<OperatorSetIdProto> {
        let import = |(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: Some((*domain).to_owned()),
            version: Some(*version),
        };
        versions.iter().map(import).collect()
    }

    fn function(name: &str, inputs: &str, outputs: &str, nodes: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            name: Some(name.to_owned()),
            domain: Some("local".to_owned()),
            input: names(inputs),
            output: names(outputs),
            node: nodes,
            opset_import: imports(&[("", 17), ("local", 1)]),
            ..FunctionProto::default()
        }
    }

    /// `x` to `y` by these nodes.
    fn model(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> Model {
        let tensor = type_proto::Tensor { elem_type: Some(1), ..type_proto::Tensor::default() };
        let ty = onnx_opt_proto::TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..onnx_opt_proto::TypeProto::default()
        };
        let formal = |name: &str| {
            vec![ValueInfoProto {
                name: Some(name.to_owned()),
                r#type: Some(ty.clone()),
                ..ValueInfoProto::default()
            }]
        };
        let graph = GraphProto {
            name: Some("g".to_owned()),
            node: nodes,
            input: formal("x"),
            output: formal("y"),
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(9),
            opset_import: imports(&[("", 17), ("local", 1)]),
            graph: Some(graph),
            functions,
            ..ModelProto::default()
        };
        import(model.into()).unwrap()
    }

    /// Operators after inlining, what went, and what was declined.
    fn inline(model: &mut Model) -> (Vec<String>, usize, Vec<String>) {
        let mut declined = Vec::new();
        let changes = model.inline_functions(&mut |name, reason| declined.push(format!("{name}: {reason}")));
        model.graph.sort().unwrap();
        check(model).unwrap();
        let nodes = export(model).graph.unwrap().node;
        (nodes.iter().map(|node| node.op_type().to_owned()).collect(), changes, declined)
    }

    #[test]
    fn calls_become_bodies_with_the_attributes_of_the_call() {
        let scaled = FunctionProto {
            attribute: names("alpha"),
            attribute_proto: with(NodeProto::default(), "beta", 4.0, None).attribute,
            ..function(
                "Scaled",
                "a b",
                "c",
                vec![
                    node("local.Inner", "a", "r"),
                    with(
                        with(node("HardSigmoid", "r", "c"), "alpha", 0.0, Some("alpha")),
                        "beta",
                        0.0,
                        Some("beta"),
                    ),
                ],
            )
        };
        let inner = function("Inner", "a", "b", vec![node("Relu", "a", "b")]);
        let mut model = model(
            vec![with(node("local.Scaled", "x", "m"), "alpha", 0.25, None), node("local.Scaled", "m", "y")],
            vec![scaled, inner],
        );
        let (operators, changes, declined) = inline(&mut model);
        assert_eq!(operators, ["Relu", "HardSigmoid", "Relu", "HardSigmoid"]);
        assert_eq!((changes, declined.len()), (6, 0));
        assert!(model.rest.functions.is_empty());
        assert_eq!(model.rest.opset_import, imports(&[("", 17)]));
        let gates: Vec<&Node> =
            model.graph.nodes().map(|(_, node)| node).filter(|node| node.is("HardSigmoid")).collect();
        let mut alphas: Vec<_> = gates.iter().map(|node| (node.float("alpha"), node.float("beta"))).collect();
        alphas.sort_by(|a, b| a.partial_cmp(b).unwrap());
        // Without a default of the function that of the operator holds.
        assert_eq!(alphas, [(Some(0.2), Some(4.0)), (Some(0.25), Some(4.0))]);
        let mut node_names: Vec<&str> = model.graph.nodes().filter_map(|(_, node)| node.name()).collect();
        node_names.sort_unstable();
        assert_eq!(node_names, ["n_m/n_c", "n_m/n_r/n_b", "n_y/n_c", "n_y/n_r/n_b"]);
    }

    #[test]
    fn an_operand_left_out_stays_out() {
        let clip = function("Clip2", "a lo hi", "b", vec![node("Clip", "a lo hi", "b")]);
        let mut short = model(vec![node("local.Clip2", "x", "y")], vec![clip]);
        assert_eq!(inline(&mut short).0, ["Clip"]);
        let (_, clipped) = short.graph.nodes().next().unwrap();
        assert_eq!(clipped.inputs().len(), 1);

        let through = function("Through", "a b", "c", vec![node("Relu", "a", "unused")]);
        let through = FunctionProto { output: names("b"), ..through };
        let mut absent = model(vec![node("local.Through", "x", "y")], vec![through]);
        let (operators, changes, declined) = inline(&mut absent);
        assert_eq!((operators.as_slice(), changes, declined.len()), (&["Through".to_owned()][..], 0, 1));
        assert_eq!(absent.rest.functions.len(), 1);
    }

    #[test]
    fn a_body_that_is_not_legal_stays() {
        let add = || function("F", "a b", "c", vec![node("Add", "a b", "c")]);
        assert_eq!(inline(&mut model(vec![node("local.F", "x x", "y")], vec![add()])).0, ["Add"]);
        for (body, inputs) in [
            (function("F", "a", "c", vec![node("Nothing", "a", "c")]), "x"),
            (function("F", "a", "c", vec![node("Not", "a", "c")]), "x"),
            (function("F", "a", "c", vec![node("Relu", "a a", "c")]), "x"),
            (add(), "x"),
        ] {
            let mut model = model(vec![node("local.F", inputs, "y")], vec![body]);
            let (operators, _, declined) = inline(&mut model);
            assert_eq!((operators.as_slice(), declined.len()), (&["F".to_owned()][..], 1), "{declined:?}");
        }
        // Illegal calls in legal bodies.
        let outer = function("Outer", "a", "c", vec![node("local.F", "a a a", "c")]);
        let mut model = model(vec![node("local.Outer", "x", "y")], vec![outer, add()]);
        assert_eq!(inline(&mut model).0, ["Outer"]);
    }

    #[test]
    fn an_operand_that_passes_through_needs_a_node_of_its_own() {
        let through = FunctionProto { output: names("a"), ..function("Through", "a", "", vec![]) };
        let mut model = model(vec![node("local.Through", "x", "y")], vec![through]);
        assert_eq!(inline(&mut model).0, ["Identity"]);
    }

    #[test]
    fn functions_of_another_opset_stay_where_operators_differ() {
        for (op_type, expected) in [("Relu", "Relu"), ("Softmax", "Old")] {
            let old = FunctionProto {
                opset_import: imports(&[("", if op_type == "Relu" { 14 } else { 12 })]),
                ..function("Old", "a", "b", vec![node(op_type, "a", "b")])
            };
            let mut model = model(vec![node("local.Old", "x", "y")], vec![old]);
            let (operators, _, declined) = inline(&mut model);
            assert_eq!(operators, [expected]);
            assert_eq!(declined.is_empty(), op_type == "Relu");
        }
    }

    #[test]
    fn a_domain_comes_along_with_the_nodes_that_need_it() {
        let custom = FunctionProto {
            opset_import: imports(&[("", 17), ("mine", 3)]),
            ..function("Custom", "a", "b", vec![node("mine.Op", "a", "b")])
        };
        let mut model = model(vec![node("local.Custom", "x", "y")], vec![custom]);
        assert_eq!(inline(&mut model).0, ["Op"]);
        assert_eq!(model.rest.opset_import, imports(&[("", 17), ("mine", 3)]));
    }

    #[test]
    fn calls_in_bodies_are_inlined() {
        let body = |name: &str, call: &str| AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(Box::new(GraphProto {
                name: Some(name.to_owned()),
                node: vec![node(call, "x", name)],
                output: vec![ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }],
                ..GraphProto::default()
            })),
            ..AttributeProto::default()
        };
        let mut choice = node("If", "c", "y");
        choice.attribute = vec![body("then_branch", "local.F"), body("else_branch", "Neg")];
        let cast = AttributeProto {
            name: Some("to".to_owned()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(9),
            ..AttributeProto::default()
        };
        let condition = NodeProto { attribute: vec![cast], ..node("Cast", "x", "c") };
        let f = function("F", "a", "b", vec![node("Relu", "a", "m"), node("Abs", "m", "b")]);
        let mut model = model(vec![condition, choice], vec![f]);
        assert_eq!(inline(&mut model).1, 2);
        let (_, choice) = model.graph.nodes().find(|(_, node)| node.is("If")).unwrap();
        assert_eq!(choice.bodies().map(Graph::node_count).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn functions_that_lead_to_themselves_or_to_too_much_stay() {
        let ring = vec![
            function("A", "a", "b", vec![node("local.B", "a", "b")]),
            function("B", "a", "b", vec![node("local.A", "a", "b")]),
        ];
        let plan = Plan::new(&ring, &mut imports(&[("", 17), ("local", 1)]), &mut |_, _| {});
        assert!(plan.sizes.is_empty());

        let mut bomb = vec![function("F0", "a", "b", vec![node("Relu", "a", "b")])];
        for level in 1..60 {
            let callee = format!("local.F{}", level - 1);
            let calls = vec![node(&callee, "a", "m"), node(&callee, "m", "b")];
            bomb.push(function(&format!("F{level}"), "a", "b", calls));
        }
        let mut model = model(vec![node("local.F59", "x", "y")], bomb);
        let (operators, changes, declined) = inline(&mut model);
        assert_eq!((operators.as_slice(), changes, declined.len()), (&["F59".to_owned()][..], 0, 1));
    }
}
