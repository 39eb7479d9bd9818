"""Unknown options: the answers to those of other detectors, in one table for all commands, and to misspelled ones."""
import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from .project import command
from .suggest import suggest


class Answer(NamedTuple):
    """An answer to an option of another detector, given only if the command has all options that the text names.

    text, in which {value} and {size} stand for the given value, {schedule} and {optimizer} for those in use, and
    {import}, {convert} and {quantize} for command lines; value, a regular expression that the given value matches;
    commands, the only ones that give this answer, all if empty.
    """

    text: str
    value: str = ".*"
    commands: str = ""


NUMBER, CPU, GPU, YES = r"\d+", "cpu", r"(cuda|gpu|mps)(:\d+)?", "true|1|yes|on|"
FOLDER = (Answer("did you mean --export_config.export_name?", commands="export"),
          Answer("did you mean --mindrecord_dir?", commands="dataset"),
          Answer("did you mean --save_path?", commands="postprocess"),
          Answer("did you mean --predict_dir?", commands="preprocess"),
          "did you mean --run_dir?", "did you mean --output?", "did you mean --run?")
WEIGHTS = (Answer("did you mean --export_config.ckpt_file?", commands="export"), "did you mean --load_checkpoint_path?",
           "did you mean --onnx?", "did you mean --mindir?", "did you mean --ckpt_file?")
RATE = ("did you mean --train_config.{schedule}.learning_rate, the rate of the schedule in use "
        "(--train_config.lr_schedule)?",)
ONE_OBJECT = "CenterNet needs no IoU threshold, as each peak of its heatmap is one object"
SOFT = "--eval_config.SOFT_NMS turns its soft-NMS on or off"
SCORE = ("did you mean --eval_config.score_thresh? It selects what is drawn; scores count all detections",
         "did you mean --score_thresh?", "did you mean --score?")
HALF = (Answer("did you mean --export_config.export_format ONNX --export_config.onnx_dtype float16?",
               commands="export"),
        Answer("did you mean --train_config.amp_level O2?", commands="train"),
        "the precision is chosen at export (--export_config.onnx_dtype float16 of export.py): give the ONNX file as "
        "--load_checkpoint_path",
        "the precision is chosen at export: give --onnx a file of export.py with onnx_dtype float16")
DATA = (Answer("--mindrecord_dir takes the folder of the converted images: import the labels with {import}, then "
               "convert them with {convert}", commands="train"),
        Answer("did you mean --coco_data_dir? Labels of YOLO, VOC or Roboflow are imported first: {import}",
               commands="dataset"),
        Answer("export.py reads no data; leave it out", commands="export"),
        Answer("did you mean --val_data_dir? Labels of YOLO, VOC or Roboflow are imported first: {import}",
               commands="preprocess"),
        "did you mean --data_dir? Labels of YOLO, VOC or Roboflow are imported first: {import}",
        "did you mean --input?")
