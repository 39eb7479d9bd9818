"""Convert an ImageNet classifier into a backbone checkpoint to train from: torchvision's ResNets (resnet18-5c106cde.pth and its family) or
DLA-34 of its authors (dla34-ba72cf86.pth)."""
import os
import shlex

from ..core import errors
from ..core.backups import require_ours
from ..core.errors import UserError
from ..core.files import read_text
from ..inference.options import OptionParser
from ..model_utils.mindspore_version import require_mindspore
from ..weights.side_file import HAS_SIDE_FILE, checkpoint_path, side_file

NAMES = os.path.join("tools", "names")


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("--ckpt_file", "-ckpt_file", required=True, help="PyTorch file")
    parser.add_argument("--torch_name_file", help=f"names in it, one a line (as {NAMES}/resnet18_torch.txt); with --ms_name_file. "
                                                  "Without both, the built-in mapping is used")
    parser.add_argument("--ms_name_file", help=f"names here of those, line by line ({NAMES}/resnet18_mindspore.txt)")
    parser.add_argument("--output_file", required=True, help="checkpoint to write")
    options = parser.parse_args(argv)
    if bool(options.torch_name_file) != bool(options.ms_name_file):
        raise UserError("--torch_name_file and --ms_name_file go together: the one's lines pair with the other's")
    require_mindspore()
    require_ours(checkpoint_path(options.output_file), HAS_SIDE_FILE, side_file, "--output_file")
    errors.require_file(options.ckpt_file, "file to convert (--ckpt_file)")
    names = read_names(options.torch_name_file, options.ms_name_file) if options.torch_name_file else None

    from ..network.architectures import architecture_of
    from ..weights import torch_weights
    from ..weights.checkpoints import parameter_shapes, save_weights
    from ..weights.torch_files import read_torch_file
    from ..weights.zoo import refuse_checkpoint

    refuse_checkpoint(options.ckpt_file)
    state, others = read_torch_file(options.ckpt_file)
    with errors.about(options.ckpt_file):
        state = torch_weights.without_prefix(state)
        kind = "resnet" if names else torch_weights.recognize(state)
        if kind not in ("resnet", "dla"):
            raise UserError("a whole detector; tools/convert_centernet.py converts it")
        words, backbone = make_backbone([torch_weights.source_name(name, kind) for name in names] if names else state, kind)
        shapes = {f"backbone.{name}": shape for name, shape in parameter_shapes(backbone).items()}
        if names:
            check_names(names, shapes, options.ms_name_file)
        conversion = torch_weights.from_source(state, shapes, kind, names)
    print(f"{options.ckpt_file}: {architecture_of(shapes)}")
    print(torch_weights.report(state, others, conversion))
    path = save_weights(options.output_file, conversion.weights)
    print(f"wrote {path}; train from it with\n  --net_config.load_backbone_path {shlex.quote(path)} {words}")


def make_backbone(names, kind):
    """(words of a command line that choose a network, its backbone) for a classifier of a kind with these names."""
    # MindSpore is slow to load, and not needed for a wrong path.
    from ..model_utils.config import checked_section
    from ..network.architectures import resnet_config
    from ..network.dla import DLA
    from ..network.resnet import ResNet
    from ..weights import torch_weights

    if kind == "dla":
        return "--net_config.arch dla_34", DLA()
    block_class, num_stacks = torch_weights.describe_backbone(names, kind)
    settings = resnet_config(block_class, num_stacks, dcn=True)
    checked_section("net_config", settings, "the network that its names describe")
    words = [f"--net_config.{name} {shlex.quote(str(value))}" for name, value in settings.items() if value]
    return " ".join(words), ResNet(block_class, num_stacks)


def read_names(torch_name_file, ms_name_file):
    """{our name: source name} of two files whose lines pair. Raises UserError unless they have as many, and each once.

    The second file may be the model zoo's list of its whole network, network.backbone.conv1.weight, ...: the backbone's lines count.
    """
    from ..weights.torch_weights import ZOO_PREFIX

    columns = []
    for path in (torch_name_file, ms_name_file):
        columns.append([line.strip() for line in read_text(path, "name file").splitlines() if line.strip()])
        twice = {name for name in columns[-1] if columns[-1].count(name) > 1}
        if twice:
            raise UserError(f"{path}: {sorted(twice)[0]} is there twice")
    theirs, lines = columns
    ours = [name.removeprefix(ZOO_PREFIX) for name in lines if name.startswith(f"{ZOO_PREFIX}backbone.") or not name.startswith(ZOO_PREFIX)]
    if len(theirs) != len(ours):
        others = f" of the backbone, and {len(lines) - len(ours)} others that do not count" if len(ours) < len(lines) else ""
        raise UserError(f"{torch_name_file} has {len(theirs)} names, {ms_name_file} {len(ours)}{others}; their lines must pair")
    return dict(zip(ours, theirs))


def check_names(names, shapes, ms_name_file):
    """Raise UserError unless the names are those of the backbone's parameters, each batch norm's parts paired with the like."""
    from ..weights.torch_weights import BATCH_NORM_NAMES

    for name, source in names.items():
        if name not in shapes:
            raise UserError(f"{ms_name_file} names {name}, which the backbone does not have (its names are like {next(iter(shapes))})")
        part, wanted = source.rpartition(".")[2], BATCH_NORM_NAMES.get(name.rpartition(".")[2])
        if wanted and part != wanted and part in BATCH_NORM_NAMES.values():
            raise UserError(f"{ms_name_file} pairs {name} with {source}; batch norm's {name.rpartition('.')[2]} is PyTorch's {wanted}, so "
                            "the lists are in different orders; without both the built-in mapping is used")
    for name in shapes:
        if name not in names:
            raise UserError(f"{ms_name_file} lacks {name}")
