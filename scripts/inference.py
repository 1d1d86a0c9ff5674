#!/usr/bin/env python3
"""Compares the types that onnx-opt infers with those of onnx.shape_inference, value by value.

Over the backend test suite of the onnx package, and models of folders where given: declarations of inner values and
outputs are taken out, and what each infers from the inputs alone is compared, in bodies too. Onnx-opt must know at least
as much of each value and never say otherwise; of outputs, it must not say otherwise than the suite expects.

Where the two differ for a reason, it stands in EXPECTED.

    python scripts/inference.py [FOLDER...] [--only REGEX] [--binary PATH]
"""

import argparse
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TypeProto, helper, shape_inference

import suite
import tool

SECONDS = 60
DONE = "done"

# Cases where the two differ, and why.
EXPECTED = {
    "node/test_loop13_seq": "onnx has the rank of the members from an empty sequence: in the suite's result they are vectors",
    "node/test_loop16_seq_none": "if the body never runs, the result is no sequence but the optional one at the start",
    "local_function": "what stands in functions is known once calls are inlined",
}


def bare(content: bytes) -> tuple[ModelProto, list[str]]:
    """The model without declarations of inner values, its outputs made inner ones, and their names."""
    model = onnx.load_from_string(content)
    names = [value.name for value in model.graph.output]
    for path, graph in graphs(model.graph):
        del graph.value_info[:]
        for value in [*graph.input, *graph.output] if path else []:
            value.ClearField("type")
    del model.graph.output[:]
    model.graph.initializer.append(helper.make_tensor(DONE, onnx.TensorProto.FLOAT, [], [0.0]))
    model.graph.output.append(helper.make_tensor_value_info(DONE, onnx.TensorProto.FLOAT, []))
    if model.ir_version < 4:
        model.graph.input.append(helper.make_tensor_value_info(DONE, onnx.TensorProto.FLOAT, []))
    return model, names


def graphs(graph: GraphProto, path: str = "") -> Iterator[tuple[str, GraphProto]]:
    """A graph and its bodies, by the place of their owners."""
    yield path, graph
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            for number, body in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
                yield from graphs(body, f"{path}{index}.{attribute.name}.{number}/")


def types(model: ModelProto) -> dict[tuple[str, str], TypeProto]:
    """The declared types by graph and name; those of outputs count in bodies."""
    declared = ((path, [*graph.value_info, *(graph.output if path else [])]) for path, graph in graphs(model.graph))
    return {(path, value.name): value.type for path, values in declared for value in values}


def lacks(known: TypeProto, ours: TypeProto | None) -> str | None:
    """What `known` says and `ours` does not, or says otherwise."""
    kind = known.WhichOneof("value")
    if kind is None:
        return None
    if ours is None:
        return "nothing is known"
    if ours.WhichOneof("value") != kind:
        return f"{ours.WhichOneof('value')} instead of {kind}"
    one, other = getattr(known, kind), getattr(ours, kind)
    if kind in ("sequence_type", "optional_type"):
        return lacks(one.elem_type, other.elem_type)
    if kind == "map_type":
        return "other keys" if one.key_type != other.key_type else lacks(one.value_type, other.value_type)
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    if one.elem_type not in (0, other.elem_type):
        return f"element type {other.elem_type} instead of {one.elem_type}"
    if not one.HasField("shape"):
        return None
    if not other.HasField("shape"):
        return f"no rank instead of {text(one)}"
    sizes = list(zip(one.shape.dim, other.shape.dim))
    if len(one.shape.dim) != len(other.shape.dim):
        return f"{text(other)} instead of {text(one)}"
    # Some exporters write -1 for an unknown size.
    exact = all(b.HasField("dim_value") and a.dim_value == b.dim_value for a, b in sizes if a.dim_value >= 0 and a.HasField("dim_value"))
    # Names that onnx makes up say nothing.
    named = all(b.WhichOneof("value") for a, b in sizes if a.dim_param and not a.dim_param.startswith("unk__"))
    return None if exact and named else f"{text(other)} instead of {text(one)}"


def text(tensor: TypeProto.Tensor) -> str:
    return "[" + ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim) + "]"


def refutes(value: object, ours: TypeProto | None) -> str | None:
    """What `ours` says and an array of the suite refutes."""
    if ours is None or not isinstance(value, np.ndarray | np.generic) or ours.WhichOneof("value") != "tensor_type":
        return None
    if not ours.tensor_type.HasField("shape"):
        return None
    sizes = ours.tensor_type.shape.dim
    shape, dtype = np.asarray(value).shape, helper.tensor_dtype_to_np_dtype(ours.tensor_type.elem_type)
    if value.dtype.kind not in "OUS" and value.dtype != dtype:
        return f"{dtype}, and the suite expects {value.dtype}"
    fits = len(sizes) == len(shape) and all(not d.HasField("dim_value") or d.dim_value == s for d, s in zip(sizes, shape))
    return None if fits else f"{text(ours.tensor_type)}, and the suite expects {list(shape)}"


def examine(job: tuple[str, bytes, list, pathlib.Path]) -> tuple[int, list[str]]:
    """How many values onnx knows, and what is missing."""
    name, content, expected, binary = job
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    model, outputs = bare(content)
    try:
        theirs = types(shape_inference.infer_shapes(model, data_prop=True))
    except Exception:
        theirs = {}
    with tempfile.TemporaryDirectory() as folder:
        source, result = pathlib.Path(folder, "bare.onnx"), pathlib.Path(folder, "result.onnx")
        onnx.save(model, source)
        outcome = tool.optimize(binary, source, result, "-O0", "--value-info", timeout=SECONDS)
        if outcome.kind:
            return 0, [f"{name}: {outcome.message}"]
        ours = types(onnx.load(result))
    found = []
    for (path, value), known in theirs.items():
        if complaint := lacks(known, ours.get((path, value))):
            found.append(f"{name}: {path}{value}: {complaint}")
    for value, array in zip(outputs, expected):
        if complaint := refutes(array, ours.get(("", value))):
            found.append(f"{name}: {value}: {complaint}")
    return len(theirs), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--only", default="", help="regular expression on the names of cases")
    parser.add_argument("--binary", type=pathlib.Path, default=tool.default_binary())
    options = parser.parse_args()
    jobs = [(case.name, case.content, case.data_sets[0][1] if case.data_sets else [], options.binary) for case in suite.load()]
    for folder in options.folders:
        jobs += [(path.name, onnx.load(path).SerializeToString(), [], options.binary) for path in sorted(folder.glob("*.onnx"))]
    jobs = [job for job in jobs if re.search(options.only, job[0])]
    values, failed = 0, 0
    with multiprocessing.Pool() as pool:
        for (name, *_), (count, found) in zip(jobs, pool.imap(examine, jobs, chunksize=8)):
            values += count
            reason = next((reason for pattern, reason in EXPECTED.items() if re.search(pattern, name)), None)
            failed += bool(found) and reason is None
            for line in found if reason is None else []:
                print(line)
    print(f"{values} values that onnx knows")
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
