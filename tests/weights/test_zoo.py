"""Compatibility with the model zoo: configuration, ini file, MindRecord files, and calls of launchers."""
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from mindspore.mindrecord import FileWriter

from src.commands import make_rank_table
from src.core.errors import UserError
from src.data import train_set
from src.data.coco import find_split, read_coco
from src.data.manifest import read_manifest
from src.model_utils import config as config_module
from src.model_utils.config import get_config
from src.model_utils.paths import absolute_paths
from src.network.architectures import resolved
from tests.conftest import (
    ROOT,
    TINY,
    assert_user_error,
    call_script,
    convert,
    idle_project,
    lines_with,
    noise_image,
    wait_until,
    write_coco,
)

CONFIG = os.path.join(ROOT, "tests", "zoo", "default_config.yaml")
INI = os.path.join(ROOT, "tests", "zoo", "hyper_parameter_config.ini")
IGNORED = (
    "data_path", "output_path", "load_path", "enable_profiling", "export_load_ckpt", "export_format", "export_name",
    "dataset_config.output_res", "net_config.num_stacks", "net_config.block_class",
    "load_checkpoint_path /path/to/ckpt",
    "mindrecord_dir /path/to/mindrecord",
)


def coco_classes():
    """(names, ids) of COCO's 80 classes."""
    with open(os.path.join(ROOT, "src", "weights", "names", "coco_classes.txt"), encoding="utf-8") as file:
        entries = [line.strip().split(" ", 1) for line in file]
    return [name for _, name in entries], [int(number) for number, _ in entries]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A COCO data set with its 80 classes: 13 training images, one of them without objects, 3 validation images."""
    folder = tmp_path_factory.mktemp("zoo") / "coco"
    names, ids = coco_classes()
    for split, count in (("train", 12), ("val", 3)):
        images = {number: noise_image(number) for number in range(1, count + 1)}
        objects = [(number, ids[7 * number % 80], [10.5, 12, 40, 50]) for number in images] + [(1, 90, [60, 5, 30, 30])]
        images |= {99: noise_image(99)} if split == "train" else {}
        write_coco(folder, split, images, objects, names, ids)
    return folder


@pytest.fixture(scope="module")
def records(data, tmp_path_factory):
    """This project's MindRecord files of data, converted with the model zoo's configuration."""
    folder = tmp_path_factory.mktemp("records")
    done = call_script("src/dataset.py", "--config_path", CONFIG, "--coco_data_dir", data, "--mindrecord_dir", folder)
    assert lines_with(done.stdout, "1 of 13 images")
    assert "12 images (0 without objects), 13 objects" in done.stdout
    return folder


@pytest.fixture(scope="module")
def zoo_records(data, tmp_path_factory):
    """MindRecord files of the same images in the model zoo's layout."""
    folder = tmp_path_factory.mktemp("zoo_records")
    writer = FileWriter(str(folder / "coco_det.train.mind"), 2)
    writer.add_schema({"img_id": {"type": "int32", "shape": [1]}, "image": {"type": "bytes"},
                       "num_objects": {"type": "int32"}, "bboxes": {"type": "float32", "shape": [-1, 4]},
                       "category_id": {"type": "int32", "shape": [-1]}}, "centernet_json")
    coco = read_coco(str(data / "annotations" / "instances_train2017.json"))
    ids = coco_classes()[1]
    for info in coco.dataset["images"]:
        if entries := coco.imgToAnns[info["id"]]:
            boxes = np.array([entry["bbox"] for entry in entries], np.float32)
            boxes[:, 2:] += boxes[:, :2]
            labels = np.array([1 + ids.index(entry["category_id"]) for entry in entries], np.int32)
            image = (data / "train2017" / info["file_name"]).read_bytes()
            writer.write_raw_data([{"img_id": np.array([info["id"]], np.int32), "image": image,
                                    "num_objects": len(boxes), "bboxes": boxes, "category_id": labels}])
    writer.commit()
    return folder


# ---------------------------------------------------------------- configuration


