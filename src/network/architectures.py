"""Networks by name: cells and input sizes. Builders import their cells late, so that the facts need no MindSpore."""
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..imaging.view import STRIDE
from ..tasks import head_names, task_of

if TYPE_CHECKING:
    from mindspore import nn


@dataclass(frozen=True)
class Architecture:
    """One network.

    build(options, dcn_impl) returns its backbone and its upsampling, the cells that CenterNet takes; options are the
    resolved net_config. Sides of an input are multiples of stride. head_conv, block_class and num_stacks are defaults
    that net_config may override; stacks describes the list num_stacks, an empty string if it is not used. exact: the
    network adds features of several strides, so that sides must be multiples of stride; otherwise they are rounded up.
    """

    build: Callable
    stride: int = STRIDE
    head_conv: int = 64
    block_class: str = ""
    num_stacks: tuple = ()
    stacks: str = ""
    down_ratios: tuple = (4, 8, 16)
    exact: bool = False


def _build_resnet(options: Any, dcn_impl: str | None, channels: tuple[int, ...]) -> tuple["nn.Cell", "nn.Cell"]:
    from .resnet import ResNet, upsampling

    backbone = ResNet(options.block_class, options.num_stacks)
    return backbone, upsampling(backbone.out_channels, channels[: int(math.log2(32 // options.down_ratio))], dcn_impl)


def _build_resdcn(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    return _build_resnet(options, dcn_impl, (256, 128, 64))


def _build_res(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    return _build_resnet(options, None, (256, 256, 256))


def _build_dla(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    from .dla import DLA, DLAUpsampling

    backbone = DLA(options.down_ratio)
    return backbone, DLAUpsampling(backbone.out_channels, dcn_impl)


def _build_dlav0(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    from .dla import DLA, PlainUpsampling

    backbone = DLA(options.down_ratio)
    return backbone, PlainUpsampling(backbone.out_channels)


def _build_dlazoo(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    from .dla import DLA, ZooUpsampling

    backbone = DLA(options.down_ratio)
    return backbone, ZooUpsampling(backbone.out_channels)


def _build_hourglass(options: Any, dcn_impl: str) -> tuple["nn.Cell", "nn.Cell"]:
    from .hourglass import Hourglass, StackFeatures

    stacks, = options.num_stacks
    backbone = Hourglass(stacks)
    return backbone, StackFeatures(stacks, backbone.out_channels)


RESNETS = {18: ("BasicBlock", (2, 2, 2, 2)), 34: ("BasicBlock", (3, 4, 6, 3)), 50: ("Bottleneck", (3, 4, 6, 3)),
           101: ("Bottleneck", (3, 4, 23, 3))}
ARCHITECTURES = {
    **{f"{name}_{depth}": Architecture(build, block_class=block, num_stacks=stacks,
                                       stacks="4 integers, the numbers of blocks per stage")
       for name, build in (("resdcn", _build_resdcn), ("res", _build_res))
       for depth, (block, stacks) in RESNETS.items()},
    "dla_34": Architecture(_build_dla, head_conv=256, exact=True),
    "dlav0_34": Architecture(_build_dlav0, head_conv=256, exact=True),
    "dlazoo_34": Architecture(_build_dlazoo, head_conv=256, down_ratios=(4,), exact=True),
    "hourglass": Architecture(_build_hourglass, stride=128, head_conv=256, num_stacks=(2,),
                              stacks="one integer, the number of hourglasses", down_ratios=(4,), exact=True),
}


# A layer of a DLA's upsampling that those after it, and dla_34, lack.
DLA_LAYERS = {"dlazoo_34": "ida_up.proj_1.0.weight", "dlav0_34": "dla_up.ida_0.proj_1.0.weight"}


def resolved(net_config: dict[str, Any]) -> SimpleNamespace:
    """net_config, a dictionary, as attributes, with the architecture's defaults filled in.

    Raises UserError for incompatible settings.
    """
    name = net_config["arch"]
    architecture = ARCHITECTURES[name]
    block_class, num_stacks = net_config["block_class"], net_config["num_stacks"]
    if block_class and not architecture.block_class:
        raise UserError(f"net_config.block_class is {block_class}, which is for ResNets; net_config.arch is {name}")
    if num_stacks and len(num_stacks) != len(architecture.num_stacks):
        takes = f"a list of {architecture.stacks}" if architecture.stacks else "an empty list"
        raise UserError(f"net_config.num_stacks is {num_stacks}; net_config.arch {name} takes {takes}")
    if net_config["down_ratio"] not in architecture.down_ratios:
        raise UserError(f"net_config.down_ratio is {net_config['down_ratio']}; for net_config.arch {name} choose from "
                        f"{', '.join(map(str, architecture.down_ratios))}")
    defaults = {"block_class": architecture.block_class, "num_stacks": list(architecture.num_stacks),
                "head_conv": architecture.head_conv}
    return SimpleNamespace(**net_config | {key: net_config[key] or value for key, value in defaults.items()})


def network_facts(net_config: dict[str, Any]) -> dict[str, Any]:
    """The network's entries in a model's description: task, architecture, stride, and input pixels per output pixel.

    Raises UserError for an unknown task.
    """
    return {"task": task_of(net_config).name, "arch": net_config["arch"],
            "stride": ARCHITECTURES[net_config["arch"]].stride, "down_ratio": net_config["down_ratio"]}


def check_input(facts: dict[str, Any], size: Sequence[int], name: str) -> None:
    """Raise UserError unless the network can be trained and exported for inputs of size [width, height].

    `name` is the parameter that states the size.
    """
    _check_sides(size, facts["stride"], name, facts["arch"])


def check_detected_input(facts: dict[str, Any], size: Sequence[int], name: str) -> None:
    """check_input for detection. Most networks round their maps up, so an input only needs whole output pixels.

    The architecture may be unknown, an empty string.
    """
    arch, ratio = facts["arch"], facts["down_ratio"]
    if arch in ARCHITECTURES and ARCHITECTURES[arch].exact:
        check_input(facts, size, name)
    else:
        _check_sides(size, ratio, name, f"{arch or 'the network'} with down_ratio {ratio}")


def _check_sides(size: Sequence[int], multiple: int, name: str, network: str) -> None:
    if any(side % multiple for side in size):
        raise UserError(f"{name} is {list(size)}; {network} takes multiples of {multiple}")


def count_modules(has: Callable[[str], bool], *names: str) -> int:
    """Count the consecutive modules, from 0, with a parameter of any of `names`, where {} stands for the module's
    number.

    has(name) is whether a parameter exists. Several names, so that one missing parameter does not hide a module and
    those after it.
    """
    return next(number for number in itertools.count() if not any(has(name.format(number)) for name in names))


def resnet_of(has: Callable[[str], bool]) -> tuple[str, list[int]]:
    """(block_class, num_stacks) of a ResNet; has(name) is whether a parameter exists, named as in network/resnet.py."""
    stacks = [count_modules(has, f"layer{stage}.{{}}.conv1.weight", f"layer{stage}.{{}}.conv2.weight")
              for stage in (1, 2, 3, 4)]
    return "Bottleneck" if has("layer1.0.conv3.weight") else "BasicBlock", stacks


def resnet_config(block_class: str, num_stacks: list[int], dcn: bool) -> dict[str, Any]:
    """net_config's arch, block_class and num_stacks of a ResNet; the last two are empty if they are the defaults."""
    name = "resdcn" if dcn else "res"
    for depth, (block, stacks) in RESNETS.items():
        if (block, list(stacks)) == (block_class, num_stacks):
            return {"arch": f"{name}_{depth}", "block_class": "", "num_stacks": []}
    depth = 50 if block_class == "Bottleneck" else 18
    return {"arch": f"{name}_{depth}", "block_class": "", "num_stacks": num_stacks}


def hourglasses(has: Callable[[str], bool]) -> int:
    """The number of stacked hourglasses; has(name) is whether a parameter exists, named as in network/hourglass.py."""
    return count_modules(has, "kps.{}.up1.0.conv1.weight", "kps.{}.up1.0.conv2.weight")


def is_complete_network(names: Iterable[str]) -> bool:
    """Whether these parameter names are those of a complete network, not only of a backbone."""
    return any(name.partition(".")[0] in head_names() for name in names)


def architecture_of(names: Iterable[str]) -> str:
    """Describe the network or backbone with these parameter names; an empty string if it is unknown."""
    names = set(names)
    whole = is_complete_network(names)
    prefix = "" if whole else "the backbone of "

    def has(name: str) -> bool:
        return f"backbone.{name}" in names

    if stacks := hourglasses(has):
        return prefix + ("hourglass" if stacks == 2 else f"hourglass with num_stacks {stacks}")
    if has("base_layer.0.weight"):
        upsampling = next((name for name, layer in DLA_LAYERS.items() if f"deconv_layers.{layer}" in names), "dla_34")
        return prefix + upsampling
    if not has("layer1.0.conv1.weight"):
        return ""
    dcn = "deconv_layers.0.conv_offset_mask.weight" in names
    found = resnet_config(*resnet_of(has), dcn)
    name = found["arch"] if whole else found["arch"].replace("res_", "ResNet")
    return prefix + (f"{name} with num_stacks {found['num_stacks']}" if found["num_stacks"] else name)
