"""The JSON file beside a checkpoint or an exported file, which says what it is a model of; and the order of a run's checkpoints."""
import json
import os
import re
import shlex

from ..core import errors
from ..core.backups import contains_files, has_companion
from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import is_boolean, is_count, is_int64, is_number, is_positive, is_string, is_text, list_of, one_of
from ..core.project import command
from ..core.version import version
from ..imaging.view import STRIDE
from ..model_utils.combinations import check_evaluation
from ..model_utils.config import Config, checked_section, load_defaults
from ..model_utils.rules import checked
from ..network.architectures import network_facts, resolved
from ..tasks import task_of
from ..tasks.rows import width
from .zoo import refuse_zoo_checkpoint

EVALUATION = ("keep_res", "pad_multiple", "flip_test", "multi_scales", "SOFT_NMS", "K")  # of eval_config, what decides on detections
# What a side file says of the model, and what an exported file's says beside it.
MODEL = {"classes": list_of(is_text, least=1), "category_ids": list_of(is_int64), "mean": list_of(is_number, 3),
         "std": list_of(is_positive, 3)}
EXPORTED = {"input_res": list_of(is_count, 2), "batch_size": is_count, "input_type": one_of("float32", "uint8"), "down_ratio": is_count,
            "K": is_count, "flip_test": is_boolean}
CONSUMER = ("dataset", *MODEL)  # what an exported file's side file takes over from the checkpoint's
PYTORCH = (".pth", ".pt", ".pth.tar")  # endings of PyTorch's weight files


def require_checkpoint(path: str, what: str = "checkpoint (--load_checkpoint_path)") -> str:
    """Return path if it is a checkpoint's file, else raise UserError.

    Of a folder it names the checkpoint written last in it, of a model-zoo checkpoint and a file of PyTorch's what converts it.
    """
    if path and os.path.isdir(path):
        inside = find_checkpoints(path) or find_checkpoints(os.path.join(path, "ckpt_0"))
        hint = f"the checkpoint written last in it is {inside[-1]}" if inside else "it holds no checkpoint"
        raise UserError(f"{what} is a folder: {path}; {hint}")
    errors.require_file(path, what)
    if path.lower().endswith(PYTORCH):
        convert = f"{command('tools/convert_centernet.py')} --ckpt_file {shlex.quote(path)} --output_file NAME.ckpt"
        raise UserError(f"{path} is a file of PyTorch's: {convert} makes a checkpoint of a detector, "
                        "tools/convert_resnet18.py one of a backbone")
    refuse_zoo_checkpoint(path)
    return path


def side_file(checkpoint: str) -> str:
    """The JSON file beside a checkpoint: classes, category ids, network and input settings."""
    return os.path.splitext(checkpoint)[0] + ".json"


def checkpoint_path(path: str) -> str:
    """The path of a checkpoint to write, which ends in .ckpt."""
    return path if path.endswith(".ckpt") else f"{path}.ckpt"


# Tests for backups.back_up_existing: whether a model's file has its side file beside it, and whether a folder is a run's of checkpoints.
HAS_SIDE_FILE = has_companion(side_file, '"net_config"', '"input_type"')
CHECKPOINTS = contains_files("centernet-*", ".centernet-*")
CHECKPOINT_NAME = re.compile(r"centernet-\d+_(\d+)(\.\d+)?\.ckpt")


BEST_NAME = "centernet-best.ckpt"


def resolve_checkpoint_alias(path: str) -> str:
    """The checkpoint that a path names: of RUN/best the best, of RUN/last the newest one in a run's folder or its ckpt_0; else path.

    Raises UserError if there is none.
    """
    folder, name = os.path.split(path)
    if name not in ("best", "last") or os.path.exists(path):
        return path
    places = (folder or ".", os.path.join(folder, "ckpt_0"))
    for place in places:
        if found := _best_in(place) if name == "best" else find_checkpoints(place):
            return os.path.normpath(found[-1])
    aside = _newest_set_aside(os.path.join(folder, "ckpt_0"))
    hint = f"; {aside} is the newest of the run before" if aside else ""
    if name == "best":
        newest = any(map(find_checkpoints, places))
        hint = "; eval_epochs keeps one" + (f", and {os.path.join(folder, 'last')} is the newest" if newest else hint)
    raise UserError(f"{path} names the {'best' if name == 'best' else 'newest'} checkpoint in {folder or 'this folder'} or its ckpt_0, "
                    f"and there is none{hint}")


