"""The configuration: default_config.yaml, other YAML files, a launcher's ini file, the command line; the last wins."""
import argparse
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from ..core.console import be_quiet
from ..core.errors import Problems, UserError
from ..core.other_names import given_options, unknown
from ..core.project import ROOT
from ..core.version import version
from . import zoo
from .combinations import check_network
from .rules import Rules, SettingsLoader, checked, expected, shortened
from .settings import DEFAULTS, Config, flatten, nest
from .settings import as_text as as_text  # re-exported

DEFAULT_CONFIG = os.path.join(ROOT, "default_config.yaml")

COMMAND_LINE, OPTIONS = "the command line", "the options"  # origins of values, besides files
FLAGS = ("quiet",)  # a missing value means true
METAVARS = {"bool": "true|false", "int": "N", "float": "X", "list": "LIST", "text": "TEXT", "path": "PATH",
            "output": "PATH"}


def load_defaults(path: str = DEFAULT_CONFIG) -> tuple[dict[str, Any], dict[str, str], Rules]:
    """Return (values, helps, rules) of a three-document file, each flat: {"train_config.batch_size": ...}.

    The values are read like those of any configuration file. Raises UserError.
    """
    return _read_defaults(path)[:3]


@functools.lru_cache(maxsize=1)
def _documents(path: str, modified: int) -> list[Any]:
    """The documents of a YAML file with this modification time, cached since every command, side file and section reads
    them. Do not modify them."""
    return _read_yaml(path)


def _read_defaults(path: str) -> tuple[dict[str, Any], dict[str, str], Rules, list[str]]:
    """The results of load_defaults, and remarks about ignored settings."""
    documents = _documents(path, os.stat(path).st_mtime_ns)
    complete = len(documents) == 3 and all(isinstance(document, dict) for document in documents)
    helps, rules = (flatten(documents[1]), flatten(documents[2], leaf="kind")) if complete else ({}, {})
    if not complete or not all(isinstance(rule, dict) and "kind" in rule for rule in rules.values()):
        raise UserError(f"{path}: expected three documents (values, help, rules) separated by lines of ---; another "
                        "file, such as the model zoo's, does not replace this one: it is given with --config_path, or "
                        "to launchers in CONFIG_PATH")
    stated = flatten(documents[0])
    _require_same_names(path, stated, helps, rules)
    no_paths = {name: "" for name in stated if name in rules and rules[name]["kind"] in ("path", "output")}
    values, _, _, notes = _merged(no_paths, {}, stated, rules, path)
    for name in rules:
        if name not in values:
            if name in stated:
                value = shortened(stated[name])
                raise UserError(f"{path}: {name} cannot be {value} in this file; {expected(rules[name])}")
            raise UserError(f"{path}: {name} is missing")
    return {name: values[name] for name in rules}, helps, rules, notes


def _require_same_names(path: str, *documents: dict[str, Any]) -> None:
    """Raise UserError for a parameter of the second or third document that is missing in another one."""
    names = ("values", "help", "rules")
    for name in {**documents[1], **documents[2]}:
        for what, document in zip(names, documents):
            if name not in document and what != "values":  # a missing value has a message of its own
                raise UserError(f"{path}: {name} is missing in the document with the {what}; add it there")


def get_config(description: str, argv: Sequence[str] | None = None, script: str = "") -> Config:
    """Parse the command line (argv, default sys.argv) of an entry script into a Config.

    script, its name ("train"), is for answers to unknown options, which may depend on it. --quiet makes the log quiet
    from here on. Raises UserError for unknown parameters (with answers), a wrong type or an invalid value.
    """
    values, helps, rules = load_defaults()
    try:
        options, left = _parser(description, values, helps, rules).parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; options are written --name value") from error
    given = {name: value for name, value in vars(options).items() if value is not None}
    files = given.pop("config_path", [])
    if left:
        settings = values | {name: value for path in files for name, value in read_config_file(path).items()} | given
        raise UserError(_unknown_arguments(left, {**values, "config_path": ""}, settings, script))
    config = compose(files, [(COMMAND_LINE, given)])
    if config.quiet:
        be_quiet()
    return config


def make_config(**settings: Any) -> Config:
    """A checked Config of the defaults and of settings {"eval_config": {"K": 10}, ...}, without a command line."""
    return compose([], [(OPTIONS, flatten(settings))])


