"""The stages that a task's end-to-end tests share: conversion, a training in two parts, export, offline inference."""
import json

from tests.conftest import TINY, call_script

EXPORT = ("export.py", "--device_target", "CPU", "--eval_config.K", 20)


def convert(data, folder, *args):
    """Convert a data set into MindRecord files in a folder; return (folder, finished process)."""
    shards = ["--dataset_config.num_shards", 2]
    return folder, call_script("src/dataset.py", "--coco_data_dir", data, "--mindrecord_dir", folder, *shards, *args)


def train(data, records, folder, *args):
    """Train for 3 of 10 steps with scores, resume and finish, in a folder; return both finished processes."""
    args = [*TINY, "--mindrecord_dir", records, "--data_dir", data, "--eval_epochs", 1, "--epoch_size", 2,
            "--save_checkpoint_steps", 3, *args]
    first = call_script("train.py", *args, "--train_steps", 3, cwd=folder)
    return first, call_script("train.py", *args, "--resume", "true", cwd=folder)


def best(run):
    """The best checkpoint of a training's folder."""
    return run / "ckpt_0" / "centernet-best.ckpt"


def record_lines(run):
    """(steps, scores) of a training's record."""
    lines = [json.loads(line) for line in (run / "train_record.jsonl").read_text().splitlines()]
    return tuple([line for line in lines if ("scores" in line) is scored] for scored in (False, True))


def export_onnx(run, name, *args):
    """The best checkpoint of a training as an ONNX file; `name` without its ending."""
    call_script(*EXPORT, "--export_config.ckpt_file", best(run), "--export_config.export_name", name,
                "--export_config.export_format", "ONNX", *args)
    return f"{name}.onnx"


def evaluate(data, model, folder, *args, check=True):
    """Run eval.py for a model in a folder; return the finished process."""
    return call_script("eval.py", "--device_target", "CPU", "--data_dir", data, "--load_checkpoint_path", model,
                       "--save_result_dir", folder, *args, check=check)


def infer_offline(data, model, kind, folder, *args):
    """Run preprocess.py, tools/infer_mindir.py and postprocess.py in a folder with a model of a kind, "mindir" or
    "onnx"; return postprocess.py's process."""
    call_script("preprocess.py", "--val_data_dir", data, "--predict_dir", folder / "in", "--mindir_path", model, *args)
    call_script("tools/infer_mindir.py", f"--{kind}", model, "--input_dir", folder / "in" / "data", "--result_path",
                folder / "out")
    return call_script("postprocess.py", "--meta_path", folder / "in" / "meta", "--result_path", folder / "out",
                       "--label_path", data, "--save_path", folder)


def records_of(folder):
    """The records of an evaluation in a folder."""
    return json.loads((folder / "val" / "val_pred_eval.json").read_text())
