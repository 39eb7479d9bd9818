"""The configuration: defaults, files, command line, messages about mistakes."""
import glob
import os
import subprocess
import sys

import pytest
import yaml

from src.model_utils.config import DEFAULT_CONFIG, as_text, get_config, load_defaults
from src.model_utils.device_adapter import cpu_environment
from src.model_utils.rules import checked, expected
from src.model_utils.settings import flatten
from tests.conftest import ROOT, call_script, user_error


def test_every_parameter_is_in_all_documents():
    """Of the file as it is: load_defaults would report the parameter as unknown."""
    with open(DEFAULT_CONFIG, encoding="utf-8") as file:
        values, helps, rules = yaml.safe_load_all(file)
    documents = {"values": set(flatten(values)), "help": set(flatten(helps)), "rules": set(flatten(rules, leaf="kind"))}
    wrong = [f"default_config.yaml: {name} is not in the document of {kind}: add it there"
             for name in sorted(set.union(*documents.values())) for kind in documents if name not in documents[kind]]
    assert not wrong, "\n".join(wrong)


def test_every_parameter_has_help_and_a_rule_that_allows_its_default():
    values, helps, rules = load_defaults()
    assert all(isinstance(words, str) and words.strip() for words in helps.values())
    known = {"kind", "choices", "min", "above", "max", "multiple", "shape", "least", "single", "as", "not"}
    for name, rule in rules.items():
        assert set(rule) <= known, name
        assert checked(name, values[name], rule, "") == values[name]


def test_every_parameter_is_used_in_the_code():
    """No dead options: each name is read somewhere. Its effect is tested with the code that reads it."""
    scripts = ("train.py", "eval.py", "export.py", "preprocess.py", "postprocess.py")
    sources = [os.path.join(ROOT, name) for name in scripts]
    sources += glob.glob(os.path.join(ROOT, "src", "**", "*.py"), recursive=True)
    text = "\n".join(open(path, encoding="utf-8").read() for path in sources)
    text = "".join(text.replace("{split}", split) for split in ("train", "val", "test"))
    for name in load_defaults()[0]:
        last = name.split(".")[-1]
        is_read = f".{last}" in text or f'"{last}"' in text
        assert is_read, f"default_config.yaml: no code reads {name}: remove it, or read it where it has its effect"


def test_the_command_line_overrides_files_and_files_override_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epoch_size: 7\ntrain_config:\n  batch_size: 3\n")
    config = get_config("t", ["--config_path", str(path), "--train_config.batch_size", "5"])
    assert (config.epoch_size, config.train_config.batch_size) == (7, 5)
    assert config.train_config.loss_scale_value == 1024


@pytest.mark.parametrize("text, value", [("true", True), ("False", False), ("TRUE", True), ("1", True), ("0", False)])
def test_booleans(text, value):
    assert get_config("t", ["--resume", text]).resume is value


def test_lists_and_numbers_from_the_command_line():
    config = get_config("t", ["--dataset_config.input_res_train", "[320, 320]",
                              "--train_config.MultiDecay.learning_rate=5e-4", "--epoch_size=2.0"])
    assert config.dataset_config.input_res_train == [320, 320]
    assert config.train_config.MultiDecay.learning_rate == 5e-4
    assert config.epoch_size == 2


@pytest.mark.parametrize("argv, parts", [
    (["--epoch_sizes", "3"], ["epoch_sizes", "epoch_size?"]), (["--RESUME", "true"], ["RESUME", "resume"]),
    (["--soft_nms", "true"], ["eval_config.SOFT_NMS"]), (["--EVAL_CONFIG.k", "1"], ["eval_config.K"]),
    (["--batch_size", "3"], ["train_config.batch_size"]), (["--imgsz", "640"], ["dataset_config.input_res_train"]),
    (["--COCO_ROOT", "data"], ["coco_data_dir"]), (["--lr0", "0.1"], ["train_config.MultiDecay.learning_rate"]),
    (["--weights", "x"], ["load_checkpoint_path"]), (["--onnx", "x"], ["load_checkpoint_path"]),
    (["--net_config.num_classes", "3"], ["dataset_config.num_classes"]), (["--data_path", "m"], ["data_url"]),
    (["--net_config.dense_hp", "often"], ["dense_hp", "true or false"]),
    (["--config_path", "/nowhere.yaml"], ["/nowhere.yaml"]),
    (["stray"], ["'stray'"]), (["--net_config.num_stacks", "1"], ["net_config.num_stacks", "resdcn_18", " 4 "]),
    (["--net_config.num_stacks", "[2, 2]"], ["net_config.num_stacks", "[2, 2]", "resdcn_18", " 4 "]),
])
def test_messages_about_wrong_options(argv, parts):
    """A suggestion, the replacement, or the conflicting options."""
    with user_error(*parts):
        get_config("t", argv)


