//! Writing of operators, with what is known of their operands: constants where sizes are numbers, shape arithmetic
//! where they are not.

use onnx_opt_ir::graph::GraphError;
use onnx_opt_ir::{AttributeValue, Dim, ElementType, Graph, NewNode, NodeId, Tensor, ValueId};
use rustc_hash::FxHashMap;

/// Why there is no gradient, in words that follow the name of the node.
#[derive(Debug)]
pub(crate) struct Refusal(pub String);

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<GraphError> for Refusal {
    fn from(error: GraphError) -> Self {
        Self(error.to_string())
    }
}

/// What was written, or why it could not be.
pub(crate) type Written<T = ValueId> = Result<T, Refusal>;

/// Appends operators to a graph.
pub(crate) struct Writer<'g> {
    pub graph: &'g mut Graph,
    /// The nodes that were added, in topological order.
    pub nodes: Vec<NodeId>,
    /// Scalars that exist already, by type and bits.
    numbers: FxHashMap<(ElementType, u64), ValueId>,
}

/// The size of one axis, for shapes that are put together.
#[derive(Clone, Debug)]
pub(crate) enum Size {
    /// A number; -1 for what is left.
    Fixed(i64),
    /// That of an axis of a value.
    Of(ValueId, usize),
}

impl<'g> Writer<'g> {
    pub fn new(graph: &'g mut Graph) -> Self {
        Self { graph, nodes: Vec::new(), numbers: FxHashMap::default() }
    }

    /// Adds a node and gives its results.
    pub fn results(&mut self, new: NewNode) -> Written<Vec<ValueId>> {
        // After all that is there: nodes are put in order when the graph is sorted.
        let id = self.graph.add_node(NewNode { position: u32::MAX, ..new })?;
        self.nodes.push(id);
        Ok(self.graph.node(id).outputs().iter().copied().flatten().collect())
    }

    /// Adds a node and gives its first result.
    pub fn node(&mut self, new: NewNode) -> Written {
        let results = self.results(new)?;
        results.first().copied().ok_or_else(|| "a node has no result".into())
    }

    /// Adds a node without attributes.
    pub fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> Written {
        self.node(NewNode::new(op_type, inputs.iter().copied()))
    }

    /// Adds a node with one attribute.
    pub fn op_with(
        &mut self,
        op_type: &str,
        inputs: &[ValueId],
        name: &str,
        value: impl Into<AttributeValue>,
    ) -> Written {
        self.node(NewNode::new(op_type, inputs.iter().copied()).with(name, value))
    }

    // ---- Arithmetic

