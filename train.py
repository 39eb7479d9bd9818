"""Train CenterNet on MindRecord files, which the conversion of a COCO-format data set writes."""
from src.commands import start

if __name__ == "__main__":
    start("train")
