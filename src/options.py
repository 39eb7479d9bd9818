"""The command line of tools."""
import argparse
import difflib
import re

from src.errors import UserError
from src.side_file import read_exported, read_side_file


class OptionParser(argparse.ArgumentParser):
    """argparse's parser, without abbreviations, whose mistakes are UserErrors that name the nearest right option."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        """Raise UserError with argparse's message, and what may have been meant."""
        match = re.match(r"unrecognized arguments: (-\S+)", message)
        near = difflib.get_close_matches(match[1].split("=")[0], self._option_string_actions, 1, 0.6) if match else []
        hint = f"did you mean {near[0]}?" if near else "--help lists all options"
        raise UserError(f"{message}; {hint}")


def add_model_options(parser):
    """Give the parser of a tool that detects the options that name its model and its device."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--load_checkpoint_path", metavar="FILE", help="checkpoint; its side file lies beside it")
    model.add_argument("--mindir", metavar="FILE", help="exported file; its side file lies beside it")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"), default="auto", help="device (default: %(default)s)")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: %(default)s)")


def check_model_options(options):
    """Raise UserError unless the model that add_model_options' options name, and its side file, are there and right."""
    if options.load_checkpoint_path is not None:
        read_side_file(options.load_checkpoint_path)
    else:
        read_exported(options.mindir)
