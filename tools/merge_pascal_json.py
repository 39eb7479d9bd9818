"""Merge COCO-format annotation files with the same classes, such as VOC2007 and VOC2012."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("merge_pascal_json")