# By names in lower case with _ for -, separated by spaces; the first answer that fits is given.
TABLE: dict[str, tuple[str | Answer, ...]] = {
    "epochs max_epochs num_epochs": ("did you mean --epoch_size?", "did you mean --epochs?"),
    "imgsz img img_size image_size input_size": (
        Answer("did you mean --dataset_config.input_res_test {size}, with --eval_config.keep_res false?",
               commands="eval preprocess"),
        Answer("did you mean --export_config.input_res {size}?", commands="export"),
        "did you mean --dataset_config.input_res_train {size}? Evaluations have their own, "
        "--dataset_config.input_res_test", "did you mean --input_res, width and height?"),
    "batch batch_size samples_per_gpu": (
        Answer("did you mean --eval_config.batch_size?", commands="eval preprocess"),
        Answer("did you mean --export_config.batch_size?", commands="export"),
        "did you mean --train_config.batch_size?", "did you mean --batch_size?", "did you mean --max_batch?"),
    "lr0 lr learning_rate base_lr": RATE,
    "lrf min_lr eta_min": ("did you mean --train_config.{schedule}.end_learning_rate? It is a rate, not a factor",
                           "did you mean --train_config.{schedule}.factor, the divisor of the rate?"),
    "cos_lr": ("did you mean --train_config.lr_schedule CosineDecay?",),
    "warmup_epochs warmup_iters warmup": ("did you mean --train_config.{schedule}.warmup_steps, in steps?",),
    "momentum": ("did you mean --train_config.{optimizer}.momentum?",
                 "did you mean --train_config.optimizer SGD --train_config.SGD.momentum {value}?"),
    "weight_decay": ("did you mean --train_config.{optimizer}.weight_decay?",),
    "optimizer": ("did you mean --train_config.optimizer Adam, AdamW or SGD?",),
    "weights ckpt checkpoint onnx mindir": WEIGHTS,
    "model": (Answer("did you mean --net_config.arch? --load_checkpoint_path takes weights", r".*\.ya?ml", "train"),
              *WEIGHTS),
    "data": DATA,
    "pretrained": (
        Answer("training starts from random weights unless --load_checkpoint_path or --net_config.load_backbone_path "
               "names some; leave it out", "false|0|no|off", "train"),
        Answer("did you mean --net_config.load_backbone_path, a backbone such as tools/convert_resnet18.py writes, or "
               "--load_checkpoint_path, a detector? docs/pretrained.md names both", YES, "train"), *WEIGHTS),
    "load_from": WEIGHTS,
    "resume_from": (Answer("did you mean --resume true --load_checkpoint_path {value}?", r".*\S.*"),
                    "did you mean --resume true?"),
    "iou iou_thres iou_thr": (f"{ONE_OBJECT}; {SOFT}", ONE_OBJECT),
    "nms agnostic_nms": (f"CenterNet needs no NMS, as each peak of its heatmap is one object; {SOFT}",
                         "CenterNet needs no NMS, as each peak of its heatmap is one object"),
    "conf conf_thres score_thr score_thresh threshold confidence": SCORE,
    "max_det max_per_img": (
        "did you mean --eval_config.K?", "the recipe's eval_config.K limits the detections; --score_thresh selects"),
    "source": ("did you mean --input?", "did you mean --input_dir?", "did you mean --data_dir?"),
    "save_txt save_json save_conf": (
        Answer("val/ and test/ in --run_dir have all detections, as JSON", commands="eval"),
        "predictions.json and predictions.csv in --output have all detections of at least --score_thresh",
        "only eval.py and tools/predict.py write detections"),
    "name project work_dir save_dir exp_name output_dir": FOLDER,
    "early_stop early_stopping": (
        "did you mean --patience, in evaluations without a better score, with --eval_epochs?",),
    "amp fp16 mixed_precision": HALF,
    "half": HALF,
    "workers n_workers num_workers": ("did you mean --dataset_config.num_workers?",),
    "device gpu gpus gpu_id": (
        Answer("did you mean --device_target CPU?", CPU),
        Answer("did you mean --device_target Ascend --device_id {value}, or --device_target CPU? NVIDIA GPUs do not "
               "train here", NUMBER, "train"),
        Answer("did you mean --device_target CPU? NVIDIA GPUs do not train here", GPU, "train"),
        Answer("did you mean --device_target Ascend --device_id {value}, --device_target CPU or, for an ONNX file on "
               "an NVIDIA GPU, --onnx_provider CUDA?", NUMBER),
        Answer("did you mean --onnx_provider CUDA, for an ONNX file?", GPU),
        Answer("scripts/run_distributed_train_ascend.sh trains on several devices; here, --device_target and "
               "--device_id select one", r"\d+(,\d+)+", "train"),
        "did you mean --device_target?"),
    "cfg_options options opts": (
        "options are written --NAME VALUE, such as --train_config.batch_size 8; configuration files are given with "
        "--config_path", "options are written --NAME VALUE"),
    "config cfg config_file": ("did you mean --config_path?",),
    "eval_interval val_interval": ("did you mean --eval_epochs?",),
    "save_period": ("did you mean --save_checkpoint_steps, in steps?",),
    "format include": (Answer("did you mean --export_config.export_format ONNX, or MINDIR?", commands="export"),),
    "dynamic": (Answer("did you mean --export_config.onnx_dynamic?", commands="export"),),
    "int8": (Answer("{quantize} makes an int8 file of an exported ONNX file", commands="export"),),
    "augment tta": ("did you mean --eval_config.flip_test?", "did you mean --flip_test?"),
    "coco_root": ("did you mean --coco_data_dir?",),
}
ANSWERS = {name: answers for names, answers in TABLE.items() for name in names.split()}


