"""The list of traps that the modules of this folder fill."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from pattern_book.builder import Model

# Values that tell rewrites apart which agree on ordinary numbers.
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -3e38, 0.5, 1.0, -1.0, 6.0, 1e-7], np.float32)


@dataclass
class Trap:
    """A model that a careless optimizer breaks. `random` models are not compared but judged."""

    name: str
    opset: int
    random: bool
    build: Callable[["TrapModel"], object]

    def model(self) -> "TrapModel":
        built = TrapModel(self.opset)
        result = self.build(built)
        built.outputs = [result] if isinstance(result, str) else list(result)
        return built


class TrapModel(Model):
    """A model with what else has to hold: `change` edits the finished model, `judge` looks at the result.

    `data_is_missing` has the weights in a file that is not there when the model is optimized.
    """

    def __init__(self, opset: int) -> None:
        super().__init__(opset)
        self.outputs: list[str] = []
        self.data_is_missing = False
        self.change: Callable[[onnx.ModelProto], None] = lambda model: None
        self.judge: Callable[[onnx.ModelProto, list[list[np.ndarray]]], str | None] = lambda result, outputs: None

    def special(self, name: str, *sizes: int | str) -> str:
        """A float input that takes unusual values too."""
        self.input(name, *sizes)
        self.samples[name] = lambda random, shape: random.choice(SPECIAL, shape)
        return name


TRAPS: dict[str, Trap] = {}


def trap(opset: int = 17, random: bool = False):
    """Registers `build(model)`, named for its trap, which gives the names of the outputs."""

    def register(build):
        assert build.__name__ not in TRAPS
        TRAPS[build.__name__] = Trap(build.__name__, opset, random, build)
        return build

    return register
