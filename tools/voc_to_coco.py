"""Write a COCO annotation file from a Pascal VOC folder: Annotations/*.xml, ImageSets/Main/<split>.txt, JPEGImages/."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("voc_to_coco")
