"""Convert a trained detector of the paper authors' code (resdcn, res, dla_34, dlav0_34, hourglass), of MMDetection
(centernet_r18-dcnv2, centernet_r18) or of the MindSpore model zoo (detection, pose) into a checkpoint for eval.py,
export.py and fine-tuning. With --reverse, convert such a checkpoint for the paper authors' code (--output_file X.pth)
or the model zoo (--output_file X.ckpt)."""
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import errors
from ..core.backups import never_ours, require_ours
from ..core.errors import UserError
from ..core.project import next_steps
from ..core.tables import abbreviate
from ..core.version import version
from ..inference.options import OptionParser
from ..model_utils.config import Config
from ..model_utils.mindspore_version import require_mindspore
from ..tasks import Task, task_of
from ..weights.run_folder import resolve_checkpoint_alias
from ..weights.side_file import HAS_SIDE_FILE, checkpoint_path, side_file

TORCH_ENDINGS = (".pth", ".pt", ".pth.tar")


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    parser.add_argument("--ckpt_file", "-ckpt_file", required=True,
                        help="PyTorch file or model-zoo checkpoint (its source is recognized by its tensor names); "
                             "with --reverse, a checkpoint of this project")
    parser.add_argument("--output_file", required=True,
                        help="checkpoint to write, along with its side file; with --reverse, .ckpt selects a model-zoo "
                             f"checkpoint, {', '.join(TORCH_ENDINGS)} a PyTorch file for the paper authors' code")
    parser.add_argument("--annotation",
                        help="COCO-format annotation file with the names of the classes, in the order of their ids, "
                             "and of keypoints, and the camera of 3D boxes (default: the names in the PyTorch file, or "
                             "COCO's for 80 classes or, for pose, one class with 17 keypoints, or KITTI's three)")
    parser.add_argument("--config_path",
                        help="recipe that trained the detector (configs/voc_dla_384.yaml, ...); its mean, std, "
                             "input size and evaluation settings go into the side file (default: default_config.yaml)")
    parser.add_argument("--reverse", action="store_true",
                        help="convert a checkpoint of this project for the paper authors' code or the model zoo")
    options = parser.parse_args(argv)
    for name in ("annotation", "config_path"):
        if options.reverse and getattr(options, name):
            raise UserError(f"--{name} cannot be used with --reverse, which writes only weights")
    if options.reverse:
        options.ckpt_file = resolve_checkpoint_alias(options.ckpt_file)
    require_mindspore()
    errors.require_file(options.ckpt_file, "file to convert (--ckpt_file)")
    if options.annotation:
        errors.require_file(options.annotation, "annotation file (--annotation)")
    if options.reverse:
        check_target(options.output_file)
        require_ours(options.output_file, never_ours, option="--output_file")
        reverse(options.ckpt_file, options.output_file)
    else:
        require_ours(checkpoint_path(options.output_file), HAS_SIDE_FILE, side_file, "--output_file")
        convert(options.ckpt_file, options.output_file, options.annotation, options.config_path)


def check_target(path: str) -> None:
    """Raise UserError unless --reverse writes this format, and the file is not this project's checkpoint."""
    if not path.endswith((".ckpt", *TORCH_ENDINGS)):
        raise UserError(f"--output_file is {path}; with --reverse its extension selects the format: .ckpt for the "
                        f"model zoo, {', '.join(TORCH_ENDINGS)} for the paper authors' code")
    if path.endswith(".ckpt") and os.path.exists(side_file(path)):
        raise UserError(f"--output_file is {path}, a checkpoint of this project with the side file {side_file(path)}; "
                        "choose another name")


