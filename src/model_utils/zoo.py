"""Translation of the model zoo's configuration files into this project's parameters."""
import os
import re
from typing import Any

from ..core.errors import UserError
from .rules import Rule, Rules, checked, shortened

# The model zoo's parameters that have no effect here, and their replacements.
IGNORED = {
    "data_path": "data_url names a ModelArts job's data",
    "output_path": "a ModelArts job's results go to train_url",
    "load_path": "checkpoint_url names a ModelArts job's checkpoint",
    "enable_profiling": "need_profiler profiles a training",
    "dataset_config.output_res": "the output resolution is input_res_train / net_config.down_ratio",
    "eval_config.color_list": "each class has its own color",
    # Of its pose version.
    **dict.fromkeys(("dataset_config.num_joints", "dataset_config.categories", "dataset_config.edges"),
                    "keypoints and skeleton come from the annotation file"),
    **dict.fromkeys(("net_config.last_level", "net_config.final_kernel", "net_config.stage_levels",
                     "net_config.stage_channels"), "net_config.arch has these facts"),
}
POSE = "dataset_config.num_joints"  # only in files of its pose version
POSE_ARCH = "dlazoo_34"
SAME_AS = {"net_config.num_classes": "dataset_config.num_classes",
           "dataset_config.down_ratio": "net_config.down_ratio",
           "dataset_config.input_res": "dataset_config.input_res_train",
           "eval_config.soft_nms": "eval_config.SOFT_NMS"}
PAD = "eval_config.pad"  # there, sides are rounded up by (side | pad) + 1
# If not blank, these override the other, there and here.
OVERRIDES = {"export_load_ckpt": "export_config.ckpt_file", "export_format": "export_config.export_format",
             "export_name": "export_config.export_name"}
OUTPUTS = ("save_checkpoint_path", "save_result_dir")  # of a run; run_dir names both
PLACEHOLDER = "/path/to/"  # the prefix of paths that the user has to fill in
# Only float types: an integer type would change the values.
FLOAT = r"""["']?(?:np\.|numpy\.)?float\d*["']?"""
ARRAY = re.compile(r"(?:np|numpy)\.array\(\s*(\[.*\])\s*(?:,\s*(?:dtype\s*=\s*)?" + FLOAT + r"\s*)?,?\s*\)", re.DOTALL)
# The lambda selects the decayed parameters, but nothing there calls it; here these suffixes are excluded from decay.
DECAY_FILTER = "lambda x: x.name.endswith('.bias') or x.name.endswith('.beta') or x.name.endswith('.gamma')"
NOT_DECAYED = [".bias", ".beta", ".gamma"]


