"""Train CenterNet on MindRecord files converted from a COCO-format data set by src/dataset.py."""
from src.commands import start

if __name__ == "__main__":
    start("train")
