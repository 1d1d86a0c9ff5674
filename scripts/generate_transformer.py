#!/usr/bin/env python3
"""Writes a transformer encoder as the TorchScript exporter of PyTorch writes it, nothing folded.

Batch and sequence are symbolic, LayerNormalization and Gelu are decomposed, every layer computes its
Reshape targets from Shape. A layer is 111 nodes, the rest 12: 12 layers are 1,344 nodes, 128 are 14,220.

    python scripts/generate_transformer.py --layers 128 --hidden 32 --out encoder.onnx
"""

import argparse
import pathlib

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

VOCABULARY = 64


class Builder:
    """Collects nodes and weights under unique names."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.scope = ""
        self.counts: dict[str, int] = {}
        self.random = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Adds a node with one output and returns that output's name."""
        path = f"{self.scope}/{kind}"
        count = self.counts.get(path, 0)
        self.counts[path] = count + 1
        name = f"{path}_{count}" if count else path
        output = f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, value: object, dtype: type = np.int64) -> str:
        """A Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def weight(self, name: str, *shape: int, around: float = 0.0) -> str:
        """A random initializer, scaled so that activations keep their size."""
        scale = np.float32(1 / np.sqrt(shape[0]) if len(shape) == 2 else 0.1)
        value = self.random.standard_normal(shape, np.float32) * scale + np.float32(around)
        full = f"{self.scope}/{name}".strip("/").replace("/", ".")
        self.weights.append(numpy_helper.from_array(value, full))
        return full

    def linear(self, x: str, name: str, inner: int, outer: int) -> str:
        """MatMul with a bias, which the exporter puts first."""
        product = self.op("MatMul", x, self.weight(f"{name}.weight", inner, outer))
        return self.op("Add", self.weight(f"{name}.bias", outer), product)

    def size(self, x: str, axis: int) -> str:
        """x.size(axis) as a scalar."""
        return self.op("Gather", self.op("Shape", x), self.constant(axis), axis=0)

    def reshape(self, x: str, sizes: list[str | int]) -> str:
        """x.view(sizes): every size is unsqueezed and concatenated, computed or not."""
        scalars = [self.constant(s) if isinstance(s, int) else s for s in sizes]
        vectors = [self.op("Unsqueeze", s, self.constant([0])) for s in scalars]
        return self.op("Reshape", x, self.op("Concat", *vectors, axis=0))

    def layer_norm(self, x: str, name: str, hidden: int) -> str:
        """LayerNormalization over the last axis in eleven nodes."""
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        squares = self.op("Pow", centred, self.constant(2.0, np.float32))
        variance = self.op("ReduceMean", squares, axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(1e-5, np.float32)))
        scaled = self.op("Mul", self.op("Div", centred, deviation), self.weight(f"{name}.weight", hidden, around=1))
        return self.op("Add", scaled, self.weight(f"{name}.bias", hidden))

    def gelu(self, x: str) -> str:
        """x * (1 + erf(x / sqrt 2)) * 0.5."""
        erf = self.op("Erf", self.op("Div", x, self.constant(np.sqrt(2), np.float32)))
        product = self.op("Mul", x, self.op("Add", erf, self.constant(1.0, np.float32)))
        return self.op("Mul", product, self.constant(0.5, np.float32))

    def attention(self, x: str, mask: str, hidden: int, heads: int) -> str:
        """Multi-head attention without its residual connection."""
        batch, sequence, head = self.size(x, 0), self.size(x, 1), hidden // heads
        split = {}
        for part in ("query", "key", "value"):
            projected = self.linear(x, part, hidden, hidden)
            order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            split[part] = self.op("Transpose", self.reshape(projected, [batch, sequence, heads, head]), perm=order)
        scores = self.op("MatMul", split["query"], split["key"])
        scores = self.op("Div", scores, self.constant(np.sqrt(head), np.float32))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        context = self.op("Transpose", self.op("MatMul", weights, split["value"]), perm=[0, 2, 1, 3])
        merged = self.reshape(context, [self.size(context, 0), self.size(context, 1), hidden])
        return self.linear(merged, "output", hidden, hidden)

    def layer(self, x: str, mask: str, hidden: int, heads: int) -> str:
        """One post-norm encoder layer."""
        x = self.layer_norm(self.op("Add", self.attention(x, mask, hidden, heads), x), "norm1", hidden)
        inner = self.gelu(self.linear(x, "up", hidden, 4 * hidden))
        return self.layer_norm(self.op("Add", self.linear(inner, "down", 4 * hidden, hidden), x), "norm2", hidden)


def encoder(layers: int, hidden: int, heads: int, seed: int = 0, opset: int = 17) -> ModelProto:
    """The whole model: token embedding, mask, `layers` layers, pooler."""
    b = Builder(seed)
    x = b.op("Gather", b.weight("embedding", VOCABULARY, hidden), "input_ids")
    mask = b.op("Cast", b.op("Unsqueeze", "attention_mask", b.constant([1, 2])), to=TensorProto.FLOAT)
    mask = b.op("Mul", b.op("Sub", b.constant(1.0, np.float32), mask), b.constant(-1e4, np.float32))
    for index in range(layers):
        b.scope = f"/layer.{index}"
        x = b.layer(x, mask, hidden, heads)
    b.scope = "/pooler"
    first = b.op("Gather", x, b.constant(0), axis=1)
    pooled = b.op("Gemm", first, b.weight("weight", hidden, hidden), b.weight("bias", hidden), transB=1)
    b.op("Tanh", pooled)
    b.nodes[-1].output[0] = "pooled"
    # The last layer's result is an output too.
    for node in b.nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == x:
                    names[index] = "last_hidden_state"
    tokens = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")]
    results = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", hidden]),
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", hidden]),
    ]
    graph = helper.make_graph(b.nodes, "main_graph", tokens, results, b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="onnx-opt fixtures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--heads", type=int, help="default: one for every 64 of hidden, at least 2")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    heads = arguments.heads or max(2, arguments.hidden // 64)
    model = encoder(arguments.layers, arguments.hidden, heads)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{arguments.out}: {len(model.graph.node):,} nodes, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
