"""Convert a detector between PyTorch and MindSpore: weights of the paper authors' code (resdcn_18, resdcn_101) or of MMDetection
(centernet_r18-dcnv2) into a checkpoint for eval.py, export.py and fine-tuning; with --reverse a checkpoint into a PyTorch file."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src import errors
from src.errors import UserError
from src.mindspore_version import require_mindspore
from src.options import OptionParser

COCO_CLASSES = os.path.join(ROOT, "tools", "names", "coco_classes.txt")


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("--ckpt_file", "-ckpt_file", required=True, help="PyTorch file; with --reverse a checkpoint")
    parser.add_argument("--output_file", required=True, help="checkpoint to write, its side file beside it; with --reverse a PyTorch file")
    parser.add_argument("--annotation", help="COCO-format annotation file that names the classes, in the order of their ids (without it, "
                                             "those in the PyTorch file, or COCO's if there are 80)")
    parser.add_argument("--reverse", action="store_true", help="write a PyTorch file that the paper authors' code loads")
    options = parser.parse_args(argv)
    if options.reverse and options.annotation:
        raise UserError("--annotation has no use with --reverse: PyTorch's file holds no class names")
    require_mindspore()
    errors.require_file(options.ckpt_file, "file to convert (--ckpt_file)")
    if options.annotation:
        errors.require_file(options.annotation, "annotation file (--annotation)")
    if options.reverse:
        to_pytorch(options.ckpt_file, options.output_file)
    else:
        to_mindspore(options.ckpt_file, options.output_file, options.annotation)


def to_mindspore(ckpt_file, output_file, annotation):
    """Write the checkpoint and its side file, and say what became of every tensor."""
    from src import torch_weights
    from src.centernet_det import build_network
    from src.checkpoint import parameter_shapes, save_weights
    from src.model_utils.config import Config, get_config
    from src.side_file import side_file
    from src.torch_files import read_torch_file
    from src.utils import keep_earlier, write_json

    state, others = read_torch_file(ckpt_file)
    state = torch_weights.without_prefix(state)
    with errors.about(ckpt_file):
        kind = torch_weights.recognise(state)
        if kind == "resnet":
            raise UserError("an ImageNet classifier, not a detector; tools/convert_resnet18.py makes a backbone of it")
        num_classes, network = torch_weights.describe_detector(state, kind)
        dataset, classes, category_ids = class_list(num_classes, annotation, others)
        defaults = get_config("", [])
        net_config = {**defaults.net_config.as_dict(), **network}
        shapes = parameter_shapes(build_network(Config(net_config), num_classes, "composite"))
        conversion = torch_weights.from_torch(state, shapes, kind)
    options = defaults.dataset_config
    mean, std = (torch_weights.MMDET_MEAN, torch_weights.MMDET_STD) if kind == "mmdet" else (options.mean, options.std)
    print(f"{ckpt_file}: {'MMDetection' if kind == 'mmdet' else 'the original'}'s detector, {num_classes} classes, "
          f"{network['num_stacks']} {network['block_class']}s")
    print(torch_weights.report(state, others, conversion))
    path = save_weights(output_file, conversion.weights)
    description = {
        "dataset": dataset, "classes": classes, "category_ids": category_ids, "net_config": net_config,
        "input_res_train": options.input_res_train, "mean": mean, "std": std,
    }
    if kind == "original":  # for the way back
        description["num_batches_tracked"] = torch_weights.step_counters(state)
    write_json(keep_earlier(side_file(path)), description)
    print(f"wrote {path} and {side_file(path)} ({len(classes)} classes: {', '.join(classes[:3])}, ...)")
    print(f"""next:
  python eval.py --data_dir DATA --load_checkpoint_path {path}
  python export.py --export_config.ckpt_file {path}
  python train.py --mindrecord_dir RECORDS --load_checkpoint_path {path} {train_options(net_config, mean, std, defaults)}""")


def class_list(num_classes, annotation, others):
    """(data set's name, class names, category ids) of a detector that knows only how many there are.

    Args: annotation, a COCO-format file or None; others, what the PyTorch file holds beside the weights.
    """
    from src.coco import class_list, read_coco

    if annotation:
        errors.require_file(annotation, "annotation file (--annotation)")
        names, ids = class_list(read_coco(annotation))
        found = os.path.splitext(os.path.basename(annotation))[0], names, ids
    else:
        with open(COCO_CLASSES, encoding="utf-8") as file:
            coco = dict(reversed(line.strip().split(" ", 1)) for line in file)
        meta = others.get("meta") if isinstance(others.get("meta"), dict) else {}
        names = list(meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes") or [])
        if num_classes == len(coco) and (not names or set(names) == set(coco)):
            found = "coco2017", names or list(coco), [int(coco[name]) for name in names or coco]
        elif names:
            found = "unknown", names, list(range(1, len(names) + 1))
        else:
            raise UserError(f"it knows {num_classes} classes and does not name them; give an annotation file of its data with --annotation")
    if len(found[1]) != num_classes:
        raise UserError(f"it knows {num_classes} classes, {annotation or 'its own list'} has {len(found[1])}")
    return found


def train_options(net_config, mean, std, defaults):
    """The words that train.py needs for this network and normalisation, where they are not the defaults."""
    usual = defaults.net_config.as_dict()
    words = [f'--net_config.{name} "{value}"' for name, value in net_config.items() if value != usual[name]]
    for name, values in (("mean", mean), ("std", std)):
        if values != getattr(defaults.dataset_config, name):
            words.append(f'--dataset_config.{name} "{[round(value, 8) for value in values]}"')
    return " ".join(words) or "--config_path configs/coco.yaml"


def to_pytorch(ckpt_file, output_file):
    """Write a checkpoint's weights as a PyTorch file for the paper authors' code."""
    from src import torch_weights
    from src.centernet_det import build_network
    from src.checkpoint import load_weights, read_checkpoint
    from src.model_utils.config import Config
    from src.side_file import read_side_file
    from src.torch_files import import_torch, write_torch_file
    from src.utils import keep_earlier

    import_torch()
    description = read_side_file(ckpt_file)
    network = build_network(Config(description["net_config"]), len(description["classes"]), "composite")
    load_weights(network, read_checkpoint(ckpt_file, "checkpoint (--ckpt_file)"), ckpt_file)
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    state = torch_weights.to_original(weights, description.get("num_batches_tracked"))
    path = keep_earlier(output_file)
    write_torch_file(path, state, description["epoch"] + 1 if "epoch" in description else 0)
    print(f"{ckpt_file}: {len(weights)} parameters\nwrote {path}: a dictionary of epoch and state_dict ({len(state)} tensors), "
          f"as the original's training writes it")


if __name__ == "__main__":
    errors.run(main)
