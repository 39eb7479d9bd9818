"""Make one self-contained HTML file about a training and its evaluation: curves, scores, errors, images, speed; or, of several, one that"""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("report")
