#!/usr/bin/env python3
"""Raises small models of old operator sets to later ones and compares both in onnxruntime.

Each case is one operator as an old version says it. It is raised with -O0, so that the conversion alone is tried, and
with -O2. A case that cannot be raised must say why. The last line counts.

    python scripts/old_opsets.py [--binary PATH] [--only REGEX] [--targets 13,18,21,25]
"""

import argparse
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import engines
import tool

DTYPES = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("float64"): TensorProto.DOUBLE, np.dtype("float16"): TensorProto.FLOAT16,
          np.dtype("int64"): TensorProto.INT64, np.dtype("int32"): TensorProto.INT32, np.dtype("bool"): TensorProto.BOOL,
          np.dtype("uint8"): TensorProto.UINT8, np.dtype("int8"): TensorProto.INT8}  # fmt: skip


@dataclass
class Case:
    """A model of one operator, and the targets for which it must be refused."""

    name: str
    model: onnx.ModelProto
    feed: dict[str, np.ndarray]
    refused: tuple[int, ...] = ()


def case(name: str, opset: int, op: str, feeds: list, constants: list = (), results: int = 1, free: bool = False,
         refused: tuple[int, ...] = (), **attributes) -> Case:  # fmt: skip
    """`feeds` become inputs, `constants` initializers after them; None leaves an operand out. `free` hides sizes."""
    feed, inputs, initializers, names = {}, [], [], []
    for index, array in enumerate(feeds):
        names.append(f"x{index}")
        feed[names[-1]] = array
        shape = [f"d{index}_{axis}" for axis in range(array.ndim)] if free else array.shape
        inputs.append(helper.make_tensor_value_info(names[-1], DTYPES[array.dtype], shape))
    for index, array in enumerate(constants):
        names.append("" if array is None else f"c{index}")
        if array is not None:
            initializers.append(numpy_helper.from_array(array, names[-1]))
    outputs = [f"y{index}" for index in range(results)]
    node = helper.make_node(op, names, outputs, name=f"the_{op}", **attributes)
    graph = helper.make_graph([node], name, inputs, [onnx.ValueInfoProto(name=y) for y in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4 if opset < 10 else 7)
    try:
        types = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
        for index, output in enumerate(outputs):
            if types[output].type.WhichOneof("value"):
                model.graph.output[index].CopyFrom(types[output])
    except Exception:
        pass
    return Case(f"{name}_{opset}", model, feed, refused)


TARGETS = (13, 18, 21, 25)
# Not in onnxruntime 1.32.
MISSING = {"RoiAlign": 22}


def cases() -> Iterator[Case]:
    random = np.random.default_rng(7)

    def f(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    x4, x3, x2 = f(2, 3, 4, 5), f(2, 3, 4), f(3, 4)
    special = np.array([[-np.inf, -3.5, -0.0, 0.0], [1e30, np.inf, np.nan, 2.5]], np.float32)
    for opset in (6, 8, 11, 12):
        for op in ("Softmax", "LogSoftmax", "Hardmax"):
            if opset < 7 and op == "Hardmax":
                continue
            for axis in (None, 0, 1, 2, 3) + ((-1, -2) if opset > 10 else ()):
                attributes = {} if axis is None else {"axis": axis}
                yield case(f"{op}_{axis}", opset, op, [x4], **attributes)
            yield case(f"{op}_free", opset, op, [x4], free=True, refused=(13,), axis=1)
            yield case(f"{op}_one_axis", opset, op, [f(2, 7, 1, 1)])
            yield case(f"{op}_matrix", opset, op, [x2])
    yield case("Softmax_empty", 11, "Softmax", [np.zeros((2, 0, 3), np.float32)], free=True, axis=2)
    for opset in (7, 11, 12):
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
                   "ReduceLogSumExp", "ReduceSumSquare"):  # fmt: skip
            yield case(f"{op}_axes", opset, op, [np.abs(x4) + 0.1], axes=[1, 3], keepdims=0)
            yield case(f"{op}_all", opset, op, [np.abs(x4) + 0.1])
        yield case("Squeeze_axes", opset, "Squeeze", [f(1, 3, 1, 4)], axes=[2])
        yield case("Squeeze_all", opset, "Squeeze", [f(1, 3, 1, 4)])
        yield case("Unsqueeze", opset, "Unsqueeze", [x2], axes=[0, 3])
        yield case("Split_sizes", opset, "Split", [f(6, 4)], results=3, axis=0, split=[1, 2, 3])
        yield case("Split_equal", opset, "Split", [f(6, 4)], results=3)
        if opset < 12:
            yield case("Dropout", opset, "Dropout", [x2], ratio=0.3)
        yield case("Dropout_bare", opset, "Dropout", [x2])
    yield case("ReduceMean_17", 17, "ReduceMean", [x4], axes=[-1])
    yield case("Split_left", 13, "Split", [f(7, 4)], [ints(3, 4)], results=2)
    for opset in (7, 8):
        yield case("BatchNormalization", opset, "BatchNormalization", [x4], [f(3), f(3), f(3), np.abs(f(3)) + 0.5], epsilon=1e-3)
        yield case("BatchNormalization_spatial", opset, "BatchNormalization", [x4], [f(3), f(3), f(3), np.abs(f(3)) + 0.5], spatial=1)
        activations = [f(3, 4, 5), f(3, 4, 5), f(3, 4, 5), np.abs(f(3, 4, 5)) + 0.5]
        yield case("BatchNormalization_activations", opset, "BatchNormalization", [x4], activations, refused=TARGETS, spatial=0)
    yield case("BatchNormalization", 9, "BatchNormalization", [x4], [f(3), f(3), f(3), np.abs(f(3)) + 0.5], momentum=0.8)
    for mode in ("nearest", "linear"):
        up = np.array([1, 1, 2, 3], np.float32)
        odd = np.array([1, 1, 1.5, 2.3], np.float32)
        yield case(f"Upsample_{mode}", 7, "Upsample", [x4], mode=mode, scales=[1.0, 1.0, 2.0, 2.0])
        yield case(f"Upsample_odd_{mode}", 7, "Upsample", [x4], mode=mode, scales=[1.0, 1.0, 1.7, 2.6])
        yield case(f"Upsample_{mode}", 9, "Upsample", [x4], [up], mode=mode)
        yield case(f"Upsample_odd_{mode}", 9, "Upsample", [x4], [odd], mode=mode)
        yield case(f"Upsample_dynamic_{mode}", 9, "Upsample", [x4, odd], mode=mode)
        yield case(f"Resize_{mode}", 10, "Resize", [x4], [up], mode=mode)
        yield case(f"Resize_odd_{mode}", 10, "Resize", [x4], [odd], mode=mode)
        yield case(f"Resize_down_{mode}", 10, "Resize", [f(1, 2, 9, 10)], [np.array([1, 1, 0.6, 0.35], np.float32)], mode=mode)
        yield case(f"Resize_both_{mode}", 10, "Resize", [f(1, 2, 9, 10)], [np.array([1, 1, 0.6, 1.7], np.float32)],
                   refused=TARGETS if mode == "nearest" else (), mode=mode)  # fmt: skip
    none = np.zeros(0, np.float32)
    for how in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for mode, nearest in (("nearest", "round_prefer_floor"), ("nearest", "ceil"), ("linear", "floor"), ("cubic", "floor")):
            for sizes in ([none, odd], [none, none, ints(2, 3, 7, 3)]):
                yield case(f"Resize_{how}_{mode}_{nearest}_{len(sizes)}", 11, "Resize", [x4], sizes, mode=mode, nearest_mode=nearest,
                           coordinate_transformation_mode=how)  # fmt: skip
    crop = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
    yield case("Resize_crop", 11, "Resize", [x4], [crop, none, ints(2, 3, 7, 3)], mode="linear", extrapolation_value=0.5,
               coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
    yield case("Resize_for_nn", 11, "Resize", [x4], [none, odd], refused=TARGETS, mode="nearest",
               coordinate_transformation_mode="tf_half_pixel_for_nn")  # fmt: skip
    for opset in (6, 10):
        yield case("Clip", opset, "Clip", [special], min=-1.0, max=2.0)
        yield case("Clip_max", opset, "Clip", [special], max=2.0)
        yield case("Clip_bare", opset, "Clip", [x2])
    for mode in ("constant", "reflect", "edge"):
        for opset in (7, 10):
            yield case(f"Pad_{mode}", opset, "Pad", [x3], mode=mode, pads=[0, 1, 2, 0, 0, 1])
    yield case("Pad_value", 10, "Pad", [x3], pads=[0, 1, 2, 0, -1, 1], value=1.5)
    yield case("Slice", 7, "Slice", [x4], starts=[0, -3], ends=[-1, 2147483647], axes=[1, 2])
    yield case("Slice_no_axes", 9, "Slice", [x4], starts=[0, 1], ends=[9, 2])
    yield case("TopK", 9, "TopK", [x4], results=2, k=2, axis=2)
    yield case("TopK_bare", 1, "TopK", [x4], results=2, k=2)
    yield case("Scatter", 9, "Scatter", [x2], [np.array([[0, 2, 1, 1]], np.int64), f(1, 4)], axis=0)
    for op in ("Add", "Sub", "Mul", "Div"):
        yield case(op, 7, op, [x4], [f(4, 1)])
    yield case("Gemm", 7, "Gemm", [f(3, 4)], [f(4, 5), f(5)], alpha=0.5)
    yield case("Gemm", 9, "Gemm", [f(3, 4)], [f(5, 4), f(3, 5)], transB=1)
    yield case("PRelu", 7, "PRelu", [x4], [f(3, 1, 1)])
    yield case("PRelu", 9, "PRelu", [x4], [f(1)])
    yield case("Reshape", 5, "Reshape", [x4], [ints(0, -1)])
    yield case("Selu", 6, "Selu", [special])
    for opset in (7, 8, 10, 11, 12):
        for name, attributes in {
            "plain": {}, "padded": {"pads": [1, 1, 0, 1], "strides": [2, 2]}, "same": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
            "lower": {"auto_pad": "SAME_LOWER", "strides": [2, 1]}, "ceil": {"ceil_mode": 1, "strides": [2, 2]},
            "ceil_padded": {"ceil_mode": 1, "strides": [2, 3], "pads": [1, 1, 1, 1]},
        }.items():  # fmt: skip
            if "ceil" in name and opset < 10:
                continue
            yield case(f"MaxPool_{name}", opset, "MaxPool", [f(1, 2, 8, 9)], kernel_shape=[3, 3], **attributes)
            for count in (0, 1):
                yield case(f"AveragePool_{name}_{count}", opset, "AveragePool", [f(1, 2, 8, 9)], kernel_shape=[3, 3],
                           count_include_pad=count, **attributes)  # fmt: skip
            if "ceil" not in name:
                yield case(f"LpPool_{name}", opset, "LpPool", [f(1, 2, 8, 9)], kernel_shape=[3, 3], p=3, **attributes)
                yield case(f"Conv_{name}", opset, "Conv", [f(1, 2, 8, 9)], [f(4, 2, 3, 3), f(4)], **attributes)
    yield case("MaxPool_indices", 8, "MaxPool", [f(1, 2, 8, 9)], results=2, kernel_shape=[3, 3])
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, count in (("forward", 1), ("bidirectional", 2)):
            weights = [f(count, gates * 6, 4), f(count, gates * 6, 6), f(count, 2 * gates * 6)]
            yield case(f"{op}_{direction}", 7, op, [f(5, 2, 4)], weights, results=2, hidden_size=6, direction=direction)
    yield case("GRU_reset", 7, "GRU", [f(5, 2, 4)], [f(1, 18, 4), f(1, 18, 6), f(1, 36)], results=2, hidden_size=6, linear_before_reset=1)
    quantized = random.integers(0, 255, (2, 3, 4)).astype(np.uint8)
    yield case("DequantizeLinear", 10, "DequantizeLinear", [quantized], [np.float32(0.1), np.uint8(100)])
    yield case("QuantizeLinear", 10, "QuantizeLinear", [x3 * 5], [np.float32(0.1), np.uint8(100)])
    yield case("DequantizeLinear_axis", 13, "DequantizeLinear", [quantized], [np.abs(f(3)), np.array([1, 2, 3], np.uint8)], axis=1)
    for op in ("QLinearMatMul",):
        s, z = np.float32(0.1), np.uint8(100)
        yield case(op, 10, op, [quantized[0]], [s, z, random.integers(0, 255, (4, 5)).astype(np.uint8), s, z, s, z])
    grid = np.clip(f(2, 4, 6, 2), -1.2, 1.2)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            yield case(f"GridSample_{mode}_{padding}", 16, "GridSample", [x4, grid], mode=mode, padding_mode=padding)
    yield case("GridSample_bare", 16, "GridSample", [x4, grid])
    boxes, which = np.array([[0, 0, 3, 2], [1, 1, 4, 3]], np.float32), ints(0, 1)
    for mode in ("avg", "max"):
        yield case(f"RoiAlign_{mode}", 10, "RoiAlign", [x4, boxes, which], mode=mode, output_height=2, output_width=3, sampling_ratio=2)
    for axis in (1, 2):
        yield case(f"DFT_{axis}", 17, "DFT", [f(1, 8, 6, 1)], axis=axis)
    yield case("DFT_bare", 17, "DFT", [f(1, 8, 6, 1)])
    yield case("DFT_length", 17, "DFT", [f(1, 8, 6, 1)], [np.array(5, np.int64)])
    yield case("Cast", 6, "Cast", [special[:1, 1:]], to=TensorProto.INT32)
    yield case("ConstantOfShape", 9, "ConstantOfShape", [ints(2, 3)])
    yield case("OneHot", 9, "OneHot", [ints(0, 2, 1)], [ints(3), np.array([0, 1], np.float32)])
    yield case("EyeLike", 9, "EyeLike", [x2])
    yield case("Where", 9, "Where", [x2 > 0], [x2, f(4)])
    yield case("ArgMax", 11, "ArgMax", [x4], axis=2)
    yield case("Pow", 7, "Pow", [np.abs(x2)], [f(4)])
    yield case("Pow", 12, "Pow", [np.abs(x2)], [ints(2)])
    yield case("Max", 8, "Max", [x2], [f(4)])
    yield case("DepthToSpace", 1, "DepthToSpace", [f(1, 8, 2, 3)], blocksize=2)
    yield case("InstanceNormalization", 6, "InstanceNormalization", [x4], [f(3), f(3)])
    yield case("LpNormalization", 1, "LpNormalization", [x2], axis=1, p=1)
    yield case("MeanVarianceNormalization", 9, "MeanVarianceNormalization", [x4])
    yield case("ConvTranspose", 7, "ConvTranspose", [f(1, 2, 4, 5)], [f(2, 3, 3, 3)], strides=[2, 2], output_padding=[1, 0])
    yield case("LRN", 7, "LRN", [x4], size=3)
    yield case("Tile", 6, "Tile", [x2], [ints(2, 1)])
    yield from bodies(x2)


def bodies(x: np.ndarray) -> Iterator[Case]:
    """Operators inside `If` and `Loop`, one with captured operands."""
    softmax = helper.make_node("Softmax", ["x"], ["t"], axis=0)
    squeeze = helper.make_node("ReduceSum", ["t"], ["z"], axes=[0])
    then = helper.make_graph([softmax, squeeze], "then", [], [helper.make_tensor_value_info("z", 1, [1, 4])])
    other = helper.make_graph([helper.make_node("Clip", ["x"], ["u"], min=0.5), helper.make_node("ReduceMax", ["u"], ["v"], axes=[0])],
                              "else", [], [helper.make_tensor_value_info("v", 1, [1, 4])])  # fmt: skip
    choice = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    for opset in (9, 10):
        graph = helper.make_graph([choice], "if", [helper.make_tensor_value_info("x", 1, ["a", 4]), helper.make_tensor_value_info("c", 9, [])],
                                  [helper.make_tensor_value_info("y", 1, [1, 4])])  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
        for truth in (True, False):
            yield Case(f"If_{truth}_{opset}", model, {"x": x, "c": np.array(truth)}, refused=(13,))


def check(trial: Case, binary: pathlib.Path, target: int, level: int, folder: pathlib.Path) -> str | None:
    """What is wrong, if something is."""
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(trial.model, before)
    after.unlink(missing_ok=True)
    outcome = tool.optimize(binary, before, after, f"-O{level}", "--no-verify", "--opset", str(target), timeout=60)
    if target in trial.refused:
        return None if outcome.kind == "refused" and "cannot follow to opset" in outcome.message else "was not refused"
    if outcome.kind:
        return f"{outcome.kind}: {outcome.message}"
    raised = onnx.load(after)
    if raised.opset_import[0].version != target:
        return f"is of opset {raised.opset_import[0].version}"
    try:
        # The definition of this operator is not legal itself in onnx 1.23.
        full = "MeanVarianceNormalization" not in {node.op_type for node in raised.graph.node}
        onnx.checker.check_model(raised, full_check=full)
    except Exception as error:
        return f"the checker says {error}"
    [expected] = engines.run_onnxruntime(before, [trial.feed])
    try:
        [results] = engines.run_onnxruntime(after, [trial.feed])
    except Exception as error:
        return str(error)
    for one, other in zip(expected, results, strict=True):
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{other.dtype} {other.shape} instead of {one.dtype} {one.shape}"
        if not np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True):
            return f"differs by {np.nanmax(np.abs(one.astype(float) - other.astype(float))):.3g}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("--only", default="", help="regular expression on names of cases")
    parser.add_argument("--targets", default=",".join(map(str, TARGETS)))
    options = parser.parse_args()
    targets = [int(target) for target in options.targets.split(",")]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        for trial in cases():
            if not re.search(options.only, trial.name):
                continue
            own = trial.model.opset_import[0].version
            for target in targets:
                for level in (0, 2) if target == targets[-1] else (0,):
                    missing = (MISSING.get(node.op_type, 99) for node in trial.model.graph.node)
                    if target <= own or any(target >= version for version in missing):
                        continue
                    complaint = check(trial, options.binary, target, level, pathlib.Path(name))
                    passed, failed = passed + (complaint is None), failed + (complaint is not None)
                    if complaint:
                        print(f"{trial.name} -> {target} -O{level}: {' '.join(complaint.split())[:220]}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
