"""The configuration: default_config.yaml, a file that states what differs, and the command line, in this order."""
import argparse
import difflib
import os

import yaml

from src import errors
from src.errors import UserError

DEFAULT_CONFIG = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "default_config.yaml")

# Parameters of the model-zoo version that ours has no use for, and what takes their place.
RETIRED = {
    "dataset_config.num_classes": "the number of classes comes from the annotation file",
    "net_config.num_classes": "the number of classes comes from the annotation file",
    "dataset_config.coco_classes": "the class names come from the annotation file",
    "eval_config.valid_ids": "the category ids come from the annotation file",
    "dataset_config.output_res": "the output resolution is input_res_train / net_config.down_ratio",
    "net_config.dense_hp": "it belongs to pose estimation",
}


AT_LEAST_ONE = (
    "device_num", "epoch_size", "save_checkpoint_steps", "save_checkpoint_num", "dataset_config.num_shards",
    "dataset_config.num_workers", "dataset_config.max_objs",
    "dataset_config.max_pixels", "net_config.head_conv", "train_config.batch_size", "eval_config.K",
    "eval_config.batch_size", "export_config.batch_size",
    "eval_config.pad_multiple", "train_config.loss_scale_window", "modelarts_timeout",
)
# [width, height], each a multiple of the number: the network halves its input five times.
SIZES = {"dataset_config.input_res_train": 32, "dataset_config.input_res_test": 8, "export_config.input_res": 32}


class Config:
    """Nested settings as attributes: config.train_config.batch_size."""

    def __init__(self, values):
        for name, value in values.items():
            setattr(self, name, Config(value) if isinstance(value, dict) else value)

    def as_dict(self):
        """The settings as plain nested dictionaries."""
        return {name: value.as_dict() if isinstance(value, Config) else value for name, value in vars(self).items()}


def load_defaults(path=DEFAULT_CONFIG):
    """Return (values, helps, choices) of a three-document file, each flat: {"train_config.batch_size": ...}."""
    return tuple(_flatten(document) for document in _read_yaml(path))


def get_config(description, argv=None):
    """Parse the command line (argv, default sys.argv) of an entry script into a Config.

    Raises UserError for an unknown parameter (with the nearest right name), a wrong type or an impossible value.
    """
    values, helps, choices = load_defaults()
    parser = _parser(description, values, helps, choices)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        if not unknown[0].startswith("-"):
            raise UserError(f"unexpected argument {unknown[0]!r}; options are written --name value")
        raise UserError(_unknown("option", name, [*values, "config_path"]))
    given = vars(options)
    path = given.pop("config_path", None)
    if path:
        values = merge(values, read_config_file(path), choices, path)
    values = merge(values, {name: value for name, value in given.items() if value is not None}, choices, "the command line")
    _check_ranges(values)
    return Config(_nest(values))


