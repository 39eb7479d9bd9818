"""The detector of a network that trains, on the parameters that train."""
import contextlib

import mindspore as ms

from ..inference.detector import build_detector, takes_any_size
from ..model_utils.config import Config
from ..network import folding
from ..network.architectures import network_facts
from ..network.centernet import build_network
from ..network.deform_conv import resolve_dcn_impl


class TrainingDetector:
    """Lends a training's parameters to an inference network: the device holds no second copy of them.

    The detector is that of detector.load_detector for a checkpoint of the same moment: batch norm folded by the same rules, so that both
    give the same numbers. Args: network, a CenterNet; average, its WeightAverage, whose values are then taken, or None; description, the
    side file's dictionary; config, a Config; device_target.
    """

    def __init__(self, network, average, description, config, device_target):
        self.network, self.average, self.config = network, average, config
        self.description = {**description, **network_facts(description["net_config"])}
        self.dcn_impl = resolve_dcn_impl(config.net_config.dcn_impl, device_target)
        self.any_size = takes_any_size(config.eval_config, device_target, self.dcn_impl)
        self.foldable, self.pairs, self.detector = [], [], None

    @contextlib.contextmanager
    def borrowed(self):
        """Give the Detector. In the block the network's parameters hold what inference needs; after it they are what they were, bit for
        bit, which the host's memory keeps meanwhile."""
        trained = {parameter: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}
        try:
            if self.average is not None:
                for parameter, value in zip(self.average.weights, self.average.averages):
                    parameter.set_data(ms.Tensor(value.asnumpy().copy()))
            self._fold()
            yield self.detector
        finally:
            for parameter, value in trained.items():
                parameter.set_data(ms.Tensor(value))

    def _fold(self):
        """Fold the batch norms for the weights as they are; where others can be folded than last time, the graph is another."""
        if self.detector is None or [folding.can_fold(pair) for pair in self.pairs] != self.foldable:
            self._build()
            return
        for pair in (pair for pair, fold in zip(self.pairs, self.foldable) if fold):
            weight, bias = folding.folded(pair)
            pair.layer.weight.set_data(weight)
            pair.layer.bias.set_data(bias)

    def _build(self):
        """Make the detector, its batch norms folded."""
        inference = build_sharing(self.network, self.description, self.dcn_impl)
        self.pairs = folding.normalized_layers(inference)
        self.foldable = [folding.can_fold(pair) for pair in self.pairs]
        folding.make_for_inference(inference)
        self.detector = build_detector(inference, self.description, self.config.eval_config, self.any_size)


def build_sharing(network, description, dcn_impl):
    """A CenterNet of the same structure that has the parameters of another."""
    inference = build_network(Config(description["net_config"]), description, dcn_impl)
    for (_, mine), (_, theirs) in zip(inference.cells_and_names(), network.cells_and_names()):
        for name, parameter in list(theirs.parameters_and_names(expand=False)):
            setattr(mine, name.rpartition(".")[2], parameter)
    return inference