def test_its_configuration_is_read():
    config = get_config("t", ["--config_path", CONFIG])
    assert (config.epoch_size, config.enable_data_sink, config.data_sink_steps) == (140, False, 1)
    assert (config.distribute, config.enable_save_ckpt) == (False, True)
    np.testing.assert_array_equal(config.dataset_config.mean, [0.40789654, 0.44719302, 0.47026115])
    assert np.shape(config.dataset_config.eig_vec) == (3, 3)
    assert config.dataset_config.eig_vec[2] == [-0.56089297, 0.71832671, 0.41158938]
    assert config.train_config.Adam.decay_filter == [".bias", ".beta", ".gamma"]
    assert (config.load_checkpoint_path, config.mindrecord_dir, config.net_config.load_backbone_path) == ("", "", "")
    options = config.net_config
    assert (options.arch, options.block_class, options.num_stacks) == ("resdcn_18", "", [])
    assert config.export_config.input_res == [704, 704] and config.dataset_config.input_res_test == [680, 680]
    first, left_out, larger = config.summary().splitlines()
    assert first.startswith(f"configuration: default_config.yaml, {CONFIG}; ")
    assert "data_sink" not in first and " data_sink_steps -1 (the data sink is off" in left_out
    assert "mindrecord_dir" not in first and config.run_mode == "val" and " run_mode test (val is what" in left_out
    assert all(f" {name}" in left_out for name in IGNORED)
    assert "export_config.input_res is made [704, 704]" in larger


@pytest.mark.parametrize("text", [
    "np.array([0.1, 0.2, 0.3])", "np.array([0.1, 0.2, 0.3], np.float32)", "np.array( [.1,.2,.3] , dtype = np.float64 )",
    "np.array([0.1, 0.2, 0.3], dtype='float32')", "numpy.array([1e-1, 2e-1,\n    0.3,], dtype=float,)",
])
def test_arrays_in_any_notation_are_read(text, tmp_path):
    (tmp_path / "c.yaml").write_text(f"dataset_config:\n  mean: {text}\n")
    assert get_config("t", ["--config_path", str(tmp_path / "c.yaml")]).dataset_config.mean == [0.1, 0.2, 0.3]


def test_its_names_of_export_options_are_read(tmp_path):
    """In a file and on the command line; blank ones keep export_config's values, others are reported."""
    (tmp_path / "c.yaml").write_text("export_load_ckpt: a.ckpt\nexport_name: ' '\n"
                                     "export_config: {ckpt_file: b.ckpt, export_name: n}\n")
    config = get_config("t", ["--config_path", str(tmp_path / "c.yaml")])
    assert (config.export_config.ckpt_file, config.export_config.export_name) == ("a.ckpt", "n")
    args = ["--export_load_ckpt", "c.ckpt", "--export_name=m", "--export_format", ""]
    config = get_config("t", ["--config_path", str(tmp_path / "c.yaml"), *args])
    options = config.export_config
    assert (options.ckpt_file, options.export_name, options.export_format) == ("c.ckpt", "m", "MINDIR")
    assert "export_config.export_name m (the command line)" in config.summary()


def test_run_mode_test_is_kept_in_other_files(tmp_path):
    (tmp_path / "c.yaml").write_text("run_mode: test\n")
    assert get_config("t", ["--config_path", str(tmp_path / "c.yaml")]).run_mode == "test"
    assert get_config("t", ["--config_path", CONFIG, "--run_mode", "test"]).run_mode == "test"


@pytest.mark.parametrize("edits, message", [
    (None, "is given with --config_path"), ([("data_dir: \"\"", "data_dir: /path/to/data/coco")], None),
    ([("num_classes: 0", "num_classes: 3\n  down_ratio: 8"), ("  down_ratio: 4\n", "")], None),
    ([("epoch_size: 140", "epoch_size: 140\nexport_load_ckpt: a.ckpt")], None),
    ([("block_class: \"\"", "block_class: [3, 4, 6, 3]"), ("num_stacks: []", "num_stacks: 1")],
     "net_config.block_class cannot be [3, 4, 6, 3]"),
])
def test_its_values_written_into_default_config(edits, message, tmp_path):
    """Without edits: its file, with three documents, replaces ours."""
    with open(config_module.DEFAULT_CONFIG, encoding="utf-8") as file:
        text = file.read()
    if edits is None:
        with open(CONFIG, encoding="utf-8") as file:
            text = (f"{file.read()}\n---\nepoch_size: Epoch size\n"
                    "---\ndevice_target: ['Ascend']\ndistribute: ['true', 'false']\n")
    for old, new in edits or []:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "c.yaml").write_text(text)
    if message:
        with pytest.raises(UserError, match=re.escape(message)):
            config_module.load_defaults(str(tmp_path / "c.yaml"))
    else:
        assert list(config_module.load_defaults(str(tmp_path / "c.yaml"))[0]) == list(config_module.load_defaults()[0])


