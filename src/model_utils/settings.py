"""Nested settings: as attributes, as dictionaries, and flat as {"section.name": value}."""
import json
from typing import TYPE_CHECKING, Any

DEFAULTS = "default_config.yaml"  # where a value comes from, like a file's path


class Config:
    """Nested settings as attributes: config.train_config.batch_size."""

    # Set by config.compose, for the outermost Config: {parameter: its origin}, {parameter: default}, all files and
    # layers, the files of --config_path, remarks.
    _origins: dict[str, str]
    _defaults: dict[str, Any]
    _files: list[str]
    _recipe: list[str]
    _notes: list[str]

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, values: dict[str, Any]):
        for name, value in values.items():
            setattr(self, name, Config(value) if isinstance(value, dict) else value)

    def as_dict(self) -> dict[str, Any]:
        """The settings as nested dictionaries."""
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value.as_dict() if isinstance(value, Config) else value for name, value in settings.items()}

    def parameters(self) -> dict[str, Any]:
        """The settings as {"eval_config.K": 100, ...}."""
        return flatten(self.as_dict())

    def origin(self, name: str) -> str:
        """Where the value of "eval_config.K" comes from: "default_config.yaml", a file's path, "the command line"."""
        return self._origins[name]

    def changed(self) -> dict[str, Any]:
        """{"eval_config.K": 10, ...}: the values set by a file or the command line that differ from the defaults."""
        return {name: value for name, value in self.parameters().items()
                if self._origins[name] != DEFAULTS and value != self._defaults[name]}

    def recipe(self) -> list[str]:
        """The configuration files as arguments, ["--config_path", path, ...]."""
        return [arg for path in self._recipe for arg in ("--config_path", path)]

    def summary(self) -> str:
        """The files read, each value that differs from default_config.yaml, and ignored settings, as lines."""
        changed = [f"{name} {_shown(value)} ({self._origins[name]})" for name, value in self.changed().items()]
        files = ", ".join([DEFAULTS, *self._files])
        return "\n".join([f"configuration: {files}; {', '.join(changed) or 'all values are defaults'}", *self._notes])

    def set(self, name: str, value: Any, origin: str) -> None:
        """Set a parameter, "net_config.task"; `origin` becomes its origin."""
        section, _, last = name.rpartition(".")
        setattr(getattr(self, section) if section else self, last, value)
        self._origins[name] = origin

    def take(self, settings: dict[str, Any], origin: str) -> None:
        """Set parameters {"eval_config.K": value} that still have their defaults; `origin` becomes their origin."""
        for name, value in settings.items():
            if self._origins[name] == DEFAULTS:
                self.set(name, value, origin)


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)  # which is YAML, for all characters
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    """A value for the log; a long list is shortened."""
    text = as_text(value) or '""'
    return f"{text[:57]}..." if isinstance(value, list) and len(text) > 60 else text


def flatten(settings: dict[Any, Any], prefix: str = "", leaf: str | None = None) -> dict[str, Any]:
    """Nested settings -> {"section.name": value}. A dictionary that is empty or has the key `leaf` is a value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and (leaf is None or leaf not in value):
            flat.update(flatten(value, f"{prefix}{name}.", leaf))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of flatten."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested
