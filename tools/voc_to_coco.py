"""Convert a Pascal VOC folder into a COCO-format annotation file."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("voc_to_coco")
