"""Detect on the images of a COCO-format data set and score the detections."""
from src.commands import start

if __name__ == "__main__":
    start("eval")
