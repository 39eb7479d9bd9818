"""Convert a detector: weights of the paper authors' code (resdcn, res, dla_34, hourglass), of MMDetection (centernet_r18-dcnv2,
centernet_r18) or of the MindSpore model zoo's CenterNet into a checkpoint for eval.py, export.py and fine-tuning; with --reverse such a
checkpoint into a file of the paper authors' code (--output_file X.pth) or of the model zoo (--output_file X.ckpt)."""
import os
import shlex

from ..core import errors
from ..core.backups import require_ours, unmarked
from ..core.errors import UserError
from ..core.project import PACKAGE, command
from ..core.tables import some
from ..core.version import version
from ..inference.options import OptionParser
from ..model_utils.mindspore_version import require_mindspore
from ..weights.side_file import HAS_SIDE_FILE, checkpoint_path, resolve_checkpoint_alias, side_file

TORCH_ENDINGS = (".pth", ".pt", ".pth.tar")
COCO_CLASSES = os.path.join(PACKAGE, "weights", "names", "coco_classes.txt")


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("--ckpt_file", "-ckpt_file", required=True,
                        help="PyTorch file or checkpoint of the model zoo, known by the names in it; with --reverse a checkpoint of ours")
    parser.add_argument("--output_file", required=True,
                        help="checkpoint to write, its side file beside it; with --reverse the ending decides: .ckpt is a checkpoint of "
                             f"the model zoo, {', '.join(TORCH_ENDINGS)} a PyTorch file of the paper authors' code")
    parser.add_argument("--annotation", help="COCO-format annotation file that names the classes, in the order of their ids (without it, "
                                             "those in the PyTorch file, or COCO's if there are 80)")
    parser.add_argument("--config_path", help="recipe of the detector's training (configs/voc_dla_384.yaml, ...), whose mean, std, input "
                                              "size and evaluation settings go into the side file; without it default_config.yaml's")
    parser.add_argument("--reverse", action="store_true", help="write a file that the paper authors' code or the model zoo's loads")
    options = parser.parse_args(argv)
    for name in ("annotation", "config_path"):
        if options.reverse and getattr(options, name):
            raise UserError(f"--{name} has no use with --reverse: the file that it writes holds weights alone")
    if options.reverse:
        options.ckpt_file = resolve_checkpoint_alias(options.ckpt_file)
    require_mindspore()
    errors.require_file(options.ckpt_file, "file to convert (--ckpt_file)")
    if options.annotation:
        errors.require_file(options.annotation, "annotation file (--annotation)")
    if options.reverse:
        check_target(options.output_file)
        require_ours(options.output_file, unmarked, option="--output_file")
        reverse(options.ckpt_file, options.output_file)
    else:
        require_ours(checkpoint_path(options.output_file), HAS_SIDE_FILE, side_file, "--output_file")
        convert(options.ckpt_file, options.output_file, options.annotation, options.config_path)


def check_target(path):
    """Raise UserError unless --reverse can write a file by this name: by its ending it is the model zoo's or the original's."""
    if not path.endswith((".ckpt", *TORCH_ENDINGS)):
        raise UserError(f"--output_file is {path}; with --reverse its ending says what to write: .ckpt is a checkpoint of the model zoo, "
                        f"{', '.join(TORCH_ENDINGS)} a PyTorch file of the original")
    if path.endswith(".ckpt") and os.path.exists(side_file(path)):
        raise UserError(f"--output_file is {path}, and {side_file(path)} makes it a checkpoint of this project; give it another name")


