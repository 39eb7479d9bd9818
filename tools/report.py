"""Write an HTML report on a training run and its evaluation, or a comparison of several runs."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("report")
