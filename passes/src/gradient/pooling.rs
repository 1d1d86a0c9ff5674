//! Pooling.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::elementwise::like;
use super::step::{Gradients, Step};
use super::window::Window;
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("AveragePool", average_pool),
    ("GlobalAveragePool", global_average_pool),
    ("GlobalMaxPool", global_max_pool),
    ("MaxPool", max_pool),
];

/// g where each largest element was: `MaxPool` tells where. Places count from the start of the plane in some engines
/// and of the whole tensor in others; the rest of the division by the size of a plane is the same.
fn max_pool(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, id) = (s.gradient()?, s.input(0)?, s.id);
    let indices = if s.int("storage_order")? == 0 {
        s.graph.add_result(id, 1)?
    } else {
        let mut node = NewNode { outputs: 2, ..NewNode::new("MaxPool", [x]) };
        node.attributes = s.node.attributes().clone();
        node.attributes.remove("storage_order");
        s.results(node)?[1]
    };
    let rank = s.rank(x)?;
    let spatial: Vec<usize> = (2..rank).collect();
    let fixed: Option<i64> = spatial.iter().map(|&axis| s.fixed_axis(x, axis)).product();
    let size = match fixed {
        Some(size) => s.integer(size)?,
        None => s.count(x, &spatial, indices)?,
    };
    let places = s.op("Mod", &[indices, size])?;
    let planes = [Size::Of(x, 0), Size::Of(x, 1), Size::Fixed(-1)];
    let flat = |s: &mut Step<'_, '_>, value: ValueId, like: ValueId| {
        let count: Option<i64> = spatial.iter().map(|&axis| s.fixed_axis(like, axis)).product();
        let last = count.map_or(planes[2].clone(), Size::Fixed);
        // Not by -1 twice: leading sizes that are not known are copied.
        match (s.fixed_axis(x, 0), s.fixed_axis(x, 1), &last) {
            (Some(_), Some(_), _) => s.reshape_to(value, &[planes[0].clone(), planes[1].clone(), last]),
            (.., Size::Fixed(count)) => s.reshape(value, &[0, 0, *count]),
            _ => s.reshape(value, &[0, 0, -1]),
        }
    };
    let (places, values) = (flat(s, places, g)?, flat(s, g, g)?);
    let zeros = s.zeros(x, g)?;
    let zeros = flat(s, zeros, x)?;
    let node = NewNode::new("ScatterElements", [zeros, places, values]).with("axis", 2i64);
    let scattered = s.node(node.with("reduction", "add"))?;
    let gradient = s.reshape_as(scattered, x)?;
    s.first(gradient)
}

/// g divided by the number of elements under the window, spread over them.
fn average_pool(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let kernel = s.node.ints("kernel_shape").ok_or("`kernel_shape` is missing")?.to_vec();
    let window = Window::of(s, kernel.clone(), x, g)?;
    let channels = s.fixed_axis(x, 1).ok_or("the number of channels is not known")?;
    let part = shares(s, &window, x, g)?;
    let shape: Vec<usize> = [channels, 1].iter().chain(&kernel).map(|&size| size as usize).collect();
    let one = s.number(g, 1.0)?;
    let sizes = s.integers(&shape.iter().map(|&size| size as i64).collect::<Vec<_>>());
    let ones = s.op("Expand", &[one, sizes])?;
    let gradient = window.spread(s, part, ones, channels, x)?;
    s.first(gradient)
}

/// g divided by the number of elements under each window.
fn shares(s: &mut Step<'_, '_>, window: &Window, x: ValueId, g: ValueId) -> Written {
    let counts_padding = s.int("count_include_pad")? != 0;
    let axes = window.kernel.len();
    let padded = window.pads().iter().any(|&pad| pad != 0);
    let full = s.int("ceil_mode").unwrap_or(0) == 0 && (!padded || counts_padding);
    if full {
        let count: i64 = window.kernel.iter().product();
        return s.times(g, 1.0 / count as f64);
    }
    // The number of elements along each axis, and their product for each window.
    let mut shape = vec![1usize, 1];
    let mut counts = vec![1.0f64];
    for axis in 0..axes {
        let (Some(large), Some(small)) = (s.fixed_axis(x, axis + 2), s.fixed_axis(g, axis + 2)) else {
            return Err("windows over the edge of sizes that are not known".into());
        };
        let (low, high) = match counts_padding {
            true => (-window.before[axis], large + window.after[axis]),
            false => (0, large),
        };
        let along: Vec<f64> = (0..small)
            .map(|place| {
                let start = place * window.strides[axis] - window.before[axis];
                let taken = (0..window.kernel[axis]).map(|tap| start + tap * window.dilations[axis]);
                taken.filter(|&place| place >= low && place < high).count() as f64
            })
            .collect();
        counts = counts.iter().flat_map(|&count| along.iter().map(move |&more| count * more)).collect();
        shape.push(small as usize);
    }
    let shares: Vec<f64> = counts.iter().map(|&count| if count > 0.0 { 1.0 / count } else { 0.0 }).collect();
    let shares = s.numbers(g, &shape, &shares)?;
    s.mul(g, shares)
}

