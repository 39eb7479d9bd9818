"""Convert trained detectors of the paper authors' code, MMDetection or the model zoo; --reverse converts back."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("convert_centernet")
