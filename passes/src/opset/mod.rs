//! Conversion to a later version of the default domain's operator set.
//!
//! A version at a time: what an operator became in a version is said once, by its adapter, and a node of opset 6 goes
//! through all that came since. An operator whose new version only allows more stays as it is; see [`step`].

mod activation;
mod attribute_operands;
mod axes;
mod broadcast;
mod early;
mod normalization;
mod resize;
mod softmax;
mod split;
mod step;
#[cfg(test)]
mod testing;

use onnx_opt_ir::schema;
use onnx_opt_ir::{CheckError, Graph, Model, NodeId, check};
use rustc_hash::FxHashSet;
use thiserror::Error;

use crate::pass::for_each_graph;
use step::{Step, unchanged};

/// The highest version that models are raised to: what adapters were written for.
pub const HIGHEST: i64 = 25;

/// Why a model keeps its operator set.
#[derive(Debug, Error)]
pub enum RaiseError {
    /// Conversions go upwards only.
    #[error("the model is of opset {from}, and operators are not converted down to opset {target}")]
    Lower {
        /// The version of the model.
        from: i64,
        /// The version asked for.
        target: i64,
    },
    /// No adapter knows that version.
    #[error("opset {0} is past {HIGHEST}, the highest that models are raised to")]
    TooHigh(i64),
    /// Training information names values of the graph.
    #[error("the model carries training information, whose names nothing may touch")]
    TrainingInfo,
    /// IR version 3 lists constants as inputs, which later versions do not.
    #[error("a body lists constants among its inputs, which later versions do not allow")]
    ListedConstants,
    /// A node means something that the next version cannot say.
    #[error("{op_type} `{node}` cannot follow to opset {opset}: {reason}")]
    Node {
        /// Name of the node, or of its first result.
        node: String,
        /// The operator.
        op_type: String,
        /// The first version that it cannot follow to.
        opset: i64,
        /// What is in the way.
        reason: String,
    },
    /// A function that no call gave way to its body holds an operator that became another.
    #[error("function `{function}` cannot follow to opset {target}: {op_type} became another operator")]
    Function {
        /// The function.
        function: String,
        /// The operator.
        op_type: String,
        /// The version asked for.
        target: i64,
    },
    /// The later version of an operator does not allow what the model gives it.
    #[error("opset {target} does not allow it: {source}")]
    Illegal {
        /// The version asked for.
        target: i64,
        /// What is not allowed.
        source: CheckError,
    },
}

/// Raises the default domain's operator set of a model, with its bodies and functions, to a version. Returns how many
/// nodes were put otherwise; if there is nothing to raise, none. Functions whose operators became others give way to
/// their bodies.
///
/// # Errors
/// If an operator cannot follow, or the version is lower than the model's own; the model is then unchanged.
pub fn raise(model: &mut Model, target: i64) -> Result<usize, RaiseError> {
    let Some(from) = model.graph.context().opset("").filter(|&from| from != target) else { return Ok(0) };
    if target < from {
        return Err(RaiseError::Lower { from, target });
    }
    if target > HIGHEST {
        return Err(RaiseError::TooHigh(target));
    }
    if !model.rest.training_info.is_empty() {
        return Err(RaiseError::TrainingInfo);
    }
    let mut raised = model.clone();
    // From version 4 on constants may be added.
    if raised.ir_version() < 4 && !raised.raise_ir_version() {
        return Err(RaiseError::ListedConstants);
    }
    if left_behind(&raised, target).is_some() {
        raised.inline_functions(&mut |_, _| {});
    }
    if let Some((function, op_type)) = left_behind(&raised, target) {
        return Err(RaiseError::Function { function, op_type, target });
    }
    let mut count = 0;
    for version in from + 1..=target {
        raised.set_opset(version);
        count += advance(&mut raised.graph, version, target)?;
    }
    // What was added has its place yet to find. A cycle was there before, and the check names it.
    let _ = raised.graph.sort();
    check(&raised).map_err(|source| RaiseError::Illegal { target, source })?;
    *model = raised;
    Ok(count)
}

