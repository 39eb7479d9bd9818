"""Run an exported model on images of a COCO-format data set; draw detections next to the ground truth on one sheet."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("contact_sheet")
