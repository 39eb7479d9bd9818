"""python -m centernet NAME ...: run the command NAME, like the script of that name in a checkout."""
import sys
from pathlib import Path

from .commands import start
from .core.suggest import suggest

NAMES = sorted(path.stem for path in Path(__file__).with_name("commands").glob("[!_]*.py"))

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: python -m {__package__} NAME ...; NAME --help lists its options. Names: {', '.join(NAMES)}")
        sys.exit(0)
    if name not in NAMES:
        near = suggest(name, NAMES)
        hint = f"; did you mean {near}?" if near else ""
        print(f"error: no command {name}{hint}; --help lists them all", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"python -m {__package__} {name}"]
    start(name)