/// A function, and an operator in it that is another one in that version.
fn left_behind(model: &Model, target: i64) -> Option<(String, String)> {
    let mut found = None;
    model.for_each_function_operator(&mut |operator| {
        let is_call = model.graph.context().is_function("", operator.op_type);
        let mut old = schema::lookup("", operator.op_type, operator.opset);
        for version in operator.opset + 1..=target {
            let new = schema::lookup("", operator.op_type, version);
            let same = match (old, new) {
                (Some(old), Some(new)) if std::ptr::eq(old, new) => true,
                (Some(old), Some(new)) => {
                    !has_adapter(operator.op_type, version)
                        && unchanged(old, new, &operator.attributes, operator.inputs, operator.outputs)
                            .is_ok_and(|defaults| defaults.is_empty())
                }
                _ => is_call,
            };
            if !same {
                found = Some((operator.function.to_owned(), operator.op_type.to_owned()));
            }
            old = new;
        }
    });
    found
}

/// Takes the nodes of a graph and its bodies from the version before to this one, on the way to `target`.
fn advance(graph: &mut Graph, version: i64, target: i64) -> Result<usize, RaiseError> {
    let operators = schema::operators().iter();
    let changed =
        operators.filter(|operator| operator.domain.is_empty() && operator.since_version == version);
    let adapted = ADAPTERS.iter().filter(|(at, ..)| *at == version).flat_map(|(_, names, _)| *names);
    let changed: FxHashSet<&str> = changed.map(|operator| operator.op_type).chain(adapted.copied()).collect();
    let mut result = Ok(0);
    for_each_graph(graph, &mut |graph| {
        if let Ok(count) = result {
            result = advance_nodes(graph, &changed, version, target).map(|more| count + more);
        }
    });
    result
}

fn advance_nodes(
    graph: &mut Graph,
    changed: &FxHashSet<&str>,
    version: i64,
    target: i64,
) -> Result<usize, RaiseError> {
    let nodes: Vec<NodeId> = graph
        .nodes()
        .filter(|(_, node)| node.domain().is_empty() && !graph.context().is_function("", node.op_type()))
        .filter(|(_, node)| node.operator().is_none() || changed.contains(node.op_type()))
        .map(|(id, _)| id)
        .collect();
    let mut count = 0;
    for id in nodes {
        let mut step = Step { graph: &mut *graph, id, version, target };
        match step.take() {
            Ok(otherwise) => count += usize::from(otherwise),
            Err(reason) => {
                let (node, op_type) = step.describe();
                return Err(RaiseError::Node { node, op_type, opset: version, reason });
            }
        }
    }
    Ok(count)
}

