#!/usr/bin/env python3
"""Run tools/loss.py with the Python of .venv if it exists; the Pascal VOC document calls it as ./loss.py."""
import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")

if __name__ == "__main__":
    python = PYTHON if os.access(PYTHON, os.X_OK) else sys.executable
    os.execv(python, [python, os.path.join(ROOT, "tools", "loss.py"), *sys.argv[1:]])
