"""Compare the loss curve of a run with a reference run: the acceptance test of the Pascal VOC recipe."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("loss")
