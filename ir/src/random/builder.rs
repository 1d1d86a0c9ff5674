//! A graph that grows by random nodes.

use super::{Random, body, layers, movement, shapes};
use crate::dim::Dim;
use crate::graph::{Form, Graph, NewNode, NodeId, Producer, ValueId};
use crate::tensor::Tensor;
use crate::types::{ElementType, Type};

/// Values of more elements than this are not computed with.
const MOST_ELEMENTS: i64 = 2_000;
const MOST_AXES: usize = 5;

/// Adds nodes on a value of the graph; `None` where nothing fits.
pub(super) type Step = fn(&mut Builder, ValueId) -> Option<ValueId>;

pub(super) struct Builder {
    pub graph: Graph,
    pub random: Random,
    /// How deep this graph is nested in others.
    pub depth: usize,
    /// What later nodes may read.
    pool: Vec<ValueId>,
}

impl Builder {
    pub fn new(graph: Graph, random: Random) -> Self {
        Self { graph, random, depth: 0, pool: Vec::new() }
    }

    pub fn input(&mut self, name: &str, ty: Type) {
        let value = self.graph.add_input(name, ty);
        self.offer(value);
    }

    /// Lets later nodes read a value, unless it is large.
    pub fn offer(&mut self, value: ValueId) {
        let sizes = |shape: &[Dim]| shape.iter().filter_map(Dim::as_fixed).product::<i64>();
        if self
            .graph
            .shape(value)
            .is_some_and(|shape| shape.len() <= MOST_AXES && sizes(shape) <= MOST_ELEMENTS)
        {
            self.pool.push(value);
        }
    }

    /// Adds a node or a few.
    pub fn step(&mut self) {
        // Late values more often than early ones, so that chains grow.
        let reach = if self.random.chance(60) { 3 } else { self.pool.len() };
        let Some(place) = self.pool.len().checked_sub(1 + self.random.below(reach.min(self.pool.len())))
        else {
            return;
        };
        let value = self.pool[place];
        let themes: [&[Step]; 5] =
            [layers::ELEMENTWISE, layers::WEIGHTED, movement::STEPS, shapes::STEPS, body::STEPS];
        let theme = match self.random.below(100) {
            0..40 => 0,
            40..60 => 1,
            60..82 => 2,
            82..94 => 3,
            _ => 4,
        };
        let step = *self.random.pick(themes[theme]);
        let result = step(self, value);
        // Now and then the same again, for whoever looks for equal nodes.
        if let Some(twin) = result.filter(|_| self.random.chance(8)).and_then(|value| self.repeat(value)) {
            self.offer(twin);
        }
    }

    /// A second node like the one that made a value.
    fn repeat(&mut self, value: ValueId) -> Option<ValueId> {
        let (_, node, _) = self.graph.producer(value)?;
        let twin = NewNode {
            op_type: node.op_type().to_owned(),
            inputs: node.inputs().to_vec(),
            outputs: node.outputs().len(),
            attributes: node.attributes().clone(),
            captures: node.captures().to_vec(),
            ..NewNode::default()
        };
        let id = self.graph.add_node(twin).ok()?;
        self.graph.node(id).output(0)
    }

    /// Adds a node and offers its results. `None` where inference refuses it.
    pub fn add(&mut self, mut node: NewNode) -> Option<NodeId> {
        if self.random.chance(50) {
            node.name = Some(format!("node_{}_{}", self.depth, self.graph.node_bound()).into());
        }
        let id = self.graph.add_node(node).ok()?;
        for value in self.graph.node(id).outputs().to_vec().into_iter().flatten() {
            self.offer(value);
        }
        Some(id)
    }

    /// As [`Builder::add`], and gives the first result.
    pub fn node(&mut self, node: NewNode) -> Option<ValueId> {
        let id = self.add(node)?;
        self.graph.node(id).output(0)
    }

    pub fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> Option<ValueId> {
        self.node(NewNode::new(op_type, inputs.iter().copied()))
    }

    /// A constant, an initializer or a `Constant` node.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        let form = match self.random.chance(30) {
            true => Form::Node { position: 0, origin: None },
            false => Form::Initializer,
        };
        self.graph.add_constant_as(None, tensor.into(), form)
    }

    /// A constant of small random numbers. `None` for types without.
    pub fn weights(&mut self, element: ElementType, shape: &[usize]) -> Option<ValueId> {
        let values: Vec<f64> = (0..shape.iter().product())
            .map(|_| match element.is_float() {
                true => self.random.small(),
                false => self.random.below(5) as f64,
            })
            .collect();
        // All the same is what many rules look for.
        let values = match self.random.chance(25) {
            true => vec![*self.random.pick(&[0.0, 1.0, 2.0]); values.len()],
            false => values,
        };
        Some(self.constant(Tensor::from_f64(element, shape, &values)?))
    }

    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::vector_i64(values))
    }

    /// Another value that satisfies `accept`.
    pub fn other(&mut self, accept: impl Fn(&Graph, ValueId) -> bool) -> Option<ValueId> {
        let fitting: Vec<ValueId> =
            self.pool.iter().copied().filter(|&value| accept(&self.graph, value)).collect();
        if fitting.is_empty() { None } else { Some(*self.random.pick(&fitting)) }
    }

    pub fn element(&self, value: ValueId) -> Option<ElementType> {
        self.graph.element(value)
    }

    pub fn shape(&self, value: ValueId) -> Option<Vec<Dim>> {
        self.graph.shape(value).map(<[Dim]>::to_vec)
    }

    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.graph.rank(value)
    }

    /// The size of an axis, if it is a number.
    pub fn size(&self, value: ValueId, axis: usize) -> Option<usize> {
        usize::try_from(self.graph.shape(value)?.get(axis)?.as_fixed()?).ok()
    }

    pub fn is_float(&self, value: ValueId) -> bool {
        self.element(value).is_some_and(ElementType::is_float)
    }

    /// A random axis, perhaps counted from the end.
    pub fn axis(&mut self, value: ValueId) -> Option<(usize, i64)> {
        let rank = self.rank(value).filter(|&rank| rank > 0)?;
        let axis = self.random.below(rank);
        let written = if self.random.chance(30) { axis as i64 - rank as i64 } else { axis as i64 };
        Some((axis, written))
    }

    /// The graph with one to three outputs, the last value of the pool among them. `None` where no node gives one.
    pub fn with_outputs(mut self, count: usize) -> Option<Graph> {
        let results: Vec<ValueId> = self
            .pool
            .iter()
            .copied()
            .filter(|&value| matches!(self.graph.value(value).producer(), Producer::Node { .. }))
            .collect();
        let mut chosen = vec![*results.last()?];
        for _ in 1..count {
            chosen.push(*self.random.pick(&results));
        }
        let depth = self.depth;
        chosen.sort_unstable();
        chosen.dedup();
        for (place, value) in chosen.into_iter().enumerate() {
            self.graph.add_output(&format!("result_{depth}_{place}"), value).ok()?;
        }
        Some(self.graph)
    }

    /// The graph with one to three outputs, whatever it takes.
    pub fn finish(mut self) -> Graph {
        let empty = Graph::new(self.graph.context().clone());
        if let Some(&last) = self.pool.last() {
            self.op("Identity", &[last]);
        }
        let count = 1 + self.random.below(3);
        self.with_outputs(count).unwrap_or(empty)
    }
}
