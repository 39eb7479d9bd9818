"""What a parameter may be: values of files and of the command line as the kind that a rule names, or a sentence that says what is expected.

A rule is a dictionary, one of those in the third document of default_config.yaml, which says what its entries mean.
"""
import math

import yaml

from ..core.errors import UserError

BOOLEANS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
ONE = {"bool": "true or false", "int": "a whole number", "float": "a number", "text": "text", "path": "a path", "output": "a path"}
MANY = {"int": "whole numbers", "float": "numbers", "text": "texts"}


class SettingsLoader(yaml.SafeLoader):
    """YAML's safe loader for settings, the first document of a file: all values are texts, or null, and what they mean their rules say.

    So a class may be called no, on or 0123, which YAML 1.1 takes for False, True and 83. No name may be there twice: the last one would win
    without a word.
    """

    LITERAL = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    first = True

    def resolve(self, kind, value, implicit):
        """The tag of a node without one."""
        tag = super().resolve(kind, value, implicit)
        return "tag:yaml.org,2002:str" if self.first and kind is yaml.ScalarNode and tag not in self.LITERAL else tag

    def get_data(self):
        """The next document."""
        document = super().get_data()
        self.first = False
        return document

    def construct_mapping(self, node, deep=False):
        """A dictionary."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Unfit(Exception):
    """A value that is not what the rule says."""


def checked(name, value, rule, where):
    """The value (text of a file or the command line, or what a caller gives) as its rule's kind.

    Raises UserError, which names `where` and the parameter.
    """
    kind, _, item_kind = rule["kind"].partition(" of ")
    try:
        if kind == "list":
            return _as_list(_parsed(value), item_kind, rule.get("shape", [None]), rule)
        return _as_one(value, kind, rule)
    except _Unfit:
        raise UserError(f"{where}: {name} is {shortened(value)}; {expected(rule)}") from None


def shortened(value, limit=80):
    """A value as a message shows it."""
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def expected(rule):
    """The words that say what a rule expects."""
    if "choices" in rule:
        return "choose from " + ", ".join(str(choice) or '""' for choice in rule["choices"])
    kind, _, item_kind = rule["kind"].partition(" of ")
    bounds = [f"{word} {rule[key]}" for key, word in (("above", "above"), ("min", "at least"), ("max", "at most")) if key in rule]
    bounds += [f"not {rule['not']}"] if "not" in rule else []
    if kind != "list":
        bounds += [f"a multiple of {rule['multiple']}"] if "multiple" in rule else []
        return f"expected {ONE[kind]}" + (f" {', '.join(bounds)}" if bounds else "")
    bounds += [f"multiples of {rule['multiple']}"] if "multiple" in rule else []
    shape = [str(length) for length in rule.get("shape", []) if length]
    what = rule.get("as") or f"a list of {' x '.join(shape)}{' ' if shape else ''}{MANY[item_kind]}"
    return f"expected {what}" + (f", all {', '.join(bounds)}" if bounds else "")


def _parsed(value):
    """Text as the list that YAML reads in it, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, SettingsLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _Unfit from None


def _as_list(value, item_kind, shape, rule):
    if rule.get("single") and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list) or None in value or shape[0] not in (None, len(value)) or len(value) < rule.get("least", 0):
        raise _Unfit
    if len(shape) > 1:
        return [_as_list(item, item_kind, shape[1:], rule) for item in value]
    return [_as_one(item, item_kind, rule) for item in value]


def _as_one(value, kind, rule):
    if kind in ("text", "path", "output"):
        value = _as_text(value)
        if kind != "text" and not value.strip():  # " " is how the model zoo's users say that there is none
            value = ""
    elif kind == "bool":
        value = _as_bool(value)
    else:
        value = _as_number(value, kind)
        _check_bounds(value, rule)
    if "choices" in rule and value not in rule["choices"]:
        raise _Unfit
    return value


def _as_text(value):
    if isinstance(value, (dict, list)):
        raise _Unfit
    text = "" if value is None else str(value)
    if "\0" in text:
        raise _Unfit
    return text


def _as_bool(value):
    if isinstance(value, str):
        value = BOOLEANS.get(value.strip().lower())
    if not isinstance(value, (int, float)) or value not in (0, 1):
        raise _Unfit
    return bool(value)


def _as_number(value, kind):
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise _Unfit from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unfit
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit from None
    if not math.isfinite(number) or (kind == "int" and int(value) != value):
        raise _Unfit
    return int(value) if kind == "int" else number


def _check_bounds(value, rule):
    fits = rule.get("min", value) <= value <= rule.get("max", value) and ("above" not in rule or value > rule["above"])
    if not fits or ("multiple" in rule and value % rule["multiple"]) or ("not" in rule and value == rule["not"]):
        raise _Unfit
