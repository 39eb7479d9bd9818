"""Write docs/parameters.md, the table of all parameters, from default_config.yaml."""
import argparse
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src.core import errors
from src.core.backups import contains_mark, require_ours
from src.core.files import atomic_write
from src.inference.options import OptionParser
from src.model_utils.config import as_text, load_defaults
from src.model_utils.rules import expected

PAGE = os.path.join(ROOT, "docs", "parameters.md")
OPENING = """# Parameters

Every parameter is an option of `train.py`, `eval.py`, `export.py`, `preprocess.py`, `postprocess.py` and `src/dataset.py`.
The name of a nested parameter has dots, and a list is written as in YAML:

```bash
python train.py --train_config.batch_size 8 --dataset_config.input_res_train "[320, 320]"
```

What comes later in this list wins:

1. `default_config.yaml`, which may be edited;
2. the file of the option `--config_path`, which states only what differs; of several files a later one wins.
   The launchers in `scripts/` take it from the variable `CONFIG_PATH`;
3. the ini file of the launcher for distributed training;
4. the command line.

The first log line of `train.py`, `eval.py`, `export.py`, `src/dataset.py` and the launchers says which files they
read, and each value that differs from `default_config.yaml` with the file or option it comes from. `configs/` holds
recipes: `coco.yaml` (COCO on one device), `voc.yaml` and `voc_512.yaml` (Pascal VOC), `bccd.yaml` and `bccd_dla.yaml`
(blood cells, from scratch on a CPU), `quick_start.yaml`, and those of [the other architectures](architectures.md).

This page is written by `python tools/document_parameters.py`.
"""


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=PAGE, help="file to write (default: docs/parameters.md)")
    options = parser.parse_args(argv)
    require_ours(options.output, contains_mark("tools/document_parameters.py"))
    with atomic_write(options.output) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(page())
    print(f"wrote {options.output}")


def page():
    """The page's text."""
    values, helps, rules = load_defaults()
    sections = {}
    for name in values:
        sections.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    parts = [OPENING]
    for section, names in sections.items():
        rows = [f"| `{name}` | {shown(values[name])} | {helps[name]} | {allowed(rules[name])} |" for name in names]
        heading = [f"## {section or 'General'}\n", "| parameter | default | meaning | what it may be |", "|---|---|---|---|"]
        parts.append("\n".join([*heading, *rows, ""]))
    return "\n".join(parts)


def allowed(rule):
    """What a parameter may be, as the table has it."""
    return expected(rule).removeprefix("expected ").replace("choose from", "one of")


def shown(value):
    """A default as the table has it."""
    text = as_text(value) or '""'
    return f"`{text}`" if len(text) < 60 else "a matrix"


if __name__ == "__main__":
    errors.run(main)
