"""Convert an ImageNet classifier into a backbone checkpoint for training."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("convert_resnet18")