def _best_in(folder: str) -> list[str]:
    """The path of the best checkpoint in a run's folder, in a list that is empty without."""
    best = os.path.join(folder, BEST_NAME)
    return [best] if os.path.isfile(best) else []


def find_checkpoints(folder: str) -> list[str]:
    """Paths of a run's checkpoints in a folder, in the order in which they were written."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [(os.path.join(folder, name), int(match[1])) for name in names if (match := CHECKPOINT_NAME.fullmatch(name))]
    return [path for path, step in sorted(found, key=lambda entry: (write_order(entry[0]), entry[1], entry[0]))]


def checkpoints_to_resume(folder: str) -> list[str]:
    """Paths of the checkpoints in a run's folder, the newest first, the best one last. Raises UserError if there is none."""
    found = [*reversed(find_checkpoints(folder)), *_best_in(folder)]
    if not found:
        aside = _newest_set_aside(folder)
        hint = f"; {aside} is the newest of the run before: --load_checkpoint_path {shlex.quote(aside)} goes on with it" if aside else ""
        raise UserError(f"no checkpoint in {folder} to go on from{hint or '; set --load_checkpoint_path or --save_checkpoint_path'}")
    return found


def _newest_set_aside(folder: str) -> str:
    """The newest checkpoint in the last of the folders that runs have set aside as folder.1, folder.2, ...; "" without."""
    inside = {number: find_checkpoints(f"{folder}.{number}") for number in _numbers_aside(folder)}
    return next((found[-1] for _, found in sorted(inside.items(), reverse=True) if found), "")


def _numbers_aside(folder: str) -> list[int]:
    """The numbers of what backups.back_up_existing has called folder.1, folder.2, ..."""
    place, name = os.path.split(folder)
    names = os.listdir(place or ".") if os.path.isdir(place or ".") else []
    return [int(match[1]) for other in names if (match := re.fullmatch(re.escape(name) + r"\.(\d+)", other))]


