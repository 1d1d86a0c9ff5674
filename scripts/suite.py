"""The backend test suite of the onnx package: every case with its model, inputs and expected outputs."""

import pathlib
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase

DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
# Operators that draw their outputs: two runs agree by chance at most.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


@dataclass
class Case:
    """One case. A data set is (inputs by name, outputs in order)."""

    name: str
    content: bytes
    data_sets: list[tuple[dict[str, object], list]]
    rtol: float
    atol: float

    @property
    def operators(self) -> str:
        """The operators of the main graph."""
        return " ".join(dict.fromkeys(n.op_type for n in onnx.load_from_string(self.content).graph.node))

    @property
    def is_random(self) -> bool:
        """Whether the expected outputs are but one draw of many."""
        return not RANDOM.isdisjoint(self.operators.split())


def load() -> list[Case]:
    """All cases, those of single operators generated (some ten seconds)."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        tests = [(kind, test) for kind in KINDS for test in sorted(load_model_tests(kind=kind), key=lambda t: t.name)]
    return [case_of(kind, test) for kind, test in tests]


def case_of(kind: str, test: TestCase) -> Case:
    if kind == "node":
        assert test.model is not None and test.data_sets is not None
        content, model = test.model.SerializeToString(), test.model
        data_sets = [([plain(v) for v in inputs], [plain(v) for v in outputs]) for inputs, outputs in test.data_sets]
    elif kind == "real":
        assert test.url is not None
        content = (DATA / "light" / pathlib.PurePosixPath(test.url).name).read_bytes()
        model = onnx.load_from_string(content)
        data_sets = [light_data(model, test)]
    else:
        assert test.model_dir is not None
        content = (pathlib.Path(test.model_dir) / "model.onnx").read_bytes()
        model = onnx.load_from_string(content)
        data_sets = [stored_data(model, folder) for folder in sorted(pathlib.Path(test.model_dir).glob("test_data_set_*"))]
    names = input_names(model)
    named = [(dict(zip(names, inputs)), outputs) for inputs, outputs in data_sets]
    return Case(f"{kind}/{test.name}", content, named, test.rtol, test.atol)


def input_names(model: ModelProto) -> list[str]:
    initialized = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in initialized]


def plain(value: object) -> object:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def light_data(model: ModelProto, test: TestCase) -> tuple[list, list]:
    """The ramp that the suite feeds to its large networks, and the output stored for it."""
    assert test.url is not None
    initialized = {tensor.name for tensor in model.graph.initializer}
    shapes = [[d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in model.graph.input if v.name not in initialized]
    inputs = [(np.arange(np.prod(s)).reshape(s) / np.prod(s)).astype(np.float32) for s in shapes]
    stem = pathlib.PurePosixPath(test.url).stem
    outputs = [stored(DATA / "light" / f"{stem}_output_{i}.pb", v.type) for i, v in enumerate(model.graph.output)]
    return inputs, outputs


def stored_data(model: ModelProto, folder: pathlib.Path) -> tuple[list, list]:
    """The files of a test_data_set folder."""

    def values(prefix: str, declared: list) -> list:
        files = (folder / f"{prefix}_{i}.pb" for i in range(len(declared)))
        return [stored(file, value.type) for file, value in zip(files, declared) if file.exists()]

    return values("input", list(model.graph.input)), values("output", list(model.graph.output))


def stored(path: pathlib.Path, declared: TypeProto) -> object:
    content = path.read_bytes()
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if declared.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))


def with_constant_inputs(case: Case) -> Case | None:
    """The same case with its inputs as initializers, so that all of it can be folded; None where one is no tensor."""
    if not case.data_sets:
        return None
    feed, outputs = case.data_sets[0]
    if not feed or not all(isinstance(value, np.ndarray | np.generic) for value in feed.values()):
        return None
    model = onnx.load_from_string(case.content)
    kept = [value for value in model.graph.input if value.name not in feed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in feed.items())
    model.ir_version = max(model.ir_version, 4)
    return Case(case.name, model.SerializeToString(), [({}, outputs)], case.rtol, case.atol)


def difference(expected: object, got: object, rtol: float, atol: float) -> str | None:
    """What is different between an expected output and a computed one, by the suite's own rules; None if nothing."""
    if expected is None or got is None:
        return None if expected is got else f"{type(got)} instead of {type(expected)}"
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple) or len(got) != len(expected):
            return f"not a sequence of {len(expected)}"
        return next(filter(None, (difference(e, g, rtol, atol) for e, g in zip(expected, got))), None)
    expected, got = np.asarray(expected), np.asarray(got)
    if expected.shape != got.shape:
        return f"shape {list(got.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind in "OUS":
        return None if (expected.astype(str) == got.astype(str)).all() else "other strings"
    if expected.dtype != got.dtype:
        return f"type {got.dtype} instead of {expected.dtype}"
    if expected.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)
    if expected.dtype.kind not in "bc":
        wide = np.float64 if expected.dtype.kind not in "iu" else expected.dtype
        expected, got = expected.astype(wide), got.astype(wide)
    close = np.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return None
    with np.errstate(all="ignore"):
        worst = np.nanmax(np.abs(got.astype(np.complex128) - expected.astype(np.complex128)))
    return f"{(~close).sum()} of {close.size} elements differ, at most by {worst:.3g}"
