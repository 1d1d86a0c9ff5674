//! onnxruntime as executor of models, from a shared library that is loaded when asked for.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use onnx_opt_ir::engine::{EngineError, Executor, Named, Runner};
use onnx_opt_ir::{ElementType, Tensor};
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{
    DynTensor, DynTensorValueType, DynValue, Tensor as OrtTensor, TensorElementType, ValueType,
};

use super::guarded;

const ENGINE: &str = "onnxruntime";

/// Environment variable with the path of the library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Runs models with onnxruntime, on one thread unless told otherwise.
pub struct OrtExecutor {
    environment: Environment,
    level: GraphOptimizationLevel,
    threads: usize,
}

fn failed(reason: impl std::fmt::Display) -> EngineError {
    EngineError::Failed { engine: ENGINE, reason: reason.to_string() }
}

/// onnxruntime says in words what it has no kernel for.
fn refused(error: impl std::fmt::Display) -> EngineError {
    let reason = error.to_string();
    let missing = ["Could not find an implementation", "NOT_IMPLEMENTED", "is not a registered function"];
    if missing.iter().any(|words| reason.contains(words)) {
        return EngineError::Unsupported { engine: ENGINE, what: format!("this model: {reason}") };
    }
    failed(reason)
}

impl OrtExecutor {
    /// The path of the library: the given one, else that of the environment variable.
    pub fn library(given: Option<&Path>) -> Option<PathBuf> {
        let named = || std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        given.map(Path::to_owned).or_else(named)
    }

    /// Loads the library (a process loads one, the first) with all graph optimizations off, as comparisons need.
    ///
    /// # Errors
    /// If there is no such library, or it is too old.
    pub fn new(library: &Path) -> Result<Self, EngineError> {
        static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
        guarded(ENGINE, || {
            let mut shared = ENVIRONMENT.lock().map_err(|_| failed("another thread failed to load it"))?;
            let environment = match &*shared {
                Some(environment) => environment.clone(),
                None => {
                    let builder = ort::init_from(library).map_err(failed)?;
                    let environment =
                        builder.with_name("onnx-opt").with_telemetry(false).build().map_err(failed)?;
                    environment.set_log_level(ort::logging::LogLevel::Error);
                    shared.insert(environment).clone()
                }
            };
            Ok(Self { environment, level: GraphOptimizationLevel::Disable, threads: 1 })
        })
    }

    /// With the graph optimizations that users get by default, to measure what they will see.
    #[must_use]
    pub fn optimized(self) -> Self {
        Self { level: GraphOptimizationLevel::All, ..self }
    }

    /// With so many threads for one node.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// A session of a model.
    ///
    /// # Errors
    /// If onnxruntime does not accept the model.
    pub fn session(&self, model: &[u8]) -> Result<Session, EngineError> {
        let mut builder = Session::builder(&self.environment)
            .map_err(failed)?
            .with_optimization_level(self.level)
            .map_err(failed)?
            .with_intra_threads(self.threads)
            .map_err(failed)?;
        builder.commit_from_memory(model).map_err(refused)
    }
}

/// Runs a session on inputs by name.
///
/// # Errors
/// If a type is not a tensor of numbers or strings, or the run fails.
pub fn run_session(session: &mut Session, inputs: &[(String, Tensor)]) -> Result<Named, EngineError> {
    let names: Vec<String> = session.outputs().iter().map(|output| output.name().to_owned()).collect();
    let mut operands: Vec<(String, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        operands.push((name.clone(), to_ort(tensor)?));
    }
    let results = session.run(operands).map_err(refused)?;
    let mut outputs = Vec::with_capacity(names.len());
    for name in names {
        let value = results.get(&name).ok_or_else(|| failed(format!("no output `{name}`")))?;
        outputs.push((name, from_ort(value)?));
    }
    Ok(outputs)
}

impl Executor for OrtExecutor {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn prepare<'a>(&'a self, model: &[u8]) -> Result<Box<dyn Runner + 'a>, EngineError> {
        let session = guarded(ENGINE, || self.session(model))?;
        Ok(Box::new(OrtRunner { session }))
    }
}

/// A session.
struct OrtRunner {
    session: Session,
}

impl Runner for OrtRunner {
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Named, EngineError> {
        guarded(ENGINE, || run_session(&mut self.session, inputs))
    }
}

