"""Side files: the JSON description next to a checkpoint or an exported file."""
import glob
import os
import shlex
from collections.abc import Callable
from typing import Any

from ..core import errors
from ..core.backups import contains_mark, has_companion
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
from ..tasks import TASKS, check_metainfo, task_of
from ..tasks.rows import width
from .zoo import refuse_zoo_checkpoint

# The parameters of eval_config that affect detections of any task.
EVALUATION = ("keep_res", "pad_multiple", "flip_test", "multi_scales", "SOFT_NMS", "K")
# Fields of every side file, and further ones of an exported file's: {name: test of the value}.
MODEL: dict[str, Callable[[Any], bool]] = {
    "classes": list_of(is_text, least=1), "category_ids": list_of(is_int64), "mean": list_of(is_number, 3),
    "std": list_of(is_positive, 3)}
EXPORTED: dict[str, Callable[[Any], bool]] = {
    "input_res": list_of(is_count, 2), "batch_size": is_count, "input_type": one_of("float32", "uint8"),
    "down_ratio": is_count, "K": is_count, "flip_test": is_boolean}
CONSUMER = ("dataset", *MODEL)  # fields that an exported file's side file copies from the checkpoint's
CACHED = "cache_"  # begins names in the metadata of the ONNX files of onnx_cache.py
IS_CACHED = contains_mark(f"{CACHED}key")  # tests whether a file is one of these
PYTORCH = (".pth", ".pt", ".pth.tar")  # extensions of PyTorch's weight files


def require_checkpoint(path: str, what: str = "checkpoint (--load_checkpoint_path)") -> str:
    """Return path if it is a checkpoint file, else raise UserError.

    The message names the converter for a PyTorch or model-zoo file.
    """
    if path and os.path.isdir(path):
        raise UserError(f"{what} is a folder without checkpoints: {path}")
    errors.require_file(path, what)
    if path.lower().endswith(PYTORCH):
        convert = f"{command('tools/convert_centernet.py')} --ckpt_file {shlex.quote(path)} --output_file NAME.ckpt"
        raise UserError(f"{path} is a PyTorch file; convert a detector with {convert}, a backbone with "
                        "tools/convert_resnet18.py")
    refuse_zoo_checkpoint(path)
    return path


def side_file(checkpoint: str) -> str:
    """The path of a checkpoint's JSON file: classes, category ids, network and input settings."""
    return os.path.splitext(checkpoint)[0] + ".json"


def cache_path(checkpoint: str, form: str) -> str:
    """The path of onnx_cache.py's export of a checkpoint, with a form of the deformable convolutions."""
    return f"{checkpoint}.{form}.onnx"


def cached_exports(checkpoint: str) -> list[str]:
    """The paths of all such exports of a checkpoint."""
    return [path for path in glob.glob(cache_path(glob.escape(checkpoint), "*")) if IS_CACHED(path)]


def checkpoint_path(path: str) -> str:
    """path with the extension .ckpt, which is appended if it is missing."""
    return path if path.endswith(".ckpt") else f"{path}.ckpt"


# A test for backups.back_up_existing: a model file with a side file.
HAS_SIDE_FILE = has_companion(side_file, '"net_config"', '"input_type"')


def describe_model(config: Config, manifest: dict) -> dict:
    """The content of a checkpoint's side file. `evaluation` has the configured evaluation settings.

    Raises UserError if these are invalid for the network.
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
    """The settings that affect an evaluation's detections, {"eval_config.K": 100, ...}."""
    names = evaluation_names(config.net_config)
    settings = {f"eval_config.{name}": getattr(config.eval_config, name) for name in names}
    return {"dataset_config.input_res_test": config.dataset_config.input_res_test, **settings}


def evaluation_names(settings: Any) -> tuple[str, ...]:
    """The parameters of eval_config that affect detections of the task of a net_config or description."""
    return (*EVALUATION, *task_of(settings).evaluation)


