"""MindSpore's known harmless warnings are suppressed; others are not."""
import glob
import logging
import subprocess
import sys

import pytest

from src.data import manifest
from src.data.coco import find_split
from src.data.manifest import read_manifest
from src.data.train_set import TrainSet
from src.model_utils import config
from src.model_utils.quiet import without_warnings
from tests.conftest import TINY, convert, noise_image, small_project, write_coco


@pytest.fixture
def logger(monkeypatch):
    """MindSpore's log module, and the messages that reach its Python logger."""
    from mindspore import log

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    mindspore_logger = log._get_logger()
    mindspore_logger.addHandler(handler)
    monkeypatch.delenv("GLOG_v", raising=False)
    yield log, records
    mindspore_logger.removeHandler(handler)


def test_only_the_given_warnings_are_dropped_and_only_in_the_block(logger, monkeypatch):
    log, records = logger
    with without_warnings("one thing"):
        log.warning("one thing is so")
        log.warning("another thing")
        log.error("one thing is wrong")
    log.warning("one thing is so, later")
    assert records == ["another thing", "one thing is wrong", "one thing is so, later"]
    monkeypatch.setenv("GLOG_v", "2")
    with without_warnings("one thing"):
        log.warning("one thing, asked for")
    assert records[-1] == "one thing, asked for"


@pytest.fixture
def sparse_records(tmp_path):
    """Three MindRecord files, two of them empty: one of three images is readable."""
    write_coco(tmp_path, "train", {1: noise_image(1), 2: b"no image", 3: b"none"}, [(1, 1, [10, 10, 50, 50])])
    split = find_split(str(tmp_path), "train", config.get_config("", []).dataset_config)
    convert(split, tmp_path / "m", "coco_det.train.mind", tmp_path, num_shards=3)
    return tmp_path / "m"


def test_empty_files_are_not_opened(sparse_records, make_config):
    files = read_manifest(make_config("--mindrecord_dir", sparse_records))["files"]
    assert [manifest.is_empty(str(sparse_records / file)) for file in files].count(True) == 2
    train_set = TrainSet(make_config("--mindrecord_dir", sparse_records, *TINY, "--train_config.batch_size", 1))
    assert train_set.images == 1


def test_records_are_spread_evenly(tmp_path):
    write_coco(tmp_path, "train", {number: noise_image(number) for number in range(1, 11)}, [(1, 1, [10, 10, 30, 30])])
    split = find_split(str(tmp_path), "train", config.get_config("", []).dataset_config)
    convert(split, tmp_path / "m", "p", tmp_path, num_shards=5)
    assert not any(manifest.is_empty(path[:-3]) for path in glob.glob(str(tmp_path / "m" / "*.db")))


@pytest.mark.slow
def test_the_entry_scripts_print_no_noise(sparse_records, tmp_path, monkeypatch):
    """Without an NPU and with device_target auto, unless GLOG_v requests warnings.

    Slow, since it needs six processes: MindSpore may warn when it is loaded, and may warn only once.
    """
    project = small_project(tmp_path / "project", "SMALL")

    def run(script, *args):
        command = [sys.executable, project / script, *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    monkeypatch.delenv("GLOG_v", raising=False)
    small = list(map(str, TINY))
    small[small.index("CPU")] = small[small.index("native")] = "auto"
    training = [*small, "--train_config.batch_size", "1", "--mindrecord_dir", sparse_records]
    where = ["--save_checkpoint_path", tmp_path / "r", "--save_result_dir", tmp_path / "r"]
    checkpoint = tmp_path / "r" / "ckpt_0" / "centernet-1_1.ckpt"
    image = glob.glob(str(tmp_path / "train2017" / "*1.jpg"))[0]
    objects = [(number, 1, [10, 10, 30, 30]) for number in range(1, 4)]
    write_coco(tmp_path, "val", {number: noise_image(number) for number in range(1, 4)}, objects)
    for script, *args in (
        ("train.py", *training, *where, "--train_steps", "1"),
        ("eval.py", "--load_checkpoint_path", checkpoint, "--data_dir", tmp_path, "--save_result_dir", tmp_path / "e"),
        ("export.py", "--export_config.ckpt_file", checkpoint, "--export_config.export_name", tmp_path / "x"),
        ("tools/predict.py", "--mindir", tmp_path / "x.mindir", "--input", image, "--output", tmp_path / "p"),
        ("tools/predict.py", "--load_checkpoint_path", checkpoint, "--input", image, "--output", tmp_path / "q"),
    ):
        done = run(script, *args)
        assert done.returncode == 0, done.stderr
        for noise in ("WARNING", "ERROR", "libmindspore_ascend"):
            assert noise not in done.stdout + done.stderr, done.stderr
    monkeypatch.setenv("GLOG_v", "2")
    done = run("train.py", *training, "--train_steps", "0")  # which ends before compiling
    output = done.stdout + done.stderr
    assert "libmindspore_ascend" in output and "FusedSparseAdam" in output
