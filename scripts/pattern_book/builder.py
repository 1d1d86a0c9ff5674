"""Builds small models in few words, and the list of patterns that the modules of this folder fill."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT64, INT32, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
UINT8, INT8 = TensorProto.UINT8, TensorProto.INT8
TO_THE_END = 2**63 - 1


class Model:
    """A graph under construction. `model.Add(x, 1.0)` adds a node and gives its result.

    Operands are names, numbers and arrays (float32 and int64 by their Python types) or None. Constants are
    initializers, or Constant nodes where `constant_nodes` says so. `declared` are shapes of outputs that inference does
    not find, `early` edits the model before it runs.
    """

    def __init__(self, opset: int, constant_nodes: bool = False) -> None:
        self.opset = opset
        self.constant_nodes = constant_nodes
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[TensorProto] = []
        self.samples: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {}
        self.sizes: list[dict[str, int]] = [{}, {}]
        self.random = np.random.default_rng(7)
        self.count = 0
        self.outer: Model | None = None
        self.early: Callable[[onnx.ModelProto], None] = lambda model: None
        self.declared: dict[str, list[int | str]] = {}

    def name(self, stem: str) -> str:
        """A name as long as PyTorch's, since no result may take more bytes than its original."""
        top = self
        while top.outer:
            top = top.outer
        top.count += 1
        return f"/model/{stem}_{top.count}_output_0"

    def input(self, name: str, *sizes: int | str, type: int = FLOAT, below: int = 4, positive: bool = False) -> str:
        """An input; integers are drawn from 0 to `below`."""
        self.inputs.append(helper.make_tensor_value_info(name, type, sizes))
        dtype = helper.tensor_dtype_to_np_dtype(type)

        def sample(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            if type in (FLOAT, HALF, DOUBLE):
                values = random.standard_normal(shape)
                return (np.abs(values) + 0.1 if positive else values).astype(dtype)
            return random.integers(0, 2 if type == BOOL else below, shape).astype(dtype)

        self.samples[name] = sample
        return name

    def const(self, value: object) -> str:
        array = value if isinstance(value, np.ndarray | np.generic) else np.array(value)
        if not isinstance(value, np.ndarray | np.generic) and array.dtype == np.float64:
            array = array.astype(np.float32)
        name = self.name("Constant")
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.constant_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def weights(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.const(self.random.uniform(low, high, shape).astype(np.float32))

    def op(self, op_type: str, *operands: object, outputs: int = 1, **attributes: object):
        given = ["" if o is None else o if isinstance(o, str) else self.const(o) for o in operands]
        results = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, given, results, **attributes))
        return results[0] if outputs == 1 else results

    def __getattr__(self, op_type: str):
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *operands, **attributes: self.op(op_type, *operands, **attributes)

    # Operators whose axes became operands.

    def _with_axes(self, op_type: str, since: int, x: str, axes: list[int], **attributes: int) -> str:
        if self.opset < since:
            return self.op(op_type, x, axes=axes, **attributes)
        return self.op(op_type, x, axes, **attributes)

    def reduce(self, op_type: str, x: str, *axes: int, keepdims: int = 1) -> str:
        since = 13 if op_type == "ReduceSum" else 18
        return self._with_axes(op_type, since, x, list(axes), keepdims=keepdims)

    def mean(self, x: str, *axes: int, keepdims: int = 1) -> str:
        return self.reduce("ReduceMean", x, *axes, keepdims=keepdims)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._with_axes("Unsqueeze", 13, x, list(axes))

    def squeeze(self, x: str, *axes: int) -> str:
        return self._with_axes("Squeeze", 13, x, list(axes))

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        if self.opset < 13:
            return self.op("Split", x, outputs=len(sizes), axis=axis, split=sizes)
        return self.op("Split", x, sizes, outputs=len(sizes), axis=axis)

    def dim(self, x: str, axis: int) -> str:
        """One size as PyTorch's first exporter reads it, in one dimension."""
        return self.unsqueeze(self.op("Gather", self.op("Shape", x), axis), 0)

    def body(self, build: Callable[["Model"], str]) -> onnx.GraphProto:
        """A graph without inputs for If, which may use outer values."""
        inner = Model(self.opset, constant_nodes=True)
        inner.outer, inner.random = self, self.random
        result = build(inner)
        out = onnx.ValueInfoProto(name=result)
        out.type.tensor_type.elem_type = FLOAT
        return helper.make_graph(inner.nodes, self.name("body"), [], [out])

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "pattern", self.inputs, infos, self.initializers)
        # The newest IR version that the opset's time knew is not needed: 8 holds all of these.
        ir_version = 8 if self.opset <= 20 else 10
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        self.early(model)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        types = {value.name: value.type for value in [*inferred.graph.value_info, *inferred.graph.output]}
        for info in model.graph.output:
            info.type.CopyFrom(types[info.name])
            if info.name in self.declared:
                element = info.type.tensor_type.elem_type
                info.CopyFrom(helper.make_tensor_value_info(info.name, element, self.declared[info.name]))
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self) -> list[dict[str, np.ndarray]]:
        """Random inputs of two sizes."""
        random = np.random.default_rng(11)
        symbols = dict.fromkeys(d.dim_param for i in self.inputs for d in i.type.tensor_type.shape.dim if d.dim_param)
        result = []
        for own, chosen in zip(([2, 5, 3, 7], [3, 4, 6, 1]), self.sizes):
            sizes = dict(zip(symbols, own)) | chosen
            result.append({
                i.name: self.samples[i.name](random, tuple(d.dim_value or sizes[d.dim_param] if d.dim_param else d.dim_value for d in i.type.tensor_type.shape.dim))
                for i in self.inputs
            })
        return result


@dataclass
class Pattern:
    """A rewrite by name: spellings that have to come down to `ideal` nodes."""

    name: str
    ideal: int
    opset: int
    flags: list[str]
    spellings: dict[str, int]
    build: Callable[[Model, str], object]

    def model(self, spelling: str) -> Model:
        model = Model(self.spellings[spelling], constant_nodes=list(self.spellings).index(spelling) % 2 == 1)
        result = self.build(model, spelling)
        model.outputs = [result] if isinstance(result, str) else list(result)
        return model


PATTERNS: dict[str, Pattern] = {}


def pattern(name: str, ideal: int, *spellings: str, opset: int = 17, opsets: dict[str, int] = {}, flags: tuple[str, ...] = ()):
    """Registers `build(model, spelling)`, which gives the names of the outputs."""

    def register(build):
        assert name not in PATTERNS and len(spellings) > 1, name
        PATTERNS[name] = Pattern(name, ideal, opset, list(flags), {s: opsets.get(s, opset) for s in spellings}, build)
        return build

    return register
