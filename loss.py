#!/usr/bin/env python3
"""The same as tools/loss.py, with the Python of .venv where there is one: where the Pascal VOC document calls it, ./loss.py."""
import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
OWN = os.path.join(ROOT, ".venv", "bin", "python")

if __name__ == "__main__":
    python = OWN if os.access(OWN, os.X_OK) else sys.executable
    os.execv(python, [python, os.path.join(ROOT, "tools", "loss.py"), *sys.argv[1:]])