def test_an_option_without_a_value_is_a_one_line_error():
    done = call_script("train.py", "--epoch_size", check=False)
    assert_user_error(done, "--epoch_size")
    assert done.stderr.count("\n") == 1


def test_the_defaults_are_the_published_schedule():
    """No warm-up, 140 epochs, a checkpoint every 458 steps, batches of 16 on eight devices; 330 epochs on one."""
    config, zoo = get_config("t", []), get_config("t", ["--config_path", CONFIG])
    for name, value in zoo.parameters().items():
        schedule = name in ("epoch_size", "save_checkpoint_steps", "save_checkpoint_num")
        if schedule or name.startswith(("train_config", "net_config")):
            assert config.parameters()[name] == value or name == "net_config.head_conv", name
    assert resolved(config.net_config.as_dict()) == resolved(zoo.net_config.as_dict())
    one = get_config("t", ["--config_path", os.path.join(ROOT, "configs", "coco.yaml")])
    assert (one.epoch_size, one.save_checkpoint_steps, one.train_config.MultiDecay.warmup_steps) == (330, 3664, 0)


@pytest.mark.parametrize("text, message", [
    ("train_config: {Adam: {decay_filter: 'lambda x: True'}}", "decay_filter"),
    ("dataset_config: {num_classes: 80}\nnet_config: {num_classes: 81}",
     "num_classes is 81, and dataset_config.num_classes is 80"),
    ("dataset_config: {mean: 'np.array([0.1, os.getcwd()])'}", "a list of 3 numbers"),
    ("dataset_config: {mean: 'np.array([0.1, 0.5, 0.9], dtype=np.int32)'}", "a list of 3 numbers"),
    ("dataset_config:\n\tmax_objs: 3", "c.yaml, line 2, column 1: "),
    ("seed: 1\nseed: 2", "c.yaml, line 2, column 1: "),
    ("dataset_config: {down_ratio: 5}", "net_config.down_ratio is '5'"), ("COCO_ROOT: x", "no parameter COCO_ROOT"),
    ("data_pth: x", "no parameter data_pth"), ("visual_image: 'yes!'", "true or false"),
    ("device_target: GPU", "choose from auto, Ascend, CPU"),
    ("export_config: {input_res: dataset_config.mean}", "export_config.input_res"),
])
def test_invalid_values_are_refused(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        get_config("t", ["--config_path", str(tmp_path / "c.yaml")])


def test_later_files_override_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("epoch_size: 3\nseed: 4\n")
    (tmp_path / "b.yaml").write_text("epoch_size: '5'\nload_checkpoint_path: ' '\n")
    config = get_config("t", ["--config_path", str(tmp_path / "a.yaml"), "--config_path", str(tmp_path / "b.yaml"),
                              "--seed", "6"])
    assert (config.epoch_size, config.seed, config.load_checkpoint_path) == (5, 6, "")
    assert config.summary() == (
        f"configuration: default_config.yaml, {tmp_path}/a.yaml, {tmp_path}/b.yaml, the command line; "
        f"seed 6 (the command line), epoch_size 5 ({tmp_path}/b.yaml)")


@pytest.mark.parametrize("args, part", [
    (["--dataset_config.num_classes", 80], "dataset_config.num_classes (the command line) has 80 where"),
    (["--dataset_config.coco_classes", "[background, rectangle, square, disc]"], "has 'square' where"),
    (["--eval_config.valid_ids", "[1, 2, 4]"], "eval_config.valid_ids (the command line) has 4 where"),
    (["--dataset_config.coco_classes", "[rectangle]"], "dataset_config.coco_classes (the command line) has 1 entries"),
])
def test_classes_that_differ_from_the_data_are_an_error(args, part, tiny_data, tiny_records, small_checkpoint,
                                                        tmp_path):
    scripts = {
        "src/dataset.py": ["--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path / "m"],
        "train.py": ["--mindrecord_dir", tiny_records],
        "eval.py": ["--data_dir", tiny_data, "--load_checkpoint_path", small_checkpoint],
        "preprocess.py": ["--val_data_dir", tiny_data, "--predict_dir", tmp_path / "p"],
    }
    for script, required in scripts.items():
        if script == "train.py" or "80" in str(args):
            assert_user_error(call_script(script, *required, *args, check=False), part)


# ---------------------------------------------------------------- data


def test_images_without_objects_may_be_kept(data, tmp_path):
    split = find_split(str(data), "train", get_config("", []).dataset_config)
    kept, left = convert(split, tmp_path / "kept"), convert(split, tmp_path / "left", keep_empty=False)
    assert (kept["images"], kept["images_without_objects"], kept["images_left_out"]) == (13, 1, 0)
    assert (left["images"], left["images_without_objects"], left["images_left_out"]) == (12, 0, 1)


def test_its_records_give_the_same_batches(records, zoo_records):
    """With the classes of its configuration; field names, types and the first class's number differ from ours."""
    args = [*TINY, "--config_path", CONFIG]
    ours = train_set.TrainSet(get_config("", [*map(str, args), "--mindrecord_dir", str(records)]))
    theirs = train_set.TrainSet(get_config("", [*map(str, args), "--mindrecord_dir", str(zoo_records)]))
    assert theirs.images == ours.images == 12
    assert theirs.manifest["classes"] == ours.manifest["classes"] == coco_classes()[0]
    assert theirs.manifest["category_ids"] == coco_classes()[1]
    for step in range(3):
        for one, other in zip(theirs.make_batch(step), ours.make_batch(step)):
            np.testing.assert_array_equal(one, other)


def test_its_records_need_class_names(data, zoo_records, tmp_path):
    refused = call_script("train.py", "--mindrecord_dir", zoo_records, check=False)
    assert_user_error(refused, "--dataset_config.train_annotation")
    annotation = data / "annotations" / "instances_train2017.json"
    manifest = read_manifest(get_config("", ["--mindrecord_dir", str(zoo_records), "--dataset_config.train_annotation",
                                             str(annotation)]))
    assert (manifest["classes"], manifest["category_ids"]) == coco_classes()
    # Relative to the data set's folder, or to this one, also for processes in other folders.
    for place in (["--data_dir", data], []):
        name = annotation.relative_to(data) if place else os.path.relpath(annotation)
        args = ["--mindrecord_dir", zoo_records, *place, "--dataset_config.train_annotation", name]
        config = get_config("", list(map(str, args)))
        assert read_manifest(config)["classes"] == coco_classes()[0]
        given = absolute_paths(config).get("dataset_config.train_annotation", str(name))
        assert os.path.join(config.data_dir, given) == str(annotation)
    few = ["--dataset_config.coco_classes", "[a, b]", "--train_config.batch_size", 4, "--train_steps", 1]
    assert_user_error(call_script("train.py", *TINY, "--mindrecord_dir", zoo_records, *few, cwd=tmp_path, check=False),
                      "of class", "of 2")


def long_header(folder):
    """Extend the headers of MindRecord files to the length of COCO's, with 70 pages of 32 MB in each file."""
    for path in folder.glob("*.mind?"):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        text = json.dumps({"page": header["page"] * 40,
                           **{name: value for name, value in header.items() if name != "page"}}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + len(text) :])


@pytest.mark.slow
def test_its_records_are_recognized_by_their_complete_header(zoo_records, tmp_path):
    folder = shutil.copytree(zoo_records, tmp_path / "m")
    long_header(folder)
    assert (folder / "coco_det.train.mind0").read_bytes().index(b"bboxes") > 4096
    config = get_config("", ["--config_path", CONFIG, "--mindrecord_dir", str(folder)])
    assert read_manifest(config)["files"] == ["coco_det.train.mind0", "coco_det.train.mind1"]


@pytest.mark.parametrize("missing, args, part", [
    (["coco_det.train.mind1"], [], "coco_det.train.mind1"),
    (["coco_det.train.mind1", "coco_det.train.mind1.db"], [], "coco_det.train.mind1"),
    (["coco_det.train.mind0"], [], "coco_det.train.mind0"),
    (["coco_det.train.mind1.db"], [], "coco_det.train.mind1.db"),
    ([], ["--mindrecord_prefix", "shapes"], "mindrecord_prefix"),
    ([], ["--mindrecord_prefix", "coco_det.train.min"], "mindrecord_prefix"),
    ([], ["--dataset_config.num_classes", "81"], "num_classes is 81, and dataset_config.coco_classes has 80"),
])
def test_incomplete_records_are_refused(missing, args, part, zoo_records, tmp_path):
    """Without a file, training would silently use fewer images."""
    folder = shutil.copytree(zoo_records, tmp_path / "m")
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(UserError, match=re.escape(part)):
        read_manifest(get_config("", ["--config_path", CONFIG, "--mindrecord_dir", str(folder), *args]))


@pytest.mark.slow
def test_the_test_sets_lists_are_found(data, least, least_checkpoint, tmp_path):
    """test-dev's before the complete test set's; without either, a message about the ids names the folder."""
    shutil.copytree(data / "val2017", tmp_path / "test2017")
    (tmp_path / "annotations").mkdir()
    args = ["--load_checkpoint_path", least_checkpoint, "--data_dir", tmp_path, "--run_mode", "test",
            "--device_target", "CPU"]
    done = call_script("eval.py", *args, "--save_result_dir", tmp_path / "none")
    assert f" {tmp_path}/annotations: " in done.stdout
    content = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    for name, ids in (("image_info_test2017.json", [7001, 7002, 7003]), ("image_info_test-dev2017.json", [7002, 7003])):
        images = [{**info, "id": image_id} for info, image_id in zip(content["images"], ids)]
        annotation = {"images": images, "categories": content["categories"]}
        (tmp_path / "annotations" / name).write_text(json.dumps(annotation))
    call_script("eval.py", *args, "--save_result_dir", tmp_path / "dev")
    records = json.loads((tmp_path / "dev" / "test" / "test_pred_eval.json").read_text())
    assert {record["image_id"] for record in records} == {7002, 7003}
    (tmp_path / "annotations" / "image_info_test-dev2017.json").unlink()
    split = find_split(str(tmp_path), "test", get_config("", []).dataset_config)
    assert split.annotation.endswith("image_info_test2017.json")


# ---------------------------------------------------------------- launchers


@pytest.fixture
def edited(tmp_path):
    """A copy of the project with stand_in_train.py and an edited default_config.yaml, as in the model zoo's README."""
    folder = idle_project(tmp_path / "check out")
    text = (folder / "default_config.yaml").read_text()
    for old, new in (("device_target: auto", "device_target: CPU"), ("epoch_size: 140", 'epoch_size: "2"'),
                     ("train_steps: -1", 'train_steps: "3"'), ("visual_image: false", 'visual_image: "false"'),
                     ("batch_size: 16", "batch_size: 4"), ("input_res_train: [512, 512]", "input_res_train: [96, 96]"),
                     ("head_conv: 0", "head_conv: 16"),
                     ("num_stacks: []", "num_stacks: [1, 1, 1, 1]"),
                     ("load_checkpoint_path: \"\"", 'load_checkpoint_path: " "'),
                     ("do_shuffle: true", 'do_shuffle: "true"')):
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "default_config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("text, error", [
    ("\ufeff[config]\nepoch_size = '3'\n", None), ("epoch_size=3\n", "x.ini: "),
    ("[config]\nresume=true\n", "LOAD_CHECKPOINT_PATH"),
    ("[config]\nresume=true\nsave_checkpoint_path=../empty\n", " empty/ckpt_0 "),
    ("[config]\nresume=true\nsave_checkpoint_path=../out\nepoch_size=3\n", None),
    ("[config]\nCOCO_ROOT=x\n", "no parameter COCO_ROOT"),
    ("[config]\nnet_config.num_classes=80\nepoch_size=3\n", None),
])
def test_ini_files_are_read_or_refused_in_one_line(text, error, records, tmp_path):
    (tmp_path / "x.ini").write_text(text)
    (tmp_path / "out" / "ckpt_0").mkdir(parents=True)
    (tmp_path / "out" / "ckpt_0" / "centernet-1_1.ckpt").touch()
    make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1", "--output",
                          str(tmp_path / "hccl.json")])
    script = "scripts/ascend_distributed_launcher/get_distribute_train_cmd.py"
    done = call_script(script, "--mindrecord_dir", records, "--hccl_config_dir", "hccl.json",
                       "--hyper_parameter_config_dir", "x.ini", "--device_target", "CPU",
                       "--load_checkpoint_path", " ", "--", "--train_config.batch_size", 2, cwd=tmp_path, check=False)
    if error:
        assert_user_error(done, error)
        assert done.stderr.count("\n") == 1
        return
    command = (tmp_path / "distributed_cmd.sh").read_text()
    assert done.returncode == 0 and "--epoch_size 3" in command
    assert ("--dataset_config.num_classes 80" in command) == ("num_classes" in text)


