"""The networks by name: what each is made of and what inputs it takes. A builder loads its cells late: the facts need no MindSpore."""
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from ..core.errors import UserError
from ..imaging.view import STRIDE
from ..tasks import head_names, task_of


@dataclass(frozen=True)
class Architecture:
    """One network.

    build(options, dcn_impl) gives its backbone and its upsampling, cells as CenterNet takes them; options are the net_config with nothing
    left open. Sides of an input are multiples of stride; head_conv, block_class and num_stacks are its own, which net_config may replace;
    stacks says what num_stacks counts ("" nothing). Where features of several strides are added (exact), a side that is no multiple
    of stride does not fit; else it is rounded up.
    """

    build: Callable
    stride: int = STRIDE
    head_conv: int = 64
    block_class: str = ""
    num_stacks: tuple = ()
    stacks: str = ""
    down_ratios: tuple = (4, 8, 16)
    exact: bool = False


def _build_resnet(options, dcn_impl, channels):
    from .resnet import ResNet, upsampling

    backbone = ResNet(options.block_class, options.num_stacks)
    return backbone, upsampling(backbone.out_channels, channels[: int(math.log2(32 // options.down_ratio))], dcn_impl)


def _build_resdcn(options, dcn_impl):
    return _build_resnet(options, dcn_impl, (256, 128, 64))


def _build_res(options, dcn_impl):
    return _build_resnet(options, None, (256, 256, 256))


def _build_dla(options, dcn_impl):
    from .dla import DLA, DLAUpsampling

    backbone = DLA(options.down_ratio)
    return backbone, DLAUpsampling(backbone.out_channels, dcn_impl)


def _build_hourglass(options, dcn_impl):
    from .hourglass import Hourglass, StackFeatures

    backbone = Hourglass(*options.num_stacks)
    return backbone, StackFeatures(*options.num_stacks, backbone.out_channels)


RESNETS = {18: ("BasicBlock", (2, 2, 2, 2)), 34: ("BasicBlock", (3, 4, 6, 3)), 50: ("Bottleneck", (3, 4, 6, 3)),
           101: ("Bottleneck", (3, 4, 23, 3))}
ARCHITECTURES = {
    **{f"{name}_{depth}": Architecture(build, block_class=block, num_stacks=stacks, stacks="4 whole numbers, the blocks in each stage")
       for name, build in (("resdcn", _build_resdcn), ("res", _build_res)) for depth, (block, stacks) in RESNETS.items()},
    "dla_34": Architecture(_build_dla, head_conv=256, exact=True),
    "hourglass": Architecture(_build_hourglass, stride=128, head_conv=256, num_stacks=(2,), stacks="one whole number, the hourglasses",
                              down_ratios=(4,), exact=True),
}


def resolved(net_config):
    """net_config, a dictionary, as attributes, with what it leaves to its architecture filled in.

    Raises UserError for what does not go together.
    """
    name = net_config["arch"]
    architecture = ARCHITECTURES[name]
    block_class, num_stacks = net_config["block_class"], net_config["num_stacks"]
    if block_class and not architecture.block_class:
        raise UserError(f"net_config.block_class is {block_class}, which is for ResNets; net_config.arch is {name}")
    if num_stacks and len(num_stacks) != len(architecture.num_stacks):
        takes = f"takes a list of {architecture.stacks}" if architecture.stacks else "takes none"
        raise UserError(f"net_config.num_stacks is {num_stacks}; net_config.arch is {name}, which {takes}")
    if net_config["down_ratio"] not in architecture.down_ratios:
        raise UserError(f"net_config.down_ratio is {net_config['down_ratio']}; for net_config.arch {name} choose from "
                        f"{', '.join(map(str, architecture.down_ratios))}")
    own = {"block_class": architecture.block_class, "num_stacks": list(architecture.num_stacks), "head_conv": architecture.head_conv}
    return SimpleNamespace(**net_config | {key: net_config[key] or value for key, value in own.items()})


def network_facts(net_config):
    """What a model's description says of its network: task, architecture, stride, and input pixels per output pixel.

    Raises UserError for an unknown task.
    """
    return {"task": task_of(net_config).name, "arch": net_config["arch"], "stride": ARCHITECTURES[net_config["arch"]].stride,
            "down_ratio": net_config["down_ratio"]}


def check_input(facts, size, name):
    """Raise UserError unless a network trains, and is exported for, inputs of a size [width, height], that of the parameter `name`."""
    _check_sides(size, facts["stride"], name, facts["arch"])


def check_detected_input(facts, size, name):
    """The same for inputs that a network detects in, of an architecture that may be unknown (""): most round their maps up, and only the
    boxes want whole output pixels."""
    arch, ratio = facts["arch"], facts["down_ratio"]
    if arch in ARCHITECTURES and ARCHITECTURES[arch].exact:
        check_input(facts, size, name)
    else:
        _check_sides(size, ratio, name, f"{arch or 'the network'} with down_ratio {ratio}")


def _check_sides(size, multiple, name, what):
    if any(side % multiple for side in size):
        raise UserError(f"{name} is {list(size)}; {what} takes multiples of {multiple}")


def counted(has, *names):
    """How many parts there are, of which has(name) says whether it has one of their parameters, whose names have {} for a part's number.

    More than one name, so that what lacks one parameter lacks that one, and not the part with all that follows.
    """
    return next(number for number in itertools.count() if not any(has(name.format(number)) for name in names))


def resnet_of(has):
    """(block_class, num_stacks) of the ResNet of which has(name) says whether it has a parameter, named as in src/network/resnet.py."""
    stacks = [counted(has, f"layer{stage}.{{}}.conv1.weight", f"layer{stage}.{{}}.conv2.weight") for stage in (1, 2, 3, 4)]
    return "Bottleneck" if has("layer1.0.conv3.weight") else "BasicBlock", stacks


def resnet_config(block_class, num_stacks, dcn):
    """net_config's arch, block_class and num_stacks of a ResNet; the latter two are left open where an architecture has them as its own."""
    name = "resdcn" if dcn else "res"
    for depth, (block, stacks) in RESNETS.items():
        if (block, list(stacks)) == (block_class, num_stacks):
            return {"arch": f"{name}_{depth}", "block_class": "", "num_stacks": []}
    depth = 50 if block_class == "Bottleneck" else 18
    return {"arch": f"{name}_{depth}", "block_class": "", "num_stacks": num_stacks}


def hourglasses(has):
    """How many hourglasses are stacked in what has(name) says to have a parameter, named as in src/network/hourglass.py."""
    return counted(has, "kps.{}.up1.0.conv1.weight", "kps.{}.up1.0.conv2.weight")


def is_whole(names):
    """Whether parameters of these names are a whole network's, not a backbone's alone."""
    return any(name.partition(".")[0] in head_names() for name in names)


def architecture_of(names):
    """The words for the network, or the backbone, that has parameters of these names; "" if they are no known one's."""
    names = set(names)
    whole = is_whole(names)
    what = "" if whole else "the backbone of "

    def has(name):
        return f"backbone.{name}" in names

    if stacks := hourglasses(has):
        return what + ("hourglass" if stacks == 2 else f"hourglass with num_stacks {stacks}")
    if has("base_layer.0.weight"):
        return what + "dla_34"
    if not has("layer1.0.conv1.weight"):
        return ""
    dcn = "deconv_layers.0.conv_offset_mask.weight" in names
    found = resnet_config(*resnet_of(has), dcn)
    name = found["arch"] if whole else found["arch"].replace("res_", "ResNet")
    return what + (f"{name} with num_stacks {found['num_stacks']}" if found["num_stacks"] else name)
