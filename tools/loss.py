"""Compare the loss curve of a run with that of a reference run: the acceptance check of the Pascal VOC recipe."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("loss")
