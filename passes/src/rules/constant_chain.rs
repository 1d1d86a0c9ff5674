//! Two sums or two products with constants in a row are one.

use onnx_opt_ir::tensor::element_count;
use onnx_opt_ir::{Attributes, ElementType, Graph, Node, Tensor, ValueId};

use super::facts::{element, only_use};
use crate::evaluate::{broadcast, broadcast_index};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "sum_of_sum",
            doc: "±(±x + c) + d is ±x + e.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["Add", "Sub", "Neg"],
            rewrite: sum_of_sum,
        }),
        Box::new(FunctionRule {
            name: "product_of_product",
            doc: "Products and quotients with two constants in a row need one.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["Mul", "Div", "Neg"],
            rewrite: product_of_product,
        }),
    ]
}

/// A node of one tensor operand and a constant.
struct Step<'g> {
    /// The other operand.
    x: ValueId,
    /// The constant; `None` for the identity of the operation, where there is but a sign.
    constant: Option<&'g Tensor>,
    /// Whether the constant is the first operand.
    leads: bool,
}

fn step<'g>(graph: &'g Graph, node: &Node) -> Result<Step<'g>, Miss> {
    let constant =
        |index: usize| node.input(index).and_then(|value| graph.constant(value)).map(|tensor| &**tensor);
    if node.is("Neg") {
        return Ok(Step { x: found(node.input(0))?, constant: None, leads: false });
    }
    match (constant(0), constant(1)) {
        (Some(first), None) => Ok(Step { x: found(node.input(1))?, constant: Some(first), leads: true }),
        (None, Some(second)) => Ok(Step { x: found(node.input(0))?, constant: Some(second), leads: false }),
        _ => Err(Miss::NoMatch),
    }
}

/// The root and the producer of its operand, if both are among these operators and one at least has a constant.
fn two_steps<'g>(site: &Site<'g>, operators: &[&str]) -> Result<[(&'g Node, Step<'g>); 2], Miss> {
    let graph = site.graph;
    let outer = step(graph, site.node())?;
    let (_, node, _) = found(graph.producer(outer.x))?;
    found(operators.iter().any(|op_type| node.is(op_type)).then_some(()))?;
    let inner = step(graph, node)?;
    found(inner.constant.or(outer.constant))?;
    only_use(graph, outer.x)?;
    Ok([(node, inner), (site.node(), outer)])
}

/// Two constants, broadcast, and what becomes of their elements. `None` stands for `identity`.
///
/// # Errors
/// If the result does not fit the element type, or is larger than both.
fn combined(
    element: ElementType,
    [a, b]: [Option<&Tensor>; 2],
    identity: i64,
    integers: impl Fn(i64, i64) -> Option<i64>,
    floats: impl Fn(f64, f64) -> f64,
) -> Result<Tensor, Miss> {
    let shape_of = |tensor: Option<&Tensor>| tensor.map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
    let (first, second) = (shape_of(a), shape_of(b));
    let shape = broadcast(&first, &second).ok_or("the constants do not broadcast")?;
    let count = element_count(&shape).ok_or("the constants are too large")?;
    let len = |tensor: Option<&Tensor>| tensor.map_or(1, Tensor::len);
    ensure(count <= len(a).max(len(b)), "one constant would be larger than both")?;
    let (place_a, place_b) = (broadcast_index(&first, &shape), broadcast_index(&second, &shape));
    if element.is_integer() {
        let at =
            |tensor: Option<&Tensor>, place| tensor.map_or(Some(identity), |tensor| tensor.i64_at(place));
        let values: Option<Vec<i64>> =
            (0..count).map(|place| integers(at(a, place_a(place))?, at(b, place_b(place))?)).collect();
        let tensor = values.and_then(|values| Tensor::from_integers(element, &shape, &values));
        return tensor.ok_or_else(|| "the constants overflow".into());
    }
    ensure(element.is_float(), "the element type has no numbers")?;
    let at = |tensor: Option<&Tensor>, place| match tensor {
        Some(tensor) => tensor.f64_at(place),
        None => Some(identity as f64),
    };
    let values: Option<Vec<f64>> =
        (0..count).map(|place| Some(floats(at(a, place_a(place))?, at(b, place_b(place))?))).collect();
    let values = values.ok_or("the constants have no numbers")?;
    let tensor = Tensor::from_f64(element, &shape, &values).ok_or("the element type has no numbers")?;
    // No overflow, and no loss of digits near zero.
    let rounded = tensor.to_f64().ok_or("the element type has no numbers")?;
    let fits = |(value, rounded): (&f64, &f64)| {
        value.is_finite() && (value - rounded).abs() <= value.abs() * 2f64.powi(-8)
    };
    ensure(values.iter().zip(&rounded).all(fits), "the constants overflow")?;
    Ok(tensor)
}

