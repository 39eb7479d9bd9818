"""Convert a data set, train in several processes, evaluate, and summarize accuracy and performance.

Run by scripts/train_full_4p.sh. All parameters of train.py are options, too: --name=value.
"""
import argparse
import configparser
import datetime
import glob
import os
import re
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src.core import errors, interrupts
from src.core.console import LOG
from src.core.errors import UserError
from src.core.kinds import is_number
from src.data.manifest import manifest_path, read_manifest
from src.inference.options import OptionParser
from src.model_utils.config import as_parameters, get_config
from src.model_utils.mindspore_version import require_mindspore
from src.model_utils.paths import absolute_paths


def main(argv=None):
    parser = OptionParser(add_quiet=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe = os.environ.get("CONFIG_PATH") or os.path.join(ROOT, "configs", "voc.yaml")
    parser.add_argument("--data_path", required=True, help="data set folder, with annotations/ and images/")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"), default="auto",
                        help="devices to train on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="number of epochs (default: the recipe's)")
    parser.add_argument("--config_path", default=recipe,
                        help="recipe (default: the environment variable CONFIG_PATH, else configs/voc.yaml)")
    parser.add_argument("--processes", type=int, default=4,
                        help="number of processes, one per device (default: %(default)s)")
    parser.add_argument("--run", help="name of the run and its output folder, exp/<run>/ "
                                      "(default: recipe, processes and time)")
    options, others = parser.parse_known_args(argv)
    arguments = ["--config_path", os.path.abspath(options.config_path), *others]
    if options.epochs is not None:
        arguments += ["--epoch_size", str(options.epochs)]
    plan(options, arguments)


def plan(options, arguments):
    """Make all checks, then run one step after the other."""
    config = get_config("", arguments)
    LOG.info(config.summary())
    require_mindspore()
    if options.processes < 1 or config.train_config.batch_size % options.processes:
        raise UserError(f"train_config.batch_size, the total over all processes, is {config.train_config.batch_size}; "
                        f"it is not divisible by {options.processes} processes")

    data_dir = find_data(options.data_path)
    from src.data.coco import find_split  # slow to load

    for name in ("train", "val"):
        find_split(data_dir, name, config.dataset_config, "--data_path")
    # MindSpore is slow to load, and not needed to report a wrong path.
    from src.model_utils.device_adapter import resolve_target
    from src.weights.checkpoints import newest_checkpoint

    target = resolve_target(options.device_target)
    recipe = os.path.splitext(os.path.basename(options.config_path))[0]
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = os.path.abspath(os.path.join("exp", options.run or f"{recipe}_{options.processes}p_{now}"))
    if os.path.exists(folder):
        raise UserError(f"{folder} exists; choose another --run")

    records = config.mindrecord_dir = os.path.join(data_dir, "mindrecord")
    if not os.path.exists(manifest_path(records, config.mindrecord_prefix)):
        step("converting the training images to MindRecord files")
        script("src/dataset.py", *arguments, "--coco_data_dir", data_dir, "--mindrecord_dir", records)
    os.makedirs(folder)
    log = os.path.join(folder, "LOG0", "training_log.txt")
    step(f"training in {options.processes} processes on {target}; follow with: tail -f {shlex.quote(log)}")
    train(folder, records, arguments, config, target, options.processes)
    checkpoint = newest_checkpoint(os.path.join(folder, "LOG0", "ckpt_0"))
    step("evaluating")
    script("eval.py", *arguments, "--device_target", target, "--data_dir", data_dir,
           "--load_checkpoint_path", checkpoint, "--save_result_dir", folder)
    step(folder)
    images = read_manifest(config)["images"]
    print(summary(folder, checkpoint, images - images % config.train_config.batch_size), flush=True)


def find_data(path):
    """Return the data set folder: path, or voc/ in it. Raises UserError if neither contains annotations/."""
    errors.require_dir(path, "data set folder (--data_path)")
    for folder in (path, os.path.join(path, "voc")):
        if os.path.isdir(os.path.join(folder, "annotations")):
            return os.path.abspath(folder)
    from src.data.labels.formats import import_hint

    raise UserError(f"{os.path.join(path, 'annotations')} is missing; --data_path must be the folder with annotations/ "
                    f"and images/ (tools/get_pascal_voc.sh creates data/voc){import_hint(path)}")


def step(text):
    """Log the heading of a step."""
    LOG.info(f"\n== {text}")


def script(name, *args):
    """Run one of the project's scripts; if it fails, exit with its exit code."""
    run([sys.executable, os.path.join(ROOT, name), *args])


def run(command, **options):
    """Run a command; if it fails, exit with its exit code. On a signal, let it shut down cleanly."""
    with interrupts.INTERRUPTS.deferred():
        process = subprocess.Popen(command, **options)
        asked = False
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if interrupts.INTERRUPTS.requested and not asked:
                    asked = True
                    process.terminate()  # a Ctrl-C in a terminal has reached it already
    if interrupts.INTERRUPTS.requested:
        raise interrupts.Interrupted(f"see the output of {os.path.basename(command[1])} above for how to continue")
    if code:
        sys.exit(code)


def train(folder, records, arguments, config, target, processes):
    """Train in the folder with the launcher for distributed runs; each process has its share of the batch."""
    parameters = configparser.ConfigParser(interpolation=None)
    parameters.optionxform = str
    batch_size = config.train_config.batch_size // processes
    # The launcher runs in the folder, but relative paths refer to the caller's. mindrecord_dir is passed separately.
    paths = {name: path for name, path in absolute_paths(config).items() if name != "mindrecord_dir"}
    quiet = {"quiet": "false"} if config.quiet else {}  # the processes log to files, which performance() reads
    parameters["config"] = {**as_parameters(arguments), **paths, **quiet, "train_config.batch_size": str(batch_size)}
    with open(os.path.join(folder, "hyper_parameters.ini"), "w", encoding="utf-8") as file:
        parameters.write(file)
    table = ["--output", os.path.join(folder, "hccl.json"), "--devices", f"0-{processes - 1}"]
    if target == "CPU":
        table += ["--cpu", "--server_id", "127.0.0.1"]
    script("tools/make_rank_table.py", *table)
    ini = os.path.join(folder, "hyper_parameters.ini")
    environment = {**os.environ, "CONFIG_PATH": "", "DEVICE_TARGET": target, "HYPER_PARAMETERS": ini,
                   "CENTERNET_LAUNCHED_IN": os.getcwd()}
    launcher = os.path.join(ROOT, "scripts", "run_distributed_train_ascend.sh")
    run(["bash", launcher, "--wait", records, "hccl.json"], cwd=folder, env=environment)


# ---------------------------------------------------------------- results


def performance(records, logs, images):
    """Return {"images_per_second", "seconds_per_epoch", "peak_memory_gb"}, totals over all processes.

    Args: records of train_record.jsonl, whose rates are totals, too; logs, the contents of the processes' logs; images
    per epoch. The first step, which includes compilation, is not counted.
    """
    steps = records[1:] or records
    rate = len(steps) / sum(1 / record["images_per_second"] for record in steps)
    peaks = [float(match[1]) for log in logs if (match := re.search(r"^peak memory: ([\d.]+) GB", log, re.M))]
    return {"images_per_second": rate, "seconds_per_epoch": images / rate, "peak_memory_gb": sum(peaks)}


def summary(folder, checkpoint, images):
    """Return the closing lines of a run, and write performance.json; images is the number per epoch."""
    from src.core.files import read_json, write_json
    from src.runs.record import read_training_log

    logs = []
    for path in glob.glob(os.path.join(folder, "LOG[0-9]*", "training_log.txt")):
        with open(path, encoding="utf-8", errors="replace") as file:
            logs.append(file.read())
    records = read_training_log(os.path.join(folder, "LOG0", "train_record.jsonl"))
    measured = performance(records, logs, images)
    metrics = read_json(os.path.join(folder, "val", "metrics.json"), "scores", {"AP": is_number, "AP50": is_number})
    write_json(os.path.join(folder, "performance.json"), measured)
    lines = [f"checkpoint         {checkpoint}"]
    names = ("AP", "AP50", "AP75", "VOC_mAP_07", "VOC_mAP_area")
    scores = [f"{name} {metrics[name]:.3f}" for name in names if name in metrics]
    lines.append(f"accuracy           {', '.join(scores)}")
    lines.append(f"images per second  {measured['images_per_second']:.2f}, in all processes")
    lines.append(f"seconds per epoch  {measured['seconds_per_epoch']:.1f}")
    lines.append(f"peak memory        {measured['peak_memory_gb']:.2f} GB, in all processes")
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
