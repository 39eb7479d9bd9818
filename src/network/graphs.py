"""A network's compiled graphs, of which few are held: each takes tens of megabytes."""
import collections
import gc
import time

import mindspore as ms
import numpy as np
from mindspore import nn

from ..core import interrupts
from ..imaging.view import pad_batch

MAX_GRAPHS = 4  # graphs of one shape that are held
FREQUENT = 24_000_000  # values of one shape, 30 images of 512x512, for which its own graph pays: 3 s to compile, then 1.5 times as fast


class CompiledNetwork(nn.Cell):
    """A cell of its own around a network, with whose end its compiled graph goes."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.set_train(False)

    def construct(self, batch):
        return self.network(batch)


class Graphs:
    """Call it with a batch, an array [N, ...]: the output of network for it as an array, the first if it has several.

    Without any_shape each shape gets its own graph. With any_shape, a tensor whose shape holds None for what varies, one graph computes
    all shapes, until FREQUENT values of one shape have come; one image at a time, which takes the least memory. A batch smaller than one
    that has a graph is filled up to that.
    """

    def __init__(self, network, any_shape=None):
        self.network, self.any_shape = network, any_shape
        self.cells = {}  # by shape, None for any; the one used last stands last
        self.came = collections.Counter()  # values of each shape that have come since it last had a graph

    def compile(self, batch):
        """Compile the graph that a batch needs, unless it is there. Returns the seconds it took, 0.0 if it was."""
        key = self._key(batch.shape)
        if key in self.cells:
            return 0.0
        start = time.perf_counter()
        cell = CompiledNetwork(self.network)
        if key is None:
            cell.set_inputs(self.any_shape)
        with interrupts.INTERRUPTS.blocked():
            cell.compile(ms.Tensor(batch))
        self.cells[key] = cell
        held = [shape for shape in self.cells if shape is not None]
        if len(held) > MAX_GRAPHS:
            del self.cells[held[0]], cell
            self.came[held[0][1:]] = 0
            gc.collect()
        return time.perf_counter() - start

    def __call__(self, batch):
        self.compile(batch)
        key = self._key(batch.shape)
        self.cells[key] = self.cells.pop(key)
        self.came[batch.shape[1:]] += batch.size
        if key is not None:
            return self._output(key, pad_batch(batch, key[0]))[: len(batch)]
        return np.concatenate([self._output(None, image[None]) for image in batch])

    def _output(self, key, batch):
        output = self.cells[key](ms.Tensor(batch))
        return (output[0] if isinstance(output, tuple) else output).asnumpy()

    def _key(self, shape):
        """The shape whose graph computes a batch of this one; None for the graph of any."""
        count, *rest = shape
        larger = [other[0] for other in self.cells if other is not None and list(other[1:]) == rest and other[0] >= count]
        if larger:
            return min(larger), *rest
        if self.any_shape is not None and self.came[shape[1:]] < FREQUENT:
            return None
        return shape