def convert(ckpt_file, output_file, annotation, recipe=None):
    """Write the checkpoint and its side file, and say what became of every tensor."""
    from ..core.files import write_json
    from ..model_utils.config import Config, checked_section, get_config
    from ..network.architectures import architecture_of
    from ..network.centernet import build_network
    from ..weights import torch_weights
    from ..weights.checkpoints import parameter_shapes, save_weights
    from ..weights.side_file import evaluation_settings, side_file

    defaults = get_config("", ["--config_path", recipe] if recipe else [])
    state, others = read_source(ckpt_file)
    with errors.about(ckpt_file):
        state = torch_weights.without_prefix(state)
        kind = torch_weights.recognize(state)
        if kind in ("resnet", "dla"):
            raise UserError("an ImageNet classifier, not a detector; tools/convert_resnet18.py makes a backbone of it")
        num_classes, network = torch_weights.describe_detector(state, kind)
        dataset, classes, category_ids = class_list(num_classes, annotation, others)
        net_config = checked_section("net_config", {**defaults.net_config.as_dict(), **network}, ckpt_file)
        shapes = parameter_shapes(build_network(Config(net_config), {"classes": classes}, "composite"))
        conversion = torch_weights.from_source(state, shapes, kind)
    options = defaults.dataset_config
    mean, std = options.mean, options.std
    if torch_weights.SOURCES[kind] == "MMDetection":
        mean, std = torch_weights.MMDET_MEAN, torch_weights.MMDET_STD
    print(f"{ckpt_file}: {torch_weights.SOURCES[kind]}'s detector, {num_classes} classes, {architecture_of(shapes)}")
    print(torch_weights.report(state, others, conversion))
    path = save_weights(output_file, conversion.weights)
    description = {
        "dataset": dataset, "classes": classes, "category_ids": category_ids, "net_config": net_config,
        "input_res_train": options.input_res_train, "mean": mean, "std": std, "version": version(),
    }
    if recipe:
        description["evaluation"] = evaluation_settings(defaults)
    if kind == "original":  # for the way back
        description["num_batches_tracked"] = torch_weights.step_counters(state)
    write_json(side_file(path), description)
    print(f"wrote {path} and {side_file(path)} ({len(classes)} classes: {some(classes, 3)})")
    file = shlex.quote(path)
    print(f"""next:
  {command("eval.py")} --data_dir DATA --load_checkpoint_path {file}
  {command("export.py")} --export_config.ckpt_file {file}
  {command("train.py")} --mindrecord_dir RECORDS --load_checkpoint_path {file} {train_options(net_config, mean, std, defaults, recipe)}""")


def read_source(path):
    """(state {name: NumPy array}, the file's other entries {name: value}) of a PyTorch file or a model-zoo checkpoint."""
    from ..weights.checkpoints import read_parameters
    from ..weights.torch_files import read_torch_file
    from ..weights.zoo import is_zoo_checkpoint, refuse_checkpoint

    if is_zoo_checkpoint(path):
        content = read_parameters(path)
        state = {name: value.asnumpy() for name, value in content.items() if hasattr(value, "asnumpy")}
        return state, {name: value for name, value in content.items() if name not in state}
    refuse_checkpoint(path)
    return read_torch_file(path)


def class_list(num_classes, annotation, others):
    """(data set's name, class names, category ids) of a detector that knows only how many there are.

    Args: annotation, a COCO-format file or None; others, what the file holds beside the weights.
    """
    from ..data.coco import class_list, read_coco

    if annotation:
        errors.require_file(annotation, "annotation file (--annotation)")
        names, ids = class_list(read_coco(annotation))
        found = os.path.splitext(os.path.basename(annotation))[0], names, ids
    else:
        with open(COCO_CLASSES, encoding="utf-8") as file:
            coco = dict(reversed(line.strip().split(" ", 1)) for line in file)
        names = names_in(others.get("meta"))
        if num_classes == len(coco) and (not names or set(names) == set(coco)):
            found = "coco2017", names or list(coco), [int(coco[name]) for name in names or coco]
        elif names:
            found = "unknown", names, list(range(1, len(names) + 1))
        else:
            raise UserError(f"it knows {num_classes} classes and does not name them; give an annotation file of its data with --annotation")
    if len(found[1]) != num_classes:
        raise UserError(f"it knows {num_classes} classes, {annotation or 'its own list'} has {len(found[1])}")
    return found