def write_order(checkpoint: str) -> int:
    """Which of its folder's checkpoints, counted from 1 in the order of writing, its side file says it is; 0 if that does not say.

    The step in the name does not tell: a resumed run with other batches counts its steps anew. Nor do files' times, which copies change.
    """
    try:
        with open(side_file(checkpoint), encoding="utf-8") as file:
            return int(json.load(file)["written"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def describe_model(config: Config, manifest: dict) -> dict:
    """What travels with a checkpoint in its side file, as a dictionary; `evaluation` is what its recipe evaluates with.

    Raises UserError if that cannot be.
    """
    check_evaluation(config, network_facts(config.net_config.as_dict()))
    options = config.dataset_config
    return {
        "dataset": manifest["dataset"], "classes": manifest["classes"], "category_ids": manifest["category_ids"],
        **{name: manifest[name] for name in task_of(config.net_config).targets.METAINFO},
        "net_config": config.net_config.as_dict(), "input_res_train": options.input_res_train,
        "mean": options.mean, "std": options.std, "evaluation": evaluation_settings(config), "version": version(),
    }


def evaluation_settings(config: Config) -> dict:
    """The settings that decide on an evaluation's detections, {"eval_config.K": 100, ...}."""
    settings = {f"eval_config.{name}": getattr(config.eval_config, name) for name in EVALUATION}
    return {"dataset_config.input_res_test": config.dataset_config.input_res_test, **settings}


def adopt_evaluation(config: Config, description: dict, path: str) -> str:
    """Give a Config the evaluation settings of the side file at path where neither a file nor the command line says otherwise.

    Returns the words for what holds, and where it comes from. Raises UserError if the side file's cannot be.
    """
    config.take(description.get("evaluation", {}), path)
    check_evaluation(config, description)
    options = config.eval_config
    shown = {"dataset_config.input_res_test": "x".join(map(str, config.dataset_config.input_res_test)),
             **{f"eval_config.{name}": getattr(options, name) for name in EVALUATION}}
    if options.keep_res:
        shown["dataset_config.input_res_test"] = "each image's own size"
    else:
        del shown["eval_config.pad_multiple"]
    return "evaluating with " + ", ".join(f"{name.rpartition('.')[2]} {str(value).lower() if isinstance(value, bool) else value} "
                                          f"({config.origin(name)})" for name, value in shown.items())


def read_side_file(checkpoint: str, what: str = "checkpoint (--load_checkpoint_path)") -> dict:
    """The dictionary of the side file of a checkpoint, which messages call `what`, with its network_facts.

    Raises UserError if either file is missing or broken.
    """
    require_checkpoint(checkpoint, what)
    tests = {**MODEL, "net_config": lambda value: isinstance(value, dict), "input_res_train": list_of(is_count, 2)}
    description = read_json(side_file(checkpoint), f"the side file of {checkpoint}", tests)
    check_model(description, side_file(checkpoint))
    try:
        description["net_config"] = checked_section("net_config", description["net_config"], side_file(checkpoint))
        checked_section("dataset_config", {"input_res_train": description["input_res_train"]}, side_file(checkpoint))
        description["evaluation"] = checked_evaluation(description.get("evaluation", {}), side_file(checkpoint))
        with errors.about(side_file(checkpoint)):
            description |= network_facts(description["net_config"])
            resolved(description["net_config"])
            check_metainfo(description)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{side_file(checkpoint)}: net_config or input_res_train is not what train.py writes ({error})") from error
    return description


def read_exported(path: str) -> dict:
    """The side file's dictionary of an exported file. Raises UserError if either is missing."""
    errors.require_file(path, "exported file (--mindir, --mindir_path)")
    content = read_json(side_file(path), f"the side file of {path}", {"dataset": is_string, **MODEL, **EXPORTED})
    return checked_exported(content, side_file(path))


def checked_exported(description: dict, where: str) -> dict:
    """What an exported file says of itself, of values that passed their tests one by one, found at `where`. Raises UserError."""
    check_model(description, where)
    if not is_count(description.setdefault("stride", STRIDE)):  # files of an older version do not say it
        raise UserError(f"{where}: stride is {description['stride']!r}; expected a whole number above 0")
    if not is_string(description.setdefault("arch", "")):
        raise UserError(f"{where}: arch is {description['arch']!r}; expected an architecture's name")
    description["task"] = description.get("task", "detection")
    with errors.about(where):
        check_metainfo(description)
    description["evaluation"] = checked_evaluation(description.get("evaluation", {}), where)
    return description


def check_metainfo(description: dict) -> None:
    """Raise UserError unless a description names a task, and says what that reads of a data set."""
    task = task_of(description)
    for name, test in task.targets.METAINFO.items():
        if not (name in description and test(description[name])):
            raise UserError(f"{name}, which a model for {task.name} says of its classes, is missing or damaged")


def row_width(description: dict) -> int:
    """How many numbers a described model gives for a detection."""
    return width(task_of(description).results.columns(description))


def fixed_settings(description: dict, where: str) -> dict:
    """The evaluation settings that an exported file with this side file, at `where`, has in its graph. Raises UserError."""
    settings = {"eval_config.K": description["K"], "eval_config.flip_test": description["flip_test"]}
    if description["input_res"] is not None:
        settings |= {"dataset_config.input_res_test": description["input_res"], "eval_config.keep_res": False}
    return checked_evaluation(settings, where)


def checked_evaluation(settings: dict, where: str) -> dict:
    """A side file's evaluation settings, checked; files of an older version have none. Raises UserError."""
    if not isinstance(settings, dict):
        raise UserError(f"{where}: evaluation is no dictionary of settings")
    _, _, rules = load_defaults()
    known = {"dataset_config.input_res_test", *(f"eval_config.{name}" for name in EVALUATION)}
    return {name: checked(name, value, rules[name], where) for name, value in settings.items() if name in known}


def check_model(description: dict, path: str) -> None:
    """Raise UserError unless a side file has as many category ids as classes."""
    if len(description["category_ids"]) != len(description["classes"]):
        raise UserError(f"{path}: category_ids is no list of {len(description['classes'])} whole numbers")
