"""Generate a small COCO-format data set: colored shapes, or stick figures with keypoints, on textured backgrounds."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("make_shapes_dataset")
