//! Operators that take elements by their places, or put them there.

use onnx_opt_ir::{Dim, NewNode, Tensor, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::{Size, Writer, Written};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("TopK", top_k),
];

/// Zeros, and g added where it was taken from.
fn gather(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, indices) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let axis = s.axis_of("axis", x)?;
    let (rank, rank_of_indices) = (s.rank(x)?, s.rank(indices)?);
    let (mut g, mut flat) = (g, indices);
    if rank_of_indices != 1 {
        flat = s.reshape(indices, &[-1])?;
        // The axes of the indices stand where the axis was; they become one.
        let mut sizes: Vec<Size> = (0..rank).map(|axis| Size::Of(x, axis)).collect();
        let count = s.graph.shape(indices).map(Dim::product).and_then(|count| count.as_fixed());
        sizes[axis] = Size::Fixed(count.unwrap_or(-1));
        g = s.reshape_to(g, &sizes)?;
    }
    let gradient = scatter_along(s, g, flat, axis, Size::Of(x, axis))?;
    s.first(gradient)
}

/// Zeros of another size along an axis, where each slice of `x` is added at the place that a vector of indices names.
pub(super) fn scatter_along(
    w: &mut Writer<'_>,
    x: ValueId,
    indices: ValueId,
    axis: usize,
    size: Size,
) -> Written {
    let rank = w.rank(x)?;
    // The axis first: scattering is by leading axes.
    let mut order: Vec<usize> = (0..rank).collect();
    order.remove(axis);
    order.insert(0, axis);
    let front = w.transpose(x, &order)?;
    let places = from_the_front(w, indices, &size)?;
    let places = w.unsqueeze(places, &[-1])?;
    let mut sizes: Vec<Size> = order.iter().map(|&axis| Size::Of(x, axis)).collect();
    sizes[0] = size;
    let mut parts = Vec::new();
    for size in &sizes {
        parts.push(match size {
            Size::Fixed(size) => w.integers(&[*size]),
            Size::Of(x, axis) => w.size_of(*x, *axis)?,
        });
    }
    // A shape to expand to leaves no size open.
    let shape = match sizes.iter().map(|size| fixed(w, size)).collect::<Option<Vec<i64>>>() {
        Some(sizes) => w.integers(&sizes),
        None => w.concat(&parts, 0)?,
    };
    let zero = w.number(x, 0.0)?;
    let zeros = w.op("Expand", &[zero, shape])?;
    let scattered = w.node(NewNode::new("ScatterND", [zeros, places, front]).with("reduction", "add"))?;
    let mut inverse: Vec<usize> = (1..rank).collect();
    inverse.insert(axis, 0);
    w.transpose(scattered, &inverse)
}

fn fixed(w: &Writer<'_>, size: &Size) -> Option<i64> {
    match size {
        Size::Fixed(size) => Some(*size),
        Size::Of(x, axis) => w.fixed_axis(*x, *axis),
    }
}

/// Indices counted from the front, where some count from the end.
fn from_the_front(w: &mut Writer<'_>, indices: ValueId, size: &Size) -> Written {
    let constant = w.graph.constant(indices).cloned();
    if let (Some(values), Some(size)) = (constant.as_ref().and_then(|values| values.to_i64()), fixed(w, size))
    {
        let element = constant.map(|values| values.shape().to_vec()).unwrap_or_default();
        let front: Vec<i64> =
            values.iter().map(|&index| if index < 0 { index + size } else { index }).collect();
        let tensor = Tensor::from_i64(&element, &front).ok_or("there are too many indices")?;
        return Ok(w.graph.add_constant(tensor));
    }
    let wide = w.op_with("Cast", &[indices], "to", i64::from(onnx_opt_ir::ElementType::Int64.code()))?;
    let size = match size {
        Size::Fixed(size) => w.integers(&[*size]),
        Size::Of(x, axis) => w.size_of(*x, *axis)?,
    };
    let zero = w.number(wide, 0.0)?;
    let negative = w.op("Less", &[wide, zero])?;
    let shifted = w.add(wide, size)?;
    w.op("Where", &[negative, shifted, wide])
}

/// Zeros, and g added where it was taken from.
fn gather_elements(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, indices) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let axis = s.axis_of("axis", x)?;
    let zeros = s.zeros(x, g)?;
    let node = NewNode::new("ScatterElements", [zeros, indices, g]).with("axis", axis as i64);
    let gradient = s.node(node.with("reduction", "add"))?;
    s.first(gradient)
}

/// Zeros, and g added where it was taken from. Batch axes become indices.
fn gather_nd(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, mut indices) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let batch = usize::try_from(s.int("batch_dims")?).map_err(|_| "`batch_dims` is negative")?;
    if batch > 0 {
        let mut sizes = s.fixed(indices)?;
        sizes.pop();
        let mut parts = Vec::new();
        for axis in 0..batch {
            let mut shape = vec![1; sizes.len() + 1];
            shape[axis] = sizes[axis] as usize;
            let count: Vec<i64> = (0..sizes[axis]).collect();
            let places = Tensor::from_i64(&shape, &count).ok_or("there are too many indices")?;
            let places = s.graph.add_constant(places);
            let whole = s.integers(&[&sizes[..], &[1]].concat());
            parts.push(s.op("Expand", &[places, whole])?);
        }
        parts.push(indices);
        indices = s.concat(&parts, -1)?;
    }
    let zeros = s.zeros(x, g)?;
    let gradient = s.node(NewNode::new("ScatterND", [zeros, indices, g]).with("reduction", "add"))?;
    s.first(gradient)
}