@pytest.mark.parametrize("name, value, facts", [
    ("epoch_size", "many", ["1"]), ("epoch_size", "2.5", ["1"]), ("epoch_size", "1" * 400, []),
    ("resume", "perhaps", ["true", "false"]),
    ("net_config.reg_loss", "l3", ["l1", "sl1"]), ("dataset_config.mean", "0.5", ["3"]),
    ("dataset_config.mean", "[1, 2", ["3"]),
    ("dataset_config.mean", "[a, b, c]", ["3"]), ("dataset_config.mean", "[0.4, 0.4]", ["3"]),
    ("dataset_config.mean", "[.inf, 0, 0]", ["3"]), ("dataset_config.std", "[0, 1, 1]", ["3", "0"]),
    ("dataset_config.eig_val", "[[1], 2, 3]", ["3"]),
    ("dataset_config.eig_vec", "[1, 2, 3]", ["3 x 3"]),
    ("dataset_config.eig_vec", "[[1, 2, 3], [1, 2, 3], [1, 2]]", ["3 x 3"]),
    ("dataset_config.flip_prop", "1.5", ["1"]), ("dataset_config.input_res_train", "[100, 96]", ["32"]),
    ("dataset_config.input_res_train", "[True, 96]", ["[width, height]"]),
    ("export_config.input_res", "[96]", ["[width, height]"]),
    ("eval_config.multi_scales", "[]", ["0"]), ("eval_config.pad_multiple", "33", ["32"]),
    ("train_config.batch_size", "0", ["1"]),
    ("seed", "-1", ["0"]), ("seed", "99999999999", ["4294967295"]), ("device_id", "-1", ["0"]),
    ("train_config.MultiDecay.learning_rate", ".nan", []),
    ("train_config.MultiDecay.learning_rate", "inf", []), ("train_config.MultiDecay.learning_rate", "-1", ["0"]),
    ("train_config.loss_scale_value", "1e39", ["3e+38"]), ("train_config.MultiDecay.multi_epochs", "[3, x]", []),
    ("train_config.MultiDecay.multi_epochs", "[1.5]", []), ("train_config.Adam.decay_filter", "[[a]]", []),
    ("data_sink_steps", "0", ["-1", "0"]),
])
def test_messages_about_invalid_values(name, value, facts):
    """The parameter, its value, and the rule's numbers and choices."""
    rule = expected(load_defaults()[2][name])
    with user_error(name, value[:20], rule):
        get_config("t", [f"--{name}", value])
    for fact in facts:
        assert fact in rule


@pytest.mark.parametrize("text, parts", [
    ("epoch_size: [1", ["line 1, column "]), ("- 1\n", ["name: value"]), ("epochs: 3", [" epochs", "epoch_size"]),
    ("train_config:\n", ["train_config "]), ("train_config: {}", ["train_config "]),
    ("train_config:\n  Adam:\n", ["train_config.Adam ", "weight_decay, decay_filter"]),
    ("train_config: 3", ["train_config ", " 3", "batch_size, "]), ("seed: {a: 1}", ["seed "]),
    ("seed: 1\nseed: 2", ["line 2, column 1", "seed"]),
    ("train_config:\n  batch_size: 2\nepoch_size: 1\ntrain_config:\n  batch_size: 3",
     ["line 4, column 1", "train_config"]),
    ("seed: .inf", ["seed", "'.inf'"]), ("1: 2", [" 1"]), ("seed: 2001-01-01", ["seed", "2001-01-01"]),
    ("[" * 1000, ["YAML"]),
], ids=lambda value: value[:20] if isinstance(value, str) else "")
def test_messages_about_broken_files(tmp_path, text, parts):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with user_error(path, *parts):
        get_config("t", ["--config_path", str(path)])


def test_all_mistakes_of_files_and_the_command_line_are_named_at_once(tmp_path):
    """A line each."""
    path, other = tmp_path / "c.yaml", tmp_path / "d.yaml"
    path.write_text("epochs: 3\nseed: -1\ntrain_config: {lr_schedule: Cosine}")
    other.write_text("eval_config: {K: 0}")
    with user_error(f"{path}: ", f"{other}: ", "epoch_size", "seed", "lr_schedule", "CosineDecay", "eval_config.K",
                    "save_checkpoint_num") as raised:
        get_config("t", ["--config_path", str(path), "--config_path", str(other), "--save_checkpoint_num", "0"])
    assert str(raised.value).count("\n") == 4