def unknown(name: str, value: str, known: Collection[str], script: str = "", in_use: Mapping[str, str] | None = None,
            prefix: str = "--") -> str:
    """The end of the message about an unknown option or parameter: its successor, or what it may have meant; ""
    if neither is known.

    Args: value, as given, "" without one; known, the names that this command accepts, without --; script, the
    command's, "train"; in_use {"schedule": ..., "optimizer": ...}, the names of train_config's sections that have an
    effect; prefix, that of names in the answer, empty in a file.
    """
    used = {"schedule": "", "optimizer": "", **(in_use or {})}
    last = name.lower().replace("-", "_").split(".")[-1]
    if (spelled := name.replace("-", "_")) != name and spelled in known:
        return f"did you mean {prefix}{spelled}?"
    is_known = name.lower() in map(str.lower, known)  # in other capitals
    if answer := None if is_known else _answer(ANSWERS.get(last, ()), value, known, script, used):
        return _filled(answer if prefix else answer.replace("--", ""), value)
    # Of equal last names the first counts, those in use before others.
    names = sorted(known, key=lambda other: not {*used.values()} & {*other.split(".")})
    lasts = {other.lower().split(".")[-1]: other for other in reversed(names)}
    near = None if is_known else lasts.get(last)  # the right name without or in a wrong section
    if not near and last not in ANSWERS:
        near = suggest(name, names) or lasts.get(suggest(last, lasts) or "")
    return f"did you mean {prefix}{near}?" if near else ""


def _answer(answers: Iterable[str | Answer], value: str, known: Collection[str], script: str,
            used: Mapping[str, str]) -> str:
    """The text of the first answer that fits, "" if none does; arguments as for `unknown`."""
    for text, pattern, commands in (one if isinstance(one, Answer) else Answer(one) for one in answers):
        text = re.sub(r"{(schedule|optimizer)}", lambda match: used[match[1]], text)
        fits = re.fullmatch(pattern, value, re.IGNORECASE) and (not commands or script in commands.split())
        if fits and {*re.findall(r"--([a-z][\w.]*\w)", text)} <= {*known}:
            return text
    return ""


def _filled(text: str, value: str) -> str:
    """An answer's text with its placeholders filled in."""
    folder, output = value if os.path.isdir(value) else os.path.dirname(value) or ".", "data"
    source = shlex.quote(folder) if value and os.path.exists(value) else "FOLDER"
    paths = [os.path.realpath(path) for path in (folder, output)]
    if source != "FOLDER" and os.path.commonpath(paths) in paths:  # the importer refuses a folder in the other
        output = shlex.quote(f"{os.path.abspath(folder)}_coco")
    filled = {"value": shlex.quote(value) if value else "",
              "size": f'"[{value}, {value}]"' if value.isdigit() else '"[WIDTH, HEIGHT]"',
              "import": f"{command('tools/import_dataset.py')} --input {source} --output {output}",
              "convert": f"{command('src/dataset.py')} --coco_data_dir {output} --mindrecord_dir mindrecord",
              "quantize": command("tools/quantize_onnx.py")}
    return re.sub(r"{(\w+)}", lambda match: filled[match[1]], text)


def given_options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name, value) of the options among words of a command line, "--name value", "--name=value" or "-name"; the value
    is empty without one, and of several the first."""
    name, value = "", ""
    for word in itertools.takewhile(lambda word: word != "--", words):
        if re.match(r"--?[A-Za-z]", word):
            if name:
                yield name, value
            name, _, value = word.lstrip("-").partition("=")
        elif name and not value:
            value = word
    if name:
        yield name, value