def add_model_options(parser):
    """Give the parser of a tool that detects the options that name its model and its device."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--load_checkpoint_path", metavar="FILE", help="checkpoint; its side file lies beside it")
    model.add_argument("--mindir", metavar="FILE", help="exported file; its side file lies beside it")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"), default="auto", help="device (default: %(default)s)")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: %(default)s)")


def _check_ranges(values):
    for name in AT_LEAST_ONE:
        if values[name] < 1:
            raise UserError(f"{name} is {values[name]}; it must be at least 1")
    for name, multiple in SIZES.items():
        sides = values[name]
        if len(sides) != 2 or any(not isinstance(side, int) or side < multiple or side % multiple for side in sides):
            raise UserError(f"{name} is {sides}; expected [width, height], both multiples of {multiple}")
    if values["data_sink_steps"] < 1 and values["data_sink_steps"] != -1:
        raise UserError(f"data_sink_steps is {values['data_sink_steps']}; expected at least 1, or -1 for an epoch")
    if values["eval_config.pad_multiple"] % 32:
        raise UserError(f"eval_config.pad_multiple is {values['eval_config.pad_multiple']}; expected a multiple of 32")
    if values["eval_config.flip_test"] and not values["eval_config.keep_res"] and values["dataset_config.input_res_test"][0] % 32:
        raise UserError(f"eval_config.flip_test needs an input whose mirror image lies on the same grid: the width of "
                        f"dataset_config.input_res_test is {values['dataset_config.input_res_test'][0]}, no multiple of 32")
    scales = values["eval_config.multi_scales"]
    if not scales or any(not isinstance(scale, (int, float)) or scale <= 0 for scale in scales):
        raise UserError(f"eval_config.multi_scales is {scales}; expected numbers above 0")
    stages = values["net_config.num_stacks"]
    if len(stages) != 4 or any(not isinstance(depth, int) or depth < 1 for depth in stages):
        raise UserError(f"net_config.num_stacks is {stages}; expected four numbers of blocks, such as [2, 2, 2, 2]")


def read_config_file(path):
    """Return the settings of a YAML file, flat. Of several documents the first counts."""
    if not os.path.isfile(path):
        raise UserError(f"configuration file not found: {path}")
    documents = _read_yaml(path)
    settings = documents[0] if documents and documents[0] is not None else {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected `name: value` lines")
    return _flatten(settings)


def merge(values, changes, choices, where):
    """Return values with the changes made, each converted to the type of what it replaces and checked."""
    merged = dict(values)
    for name, value in changes.items():
        if name not in values:
            raise UserError(f"{where}: {_unknown('parameter', name, values)}")
        merged[name] = _convert(name, value, values[name], where)
        if name in choices and merged[name] not in choices[name]:
            raise UserError(f"{where}: {name} is {merged[name]!r}; choose from {', '.join(map(str, choices[name]))}")
    return merged


def checked_section(section, settings, where):
    """A section's settings {name: value}, from a file that was written earlier, checked; what it lacks has its default.

    Raises UserError as get_config does.
    """
    defaults, _, choices = load_defaults()
    values = merge(defaults, {f"{section}.{name}": value for name, value in settings.items()}, choices, where)
    with errors.about(where):
        _check_ranges(values)
    return _nest(values)[section]


def _parser(description, values, helps, choices):
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config_path", metavar="FILE", help="YAML file that states what differs from default_config.yaml")
    for name, value in values.items():
        metavar = "|".join(map(str, choices[name])) if name in choices else _type_name(value)
        help_text = f"{helps[name]} (default: {value})".replace("%", "%%")
        parser.add_argument(f"--{name}", metavar=metavar, help=help_text)
    return parser


def _type_name(value):
    return {bool: "true|false", int: "N", float: "X", list: "LIST"}.get(type(value), "TEXT")


def _convert(name, value, default, where):
    """value (from YAML, or text from the command line) as the type of default."""
    wanted = {bool: "true or false", int: "a whole number", float: "a number", list: "a list such as [1, 2]", str: "text"}[type(default)]
    problem = UserError(f"{where}: {name} is {value!r}; expected {wanted}")
    if isinstance(default, str):
        if isinstance(value, (dict, list)):
            raise problem
        return "" if value is None else str(value)
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise problem from None
        if isinstance(value, str):  # YAML 1.1 takes 5e-4, without a point, for text
            try:
                value = float(value)
            except ValueError:
                raise problem from None
    if isinstance(default, bool):
        if value in (0, 1):
            return bool(value)
        raise problem
    if isinstance(value, bool):
        raise problem
    if isinstance(default, int) and isinstance(value, (int, float)) and value == int(value):
        return int(value)
    if isinstance(default, float) and isinstance(value, (int, float)):
        return float(value)
    if isinstance(default, list) and isinstance(value, list):
        return value
    raise problem


def _unknown(kind, name, known):
    if name in RETIRED:
        return f"no {kind} {name}: {RETIRED[name]}"
    names = list(known)
    lasts = [known_name.split(".")[-1] for known_name in names]
    last = name.split(".")[-1]
    if last in lasts:  # the right name in no section, or in the wrong one
        near = [names[lasts.index(last)]]
    else:
        near = difflib.get_close_matches(name, names, 1, 0.6)
        near = near or [names[lasts.index(match)] for match in difflib.get_close_matches(last, lasts, 1, 0.6)]
    hint = f"; did you mean {near[0]}?" if near else "; --help lists them all"
    return f"no {kind} {name}{hint}"


def _flatten(settings, prefix=""):
    flat = {}
    for name, value in (settings or {}).items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _nest(flat):
    nested = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


def _read_yaml(path):
    try:
        with open(path, encoding="utf-8") as file:
            return list(yaml.safe_load_all(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