def test_all_contradictions_of_a_network_are_named_at_once():
    with user_error("best_metric", "net_config.num_stacks", "input_res_train", "dense_wh") as raised:
        get_config("t", ["--best_metric", "AP77", "--net_config.num_stacks", "[2, 2]", "--net_config.dense_wh", "true",
                         "--net_config.cat_spec_wh", "true", "--net_config.arch", "hourglass",
                         "--dataset_config.input_res_train", "[96, 96]"])
    assert str(raised.value).count("\n") == 3


NAMES = ["no", "Yes", "on", "off", "0123", "1.10", "1e3", "2001-01-01", "12:30", "~x", "it's", 'a "b"', "c\\d",
         "Größe", "矩"]


def test_names_are_kept_as_written(tmp_path):
    """YAML 1.1 reads them as booleans, octal numbers, dates and seconds. Files and the command line agree."""
    path = tmp_path / "c.yaml"
    classes = "".join(f"    - {name}\n" for name in NAMES)
    path.write_text(f"dataset_config:\n  coco_classes:\n{classes}mindrecord_prefix: no\n"
                    "export_config: {export_name: 0123}\ndata_url: null\ntrain_url: ~\n", encoding="utf-8")
    config = get_config("t", ["--config_path", str(path)])
    assert config.dataset_config.coco_classes == NAMES
    assert (config.mindrecord_prefix, config.export_config.export_name) == ("no", "0123")
    assert (config.data_url, config.train_url) == ("", "")
    again = get_config("t", ["--dataset_config.coco_classes", as_text(NAMES)])
    assert again.dataset_config.coco_classes == NAMES
    args = ["--dataset_config.coco_classes", "[no, on, 0123, 1.10]"]
    assert get_config("t", args).dataset_config.coco_classes == ["no", "on", "0123", "1.10"]
    path.write_text("dataset_config: {coco_classes: [a, ~]}")
    with user_error("dataset_config.coco_classes", expected(load_defaults()[2]["dataset_config.coco_classes"])):
        get_config("t", ["--config_path", str(path)])


@pytest.mark.parametrize("text, value", [("0140", 140), ("1_000", 1000), ("+7", 7), ("3.0", 3), ("1e2", 100)])
def test_integers_are_decimal(text, value, tmp_path):
    """YAML 1.1 reads 0140 as octal, 96."""
    (tmp_path / "c.yaml").write_text(f"epoch_size: {text}")
    assert get_config("t", ["--config_path", str(tmp_path / "c.yaml")]).epoch_size == value
    assert get_config("t", ["--epoch_size", text]).epoch_size == value


def test_an_empty_file_changes_nothing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert get_config("t", ["--config_path", str(path)]).as_dict() == get_config("t", []).as_dict()


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(ROOT, "configs", "*.yaml"))), ids=os.path.basename)
def test_shipped_configurations_load_and_state_only_differences(path):
    get_config("t", ["--config_path", path])
    defaults = load_defaults()[0]

    def flat(settings, prefix=""):
        for name, value in settings.items():
            yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]

    for name, value in flat(yaml.safe_load(open(path, encoding="utf-8"))):
        assert defaults[name] != value, f"{name} repeats the default"


@pytest.mark.parametrize("script", ["train.py", "eval.py", "export.py", "src/dataset.py", "tools/eval.py"])
def test_help_lists_the_parameters(script):
    done = call_script(script, "--help")
    assert "--train_config.batch_size N" in done.stdout
    assert "(default: 16)" in done.stdout


@pytest.mark.parametrize("version, environment, expected", [
    ("2.10.0", {}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    ("2.9.0", {}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    ("2.8.0", {}, {}),
    ("2.7.1rc1", {}, {}),
    ("2.10.0", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, {}),
])
def test_onednn_workaround(version, environment, expected):
    assert cpu_environment(version, environment) == expected


@pytest.mark.slow
def test_importing_has_no_side_effect():
    files = glob.glob("src/**/*.py", root_dir=ROOT, recursive=True) + glob.glob("*.py", root_dir=ROOT)
    modules = {file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in files} - {"setup"}
    code = f"import sys; sys.argv = ['x', '--nonsense']; import {', '.join(sorted(modules))}; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("imported\n"), done.stderr


def test_default_config_has_three_documents():
    with open(DEFAULT_CONFIG, encoding="utf-8") as file:
        assert len(list(yaml.safe_load_all(file))) == 3


@pytest.mark.parametrize("line, what", [("seed: seed of weight", "help"), ("seed: {kind: int", "rules")])
def test_a_parameter_missing_in_one_document_is_named(line, what, tmp_path):
    with open(DEFAULT_CONFIG, encoding="utf-8") as file:
        lines = file.readlines()
    path = tmp_path / "default_config.yaml"
    path.write_text("".join(other for other in lines if not other.startswith(line)))
    with user_error(path, "seed", what, "add it"):
        load_defaults(str(path))
