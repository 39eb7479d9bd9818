"""python -m centernet NAME ...: what the script of that name does in a checkout."""
import sys
from pathlib import Path

from .commands import start

NAMES = sorted(path.stem for path in Path(__file__).with_name("commands").glob("[!_]*.py"))

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        sys.exit(f"usage: python -m {__package__} NAME ...; names: {', '.join(NAMES)}")
    sys.argv[:2] = [f"python -m {__package__} {name}"]
    start(name)