def test_every_default_that_differs_is_listed():
    """docs/differences.md names each parameter of the model zoo's file that is missing here or has another value."""
    theirs, (ours, *_) = config_module.flatten(config_module.read_config_file(CONFIG)), config_module.load_defaults()
    with open(os.path.join(ROOT, "docs", "differences.md"), encoding="utf-8") as file:
        text = file.read()
    changed = get_config("", ["--config_path", CONFIG]).changed()
    differ = [name for name in theirs if name not in ours or name in changed and ours[name] != []]
    paths = {name for name in differ if str(theirs[name]).startswith("/path/to/")}  # a row of their own
    aliases = {"net_config.num_classes", "dataset_config.down_ratio"}  # of parameters with the same last name
    left = {name for name in set(differ) - paths - aliases if not re.search(rf"`[^`|]*\b{name.split('.')[-1]}\b", text)}
    assert {"device_target", "enable_profiling", "export_config.export_name"} <= set(differ)
    assert "/path/to/" in text and not left


# Files in the README of the model zoo's CenterNet, and others in its folder.
ZOO_FILES = [
    "train.py", "eval.py", "export.py", "README.md", "README_CN.md", "default_config.yaml", "preprocess.py",
    "postprocess.py", "requirements.txt", "convert_ckpt.py", "convert_resnet18.py", "centernet_params.txt",
    "centernet_ms_params.txt", "tools/eval.py", "tools/convert_resnet18.py",
    *(f"scripts/ascend_distributed_launcher/{name}" for name in (
        "__init__.py", "hyper_parameter_config.ini", "get_distribute_train_cmd.py", "README.md")),
    *(f"scripts/{name}.sh"
      for name in ("convert_dataset_to_mindrecord", "run_standalone_train_ascend", "run_distributed_train_ascend",
                                        "run_standalone_eval_ascend", "run_infer_310")),
    *(f"src/model_utils/{name}.py" for name in ("config", "device_adapter", "local_adapter", "moxing_adapter")),
    *(f"src/{name}.py"
      for name in ("__init__", "centernet_det", "dataset", "decode", "resnet", "resnet50", "image", "post_process",
                                    "utils", "visual", "image_utils", "bbox_utils", "predict_by_feat")),
]


