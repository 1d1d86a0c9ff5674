//! What is known of values: types and elements, inferred where an edit reaches.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Graph, GraphError, Input, NodeId, Producer, Value, ValueId};
use crate::dim::{Dim, Symbol};
use crate::infer::{self, Fact, InferenceError};
use crate::tensor::Tensor;
use crate::types::Type;
use crate::types_proto;

impl Graph {
    /// Infers the results of a node and tells whether anything new is known of them.
    pub(crate) fn infer_node(&mut self, node: NodeId) -> Result<bool, InferenceError> {
        let facts = infer::infer(self, node)?;
        let outputs = self.node(node).outputs.clone();
        let mut news = false;
        for (output, fact) in outputs.into_iter().zip(facts) {
            if let Some(output) = output {
                news |= self.learn(output, fact);
            }
        }
        Ok(news)
    }

    /// Adds a fact to what is known of a value and tells whether it is news. A fact that contradicts what is known
    /// is left out: the checker will say so.
    pub(crate) fn learn(&mut self, value: ValueId, fact: Fact) -> bool {
        let Some(value) = self.values.get_mut(value.index()).and_then(Option::as_mut) else { return false };
        let mut news = false;
        if let Some(ty) = fact.ty {
            match &value.ty {
                None => {
                    value.ty = Some(ty);
                    news = true;
                }
                Some(known) if *known == ty || known.contradicts(&ty) => {}
                Some(known) => {
                    let refined = known.refine(&ty);
                    news = refined != *known;
                    value.ty = Some(refined);
                }
            }
        }
        if let Some(elements) = fact.elements
            && value.elements.as_ref() != Some(&elements)
            && elements.len() <= Value::MAX_ELEMENTS
        {
            // Named sizes say more than anonymous ones; without this two anonymous names could chase each other.
            let better = value.elements.as_ref().is_none_or(|known| {
                let anonymous = |dims: &[Dim]| dims.iter().filter(|dim| dim.has_anonymous()).count();
                anonymous(&elements) < anonymous(known)
                    || elements.iter().filter(|dim| dim.is_fixed()).count()
                        > known.iter().filter(|dim| dim.is_fixed()).count()
            });
            if better {
                value.elements = Some(elements);
                news = true;
            }
        }
        self.edits += u64::from(news);
        news
    }

    /// Infers these nodes again, and whatever their news reach.
    pub(super) fn propagate(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut queue: VecDeque<NodeId> = VecDeque::new();
        let mut queued = BTreeSet::new();
        for node in nodes {
            if queued.insert(node) {
                queue.push_back(node);
            }
        }
        while let Some(node) = queue.pop_front() {
            queued.remove(&node);
            // What the edit told of captured values reaches the bodies first. A contradiction here was one before
            // the edit too; the old types stay.
            infer::infer_bodies(self, node, 0);
            if !matches!(self.infer_node(node), Ok(true)) {
                continue;
            }
            for user in self.users(node) {
                if queued.insert(user) {
                    queue.push_back(user);
                }
            }
        }
    }

    /// The nodes that use results of a node.
    pub(super) fn users(&self, node: NodeId) -> Vec<NodeId> {
        let results = self.node(node).outputs.iter().flatten();
        results.flat_map(|&result| self.consumers(result).map(|consumer| consumer.node)).collect()
    }

    /// What is known of the values that the bodies of a node capture, by index.
    pub(crate) fn capture_facts(&self, node: NodeId) -> Vec<(Fact, Option<Arc<Tensor>>)> {
        self.facts(&self.node(node).captures)
    }

    /// What is known of some values.
    pub(crate) fn facts(&self, values: &[ValueId]) -> Vec<(Fact, Option<Arc<Tensor>>)> {
        values
            .iter()
            .map(|&value| {
                let known = self.value(value);
                let fact = Fact { ty: known.ty.clone(), elements: known.elements.clone() };
                (fact, self.constant(value).cloned())
            })
            .collect()
    }

    /// Takes over what the surrounding graph knows of the captured values.
    pub(crate) fn learn_captures(&mut self, facts: &[(Fact, Option<Arc<Tensor>>)]) {
        for index in 0..self.values.len() as u32 {
            let value = ValueId(index);
            let Some(Value { producer: Producer::Captured { index, constant }, .. }) = self.value_mut(value)
            else {
                continue;
            };
            if let Some((fact, tensor)) = facts.get(*index as usize) {
                constant.clone_from(tensor);
                self.learn(value, fact.clone());
            }
        }
    }

