"""Convert an ImageNet classifier into a backbone checkpoint for training: torchvision's ResNets (resnet18-5c106cde.pth
and its family) or DLA-34 of its authors (dla34-ba72cf86.pth)."""
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core import errors
from ..core.backups import require_ours
from ..core.errors import UserError
from ..core.files import read_text
from ..inference.options import OptionParser
from ..model_utils.mindspore_version import require_mindspore
from ..weights.side_file import HAS_SIDE_FILE, checkpoint_path, side_file

if TYPE_CHECKING:
    from mindspore import nn

NAMES = os.path.join("tools", "names")


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    parser.add_argument("--ckpt_file", "-ckpt_file", required=True, help="PyTorch file to convert")
    parser.add_argument("--torch_name_file",
                        help=f"parameter names in the PyTorch file, one per line (see {NAMES}/resnet18_torch.txt); "
                             "requires --ms_name_file (default: built-in mapping)")
    parser.add_argument("--ms_name_file", help="this project's names of the same parameters, in the same order "
                                               f"(see {NAMES}/resnet18_mindspore.txt)")
    parser.add_argument("--output_file", required=True, help="checkpoint to write")
    options = parser.parse_args(argv)
    if bool(options.torch_name_file) != bool(options.ms_name_file):
        raise UserError("--torch_name_file and --ms_name_file must be given together: their lines are paired")
    require_mindspore()
    require_ours(checkpoint_path(options.output_file), HAS_SIDE_FILE, side_file, "--output_file")
    errors.require_file(options.ckpt_file, "file to convert (--ckpt_file)")
    names = read_names(options.torch_name_file, options.ms_name_file) if options.torch_name_file else None

    from ..network.architectures import architecture_of
    from ..weights import source_names, torch_weights
    from ..weights.checkpoints import parameter_shapes, save_weights
    from ..weights.torch_files import read_torch_file
    from ..weights.zoo import refuse_checkpoint

    refuse_checkpoint(options.ckpt_file)
    state, others = read_torch_file(options.ckpt_file)
    with errors.prefix_errors(options.ckpt_file):
        state = source_names.without_prefix(state)
        kind = "resnet" if names else source_names.recognize(state)
        if kind not in ("resnet", "dla"):
            raise UserError("a complete detector, not a classifier; use tools/convert_centernet.py")
        sources = [source_names.source_name(name, kind) for name in names] if names else state
        arguments, backbone = make_backbone(sources, kind)
        shapes = {f"backbone.{name}": shape for name, shape in parameter_shapes(backbone).items()}
        if names:
            check_names(names, list(shapes), options.ms_name_file)
        conversion = torch_weights.from_source(state, shapes, kind, names)
    print(f"{options.ckpt_file}: {architecture_of(shapes)}")
    print(torch_weights.report(state, others, conversion))
    path = save_weights(options.output_file, conversion.weights)
    print(f"wrote {path}; train from it with\n  --net_config.load_backbone_path {shlex.quote(path)} {arguments}")


def make_backbone(names: Collection[str], kind: str) -> tuple[str, "nn.Cell"]:
    """Return (train.py arguments for the network, its backbone) for a classifier of a kind with these tensor names."""
    # MindSpore is slow to load, and not needed to report a wrong path.
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
    arguments = [f"--net_config.{name} {shlex.quote(str(value))}" for name, value in settings.items() if value]
    return " ".join(arguments), ResNet(block_class, num_stacks)


def read_names(torch_name_file: str, ms_name_file: str) -> dict[str, str]:
    """Return {our name: source name} from two files with paired lines.

    The second file may list the model zoo's complete network (network.backbone.conv1.weight, ...); lines outside the
    backbone are ignored. Raises UserError if the numbers of names differ or a name is repeated.
    """
    from ..weights.source_names import ZOO_PREFIX

    columns = []
    for path in (torch_name_file, ms_name_file):
        columns.append([line.strip() for line in read_text(path, "name file").splitlines() if line.strip()])
        repeated = {name for name in columns[-1] if columns[-1].count(name) > 1}
        if repeated:
            raise UserError(f"{path}: {sorted(repeated)[0]} is repeated")
    theirs, lines = columns
    ours = [name.removeprefix(ZOO_PREFIX) for name in lines
            if name.startswith(f"{ZOO_PREFIX}backbone.") or not name.startswith(ZOO_PREFIX)]
    if len(theirs) != len(ours):
        others = f" in the backbone (and {len(lines) - len(ours)} others, ignored)" if len(ours) < len(lines) else ""
        raise UserError(f"{torch_name_file} has {len(theirs)} names, {ms_name_file} {len(ours)}{others}; "
                        "the lines of both files must correspond")
    return dict(zip(ours, theirs))


def check_names(names: Mapping[str, str], known: Sequence[str], ms_name_file: str) -> None:
    """Raise UserError unless names {our name: source name} has all known names of the backbone's parameters and no
    others, and pairs each batch norm parameter with its counterpart."""
    from ..weights.source_names import BATCH_NORM_NAMES

    for name, source in names.items():
        if name not in known:
            raise UserError(f"{ms_name_file}: the backbone has no parameter {name} (its names look like {known[0]})")
        ours, theirs = name.rpartition(".")[2], source.rpartition(".")[2]
        wanted = BATCH_NORM_NAMES.get(ours)
        if wanted and theirs != wanted and theirs in BATCH_NORM_NAMES.values():
            raise UserError(f"{ms_name_file} pairs {name} with {source}, but {ours} of a batch norm is {wanted} in "
                            "PyTorch: the files are ordered differently; omit both to use the built-in mapping")
    for name in known:
        if name not in names:
            raise UserError(f"{ms_name_file} lacks {name}")
