"""Mistakes on the command line: suggestions, the wrong option's name, and no import of MindSpore before."""
import importlib
import pathlib

import pytest

from src.core.errors import UserError
from src.inference.options import OptionParser
from src.weights.run_folder import resolve_checkpoint_alias
from src.weights.side_file import require_checkpoint
from tests.conftest import ROOT, assert_user_error, user_error


def assert_one_sentence(done, *parts):
    """Assert exit code 2 and a single line with these names, numbers and paths."""
    assert_user_error(done, *parts)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_code_that_does_not_need_mindspore_loads_without_it(run_without, tmp_path):
    """Scripts and modules, all imported in one process without MindSpore and PyTorch."""
    scripts = ["preprocess.py", "postprocess.py", "eval.py"]
    scripts += [f"tools/{name}.py" for name in (
        "predict", "serve", "infer_mindir", "report", "contact_sheet", "quantize_onnx", "voc_to_coco",
        "merge_pascal_json", "make_rank_table", "make_shapes_dataset", "make_scenes_dataset", "loss", "train_full",
        "import_dataset", "check_dataset")]
    folders = ["core", "imaging", "data", "data.labels", "evaluation", "runs", "launch", "serving", "commands"]
    modules = [f"{folder}.{path.stem}" for folder in folders
               for path in pathlib.Path(ROOT, "src", *folder.split(".")).glob("*.py")]
    modules += ["inference.files", "inference.models", "inference.offline", "inference.onnx_detector",
                "inference.options", "inference.pipeline", "inference.predictor", "tasks.detection.results",
                "tasks.detection.scores", "tasks.detection.targets", "training.data_preview", "weights.side_file",
                "weights.torch_files", "weights.torch_weights", "weights.zoo", "network.architectures"]
    (tmp_path / "load.py").write_text(f"""import importlib, runpy
for script in {scripts!r}:
    runpy.run_path(script, run_name="imported")
for module in {modules!r}:
    importlib.import_module("src." + module)
""")
    done = run_without(tmp_path / "load.py")
    assert done.returncode == 0 and not done.stdout, done.stderr


WRONG_PATHS = [
    ("train.py", [], ["--mindrecord_dir"]),
    ("train.py", ["--mindrecord_dir", "no/where"], ["--mindrecord_dir", "no/where"]),
    ("eval.py", [], ["--load_checkpoint_path"]),
    ("eval.py", ["--load_checkpoint_path", "no.ckpt"], ["--load_checkpoint_path", "no.ckpt"]),
    ("eval.py", ["--load_checkpoint_path", "CKPT"], ["--data_dir"]),
    ("eval.py", ["--load_checkpoint_path", "CKPT", "--data_dir", "no/where"], ["--data_dir", "no/where"]),
    ("export.py", [], ["--export_config.ckpt_file"]),
    ("preprocess.py", [], ["--predict_dir"]),
    ("preprocess.py", ["--predict_dir", "x"], ["--val_data_dir"]),
    ("postprocess.py", [], ["--result_path"]),
    ("src/dataset.py", [], ["--coco_data_dir"]),
    ("src/dataset.py", ["--coco_data_dir", "no/where"], ["--coco_data_dir", "no/where"]),
    ("tools/predict.py", ["--load_checkpoint_path", "no.ckpt", "--input", ROOT, "--output", "x"], ["no.ckpt"]),
    ("tools/predict.py", ["--load_checkpoint_path", "CKPT", "--input", "no.jpg", "--output", "x"], ["no.jpg"]),
    ("tools/predict.py", ["--mindir", "no.mindir", "--input", "0", "--output", "x"], ["--mindir", "no.mindir"]),
    ("tools/serve.py", ["--load_checkpoint_path", "no.ckpt"], ["--load_checkpoint_path", "no.ckpt"]),
    ("tools/infer_mindir.py", ["--mindir", "no.mindir", "--input_dir", "x", "--result_path", "y"], ["no.mindir"]),
    ("tools/contact_sheet.py", ["--mindir", "no.mindir", "--data_dir", "x", "--output", "y.png"], ["no.mindir"]),
    ("tools/contact_sheet.py", ["--mindir", "x", "--data_dir", "x", "--output", "y"], ["--output", " y", ".png"]),
    ("tools/contact_sheet.py", ["--mindir", "x", "--data_dir", "x", "--output", "y.png", "--width", "9999999"],
     ["--width", "9999999"]),
    ("tools/convert_centernet.py", ["--ckpt_file", "no.pth", "--output_file", "x"], ["--ckpt_file", "no.pth"]),
    ("tools/convert_centernet.py", ["--ckpt_file", "CKPT", "--output_file", "x", "--reverse"],
     ["--output_file", " x", ".pth"]),
    ("tools/convert_centernet.py", ["--ckpt_file", "CKPT", "--output_file", "CKPT", "--reverse"], ["lively.json"]),
    ("tools/convert_resnet18.py", ["--ckpt_file", "no.pth", "--output_file", "x"], ["--ckpt_file", "no.pth"]),
    ("tools/train_full.py", ["--data_path", "no/where"], ["--data_path", "no/where"]),
    ("tools/report.py", ["no/where"], ["no/where"]),
    ("tools/check_dataset.py", ["--data_dir", "no/where"], ["--data_dir", "no/where"]),
]