def test_every_file_is_here_or_listed():
    with open(os.path.join(ROOT, "docs", "differences.md"), encoding="utf-8") as file:
        text = file.read()
    missing = [name for name in ZOO_FILES if not os.path.isfile(os.path.join(ROOT, name))]
    assert len(missing) == 7 and all(f"`{name}`" in text for name in missing)


def call(folder, *args, **environment):
    """Run a launcher in a folder, on the CPU by the edited default_config.yaml; returns the CompletedProcess."""
    environment = {**os.environ, **environment}
    return subprocess.run(["bash", *map(str, args)], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=300)


def finished(log, last):
    """The text of a launcher's log, once it has its last line."""
    wait_until(lambda: log.exists() and re.search(rf"^(error|{last})", log.read_text(), re.M), 200,
               f"{log} to be complete")
    return log.read_text()


@pytest.mark.parametrize("script", [
    "scripts/convert_dataset_to_mindrecord.sh", "scripts/run_distributed_train_ascend.sh", "scripts/run_infer_310.sh",
    "scripts/run_standalone_eval_ascend.sh", "scripts/run_standalone_train_ascend.sh", "scripts/train_full_4p.sh",
    "train_full_4p.sh",
])
def test_a_launcher_is_called_through_a_link(script, tmp_path):
    (tmp_path / "launch").symlink_to(os.path.join(ROOT, script))
    done = call(tmp_path, "launch")
    assert done.returncode == 2 and "usage: bash scripts/" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "scripts"])
