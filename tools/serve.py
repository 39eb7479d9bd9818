"""Serve a detector over HTTP: a web page to drop images on, and POST /predict for programs."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("serve")
