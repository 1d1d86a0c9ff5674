//! What a rule sees of the node whose gradient it writes.

use std::ops::{Deref, DerefMut};

use onnx_opt_ir::{ElementType, Node, NodeId, ValueId};

use super::walk::walk;
use super::writer::{Refusal, Writer, Written};
use crate::rules::facts;

/// The gradients of the operands of a node, `None` where there is none.
pub(super) type Gradients = Written<Vec<Option<ValueId>>>;

/// A node with the gradients of its results.
pub(super) struct Step<'w, 'g> {
    pub writer: &'w mut Writer<'g>,
    pub id: NodeId,
    pub node: Node,
    /// Of each result; at least one is there.
    pub gradients: Vec<Option<ValueId>>,
    /// Whether anybody asks for the gradient of each operand.
    pub wanted: Vec<bool>,
}

impl<'g> Deref for Step<'_, 'g> {
    type Target = Writer<'g>;

    fn deref(&self) -> &Writer<'g> {
        self.writer
    }
}

impl<'g> DerefMut for Step<'_, 'g> {
    fn deref_mut(&mut self) -> &mut Writer<'g> {
        self.writer
    }
}

impl Step<'_, '_> {
    /// Operand `index`, which the operator needs.
    pub fn input(&self, index: usize) -> Written {
        self.node.input(index).ok_or_else(|| format!("operand {index} is missing").into())
    }

    /// Result `index`, which the operator has.
    pub fn output(&self, index: usize) -> Written {
        self.node.output(index).ok_or_else(|| format!("result {index} is missing").into())
    }

    /// Whether the gradient of operand `index` is asked for.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }

    /// The gradient of the first result, when no other has one.
    pub fn gradient(&self) -> Written {
        match &self.gradients[..] {
            [Some(first), rest @ ..] if rest.iter().all(Option::is_none) => Ok(*first),
            _ => Err("a result beside the first has a gradient".into()),
        }
    }

    /// An integer attribute or its default.
    pub fn int(&self, name: &str) -> Written<i64> {
        self.node.int(name).ok_or_else(|| format!("`{name}` is not known").into())
    }

    /// A number among the attributes, or its default.
    pub fn float(&self, name: &str) -> Written<f64> {
        let value = self.node.float(name).ok_or_else(|| Refusal(format!("`{name}` is not known")))?;
        Ok(f64::from(value))
    }

    /// A string attribute, or its default, or nothing.
    pub fn string(&self, name: &str) -> String {
        self.node.string(name).unwrap_or_default().to_owned()
    }

    /// An axis counted from the front.
    pub fn axis(&self, axis: i64, rank: usize) -> Written<usize> {
        facts::axis(axis, rank).map_err(|_| "an axis is out of range".into())
    }

    /// An axis attribute, counted from the front.
    pub fn axis_of(&self, name: &str, x: ValueId) -> Written<usize> {
        self.axis(self.int(name)?, self.rank(x)?)
    }

    /// A list of integers, operand `index` or an attribute, if it is there.
    pub fn list(&self, attribute: &str, index: usize) -> Written<Option<Vec<i64>>> {
        facts::list(self.graph, &self.node, attribute, index)
            .map_err(|_| format!("`{attribute}` is not constant").into())
    }

    /// The element type of operand `index`.
    pub fn element(&self, index: usize) -> Written<ElementType> {
        let element = self.graph.element(self.input(index)?);
        element.ok_or_else(|| format!("the element type of operand {index} is not known").into())
    }

    /// The only gradient, that of the first operand.
    pub fn first(&self, gradient: ValueId) -> Gradients {
        Ok(vec![Some(gradient)])
    }

    /// The gradient of operand `index`, in the shape of the result, summed to that of the operand; none if nobody asks.
    pub fn broadcast_operand(
        &mut self,
        index: usize,
        gradient: impl FnOnce(&mut Self) -> Written,
    ) -> Written<Option<ValueId>> {
        if !self.wants(index) {
            return Ok(None);
        }
        let gradient = gradient(self)?;
        let operand = self.input(index)?;
        self.unbroadcast(gradient, operand).map(Some)
    }

    /// The gradients by way of operators that compute the same: `build` writes them and gives the results in order,
    /// as far as gradients are there.
    pub fn by_parts(&mut self, build: impl FnOnce(&mut Self) -> Written<Vec<ValueId>>) -> Gradients {
        let mark = self.nodes.len();
        let results = build(self)?;
        let nodes = self.nodes[mark..].to_vec();
        let mut seeds = Vec::new();
        for (index, gradient) in self.gradients.iter().enumerate() {
            match (results.get(index), gradient) {
                (_, None) => {}
                (Some(&result), Some(gradient)) => seeds.push((result, *gradient)),
                (None, Some(_)) => return Err(format!("result {index} has a gradient").into()),
            }
        }
        // A value that is an operand twice has one gradient in all.
        let mut asked: Vec<ValueId> = Vec::new();
        let operands = self.node.inputs().to_vec();
        for (index, operand) in operands.iter().enumerate() {
            if let Some(operand) = operand.filter(|operand| self.wants(index) && !asked.contains(operand)) {
                asked.push(operand);
            }
        }
        let found = walk(self.writer, &nodes, &seeds, &asked).map_err(|error| Refusal(error.to_string()))?;
        let mut gradients = vec![None; operands.len()];
        for (operand, gradient) in asked.iter().zip(found) {
            if let Some(place) = operands.iter().position(|known| *known == Some(*operand)) {
                gradients[place] = gradient;
            }
        }
        Ok(gradients)
    }
}
