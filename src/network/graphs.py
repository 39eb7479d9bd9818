"""A limited cache of a network's compiled graphs: each takes tens of megabytes."""
import collections
import gc
import time
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from ..core import interrupts
from ..core.console import compiling
from ..imaging.view import pad_batch

MAX_GRAPHS = 4  # cached graphs of a fixed shape
FREQUENT = 24_000_000  # values (30 images of 512x512) from which a graph per shape pays: 3 s to compile, 1.5x faster


class CompiledNetwork(nn.Cell):
    """A separate cell around a network, which frees its compiled graph when it is deleted."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.set_train(False)

    def construct(self, batch: ms.Tensor) -> Any:
        return self.network(batch)


class Graphs:
    """A callable that computes a network for batches, arrays [N, ...] -> arrays; the first output if there are several.

    Without any_shape each shape gets its own graph. With any_shape, a tensor with None for the variable sides, one
    graph computes all shapes, one image at a time to save memory, until FREQUENT values of one shape have been
    processed. A batch smaller than one with a graph is padded to its size.
    """

    def __init__(self, network: nn.Cell, any_shape: ms.Tensor | None = None) -> None:
        self.network, self.any_shape = network, any_shape
        # By shape, None for any; the least recently used first.
        self.cells: dict[tuple[int, ...] | None, CompiledNetwork] = {}
        self.came: collections.Counter[tuple[int, ...]] = collections.Counter()  # values by shape since it had no graph

    def compile(self, batch: np.ndarray) -> float:
        """Compile the graph for a batch unless it is cached. Returns the seconds it took, 0.0 if cached."""
        key = self._key(batch.shape)
        if key in self.cells:
            return 0.0
        start = time.perf_counter()
        cell = CompiledNetwork(self.network)
        if key is None:
            cell.set_inputs(self.any_shape)
        sides = "inputs of any size" if key is None else f"inputs {list(key)}"
        with interrupts.INTERRUPTS.blocked(), compiling(f"the network for {sides}"):
            cell.compile(ms.Tensor(batch))
        self.cells[key] = cell
        held = [shape for shape in self.cells if shape is not None]
        if len(held) > MAX_GRAPHS:
            del self.cells[held[0]], cell
            self.came[held[0][1:]] = 0
            gc.collect()
        return time.perf_counter() - start

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.compile(batch)
        key = self._key(batch.shape)
        self.cells[key] = self.cells.pop(key)
        self.came[batch.shape[1:]] += batch.size
        if key is not None:
            return self._output(key, pad_batch(batch, key[0]))[: len(batch)]
        return np.concatenate([self._output(None, image[None]) for image in batch])

    def _output(self, key: tuple[int, ...] | None, batch: np.ndarray) -> np.ndarray:
        output = self.cells[key](ms.Tensor(batch))
        return (output[0] if isinstance(output, tuple) else output).asnumpy()

    def _key(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the graph for batches of a shape; None for the graph of all shapes."""
        count, *rest = shape
        larger = [other[0] for other in self.cells
                  if other is not None and list(other[1:]) == rest and other[0] >= count]
        if larger:
            return min(larger), *rest
        if self.any_shape is not None and self.came[shape[1:]] < FREQUENT:
            return None
        return shape