def test_the_standalone_launcher_trains_with_the_edited_values(where, edited, records):
    """From the top folder and from scripts/, with " " for no checkpoint; then resumed. test_launchers.py trains."""
    folder, script = edited / where, os.path.relpath("scripts/run_standalone_train_ascend.sh", where or ".")
    assert call(folder, script, 0, records, " ").returncode == 0
    text = finished(folder / "training_log.txt", "rank 0")
    assert text.startswith("configuration: default_config.yaml, the command line; run_dir . (the command line), ")
    assert text.splitlines()[-1] == "rank 0 of 1: 12 images, 4 a step, 3 steps, resume False"
    checkpoint = folder / "ckpt_0" / "centernet-1_3.ckpt"
    wait_until(checkpoint.exists, 200, "the checkpoint")
    assert call(folder, script, 0, records, checkpoint, "--resume", "true", "--train_steps=4").returncode == 0
    text = finished(folder / "training_log.txt", "from ")
    assert text.splitlines()[-2:] == ["rank 0 of 1: 12 images, 4 a step, 4 steps, resume True",
                                      f"from {checkpoint}: step 3"]


@pytest.mark.slow
def test_the_distributed_launcher_uses_its_ini_and_configuration(edited, records):
    """Two ranks; the ini file overrides the configuration, the command line both; the first line names the origins."""
    shutil.copy2(INI, edited / "scripts" / "ascend_distributed_launcher" / "hyper_parameter_config.ini")
    shutil.copy2(CONFIG, edited / "zoo.yaml")
    make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1", "--output",
                          str(edited / "hccl.json")])
    small = [arg for name, value in zip(TINY[::2], TINY[1::2]) if name != "--device_target" for arg in (name, value)]
    command = ["scripts/run_distributed_train_ascend.sh", records, "hccl.json", " ", "--train_steps", 1, *small]
    done = call(edited, *command, "--wait", CONFIG_PATH="zoo.yaml", DEVICE_TARGET="CPU")
    assert done.returncode == 0, done.stdout + done.stderr
    first = done.stdout.splitlines()[0]
    ini = f"{edited}/scripts/ascend_distributed_launcher/hyper_parameter_config.ini"
    assert first.startswith(f"configuration: default_config.yaml, zoo.yaml, {ini}, the command line; ")
    for part in (f"epoch_size 140 ({ini})", "device_id 1 (zoo.yaml)", "train_steps 1 (the command line)"):
        assert part in first
    for rank in (0, 1):
        text = (edited / f"LOG{rank}" / "training_log.txt").read_text()
        assert f"rank {rank} of 2: 12 images, 8 a step, 1 steps, resume False" in text and " epoch_size 140 (" in text
    command[3:6] = ["LOG0/ckpt_0/centernet-1_1.ckpt", "--resume", "true", "--train_steps", 2]
    assert call(edited, *command, "--wait", CONFIG_PATH="zoo.yaml", DEVICE_TARGET="CPU").returncode == 0
    text = (edited / "LOG0" / "training_log.txt").read_text()
    assert "8 a step, 2 steps, resume True" in text
    assert f"from {edited}/LOG0.1/ckpt_0/centernet-1_1.ckpt: step 1" in text