    pub fn add(&mut self, a: ValueId, b: ValueId) -> Written {
        self.op("Add", &[a, b])
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Written {
        self.op("Sub", &[a, b])
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Written {
        self.op("Mul", &[a, b])
    }

    pub fn div(&mut self, a: ValueId, b: ValueId) -> Written {
        self.op("Div", &[a, b])
    }

    pub fn neg(&mut self, x: ValueId) -> Written {
        self.op("Neg", &[x])
    }

    pub fn square(&mut self, x: ValueId) -> Written {
        self.mul(x, x)
    }

    /// c·x
    pub fn times(&mut self, x: ValueId, factor: f64) -> Written {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.number(x, factor)?;
        self.mul(x, factor)
    }

    /// x + c
    pub fn plus(&mut self, x: ValueId, summand: f64) -> Written {
        if summand == 0.0 {
            return Ok(x);
        }
        let summand = self.number(x, summand)?;
        self.add(x, summand)
    }

    /// c − x
    pub fn minus_from(&mut self, constant: f64, x: ValueId) -> Written {
        let constant = self.number(x, constant)?;
        self.sub(constant, x)
    }

    /// `x` where the condition holds, 0 elsewhere: infinities and NaN do not come through, as they would by a product.
    pub fn where_only(&mut self, condition: ValueId, x: ValueId) -> Written {
        let zero = self.number(x, 0.0)?;
        self.op("Where", &[condition, x, zero])
    }

    /// `x` where the condition does not hold, 0 elsewhere.
    pub fn where_not(&mut self, condition: ValueId, x: ValueId) -> Written {
        let zero = self.number(x, 0.0)?;
        self.op("Where", &[condition, zero, x])
    }

    /// x > c
    pub fn above(&mut self, x: ValueId, bound: f64) -> Written {
        let bound = self.number(x, bound)?;
        self.op("Greater", &[x, bound])
    }

    /// x < c
    pub fn below(&mut self, x: ValueId, bound: f64) -> Written {
        let bound = self.number(x, bound)?;
        self.op("Less", &[x, bound])
    }

    /// The sum of some values.
    pub fn total(&mut self, values: &[ValueId]) -> Written {
        match values {
            [] => Err("there is nothing to add".into()),
            [one] => Ok(*one),
            [a, b] => self.add(*a, *b),
            many => self.op("Sum", many),
        }
    }

    // ---- Constants

    /// A scalar of the element type of `like`.
    pub fn number(&mut self, like: ValueId, value: f64) -> Written {
        let Some(element) = self.graph.element(like) else {
            let single = self.number_of(ElementType::Float, value)?;
            return self.op("CastLike", &[single, like]);
        };
        self.number_of(element, value)
    }

    fn number_of(&mut self, element: ElementType, value: f64) -> Written {
        if let Some(&known) = self.numbers.get(&(element, value.to_bits())) {
            return Ok(known);
        }
        let tensor = Tensor::scalar(element, value).ok_or("a constant has no such type")?;
        let constant = self.graph.add_constant(tensor);
        self.numbers.insert((element, value.to_bits()), constant);
        Ok(constant)
    }

    /// A vector of 64-bit integers.
    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant(Tensor::vector_i64(values))
    }

    /// A scalar integer.
    pub fn integer(&mut self, value: i64) -> Written {
        let tensor = Tensor::from_i64(&[], &[value]).ok_or("a constant has no such type")?;
        Ok(self.graph.add_constant(tensor))
    }

    /// A constant of the element type of `like`.
    pub fn numbers(&mut self, like: ValueId, shape: &[usize], values: &[f64]) -> Written {
        let element = self.graph.element(like).ok_or("an element type is not known")?;
        let tensor = Tensor::from_f64(element, shape, values).ok_or("a constant has no such type")?;
        Ok(self.graph.add_constant(tensor))
    }

    // ---- Facts

    /// The number of axes.
    pub fn rank(&self, x: ValueId) -> Written<usize> {
        self.graph.rank(x).ok_or_else(|| format!("the rank of `{}` is not known", self.name(x)).into())
    }

    /// The sizes of all axes, as numbers.
    pub fn fixed(&self, x: ValueId) -> Written<Vec<i64>> {
        let shape = self.graph.fixed_shape(x);
        shape.ok_or_else(|| format!("the sizes of `{}` are not known", self.name(x)).into())
    }

    /// The size of an axis, if it is a number.
    pub fn fixed_axis(&self, x: ValueId, axis: usize) -> Option<i64> {
        self.graph.shape(x)?.get(axis)?.as_fixed()
    }

    pub fn name(&self, x: ValueId) -> String {
        self.graph.display_name(x)
    }

    /// Whether two values provably have one shape.
    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.graph.shape(a), self.graph.shape(b)), (Some(a), Some(b)) if a == b)
    }

    // ---- Shapes

    /// The shape of a value as a vector.
    pub fn shape_of(&mut self, x: ValueId) -> Written {
        match self.graph.fixed_shape(x) {
            Some(shape) => Ok(self.integers(&shape)),
            None => self.op("Shape", &[x]),
        }
    }

    /// A vector of sizes: a constant where they are numbers, or all but one are.
    pub fn sizes(&mut self, sizes: &[Size]) -> Written {
        let mut fixed: Vec<Option<i64>> = sizes
            .iter()
            .map(|size| match size {
                Size::Fixed(size) => Some(*size),
                Size::Of(x, axis) => self.fixed_axis(*x, *axis),
            })
            .collect();
        let open = fixed.iter().filter(|size| size.is_none()).count();
        // A size that is left to be found must not stand beside a zero.
        let proper = fixed.iter().flatten().all(|&size| size > 0);
        if open == 1 && proper {
            fixed.iter_mut().filter(|size| size.is_none()).for_each(|size| *size = Some(-1));
        }
        if let Some(all) = fixed.iter().copied().collect::<Option<Vec<i64>>>() {
            return Ok(self.integers(&all));
        }
        let mut parts = Vec::new();
        for (size, fixed) in sizes.iter().zip(fixed) {
            parts.push(match (size, fixed) {
                (_, Some(size)) => self.integers(&[size]),
                (Size::Fixed(size), None) => self.integers(&[*size]),
                (Size::Of(x, axis), None) => self.size_of(*x, *axis)?,
            });
        }
        self.op_with("Concat", &parts, "axis", 0i64)
    }

    /// The size of an axis as a vector of one element.
    pub fn size_of(&mut self, x: ValueId, axis: usize) -> Written {
        if let Some(size) = self.fixed_axis(x, axis) {
            return Ok(self.integers(&[size]));
        }
        let (start, end) = (axis as i64, axis as i64 + 1);
        self.node(NewNode::new("Shape", [x]).with("start", start).with("end", end))
    }

    /// The number of elements along some axes, as a scalar of the type of `like`.
    pub fn count(&mut self, x: ValueId, axes: &[usize], like: ValueId) -> Written {
        let sizes: Option<Vec<i64>> = axes.iter().map(|&axis| self.fixed_axis(x, axis)).collect();
        if let Some(sizes) = sizes {
            return self.number(like, sizes.iter().map(|&size| size as f64).product());
        }
        let shape = self.op("Shape", &[x])?;
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let axes = self.integers(&axes);
        let sizes = self.op("Gather", &[shape, axes])?;
        let count = self.op_with("ReduceProd", &[sizes], "keepdims", 0i64)?;
        self.op("CastLike", &[count, like])
    }

    /// The elements under another shape, of numbers.
    pub fn reshape(&mut self, x: ValueId, shape: &[i64]) -> Written {
        let shape = self.integers(shape);
        self.op("Reshape", &[x, shape])
    }

    /// The elements under another shape.
    pub fn reshape_to(&mut self, x: ValueId, sizes: &[Size]) -> Written {
        let shape = self.sizes(sizes)?;
        self.op("Reshape", &[x, shape])
    }

    /// The elements under the shape of `like`.
    pub fn reshape_as(&mut self, x: ValueId, like: ValueId) -> Written {
        if self.same_shape(x, like) {
            return Ok(x);
        }
        let zero =
            self.graph.shape(like).is_none_or(|shape| shape.iter().any(|size| size.as_fixed() == Some(0)));
        let shape = match self.graph.shape(like).map(<[Dim]>::len) {
            Some(rank) => {
                let sizes: Vec<Size> = (0..rank).map(|axis| Size::Of(like, axis)).collect();
                self.sizes(&sizes)?
            }
            None => self.shape_of(like)?,
        };
        match zero {
            true => self.op_with("Reshape", &[x, shape], "allowzero", 1i64),
            false => self.op("Reshape", &[x, shape]),
        }
    }

    /// `x` broadcast to the shape of `like`.
    pub fn expand_as(&mut self, x: ValueId, like: ValueId) -> Written {
        if self.same_shape(x, like) {
            return Ok(x);
        }
        let shape = self.shape_of(like)?;
        self.op("Expand", &[x, shape])
    }

    /// Zeros in the shape of `like` and the element type of `element`.
    pub fn zeros(&mut self, like: ValueId, element: ValueId) -> Written {
        let zero = self.number(element, 0.0)?;
        let shape = self.shape_of(like)?;
        self.op("Expand", &[zero, shape])
    }

    pub fn transpose(&mut self, x: ValueId, order: &[usize]) -> Written {
        if order.iter().enumerate().all(|(place, &axis)| place == axis) {
            return Ok(x);
        }
        let order: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
        self.op_with("Transpose", &[x], "perm", order)
    }

    /// Exchanges the last two axes.
    pub fn transpose_last(&mut self, x: ValueId) -> Written {
        let rank = self.rank(x)?;
        let mut order: Vec<usize> = (0..rank).collect();
        if rank < 2 {
            return Err("a matrix has fewer than two axes".into());
        }
        order.swap(rank - 1, rank - 2);
        self.transpose(x, &order)
    }

    pub fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> Written {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes = self.integers(axes);
        self.op("Unsqueeze", &[x, axes])
    }

    pub fn squeeze(&mut self, x: ValueId, axes: &[i64]) -> Written {
        let axes = self.integers(axes);
        self.op("Squeeze", &[x, axes])
    }

    /// Elements `starts..ends` along some axes.
    pub fn slice(&mut self, x: ValueId, axes: &[i64], starts: &[i64], ends: &[i64]) -> Written {
        let (starts, ends, axes) = (self.integers(starts), self.integers(ends), self.integers(axes));
        self.op("Slice", &[x, starts, ends, axes])
    }

    pub fn concat(&mut self, parts: &[ValueId], axis: i64) -> Written {
        match parts {
            [one] => Ok(*one),
            parts => self.op_with("Concat", parts, "axis", axis),
        }
    }

    // ---- Reductions

    /// The sum over some axes, which stay with size 1 or go.
    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Written {
        self.reduce("ReduceSum", x, axes, keep)
    }

    /// The mean over some axes, which stay with size 1.
    pub fn mean(&mut self, x: ValueId, axes: &[usize]) -> Written {
        self.reduce("ReduceMean", x, axes, true)
    }

    fn reduce(&mut self, op_type: &str, x: ValueId, axes: &[usize], keep: bool) -> Written {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let axes = self.integers(&axes);
        self.op_with(op_type, &[x, axes], "keepdims", i64::from(keep))
    }

    /// A gradient in the shape of a broadcast result, summed to the shape of the operand `like`.
    pub fn unbroadcast(&mut self, gradient: ValueId, like: ValueId) -> Written {
        if self.same_shape(gradient, like) {
            return Ok(gradient);
        }
        let Some(axes) = self.broadcast_axes(gradient, like) else {
            return self.unbroadcast_at_run_time(gradient, like);
        };
        let summed = self.sum(gradient, &axes, true)?;
        self.reshape_as(summed, like)
    }

    /// The axes of a broadcast result along which an operand was repeated, where the sizes tell.
    fn broadcast_axes(&self, result: ValueId, operand: ValueId) -> Option<Vec<usize>> {
        let (result, operand) = (self.graph.shape(result)?, self.graph.shape(operand)?);
        let front = result.len().checked_sub(operand.len())?;
        let mut axes: Vec<usize> = (0..front).collect();
        for (axis, (whole, part)) in result[front..].iter().zip(operand).enumerate() {
            match (whole, part) {
                (whole, part) if whole == part => {}
                (_, part) if part.as_fixed() == Some(1) => axes.push(front + axis),
                // A size past 1 is the size of the result.
                (_, part) if part.lower_bound().is_some_and(|low| low > 1) => {}
                _ => return None,
            }
        }
        Some(axes)
    }

    fn unbroadcast_at_run_time(&mut self, gradient: ValueId, like: ValueId) -> Written {
        let (whole, part) = (self.op("Shape", &[gradient])?, self.op("Shape", &[like])?);
        let (rank, rank_of_part) = (self.op("Shape", &[whole])?, self.op("Shape", &[part])?);
        let missing = self.sub(rank, rank_of_part)?;
        let one = self.integers(&[1]);
        let ones = self.op("Expand", &[one, missing])?;
        let padded = self.op_with("Concat", &[ones, part], "axis", 0i64)?;
        let equal = self.op("Equal", &[padded, whole])?;
        let differs = self.op("Not", &[equal])?;
        let places = self.op("NonZero", &[differs])?;
        let axes = self.reshape(places, &[-1])?;
        let sum = NewNode::new("ReduceSum", [gradient, axes]).with("noop_with_empty_axes", 1i64);
        let summed = self.node(sum)?;
        let part = self.op("Shape", &[like])?;
        self.op_with("Reshape", &[summed, part], "allowzero", 1i64)
    }
}