def convert(ckpt_file: str, output_file: str, annotation: str | None, recipe: str | None = None) -> None:
    """Write the checkpoint and its side file, and print what happened to each tensor."""
    from ..core.files import write_json
    from ..model_utils.config import checked_section, get_config
    from ..network.architectures import architecture_of
    from ..network.centernet import build_network
    from ..weights import source_names, torch_weights
    from ..weights.checkpoints import parameter_shapes, save_weights
    from ..weights.side_file import evaluation_settings

    defaults = get_config("", ["--config_path", recipe] if recipe else [])
    state, others = read_source(ckpt_file)
    with errors.prefix_errors(ckpt_file):
        state = source_names.without_prefix(state)
        kind = source_names.recognize(state)
        if kind in ("resnet", "dla"):
            raise UserError("an ImageNet classifier, not a detector; use tools/convert_resnet18.py")
        _, network = torch_weights.describe_detector(state, kind)
        task, weight = task_of(network), torch_weights.head_weights(state, kind)
        settings = get_config("", ["--config_path", recipe] if recipe else [])
        if not recipe:
            settings.take(task.weights.SETTINGS, f"the original's recipe of {task.name}")
        dataset, metainfo = names_of(task, weight, annotation, others)
        metainfo = task.targets.configured(metainfo, settings)
        net_config = checked_section("net_config", {**defaults.net_config.as_dict(), **network}, ckpt_file)
        shapes = parameter_shapes(build_network(Config(net_config), metainfo, "composite"))
        conversion = torch_weights.from_source(state, shapes, kind)
    options = settings.dataset_config
    mean, std = options.mean, options.std
    if torch_weights.SOURCES[kind] == "MMDetection":
        mean, std = torch_weights.MMDET_MEAN, torch_weights.MMDET_STD
    counted, source = task.weights.counted(weight), torch_weights.SOURCES[kind]
    print(f"{ckpt_file}: detector of {source}, {counted}, {architecture_of(shapes)}")
    print(torch_weights.report(state, others, conversion))
    path = save_weights(output_file, conversion.weights)
    description = {
        "dataset": dataset, **metainfo, "net_config": net_config,
        "input_res_train": options.input_res_train, "mean": mean, "std": std, "version": version(),
    }
    if recipe or task.weights.SETTINGS:
        description["evaluation"] = evaluation_settings(settings)
    if kind == "original":  # for --reverse
        description["num_batches_tracked"] = torch_weights.step_counters(state)
    write_json(side_file(path), description)
    print(f"wrote {path} and {side_file(path)} ({counted}: {abbreviate(metainfo['classes'], 3)})")
    training = train_options(net_config, mean, std, defaults, recipe)
    print(next_steps(("eval.py", "--data_dir", "DATA", "--load_checkpoint_path", path),
                     ("export.py", "--export_config.ckpt_file", path),
                     ("train.py", "--mindrecord_dir", "RECORDS", "--load_checkpoint_path", path, *training)))