@pytest.mark.slow
def test_launchers_report_mistakes_in_the_configuration(edited, records, data, lively_checkpoint):
    """With exit code 2, before anything starts, for files and the command line."""
    text = (edited / "default_config.yaml").read_text()
    (edited / "default_config.yaml").write_text(text.replace("device_target: CPU", "device_target: GPU", 1))
    make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1", "--output",
                          str(edited / "hccl.json")])
    calls = {
        "convert_dataset_to_mindrecord.sh": [data, edited / "m"],
        "run_standalone_eval_ascend.sh": [0, "val", data, lively_checkpoint],
        "run_standalone_train_ascend.sh": [0, records], "run_distributed_train_ascend.sh": [records, "hccl.json"],
    }
    for script, args in calls.items():
        done = call(edited, f"scripts/{script}", *args)
        assert done.returncode == 2 and "device_target is 'GPU'; " in done.stderr, script
    (edited / "default_config.yaml").write_text(text.replace("device_target: CPU", "device_target: Ascend", 1))
    for script in ("run_standalone_train_ascend.sh", "run_standalone_eval_ascend.sh"):
        done = call(edited, f"scripts/{script}", *calls[script])
        assert done.returncode == 2 and "device_target is Ascend" in done.stderr, script
    (edited / "default_config.yaml").write_text(text)
    for script, args in calls.items():
        done = call(edited, f"scripts/{script}", *args, "--COCO_ROOT", "x")
        assert done.returncode == 2 and "COCO_ROOT" in done.stderr, script
    assert not list(edited.glob("*log*"))
