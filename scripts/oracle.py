#!/usr/bin/env python3
"""Holds what onnx-opt predicts of quantized models against what onnxruntime makes of them.

`onnx-opt inspect --json` says which nodes onnxruntime will run on integers, and how many QuantizeLinear and
DequantizeLinear nodes are left; the model that onnxruntime saves after its own optimizations says what became of them.
Without models of yours, graphs are made: operators in every neighbourhood that its selectors tell apart.

    python scripts/oracle.py [MODEL ...] [--only REGEX] [--binary PATH] [-v]
"""

import argparse
import collections
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import tool

UNSIGNED, SIGNED, WIDE = np.uint8, np.int8, np.uint16


class Net:
    """A graph of quantized operators under construction; values are floats between pairs."""

    def __init__(self, opset=17):
        self.opset, self.nodes, self.constants, self.inputs, self.outputs = opset, [], [], [], []
        self.count = 0
        self.random = np.random.default_rng(0)

    def name(self):
        self.count += 1
        return f"v{self.count}"

    def constant(self, value):
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, shape, element=TensorProto.FLOAT):
        name = self.name()
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def op(self, op_type, *operands, outputs=1, **attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(operands), names, name=f"n{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def q(self, x, scale=0.05, zero=100, element=UNSIGNED):
        return self.op("QuantizeLinear", x, self.constant(np.float32(scale)), self.constant(element(zero)))

    def dq(self, x, scale=0.05, zero=100, element=UNSIGNED):
        return self.op("DequantizeLinear", x, self.constant(np.float32(scale)), self.constant(element(zero)))

    def pair(self, x, scale=0.05, zero=100, element=UNSIGNED):
        return self.dq(self.q(x, scale, zero, element), scale, zero, element)

    def weights(self, shape, axis=None, element=SIGNED):
        """Constant integers as floats, by a scale for each place on an axis or by one."""
        info = np.iinfo(element)
        values = self.constant(self.random.integers(info.min + 1, info.max, shape).astype(element))
        if axis is None:
            return self.dq(values, 0.01, 128 if element == UNSIGNED else 0, element)
        count = shape[axis]
        scale = self.constant(np.linspace(0.01, 0.02, count, dtype=np.float32))
        zero = self.constant(np.zeros(count, element))
        return self.op("DequantizeLinear", values, scale, zero, axis=axis)

    def bias(self, count, axis=None, operand=0.05):
        values = self.constant(self.random.integers(-100, 100, count).astype(np.int32))
        if axis is None:
            return self.op("DequantizeLinear", values, self.constant(np.float32(operand * 0.01)))
        scale = self.constant(np.float32(operand) * np.linspace(0.01, 0.02, count, dtype=np.float32))
        return self.op("DequantizeLinear", values, scale, axis=0)

    def conv(self, x, inputs=8, outputs=8, axis=0, bias=True, group=1, size=3, element=SIGNED, operand=0.05):
        """A convolution whose bias has the scale of an operand with the scale `operand`."""
        operands = [x, self.weights((outputs, inputs // group, size, size), axis, element)]
        if bias:
            operands.append(self.bias(outputs, axis, operand))
        return self.op("Conv", *operands, pads=[size // 2] * 4, group=group)

    def output(self, *names):
        self.outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        return self

    def model(self):
        graph = helper.make_graph(self.nodes, "oracle", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return onnx.shape_inference.infer_shapes(model)


GRAPHS = {}


def graph(build):
    """Registers a graph under the name of the function that makes it."""
    GRAPHS[build.__name__] = build
    return build


def image(net, channels=8):
    return net.input([1, channels, 12, 12])


def convolutions():
    for axis, bias, act, element in itertools.product((None, 0), (True, False), (None, "Relu", "Clip"), (UNSIGNED, SIGNED)):
        def build(axis=axis, bias=bias, act=act, element=element):
            net = Net()
            zero = 0 if element == UNSIGNED else -128
            x = net.pair(image(net), 0.05, zero, element)
            y = net.conv(x, axis=axis, bias=bias)
            if act == "Relu":
                y = net.op("Relu", y)
            elif act == "Clip":
                y = net.op("Clip", y, net.constant(np.float32(0)), net.constant(np.float32(6)))
            return net.output(net.pair(y, 6 / 255, zero, element))
        GRAPHS[f"conv_axis_{axis}_bias_{bias}_{act}_{element.__name__}"] = build


convolutions()


@graph
def conv_of_unsigned_weights():
    net = Net()
    return net.output(net.pair(net.conv(net.pair(image(net)), axis=None, element=UNSIGNED)))


@graph
def conv_without_quantizer():
    net = Net()
    return net.output(net.conv(net.pair(image(net))))


@graph
def conv_of_floats():
    net = Net()
    return net.output(net.pair(net.conv(image(net))))


@graph
def conv_whose_result_is_wanted_as_floats_too():
    net = Net()
    y = net.conv(net.pair(image(net)))
    return net.output(net.pair(y), net.op("Tanh", y))


@graph
def conv_whose_result_is_an_output():
    net = Net()
    y = net.conv(net.pair(image(net)))
    return net.output(net.pair(y), y)


@graph
def conv_depthwise():
    net = Net()
    return net.output(net.pair(net.conv(net.pair(image(net)), group=8)))


@graph
def conv_of_one_axis():
    net = Net()
    x = net.pair(net.input([1, 8, 30]))
    return net.output(net.pair(net.op("Conv", x, net.weights((8, 8, 3), 0), net.bias(8, 0), pads=[1, 1])))


@graph
def conv_with_a_bias_of_floats():
    net = Net()
    x = net.pair(image(net))
    bias = net.constant(np.ones(8, np.float32))
    return net.output(net.pair(net.op("Conv", x, net.weights((8, 8, 3, 3), 0), bias)))


def off_scales():
    for channels, factor in itertools.product((None, 0), (1.005, 1.02, 0.98)):
        def build(channels=channels, factor=factor):
            net = Net()
            return net.output(net.pair(net.conv(net.pair(image(net)), axis=channels, operand=0.05 * factor)))
        GRAPHS[f"conv_axis_{channels}_whose_bias_is_off_by_{factor}"] = build

        def gemm(channels=channels, factor=factor):
            net = Net()
            operands = [net.pair(net.input([4, 16])), net.weights((16, 24), None if channels is None else 1)]
            return net.output(net.pair(net.op("Gemm", *operands, net.bias(24, channels, 0.05 * factor))))
        GRAPHS[f"gemm_axis_{channels}_whose_bias_is_off_by_{factor}"] = gemm


off_scales()


def products_of_floats():
    for op_type, bias, behind in itertools.product(("Conv", "ConvTranspose", "Gemm", "MatMul"), (True, False), ("pair", "relu", "floats")):
        def build(op_type=op_type, bias=bias, behind=behind):
            net = Net()
            matrix = op_type in ("Gemm", "MatMul")
            x = net.pair(net.input([4, 8]) if matrix else image(net))
            weights = net.constant(net.random.standard_normal((8, 8) if matrix else (8, 8, 2, 2)).astype(np.float32))
            operands = [x, weights] + ([net.constant(np.ones(8, np.float32))] if bias and op_type != "MatMul" else [])
            y = net.op(op_type, *operands)
            if behind == "floats":
                return net.output(net.op("Tanh", y))
            return net.output(net.pair(net.op("Relu", y) if behind == "relu" else y, 0.05, 0))
        GRAPHS[f"{op_type}_of_float_weights_bias_{bias}_{behind}"] = build


products_of_floats()


@graph
def convolution_kept_from_being_quantized():
    net = Net()
    x = net.q(net.conv(net.pair(image(net))))
    scales, zeros = net.constant(np.full(8, 0.05, np.float32)), net.constant(np.full(8, 100, UNSIGNED))
    x = net.op("DequantizeLinear", x, scales, zeros, axis=1)
    weights = net.constant(np.ones((8, 8, 3, 3), np.float32))
    return net.output(net.pair(net.op("Conv", x, weights)))


@graph
def conv_with_mixed_types():
    net = Net()
    return net.output(net.pair(net.conv(net.pair(image(net))), 0.05, 0, SIGNED))


@graph
def conv_of_weights_that_are_not_constant():
    net = Net()
    x, w = net.pair(image(net)), net.pair(net.input([8, 8, 3, 3]), 0.01, 0, SIGNED)
    return net.output(net.pair(net.op("Conv", x, w)))


@graph
def conv_with_a_relu_that_the_quantizer_does_not_replace():
    net = Net()
    return net.output(net.pair(net.op("Relu", net.conv(net.pair(image(net)))), 0.05, 100))


@graph
def conv_with_a_clip_that_the_quantizer_does_not_replace():
    net = Net()
    limits = [net.constant(np.float32(limit)) for limit in (0, 3)]
    return net.output(net.pair(net.op("Clip", net.conv(net.pair(image(net))), *limits), 6 / 255, 0))


@graph
def conv_of_sixteen_bits():
    net = Net(21)
    x = net.pair(image(net), 0.001, 30000, WIDE)
    return net.output(net.pair(net.conv(x), 0.001, 30000, WIDE))


@graph
def chain_that_shares_dequantizers():
    net = Net()
    x = net.pair(image(net))
    a, b = net.pair(net.conv(x)), net.pair(net.conv(x))
    return net.output(net.pair(net.op("Add", a, b)))


def residuals():
    for element in (UNSIGNED, SIGNED):
        def build(element=element):
            net = Net()
            zero = 100 if element == UNSIGNED else 0
            x = net.pair(net.conv(net.pair(image(net), 0.05, zero, element)), 0.05, zero, element)
            y = net.pair(net.conv(x), 0.04, zero, element)
            return net.output(net.pair(net.op("Add", x, y), 0.1, zero, element))
        GRAPHS[f"residual_{element.__name__}"] = build


residuals()


@graph
def residual_whose_shortcut_alone_is_quantized():
    net = Net()
    x = net.pair(image(net))
    return net.output(net.pair(net.op("Add", x, net.conv(x))))


@graph
def add_of_a_constant():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    return net.output(net.pair(net.op("Add", x, net.dq(net.constant(UNSIGNED(255)), 3 / 255, 0))))


@graph
def add_of_a_constant_of_floats():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    return net.output(net.pair(net.op("Add", x, net.constant(np.float32(3)))))


@graph
def hard_swish_in_parts():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    gate = net.op("Add", x, net.dq(net.constant(UNSIGNED(255)), 3 / 255, 0))
    gate = net.op("Clip", gate, net.constant(np.float32(0)), net.constant(np.float32(6)))
    gate = net.dq(net.q(gate, 6 / 255, 0), 1 / 255, 0)
    x = net.pair(net.op("Mul", x, gate))
    return net.output(net.pair(net.conv(x)))


@graph
def squeeze_and_excite():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    s = net.pair(net.op("GlobalAveragePool", x), 0.03)
    s = net.pair(net.op("Relu", net.conv(s, size=1, operand=0.03)), 0.02, 0)
    s = net.pair(net.op("Sigmoid", net.pair(net.conv(s, size=1, operand=0.02))), 1 / 255, 0)
    return net.output(net.pair(net.op("Mul", x, s)))


def unary():
    for op_type, attributes in {
        "AveragePool": dict(kernel_shape=[2, 2]), "GlobalAveragePool": {}, "LeakyRelu": {}, "Sigmoid": {}, "Softmax": {},
        "Tanh": {}, "Elu": {}, "HardSigmoid": {}, "HardSwish": {}, "Sqrt": {}, "Exp": {}, "Relu": {},
    }.items():
        for same, between in itertools.product((True, False), (True, False)):
            def build(op_type=op_type, attributes=attributes, same=same, between=between):
                net = Net()
                x = net.pair(image(net))
                if between:
                    x = net.pair(net.conv(x))
                x = net.pair(net.op(op_type, x, **attributes), 0.05 if same else 0.03)
                if between:
                    x = net.pair(net.conv(x))
                return net.output(x)
            GRAPHS[f"{op_type}_{'same' if same else 'other'}_scale_{'between' if between else 'alone'}"] = build


unary()


def movers():
    def ints(net, *values):
        return net.constant(np.array(values, np.int64))
    makers = {
        "MaxPool": lambda net, x: net.op("MaxPool", x, kernel_shape=[2, 2]),
        "Reshape": lambda net, x: net.op("Reshape", x, ints(net, 1, 8, 6, 24)),
        "Transpose": lambda net, x: net.op("Transpose", x, perm=[0, 1, 3, 2]),
        "Flatten": lambda net, x: net.op("Flatten", x),
        "Squeeze": lambda net, x: net.op("Squeeze", x, ints(net, 0)),
        "Unsqueeze": lambda net, x: net.op("Unsqueeze", x, ints(net, 0)),
        "Slice": lambda net, x: net.op("Slice", x, ints(net, 0), ints(net, 4), ints(net, 1)),
        "Expand": lambda net, x: net.op("Expand", x, ints(net, 2, 8, 12, 12)),
        "Tile": lambda net, x: net.op("Tile", x, ints(net, 1, 1, 1, 2)),
        "Gather": lambda net, x: net.op("Gather", x, ints(net, 0, 1), axis=1),
        "Resize": lambda net, x: net.op("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest"),
        "Resize_linear": lambda net, x: net.op("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear"),
        "DepthToSpace": lambda net, x: net.op("DepthToSpace", x, blocksize=2),
        "SpaceToDepth": lambda net, x: net.op("SpaceToDepth", x, blocksize=2),
        "Pad": lambda net, x: net.op("Pad", x, ints(net, 0, 0, 1, 1, 0, 0, 1, 1)),
        "ReduceMax": lambda net, x: net.op("ReduceMax", x, axes=[2, 3]),
        "ReduceMean": lambda net, x: net.op("ReduceMean", x, axes=[2, 3]),
    }
    for name, make in makers.items():
        for scale in (0.05, 0.03):
            def build(make=make, scale=scale):
                net = Net()
                x = net.pair(net.conv(net.pair(image(net))))
                return net.output(net.pair(make(net, x), scale))
            GRAPHS[f"{name}_{'same' if scale == 0.05 else 'other'}_scale"] = build

        def without(make=make):
            net = Net()
            x = net.pair(net.conv(net.pair(image(net))))
            return net.output(net.op("Tanh", make(net, x)))
        GRAPHS[f"{name}_before_floats"] = without

        def behind(make=make):
            net = Net()
            return net.output(net.op("Tanh", net.pair(make(net, net.op("Tanh", image(net))))))
        GRAPHS[f"{name}_behind_floats"] = behind


movers()


@graph
def split():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    a, b = net.op("Split", x, outputs=2, axis=1)
    return net.output(net.pair(net.conv(net.pair(a), 4)), net.pair(net.conv(net.pair(b), 4)))


@graph
def split_with_another_scale():
    net = Net()
    a, b = net.op("Split", net.pair(net.conv(net.pair(image(net)))), outputs=2, axis=1)
    return net.output(net.pair(a), net.pair(b, 0.03))


@graph
def concat():
    net = Net()
    x = net.pair(image(net))
    a, b = net.pair(net.conv(x), 0.03), net.pair(net.conv(x), 0.04)
    return net.output(net.pair(net.op("Concat", a, b, axis=1)))


@graph
def concat_with_floats():
    net = Net()
    x = image(net)
    return net.output(net.pair(net.op("Concat", net.pair(net.conv(net.pair(x))), x, axis=1)))


@graph
def where():
    net = Net()
    x = net.pair(image(net))
    condition = net.input([1, 8, 12, 12], TensorProto.BOOL)
    return net.output(net.pair(net.op("Where", condition, x, net.pair(net.conv(x)))))


def products():
    for axis, rank, quantized in itertools.product((None, 1), (2, 3), (True, False)):
        def build(axis=axis, rank=rank, quantized=quantized):
            net = Net()
            x = net.pair(net.input([4, 16] if rank == 2 else [2, 4, 16]))
            y = net.op("MatMul", x, net.weights((16, 24), axis))
            return net.output(net.pair(y) if quantized else net.op("Tanh", y))
        GRAPHS[f"matmul_axis_{axis}_rank_{rank}_{'quantized' if quantized else 'open'}"] = build
    for transposed, bias, quantized in itertools.product((0, 1), ("int", "float", None), (True, False)):
        def build(transposed=transposed, bias=bias, quantized=quantized):
            net = Net()
            x = net.pair(net.input([4, 16]))
            shape, axis = ((24, 16), 0) if transposed else ((16, 24), 1)
            operands = [x, net.weights(shape, axis)]
            if bias == "int":
                operands.append(net.bias(24, 0))
            elif bias == "float":
                operands.append(net.constant(np.ones(24, np.float32)))
            y = net.op("Gemm", *operands, transB=transposed)
            return net.output(net.pair(y) if quantized else net.op("Tanh", y))
        GRAPHS[f"gemm_{transposed}_bias_{bias}_{'quantized' if quantized else 'open'}"] = build


products()


@graph
def matmul_of_rows():
    net = Net()
    return net.output(net.pair(net.op("MatMul", net.pair(net.input([4, 16])), net.weights((16, 24), 0))))


@graph
def matmul_with_other_users():
    net = Net()
    y = net.op("MatMul", net.pair(net.input([4, 16])), net.weights((16, 24), 1))
    return net.output(net.pair(y), net.op("Tanh", y))


@graph
def attention():
    net = Net()
    q, k = (net.pair(net.input([1, 2, 6, 8])) for _ in range(2))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    return net.output(net.op("Softmax", scores))


@graph
def transformer_layer():
    net = Net()
    x = net.input([1, 6, 16])
    scale, shift = (net.constant(np.ones(16, np.float32)) for _ in range(2))
    n = net.op("LayerNormalization", x, scale, shift)
    d = net.pair(n)
    q, k, v = (net.op("MatMul", d, net.weights((16, 16), 1)) for _ in range(3))
    s = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    y = net.op("MatMul", net.pair(net.op("MatMul", s, v)), net.weights((16, 16), 1))
    return net.output(net.op("Add", y, n))


@graph
def transposed_convolution():
    net = Net()
    x = net.pair(net.conv(net.pair(image(net))))
    y = net.op("ConvTranspose", x, net.weights((8, 8, 2, 2), 1), strides=[2, 2])
    return net.output(net.pair(net.conv(net.pair(y))))


for version in (13, 19, 21, 22, 23, 24, 25):
    def of_version(version=version):
        net = Net(version)
        return net.output(net.pair(net.conv(net.pair(image(net)))))
    GRAPHS[f"conv_of_opset_{version}"] = of_version


def reality(path: pathlib.Path, folder: pathlib.Path):
    """Operators on integers, quantizers and dequantizers in the model that onnxruntime makes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    counts = collections.Counter(node.op_type for node in graph.node)
    integers = {name: count for name, count in counts.items() if is_kernel(name)}
    constants = {tensor.name for tensor in graph.initializer}
    computed = sum(node.op_type == "DequantizeLinear" and node.input[0] not in constants for node in graph.node)
    return integers, counts["QuantizeLinear"], computed


def is_kernel(name: str) -> bool:
    return name.startswith("QLinear") or name in ("QGemm", "MatMulIntegerToFloat")


def prediction(binary: pathlib.Path, path: pathlib.Path):
    """The same as onnx-opt predicts it, and what it says of each node."""
    done = subprocess.run([binary, "inspect", path, "--json"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout).get("integers")
    if found is None:
        return {}, 0, 0, []
    kernels = {name: count for name, count in found["kernels"].items() if is_kernel(name)}
    return kernels, found["quantize"], found["dequantize"], found["nodes"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    right = cases = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        paths = {path.name: path for path in arguments.models}
        if not paths:
            for name, build in GRAPHS.items():
                paths[name] = folder / f"{name}.onnx"
                onnx.save(build().model(), paths[name])
        for name, path in paths.items():
            if not re.search(arguments.only, name):
                continue
            cases += 1
            try:
                real = reality(path, folder)
            except Exception as error:
                print(f"{name}: onnxruntime does not load it: {str(error).splitlines()[0][:200]}")
                continue
            *said, nodes = prediction(arguments.binary, path)
            if tuple(said) == real:
                right += 1
            else:
                print(f"{name}: predicted {tuple(said)}, is {real}")
            if arguments.verbose:
                for node in nodes:
                    print(f"    {node['operator']} {node['node']}: {node.get('kernel') or node.get('reason')}")
    print(f"{cases} predictions, {right} right")
    return 0 if right == cases else 1


if __name__ == "__main__":
    sys.exit(main())
