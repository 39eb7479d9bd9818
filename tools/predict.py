"""Detect in images, folders of them, videos or a camera; writes images with boxes, a COCO-style predictions.json and a CSV."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("predict")
