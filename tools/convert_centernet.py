"""Convert a detector: weights of the paper authors' code (resdcn, res, dla_34, hourglass), of MMDetection (centernet_r18-dcnv2,"""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("convert_centernet")