fn sum_of_sum(site: &Site<'_>) -> Rewrite {
    let [(first, inner), (second, outer)] = two_steps(site, &["Add", "Sub", "Neg"])?;
    let element = element(site.graph, site.output()?)?;
    // Each step is ±x ± c.
    let signs = |node: &Node, step: &Step<'_>| match (node.op_type(), step.leads) {
        ("Add", _) => (1, 1),
        ("Sub", false) => (1, -1),
        ("Sub", true) => (-1, 1),
        _ => (-1, 1),
    };
    let ((x_first, c_first), (x_second, c_second)) = (signs(first, &inner), signs(second, &outer));
    let constant = combined(
        element,
        [inner.constant, outer.constant],
        0,
        |a, b| (a.checked_mul(x_second * c_first)?).checked_add(b.checked_mul(c_second)?),
        |a, b| a * (x_second * c_first) as f64 + b * c_second as f64,
    )?;
    let is_unsigned_negation = element.is_unsigned_integer() && x_first * x_second < 0;
    ensure(!is_unsigned_negation, "unsigned numbers have no sign")?;
    let mut patch = Patch::new();
    let constant = patch.constant(constant);
    let new = if x_first * x_second > 0 {
        patch.node("Add", [inner.x.into(), constant], Attributes::new())
    } else {
        patch.node("Sub", [constant, inner.x.into()], Attributes::new())
    };
    finish(site, patch, new)
}

/// What a step makes of x: c·x, or c/x where `inverts`; `divides` where c is written as a divisor.
struct Product {
    inverts: bool,
    divides: bool,
    negates: bool,
}

impl Product {
    fn of(node: &Node, step: &Step<'_>) -> Self {
        let is_quotient = node.is("Div");
        Self {
            inverts: is_quotient && step.leads,
            divides: is_quotient && !step.leads,
            negates: node.is("Neg"),
        }
    }

    fn factor(&self, constant: f64) -> f64 {
        let factor = if self.divides { 1.0 / constant } else { constant };
        if self.negates { -factor } else { factor }
    }
}

