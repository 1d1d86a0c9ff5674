//! What is irregular in a graph though its meaning is plain.

use rustc_hash::FxHashSet;

use super::{Graph, Name, Producer, ValueId};

impl Graph {
    /// Whether each node stands behind the producers of its operands, as the standard demands.
    pub(crate) fn is_in_order(&self) -> bool {
        self.nodes().all(|(_, node)| {
            let mut producers = node.operands().filter_map(|value| self.producer_position(value));
            producers.all(|producer| producer < node.position()) && node.bodies().all(Self::is_in_order)
        })
    }

    /// How many nodes bear the name of another one of their graph.
    pub(crate) fn namesakes(&self) -> usize {
        let mut names: FxHashSet<&str> =
            FxHashSet::with_capacity_and_hasher(self.node_count(), Default::default());
        let named = |name: &&str| !name.is_empty();
        let twins = self.nodes().filter_map(|(_, node)| node.name()).filter(named);
        let twins = twins.filter(|&name| !names.insert(name)).count();
        twins + self.nodes().flat_map(|(_, node)| node.bodies()).map(Self::namesakes).sum::<usize>()
    }

    /// Gives nodes that bear the name of an earlier one of their graph a name of their own, and tells how many.
    pub(crate) fn tell_namesakes_apart(&mut self) -> usize {
        // Nearly always: no name is copied for that.
        if self.namesakes() == 0 {
            return 0;
        }
        let mut nodes: Vec<_> = self.nodes().map(|(id, node)| (node.position(), id)).collect();
        nodes.sort_unstable();
        let mut taken: FxHashSet<Name> =
            self.nodes.node_weights().filter_map(|node| node.name.clone()).collect();
        let mut seen: FxHashSet<Name> = FxHashSet::default();
        let mut renamed = 0;
        for (_, id) in nodes {
            let Some(name) = self.nodes[id.0].name.clone().filter(|name| !name.is_empty()) else { continue };
            if !seen.insert(name.clone()) {
                let fresh = (1..).map(|number| Name::from(format!("{name}_{number}")));
                self.nodes[id.0].name = fresh.into_iter().find(|fresh| taken.insert(fresh.clone()));
                renamed += 1;
            }
            renamed += self.bodies_mut(id).into_iter().map(Self::tell_namesakes_apart).sum::<usize>();
        }
        renamed
    }

    /// How many values of bodies bear the name of a value around them.
    pub(crate) fn shadows(&self) -> usize {
        fn count<'a>(graph: &'a Graph, outer: &FxHashSet<&'a str>) -> usize {
            let hides = |id: &ValueId| graph.own_name(*id).is_some_and(|name| outer.contains(&**name));
            let own = graph.values().map(|(id, _)| id).filter(hides).count();
            let mut names: Option<FxHashSet<&str>> = None;
            let bodies = graph.nodes().flat_map(|(_, node)| node.bodies());
            let inner = bodies.map(|body| {
                let names = names.get_or_insert_with(|| {
                    let own = graph.values().filter_map(|(id, _)| graph.own_name(id)).map(|name| &**name);
                    outer.iter().copied().chain(own).collect()
                });
                count(body, names)
            });
            own + inner.sum::<usize>()
        }
        count(self, &FxHashSet::default())
    }

    /// Gives values of bodies that bear the name of a value around them a name of their own, and tells how many.
    pub(crate) fn tell_shadows_apart(&mut self, outer: &FxHashSet<Name>) -> usize {
        let owners = self.owners();
        if outer.is_empty() && owners.is_empty() {
            return 0;
        }
        let own: Vec<(ValueId, Name)> =
            self.values().filter_map(|(id, _)| Some((id, self.own_name(id)?.clone()))).collect();
        let mut taken: FxHashSet<Name> = outer.clone();
        taken.extend(own.iter().map(|(_, name)| name.clone()));
        let mut renamed = 0;
        for (id, name) in own.into_iter().filter(|(_, name)| outer.contains(name)) {
            let mut fresh = (1..).map(|number| Name::from(format!("{name}_{number}")));
            if let Some(fresh) = fresh.find(|fresh| taken.insert(fresh.clone())) {
                self.rename(id, fresh);
                renamed += 1;
            }
        }
        for owner in owners {
            renamed +=
                self.bodies_mut(owner).into_iter().map(|body| body.tell_shadows_apart(&taken)).sum::<usize>();
        }
        renamed
    }

    /// The name of a value that is not captured and that nothing else in the file calls by its name.
    fn own_name(&self, id: ValueId) -> Option<&Name> {
        let value = self.get_value(id)?;
        let captured = matches!(value.producer(), Producer::Captured { .. });
        value.name.as_ref().filter(|name| !captured && !name.is_empty() && !self.is_pinned(id))
    }

    /// Gives a value of a body another name, formal inputs and outputs included: places tell those apart, not names.
    fn rename(&mut self, id: ValueId, name: Name) {
        let inputs = self.inputs.iter_mut().map(|input| (input.value, &mut input.declaration));
        let outputs = self.outputs.iter_mut().map(|output| (output.value, &mut output.declaration));
        for (_, declaration) in inputs.chain(outputs).filter(|(value, _)| *value == id) {
            declaration.name = Some(name.to_string());
        }
        if let Some(Some(value)) = self.values.get_mut(id.index()) {
            value.name = Some(name);
        }
    }

    /// Whether a node writes the default domain with its long name, which imports may not.
    pub(crate) fn has_long_domains(&self) -> bool {
        self.nodes().any(|(_, node)| {
            node.domain.as_deref() == Some("ai.onnx") || node.bodies().any(Self::has_long_domains)
        })
    }

    /// Writes the default domain as the empty name, and tells at how many nodes it did.
    pub(crate) fn shorten_domains(&mut self) -> usize {
        let ids: Vec<_> = self.nodes().map(|(id, _)| id).collect();
        let mut changed = 0;
        for id in ids {
            let domain = &mut self.nodes[id.0].domain;
            if domain.as_deref() == Some("ai.onnx") {
                *domain = None;
                changed += 1;
            }
            changed += self.bodies_mut(id).into_iter().map(Self::shorten_domains).sum::<usize>();
        }
        changed
    }
}