def adopt_evaluation(config: Config, description: dict, path: str) -> str:
    """Set the evaluation settings of the side file at path, except those given in a file or on the command line.

    Returns a sentence with the settings in use and their origins. Raises UserError if the side file's are invalid.
    """
    config.take(description.get("evaluation", {}), path)
    check_evaluation(config, description)
    options = config.eval_config
    shown = {"dataset_config.input_res_test": "x".join(map(str, config.dataset_config.input_res_test)),
             **{f"eval_config.{name}": getattr(options, name) for name in evaluation_names(description)}}
    if options.keep_res:
        shown["dataset_config.input_res_test"] = "each image's own size"
    else:
        del shown["eval_config.pad_multiple"]
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in shown.items()}
    return "evaluating with " + ", ".join(f"{name.rpartition('.')[2]} {value} ({config.origin(name)})"
                                          for name, value in values.items())


def read_side_file(checkpoint: str, what: str = "checkpoint (--load_checkpoint_path)") -> dict:
    """The content of a checkpoint's side file, with its network_facts. Messages call the checkpoint `what`.

    Raises UserError if either file is missing or damaged.
    """
    require_checkpoint(checkpoint, what)
    path = side_file(checkpoint)
    tests = {**MODEL, "net_config": lambda value: isinstance(value, dict), "input_res_train": list_of(is_count, 2)}
    description = read_json(path, f"the side file of {checkpoint}", tests)
    check_model(description, path)
    try:
        description["net_config"] = checked_section("net_config", description["net_config"], path)
        checked_section("dataset_config", {"input_res_train": description["input_res_train"]}, path)
        description["evaluation"] = checked_evaluation(description.get("evaluation", {}), path)
        with errors.prefix_errors(path):
            description |= network_facts(description["net_config"])
            resolved(description["net_config"])
            check_metainfo(description)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: net_config or input_res_train is not as train.py writes it ({error})") from error
    return description


def read_exported(path: str) -> dict:
    """The content of an exported file's side file. Raises UserError if either file is missing or damaged."""
    errors.require_file(path, "exported file (--mindir, --mindir_path)")
    content = read_json(side_file(path), f"the side file of {path}", {"dataset": is_string, **MODEL, **EXPORTED})
    return checked_exported(content, side_file(path))


def checked_exported(description: dict, where: str) -> dict:
    """Check an exported file's description, found at `where`, and fill in fields that older versions did not write.

    Its values must have passed the tests of MODEL and EXPORTED. Returns the description. Raises UserError.
    """
    check_model(description, where)
    if not is_count(description.setdefault("stride", STRIDE)):
        raise UserError(f"{where}: stride is {description['stride']!r}; expected a positive integer")
    if not is_string(description.setdefault("arch", "")):
        raise UserError(f"{where}: arch is {description['arch']!r}; expected an architecture's name")
    with errors.prefix_errors(where):
        description["task"] = task_of(description).name
        check_metainfo(description)
    description["evaluation"] = checked_evaluation(description.get("evaluation", {}), where)
    return description


def row_width(description: dict) -> int:
    """The number of columns of a model's detections in output pixels."""
    return width(task_of(description).results.output_columns(description))


def fixed_settings(description: dict, where: str) -> dict:
    """The evaluation settings that are fixed in an exported graph by its side file, at `where`. Raises UserError."""
    settings = {"eval_config.K": description["K"], "eval_config.flip_test": description["flip_test"]}
    if description["input_res"] is not None:
        settings |= {"dataset_config.input_res_test": description["input_res"], "eval_config.keep_res": False}
    return checked_evaluation(settings, where)


def checked_evaluation(settings: dict, where: str) -> dict:
    """A side file's known evaluation settings, checked; those of older versions have none. Raises UserError."""
    if not isinstance(settings, dict):
        raise UserError(f"{where}: evaluation is not a dictionary of settings")
    _, _, rules = load_defaults()
    names = {*EVALUATION, *(name for task in TASKS.values() for name in task.evaluation)}
    known = {"dataset_config.input_res_test", *(f"eval_config.{name}" for name in names)}
    return {name: checked(name, value, rules[name], where) for name, value in settings.items() if name in known}


def check_model(description: dict, path: str) -> None:
    """Raise UserError unless a side file has as many category ids as classes."""
    if len(description["category_ids"]) != len(description["classes"]):
        raise UserError(f"{path}: category_ids must be a list of {len(description['classes'])} integers")
