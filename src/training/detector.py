"""Detection with the parameters of a network in training."""
import contextlib
from collections.abc import Iterator

import mindspore as ms
from mindspore import nn

from ..inference.detector import Detector, build_detector, takes_any_size
from ..model_utils.config import Config
from ..network import folding
from ..network.architectures import network_facts
from ..network.centernet import build_network
from ..network.deform_conv import resolve_dcn_impl
from .ema import WeightAverage


class TrainingDetector:
    """Shares the parameters in training with an inference network, so that the device holds no second copy.

    The detector equals that of detector.load_detector for a checkpoint of the same moment: batch norm is folded by the
    same rules, so that both give the same numbers. Args: network, a CenterNet; average, its WeightAverage, which then
    provides the weights, or None; description, the side file's dictionary.
    """

    def __init__(self, network: nn.Cell, average: WeightAverage | None, description: dict, config: Config,
                 device_target: str):
        self.network, self.average, self.config = network, average, config
        self.description = {**description, **network_facts(description["net_config"])}
        self.dcn_impl = resolve_dcn_impl(config.net_config.dcn_impl, device_target)
        self.any_size = takes_any_size(config.eval_config, device_target, self.dcn_impl)
        self.foldable: list[bool] = []
        self.pairs: list[folding.Normalized] = []
        self.detector: Detector | None = None

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Detector]:
        """Yield the Detector. Within the block the network's parameters hold the values for inference.

        Afterwards they are restored, bit for bit, from a copy in host memory.
        """
        trained = {parameter: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}
        try:
            if self.average is not None:
                for parameter, value in zip(self.average.weights, self.average.averages):
                    parameter.set_data(ms.Tensor(value.asnumpy().copy()))
            yield self._folded()
        finally:
            for parameter, value in trained.items():
                parameter.set_data(ms.Tensor(value))

    def _folded(self) -> Detector:
        """The detector with the batch norms folded for the current weights; a new graph if others can be folded."""
        if self.detector is None or [folding.can_fold(pair) for pair in self.pairs] != self.foldable:
            self.detector = self._build()
            return self.detector
        for pair in (pair for pair, fold in zip(self.pairs, self.foldable) if fold):
            weight, bias = folding.folded(pair)
            pair.layer.weight.set_data(weight)
            pair.layer.bias.set_data(bias)
        return self.detector

    def _build(self) -> Detector:
        """Build the detector, with its batch norms folded."""
        inference = build_sharing(self.network, self.description, self.dcn_impl)
        self.pairs = folding.normalized_layers(inference)
        self.foldable = [folding.can_fold(pair) for pair in self.pairs]
        folding.fold_batch_norm(inference)
        return build_detector(inference, self.description, self.config.eval_config, self.any_size)


def build_sharing(network: nn.Cell, description: dict, dcn_impl: str) -> nn.Cell:
    """Build a CenterNet of the same structure that shares the parameters of another."""
    inference = build_network(Config(description["net_config"]), description, dcn_impl)
    for (_, mine), (_, theirs) in zip(inference.cells_and_names(), network.cells_and_names()):
        for name, parameter in list(theirs.parameters_and_names(expand=False)):
            setattr(mine, name.rpartition(".")[2], parameter)
    return inference