@pytest.mark.parametrize("script, args, parts", WRONG_PATHS)
def test_a_wrong_path_needs_no_mindspore(script, args, parts, lively_checkpoint, run_without):
    """It is reported, with the option, before MindSpore is loaded."""
    result = run_without(script, *(lively_checkpoint if arg == "CKPT" else arg for arg in args))
    assert_one_sentence(result, *parts)
    assert all(line.startswith("configuration: ") for line in result.stdout.splitlines())


@pytest.mark.parametrize("args, parts", [
    (["tools/make_rank_table.py", "--cpu", "--devices", "0-99999999999"], ["--devices", "0-99999999999"]),
    (["tools/make_rank_table.py", "--cpu", "--devices", "\u00b2"], ["--devices", "\u00b2"]),
    (["tools/make_shapes_dataset.py", "--output", "no/x", "--size", "1000000000000"], ["--size", "1000000000000"]),
    (["tools/make_shapes_dataset.py", "--output", "no/x", "--seed", "-1"], ["--seed", "-1"]),
])
def test_absurd_numbers_are_refused(args, parts, run_without):
    assert_one_sentence(run_without(*args), *parts)


EMPTY = [("tools/serve.py", ["--onnx", "x.onnx"], ["--host", "--api_key_file", "--tls_cert", "--tls_key"]),
         ("tools/serve.py", [], ["--onnx", "--mindir", "--load_checkpoint_path"]),
         ("tools/predict.py", ["--onnx", "x.onnx", "--input", "x"], ["--output"]),
         ("tools/predict.py", ["--onnx", "x.onnx", "--input", "x", "--output", "x"], ["--classes"]),
         ("tools/report.py", ["x"], ["--output", "--title", "--data_dir", "--config_path"]),
         ("tools/check_dataset.py", ["--data_dir", "x"], ["--config_path"]),
         ("tools/merge_pascal_json.py", ["--output", "x"], ["--inputs"]),
         ("tools/train_full.py", ["--data_path", "x"], ["--run", "--config_path"])]


@pytest.mark.parametrize("script, args, name", [(*case, name) for *case, names in EMPTY for name in names])
@pytest.mark.parametrize("value", ["", " "], ids=["empty", "blank"])
def test_an_empty_value_is_a_mistake(script, args, name, value):
    """An unset shell variable must not disable the option's protection."""
    module = pathlib.Path(script).stem
    package = "tools" if module == "train_full" else "src.commands"  # train_full is part of a checkout only
    main = importlib.import_module(f"{package}.{module}").main
    with user_error(name) as raised:
        main([*args, name, value])
    assert raised.traceback[-1].name == "parse_known_args"  # before other options are checked


def test_an_option_that_is_empty_by_default_may_be_empty():
    parser = OptionParser()
    parser.add_argument("--cors_origins", default="")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(["--cors_origins=", "--", "--load_checkpoint_path", ""])
    assert options.cors_origins == "" and options.words == ["--load_checkpoint_path", ""]


