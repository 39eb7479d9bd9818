"""The configuration: default_config.yaml, files that state what differs, a launcher's ini file, and the command line, in this order."""
import argparse
import functools
import json
import os
from typing import TYPE_CHECKING, Any

import yaml

from ..core.console import be_quiet
from ..core.errors import UserError
from ..core.project import ROOT
from ..core.suggest import suggest
from ..core.version import version
from . import zoo
from .combinations import check_network
from .rules import SettingsLoader, checked, expected, shortened

DEFAULT_CONFIG = os.path.join(ROOT, "default_config.yaml")

DEFAULTS, COMMAND_LINE, OPTIONS = "default_config.yaml", "the command line", "the options"  # where values come from, beside files
# Options of other detectors, of the model zoo's README and of predict.py that no spelling leads to.
OTHERS = {"imgsz": "dataset_config.input_res_train", "epochs": "epoch_size", "lr0": "train_config.MultiDecay.learning_rate",
          "weights": "load_checkpoint_path", "onnx": "load_checkpoint_path", "mindir": "load_checkpoint_path", "device": "device_target",
          "COCO_ROOT": "coco_data_dir"}
FLAGS = ("quiet",)  # which may stand without a value, and mean true
METAVARS = {"bool": "true|false", "int": "N", "float": "X", "list": "LIST", "text": "TEXT", "path": "PATH", "output": "PATH"}


class Config:
    """Nested settings as attributes: config.train_config.batch_size."""

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, values):
        for name, value in values.items():
            setattr(self, name, Config(value) if isinstance(value, dict) else value)

    def as_dict(self):
        """The settings as plain nested dictionaries."""
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value.as_dict() if isinstance(value, Config) else value for name, value in settings.items()}

    def parameters(self):
        """The settings as {"eval_config.K": 100, ...}."""
        return flatten(self.as_dict())

    def origin(self, name):
        """Where a parameter's value comes from, named as "eval_config.K": "default_config.yaml", a file's path, "the command line"."""
        return self._origins[name]

    def changed(self):
        """{"eval_config.K": 10, ...}, the values that a file or the command line gives and that differ from default_config.yaml's."""
        return {name: value for name, value in self.parameters().items()
                if self._origins[name] != DEFAULTS and value != self._defaults[name]}

    def summary(self):
        """Lines that say which files the values come from, each value that differs from default_config.yaml's, and what was left out."""
        changed = [f"{name} {_shown(value)} ({self._origins[name]})" for name, value in self.changed().items()]
        files = [DEFAULTS, *self._files]
        return "\n".join([f"configuration: {', '.join(files)}; {', '.join(changed) or 'all values are its own'}", *self._notes])

    def take(self, settings, origin):
        """Set parameters {"eval_config.K": value} that neither a file nor the command line gives; they then come from `origin`."""
        for name, value in settings.items():
            if self._origins[name] == DEFAULTS:
                section, _, last = name.rpartition(".")
                setattr(getattr(self, section) if section else self, last, value)
                self._origins[name] = origin


def load_defaults(path=DEFAULT_CONFIG):
    """Return (values, helps, rules) of a three-document file, each flat: {"train_config.batch_size": ...}.

    The values are read as those of any configuration file. Raises UserError.
    """
    return _read_defaults(path)[:3]


@functools.lru_cache(maxsize=1)
def _documents(path, changed):
    """The documents of a YAML file that was last changed at a time: every start, side file and section asks for them. Not to be changed."""
    return _read_yaml(path)


def _read_defaults(path):
    """What load_defaults returns, and sentences about what was left out."""
    documents = _documents(path, os.stat(path).st_mtime_ns)
    whole = len(documents) == 3 and all(isinstance(document, dict) for document in documents)
    helps, rules = (flatten(documents[1]), flatten(documents[2], leaf="kind")) if whole else ({}, {})
    if not whole or not all(isinstance(rule, dict) and "kind" in rule for rule in rules.values()):
        raise UserError(f"{path}: expected three documents, values, help and rules, with lines of --- between them; another file, such as "
                        "the model zoo's, does not replace this one, but is given with --config_path, or to launchers in CONFIG_PATH")
    stated = flatten(documents[0])
    no_paths = {name: "" for name in stated if name in rules and rules[name]["kind"] in ("path", "output")}
    values, _, _, notes = _merged(no_paths, {}, stated, rules, path)
    for name in rules:
        if name not in values:
            if name in stated:
                raise UserError(f"{path}: {name} cannot be {shortened(stated[name])} in this file; {expected(rules[name])}")
            raise UserError(f"{path}: {name} is missing")
    return {name: values[name] for name in rules}, helps, rules, notes


def get_config(description, argv=None):
    """Parse the command line (argv, default sys.argv) of an entry script into a Config.

    With quiet the log is quiet from here on. Raises UserError for an unknown parameter (with the nearest right name), a wrong type or an
    impossible value.
    """
    values, helps, rules = load_defaults()
    try:
        options, unknown = _parser(description, values, helps, rules).parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; options are written --name value") from error
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        if not unknown[0].startswith("-"):
            raise UserError(f"unexpected argument {unknown[0]!r}; options are written --name value")
        raise UserError(_unknown("option", name, [*values, "config_path"]))
    given = {name: value for name, value in vars(options).items() if value is not None}
    config = compose(given.pop("config_path", []), [(COMMAND_LINE, given)])
    if config.quiet:
        be_quiet()
    return config


def make_config(**settings):
    """A Config of the defaults and of settings {"eval_config": {"K": 10}, ...}, checked, without a command line."""
    return compose([], [(OPTIONS, flatten(settings))])