def read_source(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (state {name: array}, other entries {name: value}) of a PyTorch file or a model-zoo checkpoint."""
    from ..weights.checkpoints import read_parameters
    from ..weights.torch_files import read_torch_file
    from ..weights.zoo import is_zoo_checkpoint, refuse_checkpoint

    if is_zoo_checkpoint(path):
        content = read_parameters(path)
        state = {name: value.asnumpy() for name, value in content.items() if hasattr(value, "asnumpy")}
        return state, {name: value for name, value in content.items() if name not in state}
    refuse_checkpoint(path)
    return read_torch_file(path)


def names_of(task: Task, weight: Callable[[str, int], Any], annotation: str | None,
             others: Mapping[str, Any]) -> tuple[str, dict]:
    """Return (data set name, metainfo) for a detector whose weights give only the numbers of what it detects.

    Args: its task; weight(head, layer) as in torch_weights.head_weights; annotation, a COCO-format file or None;
    others, the entries of the converted file besides its weights.
    """
    from ..data.coco import metainfo_of, read_coco

    if annotation:
        coco = read_coco(annotation, task=task)
        with errors.prefix_errors(annotation):
            metainfo = metainfo_of(coco, task)
        dataset = os.path.splitext(os.path.basename(annotation))[0]
    else:
        known = {category["name"]: category for category in task.weights.coco_categories(weight)}
        names = names_in(others.get("meta"))
        if known and (not names or set(names) == set(known)):
            dataset, categories = task.weights.DATASET, [known[name] for name in names or known]
        elif names:
            dataset, categories = "unknown", [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        else:
            raise UserError(f"it has {task.weights.counted(weight)} but no names; name them with --annotation")
        metainfo = {"classes": [category["name"] for category in categories],
                    "category_ids": [category["id"] for category in categories],
                    **task.targets.read_metainfo(categories)}
    if (wanted := task.weights.counted(weight)) != (found := task.weights.counted_names(metainfo)):
        raise UserError(f"it has {wanted}, {annotation or 'its list of names'} has {found}")
    return dataset, metainfo


def names_in(meta: Any) -> list[str]:
    """The class names in an MMDetection file's "meta" entry; [] if it has none."""
    meta = meta if isinstance(meta, dict) else {}
    dataset_meta = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (dataset_meta.get("classes") if isinstance(dataset_meta, dict) else None)
    return list(names) if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else []


def train_options(net_config: dict, mean: list[float], std: list[float], defaults: Config,
                  recipe: str | None) -> list[str]:
    """The train.py options for this network and normalization that differ from the recipe or the defaults.

    Without the task, which the training's data decide.
    """
    from ..network.architectures import resolved

    usual = defaults.net_config.as_dict()
    implied = vars(resolved({**net_config, "block_class": "", "num_stacks": [], "head_conv": 0}))
    options = {f"--net_config.{name}": str(value) for name, value in vars(resolved(net_config)).items()
               if name != "task" and value != (usual[name] or implied[name])}
    options |= {f"--dataset_config.{name}": str([round(value, 8) for value in values])
                for name, values in (("mean", mean), ("std", std)) if values != getattr(defaults.dataset_config, name)}
    recipe = recipe or (None if options else "configs/coco.yaml")
    return [word for pair in (({"--config_path": recipe} if recipe else {}) | options).items() for word in pair]


def reverse(ckpt_file: str, output_file: str) -> None:
    """Write a checkpoint's weights for the model zoo if output_file ends in .ckpt, else for the paper authors' code."""
    from ..weights.torch_files import import_torch

    to_zoo = output_file.endswith(".ckpt")
    if not to_zoo:
        import_torch()  # fail early if it is missing
    weights, description = read_weights(ckpt_file)
    (write_zoo if to_zoo else write_original)(output_file, weights, description)


def read_weights(ckpt_file: str) -> tuple[dict[str, np.ndarray], dict]:
    """Return (weights {name: array}, side file's dictionary) of our checkpoint; print which parameters are used."""
    from ..weights import torch_weights
    from ..weights.side_file import read_side_file

    description = read_side_file(ckpt_file, "checkpoint (--ckpt_file)")
    # MindSpore is slow to load, and not needed to report a wrong path.
    from ..network.centernet import build_network
    from ..weights.checkpoints import load_weights, read_checkpoint, stored_name

    network = build_network(Config(description["net_config"]), description, "composite")
    parameters = read_checkpoint(ckpt_file, "checkpoint (--ckpt_file)")
    load_weights(network, parameters, ckpt_file)
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    used = {stored_name(name, parameters) for name in weights}
    left_out = {name: "last step's value; the average is used" if name in weights else "training state"
                for name in parameters if name not in used}
    counted = task_of(description).weights.counted_names(description)
    print(f"{ckpt_file}: detector of this project, {counted}, {description['arch']}")
    print(torch_weights.report(parameters, {}, torch_weights.Conversion(weights, left_out, [])))
    return weights, description


def write_original(output_file: str, weights: Mapping[str, np.ndarray], description: dict) -> None:
    """Write weights {name: array} in the format of the paper authors' training, and print a summary."""
    from ..weights import torch_weights
    from ..weights.torch_files import write_torch_file

    state = torch_weights.to_original(weights, description.get("num_batches_tracked"))
    write_torch_file(output_file, state, description["epoch"] + 1 if "epoch" in description else 0)
    print(f"wrote {output_file}: epoch and state_dict ({len(state)} tensors), in the original's training format")


def write_zoo(output_file: str, weights: Mapping[str, np.ndarray], description: dict) -> None:
    """Write weights {name: array} as the model zoo's training does, without optimizer state; print a summary."""
    from ..weights import torch_weights
    from ..weights.checkpoints import save_weights

    state, remarks = torch_weights.to_zoo(weights)
    path = save_weights(output_file, state)
    result = (f"wrote {path}: {len(state)} parameters under the model zoo's names, without optimizer state; "
              f"set num_classes to {len(description['classes'])} in the model zoo's configuration")
    print("\n".join([*remarks, result]))
