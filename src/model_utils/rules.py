"""Rules of parameters: conversion of values from files and the command line, and messages about invalid ones.

A rule is a dictionary from the third document of default_config.yaml, where its keys are explained.
"""
import math
from collections.abc import Sequence
from typing import Any

import yaml

from ..core.errors import UserError

Rule = dict[str, Any]
Rules = dict[str, Rule]  # by parameter

BOOLEANS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
ONE = {"bool": "true or false", "int": "an integer", "float": "a number", "text": "text", "path": "a path",
       "output": "a path"}
MANY = {"int": "integers", "float": "numbers", "text": "strings"}


class SettingsLoader(yaml.SafeLoader):
    """YAML's safe loader for settings, the first document of a file: all values are strings or null, to be converted by
    their rules.

    So a class may be called no, on or 0123, which YAML 1.1 reads as False, True and 83. Duplicate names are errors: the
    last one would win silently.
    """

    LITERAL = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    first = True

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The tag of an untagged node."""
        tag = super().resolve(kind, value, implicit)
        return "tag:yaml.org,2002:str" if self.first and kind is yaml.ScalarNode and tag not in self.LITERAL else tag

    def get_data(self) -> Any:
        """The next document."""
        document = super().get_data()
        self.first = False
        return document

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A dictionary, without duplicate keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate {key.value}", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _InvalidValueError(Exception):
    """A value violates its rule."""


def checked(name: str, value: Any, rule: Rule, where: str) -> Any:
    """Convert a value, a string from a file or the command line or a Python object, to its rule's kind.

    Raises UserError, which names the parameter and its origin `where`.
    """
    kind, _, item_kind = rule["kind"].partition(" of ")
    try:
        if kind == "list":
            return _as_list(_parsed(value), item_kind, rule.get("shape", [None]), rule)
        return _as_one(value, kind, rule)
    except _InvalidValueError:
        raise UserError(f"{where}: {name} is {shortened(value)}; {expected(rule)}") from None


def shortened(value: Any, limit: int = 80) -> str:
    """A value for a message, cut at `limit` characters."""
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def expected(rule: Rule) -> str:
    """A description of a rule's valid values."""
    if "choices" in rule:
        return "choose from " + ", ".join(str(choice) or '""' for choice in rule["choices"])
    kind, _, item_kind = rule["kind"].partition(" of ")
    limits = (("above", "above"), ("min", "at least"), ("max", "at most"))
    bounds = [f"{word} {rule[key]}" for key, word in limits if key in rule]
    bounds += [f"not {rule['not']}"] if "not" in rule else []
    if kind != "list":
        bounds += [f"a multiple of {rule['multiple']}"] if "multiple" in rule else []
        return f"expected {ONE[kind]}" + (f" {', '.join(bounds)}" if bounds else "")
    bounds += [f"multiples of {rule['multiple']}"] if "multiple" in rule else []
    shape = [str(length) for length in rule.get("shape", []) if length]
    what = rule.get("as") or f"a list of {' x '.join(shape)}{' ' if shape else ''}{MANY[item_kind]}"
    return f"expected {what}" + (f", all {', '.join(bounds)}" if bounds else "")


def _parsed(value: Any) -> Any:
    """Parse a string as a YAML list; return other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, SettingsLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _InvalidValueError from None


def _as_list(value: Any, item_kind: str, shape: Sequence[int | None], rule: Rule) -> list[Any]:
    if rule.get("single") and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list) or None in value:
        raise _InvalidValueError
    if shape[0] not in (None, len(value)) or len(value) < rule.get("least", 0):
        raise _InvalidValueError
    if len(shape) > 1:
        return [_as_list(item, item_kind, shape[1:], rule) for item in value]
    return [_as_one(item, item_kind, rule) for item in value]


def _as_one(value: Any, kind: str, rule: Rule) -> Any:
    if kind in ("text", "path", "output"):
        value = _as_text(value)
        if kind != "text" and not value.strip():  # the model zoo's users write " " for no path
            value = ""
    elif kind == "bool":
        value = _as_bool(value)
    else:
        value = _as_number(value, kind)
        _check_bounds(value, rule)
    if "choices" in rule and value not in rule["choices"]:
        raise _InvalidValueError
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise _InvalidValueError
    text = "" if value is None else str(value)
    if "\0" in text:
        raise _InvalidValueError
    return text


def _as_bool(value: Any) -> bool:
    if isinstance(value, str):
        value = BOOLEANS.get(value.strip().lower())
    if not isinstance(value, (int, float)) or value not in (0, 1):
        raise _InvalidValueError
    return bool(value)


def _as_number(value: Any, kind: str) -> int | float:
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise _InvalidValueError from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _InvalidValueError
    try:
        number = float(value)
    except OverflowError:
        raise _InvalidValueError from None
    if not math.isfinite(number) or (kind == "int" and int(value) != value):
        raise _InvalidValueError
    return int(value) if kind == "int" else number


def _check_bounds(value: int | float, rule: Rule) -> None:
    in_range = rule.get("min", value) <= value <= rule.get("max", value)
    if not in_range or ("above" in rule and value <= rule["above"]):
        raise _InvalidValueError
    if ("multiple" in rule and value % rule["multiple"]) or ("not" in rule and value == rule["not"]):
        raise _InvalidValueError