/// Puts a node as the version at hand says it, or tells why it cannot.
type Adapter = fn(&mut Step<'_>) -> Result<(), String>;

/// What operators became in a version, where that is more than what [`unchanged`] sees.
#[rustfmt::skip]
const ADAPTERS: &[(i64, &[&str], Adapter)] = &[
    (2, &["GlobalLpPool", "LpPool"], early::norm_order),
    (2, &["Pad"], early::paddings),
    (2, &["Split"], split::without_operand),
    (3, &["GRU"], early::direction),
    (4, &["Concat"], early::concat_axis),
    (5, &["Reshape"], attribute_operands::reshape),
    (6, &["BatchNormalization"], early::consumed_inputs),
    (6, &["Cast"], early::cast_by_name),
    (6, &["Clip"], early::clip_without_bounds),
    (6, &["Tile"], early::tile),
    (7, &["Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"], broadcast::elementwise),
    (7, &["BatchNormalization"], normalization::inference_only),
    (7, &["Dropout"], normalization::dropout_inference_only),
    (7, &["Gemm"], broadcast::gemm),
    (7, &["PRelu"], broadcast::prelu),
    (7, &["GRU", "LSTM", "RNN"], early::output_sequence),
    (7, &["Upsample"], resize::upsample_scales),
    (9, &["BatchNormalization"], normalization::per_channel),
    (9, &["Scan"], early::scan_batch),
    (9, &["Upsample"], resize::upsample_operand),
    (10, &["Dropout"], normalization::dropout_mask),
    (10, &["Slice"], attribute_operands::slice),
    (10, &["TopK"], attribute_operands::top_k),
    (10, &["Upsample"], resize::upsample),
    (11, &["Clip"], attribute_operands::clip),
    (11, &["Pad"], attribute_operands::pad),
    (11, &["Resize"], resize::coordinates),
    (11, &["Scatter"], early::scatter),
    (11, &["Upsample"], resize::upsample),
    (12, &["Dropout"], attribute_operands::dropout),
    (13, &["Hardmax", "LogSoftmax", "Softmax"], softmax::one_axis),
    (13, &["ReduceSum", "Squeeze", "Unsqueeze"], axes::operand),
    (13, &["Resize"], resize::without_empty_operands),
    (13, &["Split"], split::operand),
    (14, &["BatchNormalization"], normalization::single_result),
    (16, &["RoiAlign"], resize::roi_coordinates),
    (18, &["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
           "ReduceProd", "ReduceSumSquare"], axes::operand),
    (18, &["Split"], split::number_of_results),
    (20, &["DFT"], attribute_operands::dft),
    (20, &["GridSample"], resize::grid_modes),
    (21, &["GroupNormalization"], normalization::group_per_channel),
    (25, &["Swish"], activation::swish),
];

fn adapter(op_type: &str, version: i64) -> Option<Adapter> {
    let mut found = ADAPTERS.iter().filter(|(at, names, _)| *at == version && names.contains(&op_type));
    found.next().map(|(.., adapter)| *adapter)
}

fn has_adapter(op_type: &str, version: i64) -> bool {
    adapter(op_type, version).is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Dim, ElementType, NewNode, import};
    use onnx_opt_proto::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
        attribute_proto::AttributeType,
    };

    use super::testing::{operators, raised, refusal};
    use super::*;
    use crate::testing::Fixture;

    /// Every change of an operator up to the highest version is one that [`unchanged`] sees through with no
    /// attributes or has an adapter.
    #[test]
    fn every_change_has_an_adapter_or_is_none() {
        let mut missing = Vec::new();
        for pair in schema::operators().windows(2) {
            let [old, new] = pair else { continue };
            let follows = old.domain.is_empty() && old.op_type == new.op_type && new.since_version <= HIGHEST;
            if !follows || has_adapter(new.op_type, new.since_version) {
                continue;
            }
            let kept: Vec<&str> = old
                .attributes
                .iter()
                .map(|attribute| attribute.name)
                .filter(|&name| name != "consumed_inputs")
                .collect();
            let (inputs, outputs) = (old.input_count().0, old.output_count().0);
            if let Err(reason) = unchanged(old, new, &kept, inputs, outputs) {
                missing.push(format!("{} {}: {reason}", new.op_type, new.since_version));
            }
        }
        assert_eq!(missing, [""; 0]);
        for (version, names, _) in ADAPTERS {
            for name in *names {
                assert!(schema::lookup("", name, version - 1).is_some(), "{name} {version}");
            }
        }
    }

    fn relu(opset: i64) -> Fixture {
        let mut f = Fixture::new(opset);
        let x = f.input("x", &[4]);
        let y = f.op("Relu", &[x]);
        f.with_output(y)
    }

    #[test]
    fn versions_are_raised_and_never_lowered() {
        let model = raised(relu(6), 25);
        assert_eq!((model.ir_version(), model.rest.opset_import[0].version()), (13, 25));
        assert_eq!(model.graph.nodes().next().unwrap().1.operator().unwrap().since_version, 14);
        assert_eq!(raise(&mut relu(9).into_model(), 9).unwrap(), 0);
        assert!(refusal(relu(9), 8).contains("down to opset 8"));
        assert!(refusal(relu(9), HIGHEST + 1).contains("the highest"));
    }

    #[test]
    fn what_the_new_version_does_not_allow_is_refused() {
        let quantized = |element: ElementType| {
            let mut f = Fixture::new(13);
            let x = f.typed_input("x", element, [Dim::fixed(4)]);
            let scale = f.scalar(0.5);
            let y = f.op("QuantizeLinear", &[x, scale]);
            f.with_output(y)
        };
        raised(quantized(ElementType::Float), 19);
        assert!(refusal(quantized(ElementType::Int32), 19).contains("the types must agree"));
        // Later the types may differ again.
        raised(quantized(ElementType::Int32), 25);
    }

    #[test]
    fn an_unknown_operator_may_mean_anything_later() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let y = f.op("Gelu", &[x]);
        assert!(refusal(f.with_output(y), 20).contains("no such operator"));
    }

    #[test]
    fn bodies_follow() {
        let body = |op_type: &str| {
            let mut f = Fixture::new(11);
            let outer = f.graph.add_capture(0);
            let squeezed = f.node(NewNode::new(op_type, [outer]).with("axes", vec![0i64]));
            f.with_output(squeezed).graph
        };
        let mut f = Fixture::new(11);
        let condition = f.typed_input("c", ElementType::Bool, []);
        let x = f.input("x", &[1, 4]);
        let node = NewNode { captures: vec![x], ..NewNode::new("If", [condition]) };
        let node = node.with("then_branch", body("Squeeze")).with("else_branch", body("ReduceSum"));
        let y = f.node(node);
        let model = raised(f.with_output(y), 18);
        assert_eq!(operators(&model), ["If"]);
        let (_, choice) = model.graph.nodes().next().unwrap();
        for body in choice.bodies() {
            let (_, node) = body.nodes().next().unwrap();
            assert_eq!((node.inputs().len(), body.opset()), (2, 18));
        }
    }

    fn call(domain: &str, op_type: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            domain: Some(domain.to_owned()),
            op_type: Some(op_type.to_owned()),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    /// A call of a function of one operator, with this attribute, in opset 12.
    fn with_function(op_type: &str, attribute: Option<AttributeProto>) -> Model {
        let imports: Vec<OperatorSetIdProto> = [("", 12), ("local", 1)]
            .map(|(domain, version)| OperatorSetIdProto {
                domain: Some(domain.to_owned()),
                version: Some(version),
            })
            .into();
        let mut node = call("", op_type, "a", "b");
        node.attribute.extend(attribute);
        let function = FunctionProto {
            name: Some("F".to_owned()),
            domain: Some("local".to_owned()),
            input: vec!["a".to_owned()],
            output: vec!["b".to_owned()],
            node: vec![node],
            opset_import: imports.clone(),
            ..FunctionProto::default()
        };
        let formal =
            |name: &str| vec![ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }];
        let graph = GraphProto {
            name: Some("g".to_owned()),
            node: vec![call("local", "F", "x", "y")],
            input: formal("x"),
            output: formal("y"),
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: imports,
            graph: Some(graph),
            functions: vec![function],
            ..ModelProto::default()
        };
        import(model.into()).unwrap()
    }

    #[test]
    fn functions_follow_or_give_way_to_their_bodies() {
        let mut kept = with_function("Relu", None);
        raise(&mut kept, 18).unwrap();
        assert_eq!(operators(&kept), ["F"]);
        assert_eq!(kept.rest.functions[0].opset_import[0].version(), 18);

        let mut inlined = with_function("Squeeze", None);
        raise(&mut inlined, 18).unwrap();
        assert_eq!((operators(&inlined), inlined.rest.functions.len()), (vec!["Squeeze"], 0));

        // A call that cannot give way keeps its function, which cannot follow.
        let axes = AttributeProto {
            name: Some("axes".to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            ..AttributeProto::default()
        };
        let mut stuck = with_function("Squeeze", Some(axes));
        let refused = raise(&mut stuck, 18);
        assert!(matches!(refused, Err(RaiseError::Function { .. } | RaiseError::Node { .. })), "{refused:?}");
        assert_eq!(stuck.graph.opset(), 12);
    }
}