    /// Forgets what inference found, so that it can start anew.
    pub(crate) fn forget_types(&mut self) {
        for value in self.values.iter_mut().flatten() {
            if matches!(value.producer, Producer::Node { .. } | Producer::Captured { .. }) {
                value.ty = None;
            }
            value.elements = None;
        }
    }

    /// Gives the formal inputs of a body these types. Of one that is not known its declaration tells kind and
    /// element type; sizes in declarations of bodies are not trusted.
    pub(crate) fn set_input_types(&mut self, types: &[Option<Type>]) {
        for index in 0..self.inputs.len() {
            let Input { value, declaration } = &self.inputs[index];
            let value = *value;
            let ty = types.get(index).cloned().flatten().or_else(|| {
                let ty = types_proto::from_proto(declaration.r#type.as_ref()?, &self.context)?;
                Some(infer::outline(&ty))
            });
            if let Some(value) = self.value_mut(value)
                && matches!(value.producer, Producer::Input { .. })
            {
                value.ty = ty;
            }
        }
    }

    /// Tells more of a formal input than its declaration, which is updated, and infers the graph again. A named size
    /// that becomes a number is that number in the other inputs too. Returns what contradicts itself now.
    ///
    /// # Errors
    /// If there is no such input, it is a constant, or the type contradicts its own.
    pub fn set_input_type(&mut self, index: usize, ty: Type) -> Result<Vec<InferenceError>, GraphError> {
        let value = self.inputs.get(index).ok_or(GraphError::NoSuchInput(index))?.value;
        let known = self.ty(value).cloned();
        let constant = matches!(self.value(value).producer, Producer::Constant(_));
        let refined = match &known {
            Some(known) if known.contradicts(&ty) || constant => {
                return Err(GraphError::TypeChanges {
                    old: self.display_name(value),
                    old_type: Box::new(known.clone()),
                    new_type: Box::new(ty),
                });
            }
            Some(known) => ty.refine(known),
            None => ty,
        };
        let sizes: Vec<(Symbol, Dim)> = known
            .as_ref()
            .and_then(Type::shape)
            .into_iter()
            .flatten()
            .zip(refined.shape().into_iter().flatten())
            .filter(|(_, new)| new.is_fixed())
            .filter_map(|(old, new)| match old.as_symbol()? {
                symbol @ Symbol::Named(_) => Some((symbol.clone(), new.clone())),
                Symbol::Anonymous(_) => None,
            })
            .collect();
        let of =
            |symbol: &Symbol| sizes.iter().find(|(known, _)| known == symbol).map(|(_, size)| size.clone());
        for input in &mut self.inputs {
            let Some(slot) = self.values.get_mut(input.value.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            if !matches!(slot.producer, Producer::Input { .. }) {
                continue;
            }
            let new = match &slot.ty {
                _ if input.value == value => refined.clone(),
                Some(ty) => infer::map_sizes(ty, Some(&|size| size.substitute(&of))),
                None => continue,
            };
            if slot.ty.as_ref() != Some(&new) {
                input.declaration.r#type = crate::export::value_info("", &new).r#type;
                slot.ty = Some(new);
            }
        }
        self.forget_types();
        Ok(infer::infer_graph(self))
    }

    /// Forgets every type that inference found, and the declarations of inner values that it contradicts then, and
    /// infers the graph again: after edits that changed sizes. Returns what contradicts itself.
    pub fn infer_anew(&mut self) -> Vec<InferenceError> {
        self.forget_types();
        let errors = infer::infer_graph(self);
        let (values, context) = (&self.values, &self.context);
        self.value_info.retain(|(value, declaration)| {
            let known = value.and_then(|value| values.get(value.0 as usize)?.as_ref()?.ty.as_ref());
            let declared = declaration.r#type.as_ref().and_then(|ty| types_proto::from_proto(ty, context));
            !matches!((known, declared), (Some(known), Some(declared)) if known.contradicts(&declared))
        });
        errors
    }
}
