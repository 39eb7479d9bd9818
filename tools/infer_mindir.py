"""Run an exported model on the input files of preprocess.py, on Ascend or CPU; write results for postprocess.py."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("infer_mindir")
