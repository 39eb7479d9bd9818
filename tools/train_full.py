"""Convert, train in several processes, evaluate, and sum up accuracy and performance: what scripts/train_full_4p.sh runs.

Any parameter of train.py may follow as --name=value.
"""
import argparse
import configparser
import datetime
import glob
import os
import re
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
    parser = OptionParser(own_quiet=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True, help="first-level folder of the data set: the one with annotations/ and images/")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"), default="auto", help="devices (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs to train (default: the recipe's)")
    parser.add_argument("--config_path", default=os.environ.get("CONFIG_PATH") or os.path.join(ROOT, "configs", "voc.yaml"),
                        help="recipe (default: the variable CONFIG_PATH, else configs/voc.yaml)")
    parser.add_argument("--processes", type=int, default=4, help="processes, one a device (default: %(default)s)")
    parser.add_argument("--run", help="name of the run: everything goes into exp/<run>/ (default: recipe, processes, time)")
    options, others = parser.parse_known_args(argv)
    words = ["--config_path", os.path.abspath(options.config_path), *others]
    if options.epochs is not None:
        words += ["--epoch_size", str(options.epochs)]
    plan(options, words)


def plan(options, words):
    """Check everything that can be checked first, then do one step after the other."""
    config = get_config("", words)
    LOG.info(config.summary())
    require_mindspore()
    if options.processes < 1 or config.train_config.batch_size % options.processes:
        raise UserError(f"train_config.batch_size, of all processes together, is {config.train_config.batch_size}; "
                        f"{options.processes} processes cannot share it equally")

    data_dir = find_data(options.data_path)
    from src.data.coco import find_split  # what is slow to load is loaded when there is something to do

    for part in ("train", "val"):
        find_split(data_dir, part, config.dataset_config, "--data_path")
    # MindSpore is slow to load, and not needed for a wrong path.
    from src.model_utils.device_adapter import resolve_target
    from src.weights.checkpoints import newest_checkpoint

    target = resolve_target(options.device_target)
    recipe = os.path.splitext(os.path.basename(options.config_path))[0]
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = os.path.abspath(os.path.join("exp", options.run or f"{recipe}_{options.processes}p_{now}"))
    if os.path.exists(folder):
        raise UserError(f"{folder} exists; name another --run")

    records = config.mindrecord_dir = os.path.join(data_dir, "mindrecord")
    if not os.path.exists(manifest_path(records, config.mindrecord_prefix)):
        step("converting the training images to MindRecord files")
        script("src/dataset.py", *words, "--coco_data_dir", data_dir, "--mindrecord_dir", records)
    os.makedirs(folder)
    log = os.path.join(folder, "LOG0", "training_log.txt")
    step(f"training in {options.processes} processes on {target}; follow it with: tail -f {log}")
    train(folder, records, words, config, target, options.processes)
    checkpoint = newest_checkpoint(os.path.join(folder, "LOG0", "ckpt_0"))
    step("evaluating")
    script("eval.py", *words, "--device_target", target, "--data_dir", data_dir, "--load_checkpoint_path", checkpoint,
           "--save_result_dir", folder)
    step(folder)
    images = read_manifest(config)["images"]
    print(summary(folder, checkpoint, images - images % config.train_config.batch_size), flush=True)


def find_data(path):
    """The data set's folder: the path, or the folder voc in it. Raises UserError if neither holds annotations."""
    errors.require_dir(path, "data set folder (--data_path)")
    for folder in (path, os.path.join(path, "voc")):
        if os.path.isdir(os.path.join(folder, "annotations")):
            return os.path.abspath(folder)
    from src.data.labels.formats import import_hint

    raise UserError(f"{os.path.join(path, 'annotations')} is missing; --data_path is the folder that holds annotations/ and images/ "
                    f"(tools/get_pascal_voc.sh makes data/voc){import_hint(path)}")


def step(text):
    """Say what comes next."""
    LOG.info(f"\n== {text}")


def script(name, *words):
    """Run one of the project's scripts; its failure ends this one with its exit code."""
    run([sys.executable, os.path.join(ROOT, name), *words])


def run(command, **options):
    """Run a command; its failure ends this script with its exit code. On a signal it may end in order."""
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
                    process.terminate()  # which a terminal's Ctrl-C has told it already
    if interrupts.INTERRUPTS.requested:
        raise interrupts.Interrupted(f"what {os.path.basename(command[1])} says above goes on")
    if code:
        sys.exit(code)


def train(folder, records, words, config, target, processes):
    """Train in the folder with the launcher for distributed runs, each process with its part of the batch."""
    parameters = configparser.ConfigParser(interpolation=None)
    parameters.optionxform = str
    batch_size = config.train_config.batch_size // processes
    # The launcher works in the folder; what the words and the recipe say of paths is the caller's. It is given the records by itself.
    paths = {name: path for name, path in absolute_paths(config).items() if name != "mindrecord_dir"}
    quiet = {"quiet": "false"} if config.quiet else {}  # the processes print into files, which performance() reads
    parameters["config"] = {**as_parameters(words), **paths, **quiet, "train_config.batch_size": str(batch_size)}
    with open(os.path.join(folder, "hyper_parameters.ini"), "w", encoding="utf-8") as file:
        parameters.write(file)
    table = ["--output", os.path.join(folder, "hccl.json"), "--devices", f"0-{processes - 1}"]
    if target == "CPU":
        table += ["--cpu", "--server_id", "127.0.0.1"]
    script("tools/make_rank_table.py", *table)
    ini = os.path.join(folder, "hyper_parameters.ini")
    environment = {**os.environ, "CONFIG_PATH": "", "DEVICE_TARGET": target, "HYPER_PARAMETERS": ini, "CENTERNET_LAUNCHED_IN": os.getcwd()}
    launcher = os.path.join(ROOT, "scripts", "run_distributed_train_ascend.sh")
    run(["bash", launcher, "--wait", records, "hccl.json"], cwd=folder, env=environment)


# ---------------------------------------------------------------- what came of it


def performance(records, logs, images):
    """{"images_per_second", "seconds_per_epoch", "peak_memory_gb"} of all processes together.

    Args: records of train_record.jsonl, whose rates are those of all processes; logs, the texts of the processes' logs; images that an
    epoch reads. The first step, which compiles, does not count.
    """
    counted = records[1:] or records
    rate = len(counted) / sum(1 / record["images_per_second"] for record in counted)
    peaks = [float(match[1]) for log in logs if (match := re.search(r"^peak memory: ([\d.]+) GB", log, re.M))]
    return {"images_per_second": rate, "seconds_per_epoch": images / rate, "peak_memory_gb": sum(peaks)}


def summary(folder, checkpoint, images):
    """The lines a run ends with; the same goes into performance.json. images: those that an epoch reads."""
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
    scores = [f"{name} {metrics[name]:.3f}" for name in ("AP", "AP50", "AP75", "VOC_mAP_07", "VOC_mAP_area") if name in metrics]
    lines.append(f"accuracy           {', '.join(scores)}")
    lines.append(f"images per second  {measured['images_per_second']:.2f}, in all processes")
    lines.append(f"seconds per epoch  {measured['seconds_per_epoch']:.1f}")
    lines.append(f"peak memory        {measured['peak_memory_gb']:.2f} GB, in all processes")
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