/// What is put somewhere has the gradient of that place; what it replaced has none.
fn scatter_nd(s: &mut Step<'_, '_>) -> Gradients {
    let (g, indices, updates) = (s.gradient()?, s.input(1)?, s.input(2)?);
    let data = kept(s, g, updates, |s, zeros| s.op("ScatterND", &[g, indices, zeros]))?;
    let updates = if s.wants(2) { Some(s.op("GatherND", &[g, indices])?) } else { None };
    Ok(vec![data, None, updates])
}

fn scatter_elements(s: &mut Step<'_, '_>) -> Gradients {
    let (g, indices, updates) = (s.gradient()?, s.input(1)?, s.input(2)?);
    let axis = s.axis_of("axis", g)? as i64;
    let data =
        kept(s, g, updates, |s, zeros| s.op_with("ScatterElements", &[g, indices, zeros], "axis", axis))?;
    let updates =
        if s.wants(2) { Some(s.op_with("GatherElements", &[g, indices], "axis", axis)?) } else { None };
    Ok(vec![data, None, updates])
}

/// The gradient g of what there was, if it is wanted: where something was put in its place, `put` zeros.
fn kept(
    s: &mut Step<'_, '_>,
    g: ValueId,
    updates: ValueId,
    put: impl FnOnce(&mut Step<'_, '_>, ValueId) -> Written,
) -> Written<Option<ValueId>> {
    let adds = adds(s)?;
    if !s.wants(0) || adds {
        return Ok(s.wants(0).then_some(g));
    }
    let zeros = s.zeros(updates, g)?;
    put(s, zeros).map(Some)
}

/// Whether what is put somewhere is added to what is there.
fn adds(s: &Step<'_, '_>) -> Written<bool> {
    match s.string("reduction").as_str() {
        "" | "none" => Ok(false),
        "add" => Ok(true),
        other => Err(format!("reduction `{other}`").into()),
    }
}

/// Zeros, and g where each of the largest was.
fn top_k(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, id) = (s.gradient()?, s.input(0)?, s.id);
    let axis = s.axis_of("axis", x)?;
    let indices = s.graph.add_result(id, 1)?;
    let zeros = s.zeros(x, g)?;
    let node = NewNode::new("ScatterElements", [zeros, indices, g]).with("axis", axis as i64);
    let gradient = s.node(node)?;
    s.first(gradient)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use super::example::Example;

    let mut examples = Vec::new();
    for (words, axis, shape, values) in [
        ("rows, one of them twice", 0i64, &[3usize][..], &[2i64, 0, 2][..]),
        ("columns by a matrix of indices", 1, &[2, 2], &[1, -1, 0, 1]),
        ("one row", 0, &[], &[-2]),
        ("one column", 2, &[], &[1]),
    ] {
        examples.push(Example::new("Gather", words, 18, move |t| {
            let x = t.input("x", &[3, 4, 2], -2.0, 2.0);
            let indices = t.tensor_constant(Tensor::from_i64(shape, values).unwrap());
            t.node(NewNode::new("Gather", [x, indices]).with("axis", axis))
        }));
    }
    examples.push(Example::new("Gather", "indices of a batch", 18, |t| {
        let table = t.input("table", &[5, 3], -2.0, 2.0);
        let indices = t.integer_input("ids", &[2, 3], &[4, 0, 1, 1, 2, -1]);
        t.op("Gather", &[table, indices])
    }));
    examples.push(Example::new("GatherElements", "along the last axis", 18, |t| {
        let x = t.input("x", &[2, 4], -2.0, 2.0);
        let indices = t.tensor_constant(Tensor::from_i64(&[2, 3], &[3, 0, 0, 1, -1, 2]).unwrap());
        t.node(NewNode::new("GatherElements", [x, indices]).with("axis", 1i64))
    }));
    examples.push(Example::new("GatherND", "elements", 18, |t| {
        let x = t.input("x", &[2, 3, 2], -2.0, 2.0);
        let indices = t.tensor_constant(Tensor::from_i64(&[3, 2], &[1, 2, 0, 0, 1, 2]).unwrap());
        t.op("GatherND", &[x, indices])
    }));
    examples.push(Example::new("GatherND", "of a batch", 18, |t| {
        let x = t.input("x", &[2, 3, 2], -2.0, 2.0);
        let indices = t.tensor_constant(Tensor::from_i64(&[2, 2, 1], &[2, 0, 1, 1]).unwrap());
        t.node(NewNode::new("GatherND", [x, indices]).with("batch_dims", 1i64))
    }));
    for reduction in ["none", "add"] {
        examples.push(Example::new("ScatterND", reduction, 18, move |t| {
            let x = t.input("x", &[3, 2], -2.0, 2.0);
            let indices = t.tensor_constant(Tensor::from_i64(&[2, 1], &[2, 0]).unwrap());
            let updates = t.input("updates", &[2, 2], -2.0, 2.0);
            t.node(NewNode::new("ScatterND", [x, indices, updates]).with("reduction", reduction))
        }));
        examples.push(Example::new("ScatterElements", reduction, 18, move |t| {
            let x = t.input("x", &[3, 3], -2.0, 2.0);
            let indices = t.tensor_constant(Tensor::from_i64(&[2, 2], &[2, 0, 1, 2]).unwrap());
            let updates = t.input("updates", &[2, 2], -2.0, 2.0);
            let node = NewNode::new("ScatterElements", [x, indices, updates]).with("axis", 1i64);
            t.node(node.with("reduction", reduction))
        }));
    }
    examples.push(Example::new("TopK", "two of five", 18, |t| {
        let x = t.input("x", &[3, 5], -2.0, 2.0);
        let k = t.integers(&[2]);
        t.results(NewNode { outputs: 2, ..NewNode::new("TopK", [x, k]) })[0]
    }));
    examples
}