fn product_of_product(site: &Site<'_>) -> Rewrite {
    let [(first, inner), (second, outer)] = two_steps(site, &["Mul", "Div", "Neg"])?;
    let element = element(site.graph, site.output()?)?;
    let (a, b) = (Product::of(first, &inner), Product::of(second, &outer));
    // Quotients of integers are cut.
    let has_quotient = first.is("Div") || second.is("Div");
    ensure(!(element.is_integer() && has_quotient), "integers do not divide")?;
    let both_divide = a.divides && b.divides;
    let constant = combined(
        element,
        [inner.constant, outer.constant],
        1,
        |c, d| {
            let sign = if a.negates != b.negates { -1 } else { 1 };
            c.checked_mul(d)?.checked_mul(sign)
        },
        |c, d| {
            if both_divide {
                return c * d;
            }
            let (c, d) = (a.factor(c), b.factor(d));
            // d/(c·x) = (d/c)/x
            if b.inverts { d / c } else { d * c }
        },
    )?;
    let numbers = constant.to_f64().ok_or("the element type has no numbers")?;
    ensure(element.is_integer() || numbers.iter().all(|&number| number != 0.0), "a constant is 0")?;
    ensure(!element.is_unsigned_integer() || !(a.negates || b.negates), "unsigned numbers have no sign")?;
    let mut patch = Patch::new();
    let constant = patch.constant(constant);
    let new = match (both_divide, a.inverts != b.inverts) {
        (true, _) => patch.node("Div", [inner.x.into(), constant], Attributes::new()),
        (false, true) => patch.node("Div", [constant, inner.x.into()], Attributes::new()),
        (false, false) => patch.node("Mul", [inner.x.into(), constant], Attributes::new()),
    };
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::Dim;

    use crate::testing::{Example, Fixture};

    /// An operator and its constant; on which side of the operand it stands.
    #[derive(Clone, Copy)]
    enum Link {
        After(&'static str, f32),
        Before(f32, &'static str),
        Alone(&'static str),
    }
    use Link::{After, Alone, Before};
    let chain = |rule: &'static str, fires: [Link; 2], misses: [Link; 2]| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let mut t = f.op("Exp", &[x]);
            for link in if does { fires } else { misses } {
                t = match link {
                    After(op_type, number) => {
                        let c = f.scalar(number.into());
                        f.op(op_type, &[t, c])
                    }
                    Before(number, op_type) => {
                        let c = f.floats(&[3], &[number, number + 1.0, number + 2.0]);
                        f.op(op_type, &[c, t])
                    }
                    Alone(op_type) => f.op(op_type, &[t]),
                };
            }
            let y = f.op("Abs", &[t]);
            f.with_output(y)
        })
    };
    let (sum, product) = ("sum_of_sum", "product_of_product");
    vec![
        chain(sum, [After("Add", 1.5), After("Add", 2.0)], [After("Add", 1.5), After("Mul", 2.0)]),
        chain(sum, [Before(4.0, "Sub"), After("Sub", 2.0)], [Before(4.0, "Sub"), After("Div", 2.0)]),
        chain(sum, [Before(4.0, "Sub"), Before(1.0, "Sub")], [Before(4.0, "Sub"), Alone("Exp")]),
        chain(sum, [Alone("Neg"), Before(1.0, "Add")], [Alone("Neg"), Before(1.0, "Mul")]),
        chain(sum, [After("Sub", 3.0), Alone("Neg")], [After("Mul", 3.0), Alone("Neg")]),
        chain(product, [After("Mul", 1.5), Before(2.0, "Mul")], [After("Mul", 1.5), Before(2.0, "Add")]),
        chain(product, [After("Mul", 3.0), After("Div", 3.0)], [After("Mul", 3e20), After("Mul", 3e20)]),
        chain(product, [After("Div", 3.0), After("Div", 7.0)], [After("Div", 3.0), After("Sub", 7.0)]),
        chain(product, [Before(4.0, "Div"), After("Mul", 2.0)], [Before(4.0, "Div"), After("Mul", 0.0)]),
        chain(product, [After("Div", 4.0), Before(2.0, "Div")], [After("Div", 0.0), Before(2.0, "Mul")]),
        chain(product, [Before(4.0, "Div"), Before(2.0, "Div")], [Before(4.0, "Sub"), Before(2.0, "Div")]),
        chain(product, [Alone("Neg"), After("Div", 2.0)], [Alone("Neg"), After("Add", 2.0)]),
        // Sums of constants stay in their type.
        Example::new(sum, |fires| {
            let mut f = Fixture::new(13);
            let x = f.typed_input("x", ElementType::Int64, [Dim::fixed(3)]);
            let (c, d) = (f.integers(&[1, 2, 3]), f.integers(&[if fires { 5 } else { i64::MAX }]));
            let t = f.op("Add", &[x, c]);
            let y = f.op("Add", &[d, t]);
            f.with_output(y)
        }),
        // Two narrow constants must not become a wide one.
        Example::new(product, |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4, 4]);
            let (c, d) = (f.weights(&[4]), if fires { f.weights(&[1]) } else { f.weights(&[4, 1]) });
            let t = f.op("Mul", &[x, c]);
            let y = f.op("Mul", &[t, d]);
            f.with_output(y)
        }),
    ]
}
