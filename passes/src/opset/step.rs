//! One node on its way from one version of its operator to the next.

use std::sync::Arc;

use onnx_opt_ir::schema::{self, AttributeDefault, AttributeSchema, Operator};
use onnx_opt_ir::{AttributeValue, Attributes, ElementType, Graph, NewNode, Node, NodeId, Tensor, ValueId};

use super::adapter;

/// A node that is to be put as `version` says it, in a graph whose context has that version already.
pub(super) struct Step<'g> {
    pub graph: &'g mut Graph,
    pub id: NodeId,
    /// The version at hand.
    pub version: i64,
    /// The version that the model is on the way to.
    pub target: i64,
}

impl Step<'_> {
    /// Takes the step. Tells whether the node reads otherwise than before.
    pub fn take(&mut self) -> Result<bool, String> {
        let node = self.node();
        let op_type = node.op_type().to_owned();
        let Some(old) = node.operator() else {
            return Err("the standard has no such operator".to_owned());
        };
        let new = schema::lookup("", &op_type, self.version).ok_or("the standard has no such operator")?;
        if let Some(adapter) = adapter(&op_type, self.version) {
            return adapter(self).map(|()| true);
        }
        if std::ptr::eq(old, new) {
            return Ok(false);
        }
        self.keep()?;
        Ok(false)
    }

    /// Gives the node the new version of its operator, which means the same with what the node says.
    pub fn keep(&mut self) -> Result<(), String> {
        let node = self.node();
        let old = node.operator().ok_or("the standard has no such operator")?;
        let new =
            schema::lookup("", node.op_type(), self.version).ok_or("the standard has no such operator")?;
        let mut attributes = node.attributes().clone();
        // An optimization hint of runtimes of old, which version 6 did away with.
        if new.attribute("consumed_inputs").is_none() {
            attributes.remove("consumed_inputs");
        }
        let names: Vec<&str> = attributes.iter().map(|attribute| &*attribute.name).collect();
        let defaults = unchanged(old, new, &names, node.inputs().len(), node.outputs().len())?;
        for default in defaults {
            if let Some(value) = default.default.and_then(written) {
                attributes.set(default.name, value);
            }
        }
        let (op_type, inputs) = (node.op_type().to_owned(), node.inputs().to_vec());
        self.become_operator(&op_type, &inputs, attributes)
    }

    /// The node.
    pub fn node(&self) -> &Node {
        self.graph.node(self.id)
    }

    /// Name of the node, or of its first result, and its operator.
    pub fn describe(&self) -> (String, String) {
        let node = self.node();
        let name = match (node.name(), node.outputs().iter().flatten().next()) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(&output)) => self.graph.display_name(output),
            _ => String::new(),
        };
        (name, node.op_type().to_owned())
    }

    /// Operand `index`, which the operator needs.
    pub fn input(&self, index: usize) -> Result<ValueId, String> {
        self.node().input(index).ok_or_else(|| format!("operand {index} is missing"))
    }

    /// The element type of operand `index`.
    pub fn element(&self, index: usize) -> Result<ElementType, String> {
        let element = self.graph.element(self.input(index)?);
        element.ok_or_else(|| format!("the element type of operand {index} is not known"))
    }

    /// The number of axes of operand `index`.
    pub fn rank(&self, index: usize) -> Result<usize, String> {
        let rank = self.graph.rank(self.input(index)?);
        rank.ok_or_else(|| format!("the rank of operand {index} is not known"))
    }

    /// Adds a constant vector of 64-bit integers.
    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant(Tensor::vector_i64(values))
    }

    /// Adds a constant.
    pub fn constant(&mut self, tensor: Option<Tensor>) -> Result<ValueId, String> {
        let tensor: Arc<Tensor> = Arc::new(tensor.ok_or("there is no such constant")?);
        Ok(self.graph.add_constant(tensor))
    }

    /// Adds a node of one result before this one.
    pub fn add(&mut self, new: NewNode) -> Result<ValueId, String> {
        let new = NewNode { position: self.node().position(), ..new };
        let id = self.graph.add_node(new).map_err(|error| error.to_string())?;
        self.graph.node(id).output(0).ok_or_else(|| "a node has no result".to_owned())
    }

    /// Makes the node this operator, with these operands and attributes.
    pub fn become_operator(
        &mut self,
        op_type: &str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<(), String> {
        let last = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.graph
            .restate_node(self.id, op_type, &inputs[..last], attributes)
            .map_err(|error| error.to_string())
    }

    /// Gives the node these operands and attributes.
    pub fn restate(&mut self, inputs: &[Option<ValueId>], attributes: Attributes) -> Result<(), String> {
        let op_type = self.node().op_type().to_owned();
        self.become_operator(&op_type, inputs, attributes)
    }

    /// Gives the node these attributes.
    pub fn restate_attributes(&mut self, attributes: Attributes) -> Result<(), String> {
        let inputs = self.node().inputs().to_vec();
        self.restate(&inputs, attributes)
    }

    /// The attributes without some.
    pub fn attributes_without(&self, names: &[&str]) -> Attributes {
        let mut attributes = self.node().attributes().clone();
        for name in names {
            attributes.remove(name);
        }
        attributes
    }
}

/// Whether a node with these attributes and so many operands and results means the same in the new version of its
/// operator: it has all of them, and what is new there is by default as it was. Returns the attributes whose default
/// became another, and which must be written out where the node does not.
///
/// # Errors
/// What the new version does not have.
pub(super) fn unchanged(
    old: &'static Operator,
    new: &'static Operator,
    attributes: &[&str],
    inputs: usize,
    outputs: usize,
) -> Result<Vec<&'static AttributeSchema>, String> {
    if new.deprecated {
        return Err(format!("{} was withdrawn", new.op_type));
    }
    for &name in attributes {
        let kind = |operator: &Operator| operator.attribute(name).map(|attribute| attribute.kind);
        if kind(old).is_some() && kind(old) != kind(new) {
            return Err(format!("attribute `{name}` went"));
        }
    }
    let mut defaults = Vec::new();
    for attribute in new.attributes.iter().filter(|attribute| !attributes.contains(&attribute.name)) {
        let before = old.attribute(attribute.name);
        match before.map(|before| before.default) {
            _ if attribute.required => return Err(format!("attribute `{}` is required", attribute.name)),
            None | Some(None) => {}
            Some(default) if default == attribute.default => {}
            Some(Some(_)) => defaults.extend(before),
        }
    }
    let fits = |count: usize, (fewest, most): (usize, Option<usize>)| {
        count >= fewest && most.is_none_or(|most| count <= most)
    };
    if !fits(inputs, new.input_count()) {
        return Err(format!("{inputs} operands are too many or too few"));
    }
    if !fits(outputs, new.output_count()) {
        return Err(format!("{outputs} results are too many or too few"));
    }
    Ok(defaults)
}

/// A default as an attribute.
fn written(default: AttributeDefault) -> Option<AttributeValue> {
    Some(match default {
        AttributeDefault::Float(value) => value.into(),
        AttributeDefault::Int(value) => value.into(),
        AttributeDefault::String(value) => value.into(),
        AttributeDefault::Ints(values) => values.into(),
        AttributeDefault::Strings(_) => return None,
    })
}
