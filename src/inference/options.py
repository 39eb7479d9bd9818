"""The command line of tools."""
import argparse
import re

from ..core.console import be_quiet
from ..core.errors import UserError
from ..core.suggest import suggest
from ..core.version import version
from ..model_utils.config import load_defaults
from .models import Model, find_model, is_exported, open_model

# Options of other detectors that no spelling leads to.
OTHERS = {"--conf": "--score_thresh", "--source": "--input", "--weights": "--load_checkpoint_path", "--imgsz": "--input_res",
          "--project": "--output", "--name": "--output", "--device": "--device_target", "--max_requests": "--queue"}
BY_PROXY = "a proxy in front of the service does that: docs/serving.md"
GONE = {"--body_seconds": BY_PROXY, "--header_seconds": BY_PROXY, "--allow_urls": "the service takes images, not their addresses",
        "--address_file": "the line `serving on` of the output has the address"}


class OptionParser(argparse.ArgumentParser):
    """argparse's parser, without abbreviations, whose mistakes are UserErrors that name the nearest right option. An empty value is one,
    unless it is the option's default: mostly it is a shell's variable that is not set, and what the option guards would stay open."""

    def __init__(self, own_quiet: bool = True, **settings):
        """own_quiet: --quiet is this parser's option, which makes the log quiet; else what get_config is given has it."""
        super().__init__(allow_abbrev=False, **settings)
        if own_quiet:
            self.add_argument("--quiet", action="store_true", help="print warnings and results alone, without progress")
        self.add_argument("--version", action="version", version=f"centernet {version()}")

    def parse_known_args(self, args=None, namespace=None):
        """What argparse returns; with --quiet the log is quiet from here on. Raises UserError for an option whose value is empty."""
        options, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            values = getattr(options, action.dest, None)
            values = values if isinstance(values, list) else [values]
            if action.option_strings and action.default != "" and any(isinstance(value, str) and not value.strip() for value in values):
                raise UserError(f"{'/'.join(action.option_strings)} is empty; give it a value, or leave it out")
        if getattr(options, "quiet", False):
            be_quiet()
        return options, rest

    def error(self, message):
        """Raise UserError with argparse's message, and what may have been meant."""
        match = re.match(r"unrecognized arguments: (-\S+)", message)
        name = match[1].split("=")[0] if match else ""
        near = OTHERS[name] if OTHERS.get(name) in self._option_string_actions else suggest(name, self._option_string_actions)
        hint = GONE.get(name) or (f"did you mean {near}?" if near else "--help lists all options")
        raise UserError(f"{message}; {hint}")


def add_model_options(parser):
    """Give the parser of a tool that detects the options that name its model and its device."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--load_checkpoint_path", metavar="FILE",
                       help="checkpoint, its side file beside it; RUN/best and RUN/last are the best and the newest of a run's folder")
    add_exported_option(model)
    values, helps, _ = load_defaults()
    parser.add_argument("--use_ema", metavar="true|false", help=f"{helps['use_ema']} (default: {str(values['use_ema']).lower()})")
    add_device_options(parser)


def add_exported_option(parser, **settings):
    """Give a parser the option that names an exported file, under either of its names."""
    parser.add_argument("--mindir", "--onnx", dest="exported", metavar="FILE", **settings,
                        help="exported file, .mindir (its side file lies beside it) or .onnx (which needs no MindSpore)")


def add_device_options(parser):
    """Give a parser the options that say where a model is computed."""
    values, helps, rules = load_defaults()
    for name in ("device_target", "onnx_provider"):
        parser.add_argument(f"--{name}", choices=rules[name]["choices"], default=values[name], help=f"{helps[name]} (default: %(default)s)")
    parser.add_argument("--device_id", type=int, default=values["device_id"], help=f"{helps['device_id']} (default: %(default)s)")


def open_model_of(options: argparse.Namespace) -> Model:
    """The Model that the options of add_model_options name. Raises UserError unless it is there and what computes it."""
    if options.exported is not None and not is_exported(options.exported):
        raise UserError(f"--mindir and --onnx name an exported file, .mindir or .onnx: {options.exported}")
    return open_model(find_model(options.exported if options.exported is not None else options.load_checkpoint_path))
