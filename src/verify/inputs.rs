//! Inputs to compare on: the same for a seed on every machine.

use std::collections::BTreeMap;

use onnx_opt_ir::{ElementType, Tensor};
use onnx_opt_proto::{GraphProto, tensor_shape_proto::dimension, type_proto};

/// Inputs by name.
pub type InputSet = Vec<(String, Tensor)>;

/// More elements than this are not made up.
const MAX_ELEMENTS: usize = 1 << 26;

/// What a model says of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub element: ElementType,
    /// Axes; `None` where not even the rank is said.
    pub axes: Option<Vec<Axis>>,
}

/// The size of an axis as far as a model says it.
#[derive(Clone, Debug, PartialEq)]
pub enum Axis {
    /// A number.
    Fixed(usize),
    /// A name, the same size wherever it stands.
    Named(String),
    /// Nothing.
    Unknown,
}

/// The inputs that a caller must give. `Err` names one that is no tensor.
pub fn input_specs(graph: &GraphProto) -> Result<Vec<InputSpec>, String> {
    let has_default = |name: &str| graph.initializer.iter().any(|tensor| tensor.name() == name);
    let needed = graph.input.iter().filter(|input| !has_default(input.name()));
    needed
        .map(|input| {
            let kind = input.r#type.as_ref().and_then(|ty| ty.value.as_ref());
            let Some(type_proto::Value::TensorType(tensor)) = kind else {
                return Err(format!("input `{}` is no tensor", input.name()));
            };
            let element = ElementType::from_code(tensor.elem_type())
                .ok_or_else(|| format!("input `{}` has no element type", input.name()))?;
            let axis = |value: &Option<dimension::Value>| match value {
                Some(dimension::Value::DimValue(size)) if *size >= 0 => Axis::Fixed(*size as usize),
                Some(dimension::Value::DimParam(name)) if !name.is_empty() => Axis::Named(name.to_string()),
                _ => Axis::Unknown,
            };
            let axes =
                tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| axis(&dim.value)).collect());
            Ok(InputSpec { name: input.name().to_owned(), element, axes })
        })
        .collect()
}

/// One choice of what a model leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Size of an unknown first axis.
    pub batch: usize,
    /// Size of the first other unknown size; each further name gets `step` more.
    pub size: usize,
    /// Difference between sizes of different names.
    pub step: usize,
    /// Integers are below this.
    pub integers: u64,
}

/// Choices to try in order. Sizes first that most models take: images want multiples of 32, sequences take any.
pub fn plans(specs: &[InputSpec]) -> Vec<Plan> {
    let open = |axis: &Axis| !matches!(axis, Axis::Fixed(_));
    let axes = |spec: &InputSpec| spec.axes.clone().unwrap_or_default();
    let image = specs.iter().any(|spec| {
        let axes = axes(spec);
        spec.element.is_float() && axes.len() >= 4 && axes.iter().skip(2).any(open)
    });
    let plan = |batch, size, step, integers| Plan { batch, size, step, integers };
    if specs.iter().all(|spec| spec.axes.as_ref().is_some_and(|axes| !axes.iter().any(open))) {
        return vec![plan(1, 1, 0, 8), plan(1, 1, 0, 2)];
    }
    if image {
        return vec![
            plan(1, 32, 0, 8),
            plan(2, 64, 0, 8),
            plan(1, 224, 0, 8),
            plan(1, 8, 1, 8),
            plan(1, 128, 0, 2),
        ];
    }
    vec![
        plan(2, 5, 2, 8),
        plan(1, 8, 3, 8),
        plan(1, 6, 0, 8),
        plan(1, 5, 2, 2),
        plan(2, 4, 0, 2),
        plan(1, 1, 0, 2),
        plan(1, 16, 0, 8),
        plan(1, 32, 0, 8),
        plan(1, 64, 0, 2),
        plan(1, 224, 0, 8),
    ]
}

/// Inputs of these types for a seed: floats from a normal distribution, small integers, random booleans. `sizes` fixes
/// named sizes, `shapes` whole inputs. `Err` names an input that cannot be made.
pub fn generate(
    specs: &[InputSpec],
    plan: &Plan,
    seed: u64,
    sizes: &BTreeMap<String, usize>,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<InputSet, String> {
    let mut chosen = sizes.clone();
    bind(specs, shapes, &mut chosen);
    let mut next = plan.size;
    let mut set = Vec::with_capacity(specs.len());
    for (place, spec) in specs.iter().enumerate() {
        let axes = spec.axes.as_deref().unwrap_or_default();
        let mut size_of = |(index, axis): (usize, &Axis)| match axis {
            Axis::Fixed(size) => *size,
            Axis::Named(name) => *chosen.entry(name.clone()).or_insert_with(|| {
                if index == 0 {
                    return plan.batch;
                }
                let size = next;
                next += plan.step;
                size
            }),
            Axis::Unknown if index == 0 => plan.batch,
            Axis::Unknown => plan.size,
        };
        let shape = match shapes.get(&spec.name) {
            Some(shape) => shape.clone(),
            None => axes.iter().enumerate().map(&mut size_of).collect(),
        };
        let fits = onnx_opt_ir::tensor::element_count(&shape).is_some_and(|count| count <= MAX_ELEMENTS);
        if !fits {
            return Err(format!("input `{}` is too large to make up: {shape:?}", spec.name));
        }
        // Each input has its own stream, so that adding one does not change the others.
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(place as u64 + 1));
        let tensor = random.tensor(spec, &shape, plan.integers);
        set.push((
            spec.name.clone(),
            tensor.ok_or_else(|| {
                format!("input `{}` has type {}, which is not made up", spec.name, spec.element)
            })?,
        ));
    }
    Ok(set)
}

/// Named sizes that the given shapes decide.
fn bind(specs: &[InputSpec], shapes: &BTreeMap<String, Vec<usize>>, chosen: &mut BTreeMap<String, usize>) {
    for spec in specs {
        let (Some(shape), Some(axes)) = (shapes.get(&spec.name), &spec.axes) else { continue };
        for (axis, &size) in axes.iter().zip(shape) {
            if let Axis::Named(name) = axis {
                chosen.entry(name.clone()).or_insert(size);
            }
        }
    }
}

/// A generator of 64 bits of state (Steele, Lea, Flood 2014: SplitMix), the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Mean 0, variance 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn tensor(&mut self, spec: &InputSpec, shape: &[usize], integers: u64) -> Option<Tensor> {
        let count = shape.iter().product();
        let element = spec.element;
        if element == ElementType::String {
            let words = (0..count).map(|_| format!("word{}", self.bits() % 8).into()).collect();
            return Tensor::from_strings(shape, words).ok();
        }
        let mask = spec.name.to_ascii_lowercase().contains("mask");
        let values: Vec<f64> = if element == ElementType::Bool {
            (0..count).map(|_| (self.bits() & 1) as f64).collect()
        } else if element.is_integer() && mask {
            // A mask that hides everything has no defined result.
            (0..count)
                .map(|index| if index == 0 || !self.bits().is_multiple_of(4) { 1.0 } else { 0.0 })
                .collect()
        } else if element.is_integer() {
            (0..count).map(|_| (self.bits() % integers.max(1)) as f64).collect()
        } else {
            (0..count).map(|_| self.normal()).collect()
        };
        Tensor::from_f64(element, shape, &values)
    }
}

/// The same inputs, floats moved by about one step of rounding: times 1 + 1e-6, or more for narrow types.
pub fn perturbed(set: &InputSet) -> InputSet {
    let moved = |tensor: &Tensor| {
        let step = match tensor.element() {
            ElementType::Float | ElementType::Double => 1e-6,
            ElementType::Float16 => 1e-3,
            element if element.is_float() => 1e-2,
            _ => return None,
        };
        let values: Vec<f64> = tensor.to_f64()?.into_iter().map(|value| value * (1.0 + step)).collect();
        Tensor::from_f64(tensor.element(), tensor.shape(), &values)
    };
    set.iter().map(|(name, tensor)| (name.clone(), moved(tensor).unwrap_or_else(|| tensor.clone()))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec(name: &str, element: ElementType, axes: &[Axis]) -> InputSpec {
        InputSpec { name: name.into(), element, axes: Some(axes.to_vec()) }
    }

    fn named(name: &str) -> Axis {
        Axis::Named(name.into())
    }

    #[test]
    fn a_name_has_one_size() {
        let specs = [
            spec("a", ElementType::Float, &[named("N"), named("T"), Axis::Fixed(3)]),
            spec("b", ElementType::Int64, &[named("N"), named("S"), named("T")]),
        ];
        let plan = Plan { batch: 2, size: 5, step: 2, integers: 8 };
        let none = BTreeMap::new();
        let set = generate(&specs, &plan, 1, &none, &BTreeMap::new()).unwrap();
        assert_eq!((set[0].1.shape(), set[1].1.shape()), (&[2, 5, 3][..], &[2, 7, 5][..]));
        assert!(set[1].1.to_i64().unwrap().iter().all(|value| (0..8).contains(value)));

        let shapes = BTreeMap::from([("a".to_owned(), vec![4, 6, 3])]);
        let sizes = BTreeMap::from([("S".to_owned(), 9)]);
        let set = generate(&specs, &plan, 1, &sizes, &shapes).unwrap();
        assert_eq!(set[1].1.shape(), [4, 9, 6]);
    }

    #[test]
    fn a_seed_is_a_set() {
        let specs = [spec("a", ElementType::Float, &[Axis::Fixed(1000)])];
        let plan = Plan { batch: 1, size: 1, step: 0, integers: 8 };
        let make = |seed| generate(&specs, &plan, seed, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let values = make(1)[0].1.to_f64().unwrap();
        let mean = values.iter().sum::<f64>() / 1000.0;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / 1000.0;
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15, "{mean} {variance}");
    }

    #[test]
    fn nothing_absurd_is_made() {
        let specs = [spec("a", ElementType::Float, &[Axis::Fixed(1 << 40), Axis::Fixed(1 << 40)])];
        let plan = &plans(&specs)[0];
        assert!(generate(&specs, plan, 1, &BTreeMap::new(), &BTreeMap::new()).is_err());
    }

    #[test]
    fn perturbation_moves_floats_only() {
        let set = vec![
            ("a".to_owned(), Tensor::from_f32(&[1], &[1.0]).unwrap()),
            ("b".to_owned(), Tensor::vector_i64(&[1])),
        ];
        let moved = perturbed(&set);
        assert!(moved[0].1 != set[0].1 && moved[1].1 == set[1].1);
    }
}
