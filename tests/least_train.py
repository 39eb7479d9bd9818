"""train.py with the least network of small_network.py as resdcn_18, for tests that start a new process."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src.commands import train
from src.core import errors
from src.network.architectures import ARCHITECTURES
from tests.small_network import LEAST

if __name__ == "__main__":
    ARCHITECTURES["resdcn_18"] = LEAST
    errors.run(train.main)