def compose(files: Sequence[str], layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    """The Config of default_config.yaml, YAML files, and layers [(their origin, {"eval_config.K": value})].

    Later ones override earlier ones. Raises UserError for invalid values and combinations.
    """
    defaults, _, rules, notes = _read_defaults(DEFAULT_CONFIG)
    values, origins = defaults, dict.fromkeys(defaults, DEFAULTS)
    references: dict[str, str] = {}
    problems = Problems()
    for where, settings in [*((path, read_config_file(path)) for path in files), *layers]:
        with problems:
            values, references, names, new_notes = _merged(values, references, settings, rules, where)
            origins |= dict.fromkeys(names, where)
            notes = notes + new_notes
    problems.raise_all()
    for name, other in references.items():
        value, new_notes = zoo.resolve_reference(name, values[other], rules[name])
        values = merge(values, {name: value}, rules, origins[name])
        notes = notes + new_notes
    config = Config(nest(values))
    config._origins, config._defaults, config._notes = origins, defaults, notes
    config._recipe = list(files)
    config._files = [*files, *(where for where, settings in layers if settings)]
    check_network(config)
    return config


def _merged(values: dict[str, Any], references: dict[str, str], settings: dict[str, Any], rules: Rules,
            where: str) -> tuple[dict[str, Any], dict[str, str], list[str], list[str]]:
    """Apply the settings of one origin; return (values, references, names of set parameters, remarks about ignored
    settings)."""
    settings, new, notes = zoo.translate(settings, rules, where)
    references = {name: other for name, other in references.items() if name not in settings} | new
    return merge(values, settings, rules, where), references, [*settings, *new], notes


def as_parameters(args: Iterable[str]) -> dict[str, str]:
    """{parameter: value} of the arguments --name value or --name=value. Raises UserError."""
    parameters, left = {}, list(args)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name[2:] in FLAGS and not equals and (not left or left[0].startswith("--")):
            equals, value = "=", "true"
        if not name.startswith("--") or not (equals or left):
            raise UserError(f"{name}: parameters are written --name value")
        parameters[name[2:]] = value if equals else left.pop(0)
    return parameters


def read_config_file(path: str) -> dict[str, Any]:
    """Return the settings of a YAML file, flat. Only the first document is used."""
    if not os.path.isfile(path):
        raise UserError(f"configuration file not found: {path}")
    documents = _read_yaml(path)
    settings = documents[0] if documents and documents[0] is not None else {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected `name: value` lines")
    return flatten(settings)


def merge(values: dict[str, Any], changes: dict[str, Any], rules: Rules, where: str) -> dict[str, Any]:
    """Return values with the changes applied, each converted and checked by its rule."""
    merged, problems = dict(values), Problems()
    sections = {name.rpartition(".")[0] for name in rules} | {name.split(".")[0] for name in rules if "." in name}
    for name, value in changes.items():
        with problems:
            if name in sections:
                problem = "is an empty section; leave it out" if value in (None, {}) else f"is a section, not {value}"
                raise UserError(f"{where}: {name} {problem}; its parameters are {', '.join(_parameters(name, rules))}")
            if name not in rules:
                outer = name.rpartition(".")[0]
                if outer in rules:
                    raise UserError(f"{where}: {outer} is a value, not a section")
                unknown_name = _unknown("parameter", name, value, rules, values | changes)
                raise UserError(f"{where}: {unknown_name}")
            merged[name] = checked(name, value, rules[name], where)
    problems.raise_all()
    return merged


def _parameters(section: str, rules: Rules) -> list[str]:
    """The names of a section's parameters, without the section."""
    return [name[len(section) + 1 :] for name in rules if name.startswith(f"{section}.")]


def checked_section(section: str, settings: Any, where: str) -> dict[str, Any]:
    """Check a section's settings {name: value} from a file of an earlier run; missing ones get their defaults.

    Raises UserError as get_config does.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{where}: {section} is {settings!r}; expected a section of parameters")
    defaults, _, rules = load_defaults()
    return nest(merge(defaults, flatten({section: settings}), rules, where))[section]


def _parser(description: str, values: dict[str, Any], helps: dict[str, str], rules: Rules) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, exit_on_error=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"centernet {version()}")
    parser.add_argument("--config_path", metavar="FILE", action="append",
                        help="YAML file with changes to default_config.yaml; may be repeated, later files win")
    for name, value in values.items():
        rule = rules[name]
        metavar = "|".join(map(str, rule["choices"])) if "choices" in rule else METAVARS[rule["kind"].split()[0]]
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if name in FLAGS else {}
        help_text = f"{helps[name]} (default: {value})".replace("%", "%%")
        parser.add_argument(f"--{name}", metavar=metavar, help=help_text, **flag)
    for name in zoo.OVERRIDES:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _unknown(kind: str, name: str, value: Any, known: Mapping[str, Any], settings: Mapping[str, Any],
             script: str = "") -> str:
    """The message about an unknown option or parameter, with an answer; settings has the schedule and the optimizer in
    use."""
    if name in zoo.IGNORED:
        return f"no {kind} {name}: {zoo.IGNORED[name]}"
    in_use = {what: str(settings[f"train_config.{parameter}"])
              for what, parameter in (("schedule", "lr_schedule"), ("optimizer", "optimizer"))}
    text = "" if value is None else str(value)
    prefix = "--" if kind == "option" else ""
    answer = unknown(name, text, known, script, in_use, prefix) or "--help lists them all"
    return f"no {kind} {prefix}{name}; {answer}"


def _unknown_arguments(words: list[str], known: Mapping[str, Any], settings: Mapping[str, Any], script: str) -> str:
    """The message about the arguments that argparse left over: a line for each option, and for the first other
    word."""
    lines = []
    if not (word := words[0]).startswith("-"):
        is_file = word.lower().endswith((".yaml", ".yml"))
        hint = f"did you mean --config_path {word}?" if is_file else "options are written --name value"
        lines = [f"unexpected argument {word!r}; {hint}"]
        words = [f"--{word}" for word in words if "=" in word]  # name=value, as YOLO takes it
    return "\n".join(lines + [_unknown("option", name, value, known, settings, script)
                              for name, value in dict(given_options(words)).items() if name not in known])


def _read_yaml(path: str) -> list[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return list(yaml.load_all(file, SettingsLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{path}, line {mark.line + 1}, column {mark.column + 1}: invalid YAML: "
                        f"{error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: invalid YAML: {error or type(error).__name__}") from error