/// Types with the same memory on both sides, packed ones included.
const TYPES: &[(ElementType, TensorElementType)] = &[
    (ElementType::Float, TensorElementType::Float32),
    (ElementType::Uint8, TensorElementType::Uint8),
    (ElementType::Int8, TensorElementType::Int8),
    (ElementType::Uint16, TensorElementType::Uint16),
    (ElementType::Int16, TensorElementType::Int16),
    (ElementType::Int32, TensorElementType::Int32),
    (ElementType::Int64, TensorElementType::Int64),
    (ElementType::Bool, TensorElementType::Bool),
    (ElementType::Float16, TensorElementType::Float16),
    (ElementType::Double, TensorElementType::Float64),
    (ElementType::Uint32, TensorElementType::Uint32),
    (ElementType::Uint64, TensorElementType::Uint64),
    (ElementType::Complex64, TensorElementType::Complex64),
    (ElementType::Complex128, TensorElementType::Complex128),
    (ElementType::Bfloat16, TensorElementType::Bfloat16),
    (ElementType::Float8E4M3FN, TensorElementType::Float8E4M3FN),
    (ElementType::Float8E4M3FNUZ, TensorElementType::Float8E4M3FNUZ),
    (ElementType::Float8E5M2, TensorElementType::Float8E5M2),
    (ElementType::Float8E5M2FNUZ, TensorElementType::Float8E5M2FNUZ),
    (ElementType::Uint4, TensorElementType::Uint4),
    (ElementType::Int4, TensorElementType::Int4),
];

fn unsupported(what: impl std::fmt::Display) -> EngineError {
    EngineError::Unsupported { engine: ENGINE, what: format!("tensors of {what}") }
}

fn to_ort(tensor: &Tensor) -> Result<SessionInputValue<'static>, EngineError> {
    if let Some(strings) = tensor.strings() {
        let texts: Vec<String> = strings
            .iter()
            .map(|string| {
                String::from_utf8(string.to_vec()).map_err(|_| unsupported("strings that are no text"))
            })
            .collect::<Result<_, _>>()?;
        let value = OrtTensor::from_string_array((tensor.shape(), texts.as_slice())).map_err(failed)?;
        return Ok(value.into());
    }
    let element = TYPES.iter().find(|(ours, _)| *ours == tensor.element()).map(|&(_, theirs)| theirs);
    let element = element.ok_or_else(|| unsupported(tensor.element()))?;
    let mut value = DynTensor::new(&Allocator::default(), element, tensor.shape()).map_err(failed)?;
    let raw = tensor.raw();
    let target = value.data_ptr_mut().cast::<u8>();
    if !raw.is_empty() && !target.is_null() && element.byte_size(tensor.len()) == Some(raw.len()) {
        // SAFETY: the tensor was allocated for this type and shape, which take as many bytes as there are.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), target, raw.len()) };
    }
    Ok(value.into())
}

fn from_ort(value: &DynValue) -> Result<Tensor, EngineError> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(EngineError::Unsupported {
            engine: ENGINE,
            what: format!("results of {}", value.dtype()),
        });
    };
    let sizes: Vec<usize> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
    if *ty == TensorElementType::String {
        let (_, strings) = value.try_extract_strings().map_err(failed)?;
        return Tensor::from_strings(&sizes, strings.into_iter().map(Bytes::from).collect()).map_err(failed);
    }
    let element = TYPES.iter().find(|(_, theirs)| theirs == ty).map(|&(ours, _)| ours);
    let element = element.ok_or_else(|| unsupported(ty))?;
    let count: usize = sizes.iter().product();
    let length = element.raw_len(count).ok_or_else(|| unsupported(ty))?;
    let view = value.view().downcast::<DynTensorValueType>().map_err(failed)?;
    let source = view.data_ptr().cast::<u8>();
    let raw = if length == 0 || source.is_null() {
        Bytes::new()
    } else {
        // SAFETY: onnxruntime holds a tensor of this type and shape, which takes `length` bytes, while `view` lives.
        Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(source, length) })
    };
    Tensor::from_raw(element, &sizes, raw).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error() {
        let error =
            OrtExecutor::new(Path::new("/nowhere/libonnxruntime.so")).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("/nowhere/libonnxruntime.so")));
    }
}