def names_in(meta):
    """The class names in what MMDetection writes beside the weights; [] if it is something else."""
    meta = meta if isinstance(meta, dict) else {}
    newer = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), dict) else {}
    names = meta.get("CLASSES") or newer.get("classes")
    return list(names) if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else []


def train_options(net_config, mean, std, defaults, recipe):
    """The words that train.py needs for this network and normalization, where they are not the defaults, or the recipe's."""
    from ..network.architectures import resolved

    usual = defaults.net_config.as_dict()
    own = vars(resolved({**net_config, "block_class": "", "num_stacks": [], "head_conv": 0}))
    wanted = {name: value for name, value in vars(resolved(net_config)).items() if value != (usual[name] or own[name])}
    words = [f"--net_config.{name} {shlex.quote(str(value))}" for name, value in wanted.items()]
    for name, values in (("mean", mean), ("std", std)):
        if values != getattr(defaults.dataset_config, name):
            words.append(f"--dataset_config.{name} {shlex.quote(str([round(value, 8) for value in values]))}")
    words = [f"--config_path {shlex.quote(recipe)}", *words] if recipe else words
    return " ".join(words) or "--config_path configs/coco.yaml"


def reverse(ckpt_file, output_file):
    """Write a checkpoint's weights as a file of the paper authors' code or, where it is to end in .ckpt, of the model zoo."""
    from ..weights.torch_files import import_torch

    to_zoo = output_file.endswith(".ckpt")
    if not to_zoo:
        import_torch()  # which may be missing: say so first
    weights, description = read_weights(ckpt_file)
    (write_zoo if to_zoo else write_original)(output_file, weights, description)


def read_weights(ckpt_file):
    """(weights {name: NumPy array}, the side file's dictionary) of a checkpoint of this project; says what became of every parameter."""
    from ..weights import torch_weights
    from ..weights.side_file import read_side_file

    description = read_side_file(ckpt_file, "checkpoint (--ckpt_file)")
    # MindSpore is slow to load, and not needed for a wrong path.
    from ..model_utils.config import Config
    from ..network.centernet import build_network
    from ..weights.checkpoints import load_weights, read_checkpoint, stored_name

    network = build_network(Config(description["net_config"]), description, "composite")
    parameters = read_checkpoint(ckpt_file, "checkpoint (--ckpt_file)")
    load_weights(network, parameters, ckpt_file)
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    used = {stored_name(name, parameters) for name in weights}
    left_out = {name: "the weights of the last step, whose average is taken" if name in weights else "the training's state"
                for name in parameters if name not in used}
    print(f"{ckpt_file}: this project's detector, {len(description['classes'])} classes, {description['arch']}")
    print(torch_weights.report(parameters, {}, torch_weights.Conversion(weights, left_out, [])))
    return weights, description


def write_original(output_file, weights, description):
    """Write {name: array} as the original's training does, and say so."""
    from ..weights import torch_weights
    from ..weights.torch_files import write_torch_file

    state = torch_weights.to_original(weights, description.get("num_batches_tracked"))
    write_torch_file(output_file, state, description["epoch"] + 1 if "epoch" in description else 0)
    print(f"wrote {output_file}: a dictionary of epoch and state_dict ({len(state)} tensors), as the original's training writes it")


def write_zoo(output_file, weights, description):
    """Write {name: array} as the model zoo's training does, but for the optimizer's state, and say so."""
    from ..weights import torch_weights
    from ..weights.checkpoints import save_weights

    state, remarks = torch_weights.to_zoo(weights)
    path = save_weights(output_file, state)
    result = (f"wrote {path}: {len(state)} parameters by the model zoo's names, without an optimizer's; its configuration there needs "
              f"num_classes {len(description['classes'])}")
    print("\n".join([*remarks, result]))
