"""train.py with the least network and frozen batch norm statistics: a batch gives the same results on one rank and
split among several."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src.commands import train
from src.core import errors
from src.network.architectures import ARCHITECTURES
from src.training import engine
from tests.small_network import LEAST

build_train_step = engine.build_train_step


def build_frozen(*args, **options):
    """engine.build_train_step, with every batch norm in inference mode."""
    step = build_train_step(*args, **options)
    for _, cell in step.cells_and_names():
        if type(cell).__name__ == "BatchNorm2d":
            cell.set_train(False)
    return step


if __name__ == "__main__":
    engine.build_train_step, ARCHITECTURES["resdcn_18"] = build_frozen, LEAST
    errors.run(train.main)