WRONG_NAMES = [
    ("tools/predict.py", ["--load_checkpoint_path", "x", "--input", "x", "--output", "x", "--score_tresh", "1"],
     "--score_thresh"),
    ("tools/serve.py", ["--mindir", "x", "--prot=1"], "--port"),
    ("tools/serve.py", ["--mindir", "x", "--max_requests=1"], "--queue"),
    ("tools/predict.py", ["--onnx", "x", "--input", "x", "--output", "x", "--conf", "0.2"], "--score_thresh"),
    ("tools/predict.py", ["--onnx", "x", "--output", "x", "--source=x", "--input", "x"], "--input"),
    ("tools/infer_mindir.py", ["--mindir", "x", "--input_dir", "x", "--result_path", "x", "--device_targt", "CPU"],
     "--device_target"),
    ("tools/contact_sheet.py", ["--mindir", "x", "--data_dir", "x", "--output", "x", "--widht", "3"], "--width"),
    ("tools/convert_centernet.py", ["--ckpt_file", "x", "--output_file", "x", "--revers"], "--reverse"),
    ("tools/convert_resnet18.py", ["--ckpt_file", "x", "--output_file", "x", "--ms_name_fil", "x"], "--ms_name_file"),
    ("tools/loss.py", ["--candidate-log", "x", "--reference-log", "x", "--step", "1"], "--steps"),
    ("tools/make_rank_table.py", ["--divices", "0"], "--devices"),
    ("tools/make_rank_table.py", ["--DEVICES", "0"], "--devices"),
    ("tools/make_shapes_dataset.py", ["--output", "x", "--sed", "0"], "--seed"),
    ("tools/report.py", ["x", "--titel", "t"], "--title"),
    ("tools/benchmark.py", ["--run", "1"], "--runs"),
    ("tools/train_full.py", ["--data_path", ROOT, "--epoch_siz", "2"], "epoch_size"),
    ("train.py", ["--epoch_siz", "2"], "epoch_size"), ("eval.py", ["--epoch_siz", "2"], "epoch_size"),
    ("export.py", ["--epoch_siz", "2"], "epoch_size"), ("src/dataset.py", ["--epoch_siz", "2"], "epoch_size"),
]


@pytest.mark.parametrize("script, args, nearest", WRONG_NAMES)
def test_a_wrong_name_gets_a_suggestion(script, args, nearest, run_without):
    assert_one_sentence(run_without(script, *args), nearest)


@pytest.mark.parametrize("option, part", [
    ("--body_seconds", "docs/serving.md"), ("--header_seconds", "docs/serving.md"), ("--allow_urls", "images"),
    ("--address_file", "serving on"),
])
def test_a_removed_option_names_its_replacement(option, part):
    with pytest.raises(UserError, match=f"{option}.*{part}"):
        OptionParser().parse_args([option, "3"])


ZOO_USES = [
    ("train.py", ["--mindrecord_dir", "RECORDS", "--load_checkpoint_path", "ZOO"]),
    ("train.py", ["--mindrecord_dir", "RECORDS", "--load_checkpoint_path", "ZOO", "--resume", "true"]),
    ("train.py", ["--mindrecord_dir", "RECORDS", "--net_config.load_backbone_path", "ZOO"]),
    ("eval.py", ["--load_checkpoint_path", "ZOO", "--data_dir", "x"]),
    ("export.py", ["--export_config.ckpt_file", "ZOO"]),
    ("tools/predict.py", ["--load_checkpoint_path", "ZOO", "--input", ROOT, "--output", "x"]),
    ("tools/serve.py", ["--load_checkpoint_path", "ZOO"]),
    ("tools/convert_centernet.py", ["--reverse", "--ckpt_file", "ZOO", "--output_file", "x.ckpt"]),
]


@pytest.mark.parametrize("script, args", ZOO_USES)
def test_a_model_zoo_checkpoint_needs_conversion(script, args, zoo_checkpoint, tiny_records, run_without):
    """One sentence with the command, found from the parameter names without MindSpore or PyTorch."""
    paths = {"ZOO": zoo_checkpoint, "RECORDS": tiny_records}
    result = run_without(script, *(paths.get(arg, arg) for arg in args))
    assert_one_sentence(result, f"python tools/convert_centernet.py --ckpt_file {zoo_checkpoint} --output_file "
                                f"{str(zoo_checkpoint).replace('.ckpt', '_converted.ckpt')}")


def test_argparses_errors_are_one_sentence(run_without):
    done = run_without("tools/predict.py", "--input", "x")
    assert_one_sentence(done, "--output")
    assert "--input" not in done.stderr


def test_a_folder_stands_for_its_newest_checkpoint(tmp_path, run_without):
    """The last written one, not the one with the highest step; a folder without one is named."""
    folder = tmp_path / "ckpt_0"
    folder.mkdir()
    with pytest.raises(UserError, match=str(tmp_path)) as error:
        require_checkpoint(str(tmp_path))
    assert ".ckpt" not in str(error.value)
    for order, name in enumerate(("centernet-3_30", "centernet-1_10")):
        (folder / f"{name}.ckpt").touch()
        (folder / f"{name}.json").write_text(f'{{"written": {order}}}')
    for path in (folder, tmp_path):
        assert resolve_checkpoint_alias(str(path)) == str(folder / "centernet-1_10.ckpt")
    for args in (["eval.py", "--load_checkpoint_path", folder], ["export.py", "--export_config.ckpt_file", folder],
                 ["tools/predict.py", "--load_checkpoint_path", folder, "--input", ROOT, "--output", tmp_path / "x"]):
        assert_one_sentence(run_without(*args), "centernet-1_10.ckpt")
