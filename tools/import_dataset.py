"""Convert a labeled data set into the COCO format that training and evaluation read."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("import_dataset")