def translate(settings: dict[str, Any], rules: Rules,
              where: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Translate a file's settings {"eval_config.K": value} from the model zoo's parameters to ours.

    Returns (settings, references {parameter: the parameter whose value it has}, remarks about ignored settings). Values
    are not checked. Raises UserError, which names `where`, for aliases with different values and for code.
    """
    kept: dict[str, Any] = {}
    references: dict[str, str] = {}
    ignored: list[str] = []
    settings = _pose_settings(_unify_aliases(settings, rules, where))
    block_class, num_stacks = settings.get("net_config.block_class"), settings.get("net_config.num_stacks")
    if isinstance(block_class, list) and not isinstance(num_stacks, list):
        names = [name for name in ("net_config.block_class", "net_config.num_stacks") if name in settings]
        ignored += [f"{name} {settings[name]} (the network is ResNet18 there, too)" for name in names]
        settings = {name: value for name, value in settings.items() if name not in names}
    is_zoo = not settings.keys().isdisjoint({*IGNORED, *OVERRIDES})
    if is_zoo and settings.get("run_mode") == "test":
        ignored.append("run_mode test (val is what eval.py does there; --run_mode test detects in the test images)")
        settings = {**settings, "run_mode": "val"}
    if is_zoo or where.endswith(".ini"):  # a launcher's file, which is the model zoo's form
        sink = [name for name in ("enable_data_sink", "data_sink_steps") if name in settings]
        ignored += [f"{name} {settings[name]} (the data sink is off there)" for name in sink]
        settings = {name: value for name, value in settings.items() if name not in sink}
    here = [name for name in OUTPUTS if name in settings and _is_here(settings[name], is_zoo)]
    if here and "run_dir" not in settings:  # so that an option that names the run's folder wins
        settings = {name: value for name, value in settings.items() if name not in here} | {"run_dir": "."}
    for name, value in settings.items():
        kind = rules.get(name, {}).get("kind", "")
        if name in IGNORED:
            ignored.append(f"{name} ({IGNORED[name]})")
        elif name in OVERRIDES:
            ignored.append(f"{name} ({OVERRIDES[name]} is used)")
        elif kind in ("path", "output") and str(value).startswith(PLACEHOLDER) and not os.path.exists(value):
            ignored.append(f"{name} {value} (a placeholder)")
        elif kind.startswith("list") and isinstance(value, str) and (other := SAME_AS.get(value, value)) in rules:
            references[name] = other
        else:
            kept[name] = _literal(name, value, where) if isinstance(value, str) else value
    return kept, references, [f"{where}: ignored, without effect here: {', '.join(ignored)}"] if ignored else []


def _is_here(path: Any, is_zoo: bool) -> bool:
    """Whether an output path in a file is the current folder; in the model zoo's, a blank one is, too."""
    text = str(path or "").strip()
    return os.path.normpath(text) == "." if text else is_zoo


def _unify_aliases(settings: dict[str, Any], rules: Rules, where: str) -> dict[str, Any]:
    """The settings, with one name for each parameter that the model zoo's file states twice."""
    for name, ours in SAME_AS.items():
        if name in settings:
            value = settings[name]
            settings = {other: value for other, value in settings.items() if other != name}
            if ours in settings:
                rule = rules[ours]
                if checked(ours, settings[ours], rule, where) != checked(name, value, rule, where):
                    raise UserError(f"{where}: {name} is {value}, and {ours} is {settings[ours]}; both are the same "
                                    "parameter, so make them equal")
            settings.setdefault(ours, value)
    for name, ours in OVERRIDES.items():
        if str(settings.get(name) or "").strip():
            settings = {other: value for other, value in settings.items() if other != name} | {ours: settings[name]}
    return settings


def _pose_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file of the model zoo's pose version with the task and network that it stands for."""
    if POSE not in settings:
        return settings
    pad = settings.get(PAD)
    pad_multiple = {"eval_config.pad_multiple": int(str(pad)) + 1} if str(pad).isdigit() else {}
    rest = {name: value for name, value in settings.items() if name != PAD}
    return {"net_config.task": "pose", "net_config.arch": POSE_ARCH, **pad_multiple, **rest}


def _literal(name: str, text: str, where: str) -> Any:
    """The value of Python code in a string: the list of an np.array(...), the suffixes of the known decay filter; other
    strings are returned unchanged."""
    if match := ARRAY.fullmatch(text.strip()):
        return match[1]
    if name.endswith("decay_filter") and text.lstrip().startswith("lambda"):
        if "".join(text.split()).replace('"', "'") != "".join(DECAY_FILTER.split()):
            raise UserError(f"{where}: {name} is {shortened(text)}; code is not run, give a list of the suffixes of "
                            f"parameter names to exclude from weight decay, such as {NOT_DECAYED}")
        return NOT_DECAYED
    return text


def resolve_reference(name: str, value: list[int], rule: Rule) -> tuple[list[int], list[str]]:
    """(value, remarks) for a parameter that refers to another's value [width, height], rounded up to the multiple that
    its rule requires."""
    multiple = rule.get("multiple", 1)
    larger = [-(-side // multiple) * multiple for side in value]
    note = f"{name} is made {larger}, {value} rounded up to multiples of {multiple}"
    return larger, [note] if larger != value else []