/// g/n everywhere.
fn global_average_pool(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let spatial: Vec<usize> = (2..s.rank(x)?).collect();
    let count = s.count(x, &spatial, g)?;
    let part = s.div(g, count)?;
    let gradient = s.expand_as(part, x)?;
    s.first(gradient)
}

/// The elements that are equal to the largest share g.
fn global_max_pool(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, y) = (s.gradient()?, s.input(0)?, s.output(0)?);
    let spatial: Vec<usize> = (2..s.rank(x)?).collect();
    let equal = s.op("Equal", &[x, y])?;
    let shares = like(s, equal, x)?;
    let count = s.sum(shares, &spatial, true)?;
    let part = s.div(g, count)?;
    let gradient = s.mul(part, shares)?;
    s.first(gradient)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use super::example::Example;

    let mut examples = Vec::new();
    type Case = (&'static str, &'static [i64], &'static [i64], &'static [(&'static str, &'static [i64])]);
    const CASES: &[Case] = &[
        ("side by side", &[2, 3, 4, 4], &[2, 2], &[("strides", &[2, 2])]),
        ("overlapping", &[1, 2, 5, 4], &[3, 2], &[]),
        ("padded", &[1, 2, 5, 4], &[3, 2], &[("pads", &[1, 0, 1, 1]), ("strides", &[2, 1])]),
        ("a rest", &[1, 1, 7], &[2], &[("strides", &[3])]),
        ("three axes", &[1, 1, 3, 3, 3], &[2, 2, 2], &[]),
    ];
    for op_type in ["MaxPool", "AveragePool"] {
        for &(words, x, kernel, attributes) in CASES {
            examples.push(Example::new(op_type, words, 18, move |t| {
                let x = t.input("x", x, -2.0, 2.0);
                let mut node = NewNode::new(op_type, [x]).with("kernel_shape", kernel);
                for (name, values) in attributes {
                    node = node.with(name, *values);
                }
                t.node(node)
            }));
        }
        examples.push(Example::new(op_type, "a window over the end", 19, move |t| {
            let x = t.input("x", &[1, 2, 6, 5], -2.0, 2.0);
            let node = NewNode::new(op_type, [x]).with("kernel_shape", vec![3i64, 2]).with("ceil_mode", 1i64);
            t.node(node.with("strides", vec![2i64, 2]))
        }));
        examples.push(Example::new(op_type, "the same size", 18, move |t| {
            let x = t.input("x", &[1, 2, 5, 5], -2.0, 2.0);
            let node = NewNode::new(op_type, [x]).with("kernel_shape", vec![3i64, 2]);
            t.node(node.with("auto_pad", "SAME_UPPER").with("strides", vec![2i64, 2]))
        }));
    }
    examples.push(Example::new("MaxPool", "dilations", 18, |t| {
        let x = t.input("x", &[1, 2, 6, 5], -2.0, 2.0);
        let node = NewNode::new("MaxPool", [x]).with("kernel_shape", vec![2i64, 2]);
        t.node(node.with("dilations", vec![2i64, 3]))
    }));
    examples.push(Example::new("MaxPool", "sizes that have names", 18, |t| {
        let x = t.symbolic_input("x", &["n", "2", "h", "w"], &[2, 2, 4, 6], -2.0, 2.0);
        let node = NewNode::new("MaxPool", [x]).with("kernel_shape", vec![2i64, 2]);
        t.node(node.with("strides", vec![2i64, 2]))
    }));
    examples.push(Example::new("AveragePool", "padding counts", 18, |t| {
        let x = t.input("x", &[1, 2, 5, 4], -2.0, 2.0);
        let node = NewNode::new("AveragePool", [x]).with("kernel_shape", vec![3i64, 2]);
        t.node(node.with("pads", vec![1i64, 1, 1, 0]).with("count_include_pad", 1i64))
    }));
    for op_type in ["GlobalAveragePool", "GlobalMaxPool"] {
        examples.push(Example::new(op_type, "two axes", 18, move |t| {
            let x = t.input("x", &[2, 3, 2, 3], -2.0, 2.0);
            t.op(op_type, &[x])
        }));
    }
    examples
}
