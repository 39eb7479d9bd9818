"""What configuration files of the model-zoo version hold, as this project's parameters."""
import os
import re

from ..core.errors import UserError
from .rules import checked, shortened

# Parameters of the model-zoo version that nothing here depends on, and what does their work.
IGNORED = {
    "data_path": "a ModelArts job finds its data by data_url",
    "output_path": "a ModelArts job's results go to train_url",
    "load_path": "a ModelArts job finds its checkpoint by checkpoint_url",
    "enable_profiling": "need_profiler profiles a training",
    "dataset_config.output_res": "the output resolution is input_res_train / net_config.down_ratio",
    "net_config.dense_hp": "it belongs to pose estimation",
    "eval_config.color_list": "each class has a color of its own",
}
SAME_AS = {"net_config.num_classes": "dataset_config.num_classes", "dataset_config.down_ratio": "net_config.down_ratio"}
# Where these are not blank they are what the other is, there and here.
WINS_OVER = {"export_load_ckpt": "export_config.ckpt_file", "export_format": "export_config.export_format",
             "export_name": "export_config.export_name"}
PLACEHOLDER = "/path/to/"  # what its paths begin with until somebody fills them in
# Of whole numbers it would hold other values than are written.
FLOAT = r"""["']?(?:np\.|numpy\.)?float\d*["']?"""
ARRAY = re.compile(r"(?:np|numpy)\.array\(\s*(\[.*\])\s*(?:,\s*(?:dtype\s*=\s*)?" + FLOAT + r"\s*)?,?\s*\)", re.DOTALL)
# Its expression names what is decayed, and nothing there asks it; the endings are those that are not decayed here.
DECAY_FILTER = "lambda x: x.name.endswith('.bias') or x.name.endswith('.beta') or x.name.endswith('.gamma')"
NOT_DECAYED = [".bias", ".beta", ".gamma"]


def translate(settings, rules, where):
    """Settings {"eval_config.K": value} of a file, with what only the model zoo's have turned into ours.

    Returns (settings, references {parameter: the other one whose value it has}, sentences about what was left out). Values are not
    checked. Raises UserError, which names `where`, for two names of one parameter with different values, and for code.
    """
    kept, references, left_out = {}, {}, []
    settings = _one_name_each(settings, rules, where)
    if isinstance(settings.get("net_config.block_class"), list) and not isinstance(settings.get("net_config.num_stacks"), list):
        for name in ("block_class", "num_stacks"):
            if f"net_config.{name}" in settings:
                left_out.append(f"net_config.{name} {settings[f'net_config.{name}']} (the network is ResNet18 there, too)")
        settings = {name: value for name, value in settings.items() if name not in ("net_config.block_class", "net_config.num_stacks")}
    if settings.get("run_mode") == "test" and not settings.keys().isdisjoint({*IGNORED, *WINS_OVER}):
        left_out.append("run_mode test (val is what eval.py makes of it there; --run_mode test detects in the test images)")
        settings = {**settings, "run_mode": "val"}
    for name, value in settings.items():
        kind = rules.get(name, {}).get("kind", "")
        if name in IGNORED:
            left_out.append(f"{name} ({IGNORED[name]})")
        elif name in WINS_OVER:
            left_out.append(f"{name} ({WINS_OVER[name]} is what holds)")
        elif kind in ("path", "output") and str(value).startswith(PLACEHOLDER) and not os.path.exists(value):
            left_out.append(f"{name} {value} (no path, but the place for one)")
        elif kind.startswith("list") and isinstance(value, str) and value in rules:
            references[name] = value
        else:
            kept[name] = _plain(name, value, where) if isinstance(value, str) else value
    return kept, references, [f"{where}: without meaning here, and left out: {', '.join(left_out)}"] if left_out else []


def _one_name_each(settings, rules, where):
    """The settings, with each parameter that the model zoo's file states twice under one name."""
    for name, ours in SAME_AS.items():
        if name in settings:
            value = settings[name]
            settings = {other: value for other, value in settings.items() if other != name}
            if ours in settings and checked(ours, settings[ours], rules[ours], where) != checked(name, value, rules[ours], where):
                raise UserError(f"{where}: {name} is {value}, and {ours} is {settings[ours]}; they are the same parameter")
            settings.setdefault(ours, value)
    for name, ours in WINS_OVER.items():
        if str(settings.get(name) or "").strip():
            settings = {other: value for other, value in settings.items() if other != name} | {ours: settings[name]}
    return settings


def _plain(name, text, where):
    """What a text of Python code stands for: the list of an np.array(...), the endings of the known decay filter; other text as it is."""
    if match := ARRAY.fullmatch(text.strip()):
        return match[1]
    if name.endswith("decay_filter") and text.lstrip().startswith("lambda"):
        if "".join(text.split()).replace('"', "'") != "".join(DECAY_FILTER.split()):
            raise UserError(f"{where}: {name} is {shortened(text)}; code is not run, give a list of the endings of the parameter names "
                            f"that are not decayed, such as {NOT_DECAYED}")
        return NOT_DECAYED
    return text


def referred(name, value, rule):
    """(value, sentences) for a parameter that has another one's value, [width, height], made larger where its rule wants multiples."""
    multiple = rule.get("multiple", 1)
    larger = [-(-side // multiple) * multiple for side in value]
    return larger, [f"{name} is made {larger}, the next multiples of {multiple} above {value}"] if larger != value else []
