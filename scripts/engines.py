"""Runs a model in onnxruntime or in the reference evaluator of the onnx package."""

import pathlib

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)

Feed = dict[str, object]


def session(model: pathlib.Path | bytes, optimized: bool, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU with all of onnxruntime's own graph optimizations or with none."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_onnxruntime(model: pathlib.Path, feeds: list[Feed]) -> list[list]:
    """The outputs for every feed, unoptimized."""
    loaded = session(model, optimized=False)
    return [loaded.run(None, feed) for feed in feeds]


def run_reference(model: pathlib.Path, feeds: list[Feed]) -> list[list]:
    """The outputs for every feed, slowly."""
    evaluator = ReferenceEvaluator(str(model))
    with np.errstate(all="ignore"):
        return [evaluator.run(None, feed) for feed in feeds]


ENGINES = {"onnxruntime": run_onnxruntime, "reference": run_reference}