def compose(files, layers):
    """The Config of default_config.yaml, of YAML files, and of layers [(where they come from, {"eval_config.K": value})].

    What comes later wins. Raises UserError for what cannot be, alone or together.
    """
    defaults, _, rules, notes = _read_defaults(DEFAULT_CONFIG)
    values, references, origins = defaults, {}, dict.fromkeys(defaults, DEFAULTS)
    for where, settings in [*((path, read_config_file(path)) for path in files), *layers]:
        values, references, names, said = _merged(values, references, settings, rules, where)
        origins |= dict.fromkeys(names, where)
        notes = notes + said
    for name, other in references.items():
        value, said = zoo.referred(name, values[other], rules[name])
        values = merge(values, {name: value}, rules, origins[name])
        notes = notes + said
    config = Config(_nest(values))
    config._origins, config._defaults, config._notes = origins, defaults, notes
    config._files = [*files, *(where for where, settings in layers if settings)]
    check_network(config)
    return config


def _merged(values, references, settings, rules, where):
    """(values, references, names of what is set, sentences about what is left out) after the settings of one place."""
    settings, new, notes = zoo.translate(settings, rules, where)
    references = {name: other for name, other in references.items() if name not in settings} | new
    return merge(values, settings, rules, where), references, [*settings, *new], notes


def as_text(value):
    """A value as the command line has it."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)  # which YAML reads, whatever letters the texts have
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value):
    """A value as a line of text has it; a long list is cut."""
    text = as_text(value) or '""'
    return f"{text[:57]}..." if isinstance(value, list) and len(text) > 60 else text


def as_parameters(words):
    """{parameter: text} of the words --name value or --name=value. Raises UserError."""
    parameters, rest = {}, list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name[2:] in FLAGS and not equals and (not rest or rest[0].startswith("--")):
            equals, value = "=", "true"
        if not name.startswith("--") or not (equals or rest):
            raise UserError(f"{name}: parameters are written --name value")
        parameters[name[2:]] = value if equals else rest.pop(0)
    return parameters


def read_config_file(path):
    """Return the settings of a YAML file, flat. Of several documents the first counts."""
    if not os.path.isfile(path):
        raise UserError(f"configuration file not found: {path}")
    documents = _read_yaml(path)
    settings = documents[0] if documents and documents[0] is not None else {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected `name: value` lines")
    return flatten(settings)


def merge(values, changes, rules, where):
    """Return values with the changes made, each converted and checked as its rule says."""
    merged = dict(values)
    sections = {name.rpartition(".")[0] for name in rules} | {name.split(".")[0] for name in rules if "." in name}
    for name, value in changes.items():
        if name in sections:
            problem = "is an empty section; leave it out" if value in (None, {}) else f"is a section, not {value}"
            raise UserError(f"{where}: {name} {problem}; its parameters are {', '.join(_parameters(name, rules))}")
        if name not in rules:
            outer = name.rpartition(".")[0]
            if outer in rules:
                raise UserError(f"{where}: {outer} is a value, not a section")
            raise UserError(f"{where}: {_unknown('parameter', name, rules)}")
        merged[name] = checked(name, value, rules[name], where)
    return merged


def _parameters(section, rules):
    """The names of a section's parameters, without it."""
    return [name[len(section) + 1 :] for name in rules if name.startswith(f"{section}.")]


def checked_section(section, settings, where):
    """A section's settings {name: value}, from a file that was written earlier, checked; what it lacks has its default.

    Raises UserError as get_config does.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{where}: {section} is {settings!r}; expected a section of parameters")
    defaults, _, rules = load_defaults()
    return _nest(merge(defaults, flatten({section: settings}), rules, where))[section]


def _parser(description, values, helps, rules):
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, exit_on_error=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"centernet {version()}")
    parser.add_argument("--config_path", metavar="FILE", action="append",
                        help="YAML file that states what differs from default_config.yaml; of several a later one wins")
    for name, value in values.items():
        rule = rules[name]
        metavar = "|".join(map(str, rule["choices"])) if "choices" in rule else METAVARS[rule["kind"].split()[0]]
        alone = {"nargs": "?", "const": "true"} if name in FLAGS else {}
        parser.add_argument(f"--{name}", metavar=metavar, help=f"{helps[name]} (default: {value})".replace("%", "%%"), **alone)
    for name in zoo.WINS_OVER:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _unknown(kind, name, known):
    if name in zoo.IGNORED:
        return f"no {kind} {name}: {zoo.IGNORED[name]}"
    names = list(known)
    if OTHERS.get(name) in names:
        return f"no {kind} {name}; did you mean {OTHERS[name]}?"
    last = name.lower().split(".")[-1]
    lasts = {known_name.lower().split(".")[-1]: known_name for known_name in reversed(names)}
    if last in lasts and name.lower() not in map(str.lower, names):  # the right name in no section, or in the wrong one
        near = lasts[last]
    else:
        near = suggest(name, names) or lasts.get(suggest(last, lasts))
    hint = f"; did you mean {near}?" if near else "; --help lists them all"
    return f"no {kind} {name}{hint}"


def flatten(settings, prefix="", leaf=None):
    """Nested settings -> {"section.name": value}; a dictionary with the key `leaf` is a value, and so is an empty one."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and (leaf is None or leaf not in value):
            flat.update(flatten(value, f"{prefix}{name}.", leaf))
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
            return list(yaml.load_all(file, SettingsLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{path}, line {mark.line + 1}, column {mark.column + 1}: not readable as YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {error or type(error).__name__}") from error
