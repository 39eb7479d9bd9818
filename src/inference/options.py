"""Command-line options of the tools."""
import argparse
import re
import sys
from typing import Any, NoReturn

from ..core.console import be_quiet
from ..core.errors import UserError
from ..core.other_names import given_options, unknown
from ..core.version import version
from ..model_utils.config import load_defaults
from .models import Model, find_model, is_exported, open_model

DEVICE_OPTIONS = ("device_target", "runtime", "onnx_provider")
BY_PROXY = "removed: a proxy in front of the service does that, see docs/serving.md"
REMOVED = {"--body_seconds": BY_PROXY, "--header_seconds": BY_PROXY,
           "--max_requests": "did you mean --queue?", "--allow_urls": "removed: the service accepts images, not URLs",
           "--address_file": "removed: the output line `serving on` has the address"}


class OptionParser(argparse.ArgumentParser):
    """argparse's parser without abbreviations; mistakes raise UserError and suggest the nearest option.

    An empty value is a mistake unless it is the default: usually a shell variable is not set, and the option's
    protection, such as a key, would be off.
    """

    def __init__(self, add_quiet: bool = True, **settings: Any):
        """With own_quiet this parser has --quiet and applies it; else get_config handles it."""
        super().__init__(allow_abbrev=False, **settings)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)  # also -1e-3
        if add_quiet:
            self.add_argument("--quiet", action="store_true", help="print only warnings and results")
        self.add_argument("--version", action="version", version=f"centernet {version()}")
        self.given: list[str] = []  # to parse_args, which accepts no unknown options

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like argparse. Raises UserError for unknown options."""
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse like argparse; --quiet silences the log. Raises UserError for an option with an empty value."""
        options, left = super().parse_known_args(args, namespace)
        for action in self._actions:
            values = getattr(options, action.dest, None)
            values = values if isinstance(values, list) else [values]
            is_empty = any(isinstance(value, str) and not value.strip() for value in values)
            if action.option_strings and action.default != "" and is_empty:
                raise UserError(f"{'/'.join(action.option_strings)} is empty; give it a value or leave it out")
        if getattr(options, "quiet", False):
            be_quiet()
        return options, left

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message; unknown options, which may be why others are missing, come first."""
        known = self._option_string_actions
        names = {option.lstrip("-") for option in known}
        left = {name: value for name, value in given_options(self.given)
                if not {f"--{name}", f"-{name}"} & known.keys()}
        answers = {name: REMOVED.get(f"--{name}") or unknown(name, value, names) for name, value in left.items()}
        lines = [f"no option --{name}; {answer or '--help lists them all'}" for name, answer in answers.items()]
        is_other = not message.startswith("unrecognized arguments: ") or not lines
        raise UserError("\n".join([*lines, *([message] if is_other else [])]))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model and the device to the parser of a detecting tool."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--load_checkpoint_path", metavar="FILE",
                       help="checkpoint, with its side file next to it; RUN/best and RUN/last are the best and the "
                            "newest one in a run's folder")
    add_exported_option(model)
    values, helps, _ = load_defaults()
    parser.add_argument("--use_ema", metavar="true|false",
                        help=f"{helps['use_ema']} (default: {str(values['use_ema']).lower()})")
    add_device_options(parser)


def add_exported_option(parser: Any, **settings: Any) -> None:
    """Add the option for an exported file, under both of its names, to a parser or a group."""
    parser.add_argument("--mindir", "--onnx", dest="exported", metavar="FILE", **settings,
                        help="exported file: .mindir, with its side file next to it, or .onnx (needs no MindSpore)")


def add_clip_option(parser: argparse.ArgumentParser) -> None:
    """Add --clip, "true" or "false", to the parser of a tool that detects with a Predictor."""
    parser.add_argument("--clip", choices=["true", "false"], default="true", type=str.lower,
                        help="clip boxes to the image (default: %(default)s)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the device to a parser."""
    values, helps, rules = load_defaults()
    for name in DEVICE_OPTIONS:
        parser.add_argument(f"--{name}", choices=rules[name]["choices"], default=values[name],
                            help=f"{helps[name]} (default: %(default)s)")
    parser.add_argument("--device_id", type=int, default=values["device_id"],
                        help=f"{helps['device_id']} (default: %(default)s)")


def device_options(options: argparse.Namespace) -> dict[str, Any]:
    """The values of the options that add_device_options adds, by name."""
    return {name: getattr(options, name) for name in (*DEVICE_OPTIONS, "device_id")}


def open_model_of(options: argparse.Namespace) -> Model:
    """Open the Model of the options from add_model_options. Raises UserError if it or its runtime is missing."""
    if options.exported is None:
        return open_model(find_model(options.load_checkpoint_path))
    if not is_exported(options.exported):
        raise UserError(f"--mindir and --onnx take an exported file, .mindir or .onnx: {options.exported}")
    return open_model(find_model(options.exported))
