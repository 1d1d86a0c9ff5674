#!/usr/bin/env python3
"""Static int8 quantization by onnx-opt, onnxruntime.quantization and onnxsim, held against each other on models of yours.

    python scripts/compare_quantizers.py --binary target/release/onnx-opt --case MODEL DATA.npz [TASK] [--case ...]

DATA holds arrays of inputs by name, a row for each sample: the first are calibrated on, the last are compared on. TASK
is a command with {model} in it that prints `accuracy NUMBER`.

Ways: `default` is quantize_static as it is; `best` is what serves onnxruntime on x86 best, quant_pre_process and then
unsigned activations with signed weights by channel, at an operator set that has those (and `best core`, the same of
Conv, ConvTranspose, Gemm and MatMul alone); `onnxsim` is its quantize_static, of products alone, and `onnxsim all` of the
whole graph; `onnx-opt` is `--quantize int8 --calibrate`.

Every row: seconds and peak memory of a process of its own, with all that it starts; bytes; nodes of onnxruntime's
optimized model with integer kernels, products (Conv, Gemm, MatMul) that are left on floats, and QuantizeLinear and
DequantizeLinear nodes that are left; time of a run over that of the float model, medians of interleaved runs; signal
over error of the worst output; accuracy.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx

WAYS = ["onnx-opt", "best", "best core", "default", "onnxsim", "onnxsim all"]
CORE = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
FIRST_BY_CHANNEL = 13


def rows(path):
    """The samples of a file, each with a batch of one."""
    arrays = dict(np.load(path))
    counts = {array.shape[:1] for array in arrays.values()}
    if len(counts) != 1 or counts == {()}:
        return [arrays]
    (count,) = counts.pop()
    return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]


def split(path, count):
    """Samples to calibrate on and samples to compare on, others where there are enough."""
    found = rows(path)
    return found[:count], found[count:][-8:] or found[-8:]


def peer(way, model, data, count, result):
    """Quantizes by another tool; a process of its own."""
    if way.startswith("onnxsim"):
        import onnxsim

        quantized = onnxsim.quantize_static(model, split(data, int(count))[0], full_graph=way == "onnxsim all")
        onnx.save(quantized, result)
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.samples = iter(split(data, int(count))[0])

        def get_next(self):
            return next(self.samples, None)

    if way == "default":
        quantize_static(model, result, Reader())
        return
    loaded = onnx.load(model)
    if next(opset.version for opset in loaded.opset_import if not opset.domain) < FIRST_BY_CHANNEL:
        model = result + ".raised.onnx"
        onnx.save(onnx.version_converter.convert_version(loaded, 17), model)
    ready = result + ".ready.onnx"
    try:
        quant_pre_process(model, ready)
    except Exception:  # its symbolic shape inference gives up in many ways
        quant_pre_process(model, ready, skip_symbolic_shape=True)
    core = dict(op_types_to_quantize=CORE) if way == "best core" else {}
    types = dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    quantize_static(ready, result, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types, **core)


def measured(command, log, limit):
    """Runs a command: seconds, peak bytes of the largest process, and what went wrong."""
    with open(log, "w") as out:
        begin = time.perf_counter()
        # A group of its own is not needed: the limit is only a guard.
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=os.path.dirname(log))
        deadline = begin + limit
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline:
                process.kill()
                os.wait4(process.pid, 0)
                return limit, 0, f"no result within {limit} s"
            time.sleep(0.01)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    lines = [line for line in pathlib.Path(log).read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w*Error|error)\b", line)] or lines[-1:]
    return seconds, usage.ru_maxrss * 1024, (errors or ["failed"])[-1][:160] if process.returncode else None


def session(path, saved=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    if saved:
        # Layouts that are tied to this machine come after this level.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = saved
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def fused(path, folder):
    """Integer kernels, products on floats, and quantizers of onnxruntime's optimized model."""
    saved = os.path.join(folder, "optimized.onnx")
    session(path, saved)
    names = collections.Counter(node.op_type for node in onnx.load(saved).graph.node)
    integer = re.compile("QLinear|QGemm|ConvInteger|MatMulInteger|QAttention")
    products = re.compile("(Fused)?(Conv|ConvTranspose|Gemm|MatMul)$")
    return dict(
        integer=sum(count for name, count in names.items() if integer.match(name)),
        float_products=sum(count for name, count in names.items() if products.match(name)),
        quantizers=names["QuantizeLinear"] + names["DequantizeLinear"],
    )


def held(path, original, samples, seconds):
    """Latency over that of the original, and decibels of signal over error of the worst output."""
    a, b = session(original), session(path)
    names = {value.name for value in a.get_inputs()}
    samples = [{name: array for name, array in sample.items() if name in names} for sample in samples]
    signal, error = collections.Counter(), collections.Counter()
    for sample in samples:
        for place, (x, y) in enumerate(zip(a.run(None, sample), b.run(None, sample))):
            if x.dtype.kind == "f":
                x, y = x.astype(np.float64), y.astype(np.float64)
                signal[place] += float((x**2).sum())
                error[place] += float(((x - y) ** 2).sum())
    sqnr = min((10 * np.log10(signal[place] / max(error[place], 1e-300)) for place in signal), default=None)
    times = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < 15 or (time.perf_counter() < end and len(times[0]) < 2000):
        for model, found in zip((a, b), times):
            begin = time.perf_counter()
            model.run(None, samples[0])
            found.append(time.perf_counter() - begin)
    float_ms, integer_ms = (1e3 * float(np.median(found)) for found in times)
    return dict(float_ms=float_ms, ratio=integer_ms / float_ms, sqnr_db=sqnr)


def accuracy(task, model):
    words = [word.format(model=model) for word in shlex.split(task)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"accuracy (\S+)", text)[1])


def compare(case, ways, options):
    """A row for each way; rows come as they are measured."""
    model, data, task = os.path.abspath(case[0]), os.path.abspath(case[1]), case[2] if len(case) > 2 else None
    calibrated, compared = split(data, options.samples)
    yield dict(way="float", bytes=os.path.getsize(model), **({"accuracy": accuracy(task, model)} if task else {}))
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            result, log = os.path.join(folder, "q.onnx"), os.path.join(folder, "log")
            samples = os.path.join(folder, "samples.npz")
            np.savez(samples, **{name: np.concatenate([one[name] for one in calibrated]) if len(calibrated) > 1 else calibrated[0][name] for name in calibrated[0]})
            if way == "onnx-opt":
                command = [os.path.abspath(options.binary), model, "-o", result, "--quantize", "int8", "--calibrate", samples, *shlex.split(options.arguments)]
            else:
                command = [sys.executable, os.path.abspath(__file__), "--peer", way, model, data, str(options.samples), result]
            seconds, memory, problem = measured(command, log, options.limit)
            row = dict(way=way, seconds=seconds, peak_mb=memory / 1e6)
            if problem is None:
                try:
                    row["bytes"] = os.path.getsize(result)
                    row.update(fused(result, folder))
                    row.update(held(result, model, compared, options.seconds))
                    if task:
                        row["accuracy"] = accuracy(task, result)
                except Exception as error:  # a result that does not load or run is a result of the comparison
                    problem = str(error).splitlines()[0][:160]
            yield {**row, **({"problem": problem} if problem else {})}


COLUMNS = [
    ("way", "{}"), ("seconds", "{:.1f}"), ("peak_mb", "{:.0f}"), ("bytes", "{}"), ("integer", "{}"),
    ("float_products", "{}"), ("quantizers", "{}"), ("ratio", "{:.2f}"), ("sqnr_db", "{:.1f}"), ("accuracy", "{:.4f}"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", action="append", required=True, metavar="WORD")
    parser.add_argument("--binary", default="target/release/onnx-opt")
    parser.add_argument("--arguments", default="", help="more arguments of onnx-opt")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long latencies are measured")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a quantizer may take")
    parser.add_argument("--json", help="a file for all rows")
    options = parser.parse_args()
    found = {}
    for case in options.case:
        print(f"\n{os.path.basename(case[0])}")
        print("  ".join(f"{name:>14}" for name, _ in COLUMNS))
        for row in compare(case, options.ways.split(","), options):
            found.setdefault(os.path.basename(case[0]), []).append(row)
            cells = [form.format(row[name]) if row.get(name) is not None else "" for name, form in COLUMNS]
            print("  ".join(f"{cell:>14}" for cell in cells), row.get("problem", ""), flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
    else:
        main()
