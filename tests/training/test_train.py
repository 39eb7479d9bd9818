"""train.py, run as a script."""
import json
import os
import shutil

import mindspore as ms
import numpy as np
import pytest

from src.commands import train
from src.core.errors import UserError
from src.model_utils.device_adapter import set_device
from src.network.centernet import build_network
from src.runs.record import TrainingLog, read_training_log
from src.training import fine_tuning
from src.weights.checkpoints import load_weights, parameter_shapes, read_checkpoint
from tests.conftest import TINY, assert_user_error, call_script, run_script, train_least
from tests.metainfo import classes_of


def test_output_files(least_run):
    names = {path.name for path in (least_run / "ckpt_0").iterdir()}
    assert names == {f"centernet-{name}.{ending}" for name in ("1_3", "2_6", "2_7") for ending in ("ckpt", "json")}
    assert (least_run / "loss.png").stat().st_size > 10_000
    side = json.loads((least_run / "ckpt_0" / "centernet-2_7.json").read_text())
    assert side["classes"] == ["rectangle", "ellipse", "triangle"] and side["category_ids"] == [1, 2, 3]
    assert side["net_config"]["num_stacks"] == [1, 1, 1, 1] and side["step"] == 7


@pytest.mark.parametrize("name", ["ckpt_0/notes.txt", "loss.png", "train_record.jsonl",
                                  "tensorboard/events.out.tfevents.1.host"])
@pytest.mark.parametrize("resume", ["true", "false"])
def test_foreign_files_stay(name, resume, tmp_path, make_config, monkeypatch):
    """They are an error before anything is loaded; files of an earlier run can be backed up."""
    monkeypatch.chdir(tmp_path)
    config = make_config("--tensorboard", "true", "--resume", resume)
    train.require_room(config)
    TrainingLog("train_record.jsonl", 0).close()
    for path, text in (("loss.png", "CenterNet on MindSpore"), ("ckpt_0/centernet-1_2.ckpt", ""),
                       ("tensorboard/events.out.tfevents.1.host.0001", "")):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    train.require_room(config)
    from matplotlib import pyplot

    figure = pyplot.figure()
    figure.savefig("loss.png")  # as earlier versions did
    train.require_room(config)
    if "/" in name:
        shutil.rmtree(os.path.dirname(name))
        os.mkdir(os.path.dirname(name))
    with open(name, "w", encoding="utf-8") as file:
        file.write("mine")
    with pytest.raises(UserError, match=f"{name.split('/')[0]} .*--save_(checkpoint_path|result_dir)"):
        train.require_room(config)


@pytest.mark.slow
@pytest.mark.parametrize("args, fragments", [
    (["--train_config.loss_scale_value", 3e38, "--train_config.max_overflows", 4],
     [" 4 steps, up to step 4, overflowed"]),
    (["--train_config.MultiDecay.learning_rate", 10, "--train_config.max_diverged", 8], ["training has diverged"]),
])
def test_a_run_that_learns_nothing_is_an_error(args, fragments, tiny_records, tmp_path):
    args = ["--train_config.MultiDecay.warmup_steps", 0, *args, "--epoch_size", 12, "--mindrecord_dir", tiny_records]
    assert_user_error(train_least(*args, cwd=tmp_path, check=False), *fragments)


def test_a_second_run_backs_up_the_first_and_starts_from_weights(least_run, tiny_records, light_steps, tmp_path):
    """Fine-tuning from a checkpoint in the run's output folder."""
    shutil.copytree(least_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "ckpt_0").iterdir()}
    record = (tmp_path / "run" / "train_record.jsonl").read_text()
    args = ["--train_steps", 1, "--load_checkpoint_path", "ckpt_0/centernet-2_7.ckpt", "--enable_data_sink", "true",
            "--seed", 9]
    done = train_least(*args, "--mindrecord_dir", tiny_records, cwd=tmp_path / "run")
    assert "loaded ckpt_0/centernet-2_7.ckpt" in done.stdout
    assert "enable_data_sink works on Ascend only" in done.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "ckpt_0.1").iterdir()} == before
    assert (tmp_path / "run" / "train_record.1.jsonl").read_text() == record
    assert len(list((tmp_path / "run" / "ckpt_0").iterdir())) == 2


def test_cached_graphs_depend_on_the_settings(least_run, tiny_records, tmp_path):
    """The second run uses the first one's graph, with other weights; another loss weight or batch size compiles again.

    Each is a process, since MindSpore counts a process's graphs. They compile three.
    """
    def train(name, *args):
        args = ["--mindrecord_dir", tiny_records, "--enable_save_ckpt", "false", "--train_steps", 2, *args]
        train_least(*args, "--save_result_dir", tmp_path / name, cwd=tmp_path, script=run_script)
        return read_training_log(str(tmp_path / name / "train_record.jsonl"))

    cache = ["--compile_cache_dir", "graphs"]
    start = ["--load_checkpoint_path", least_run / "ckpt_0" / "centernet-2_7.ckpt"]
    train("first", *cache)
    graphs = {path: path.stat().st_mtime_ns for path in (tmp_path / "graphs").rglob("*.mindir")}
    assert graphs
    for cached, compiled in zip(train("second", *cache, *start), train("alone", *start)):
        names = ("loss", "hm_loss", "wh_loss", "off_loss", "lr")
        assert [cached[name] for name in names] == [compiled[name] for name in names]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "graphs").rglob("*.mindir")} == graphs
    other = train("other", *cache, "--net_config.hm_weight", 5, "--train_config.batch_size", 2)[0]
    assert other["loss"] == pytest.approx(5 * other["hm_loss"] + 0.1 * other["wh_loss"] + other["off_loss"], rel=1e-5)
    assert len(list((tmp_path / "graphs").iterdir())) == 2


def test_mindspores_switch_for_its_graph_cache_is_ignored(monkeypatch, console):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    set_device("CPU", 0)
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ and "--compile_cache_dir" in console.readouterr().out


@pytest.mark.slow
def test_training_with_profiler_and_without_checkpoints(tiny_records, tmp_path):
    args = ["--train_steps", 1, "--enable_save_ckpt", "false", "--need_profiler", "true", "--profiler_path", "profile"]
    args += ["--mindrecord_dir", tiny_records, "--save_result_dir", "results"]
    done = train_least(*args, cwd=tmp_path, script=run_script)
    table = done.stdout[done.stdout.index("costliest operators"):].splitlines()[1:11]
    shares = [float(line.split()[-1].rstrip("%")) for line in table]
    assert len(table) == 10 and shares == sorted(shares, reverse=True) and "Conv2D" in "".join(table)
    assert not (tmp_path / "ckpt_0").exists()
    assert [path for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert len(read_training_log(str(tmp_path / "results" / "train_record.jsonl"))) == 1


@pytest.mark.slow
def test_a_non_finite_loss_stops_training(tiny_records, tmp_path):
    args = ["--train_config.MultiDecay.learning_rate", 1e25, "--train_config.MultiDecay.warmup_steps", 0,
            "--save_checkpoint_steps", 1]
    done = train_least(*args, "--mindrecord_dir", tiny_records, cwd=tmp_path, check=False)
    assert_user_error(done, " ckpt_0/centernet-1_")
    checkpoints = list((tmp_path / "ckpt_0").glob("*.ckpt"))
    assert len(checkpoints) == 1
    read_checkpoint(str(checkpoints[0]))


@pytest.mark.slow
@pytest.mark.parametrize("args, fragments", [
    (["--mindrecord_dir", "/nowhere"], ["/nowhere"]),
    ([], ["no MindRecord folder"]),
    (["--mindrecord_dir", "RECORDS", "--mindrecord_prefix", "other"],
     ["no finished conversion", "other.manifest.json"]),
    (["--mindrecord_dir", "RECORDS", "--load_checkpoint_path", "/nowhere.ckpt"], ["checkpoint", "/nowhere.ckpt"]),
    (["--mindrecord_dir", "RECORDS", "--resume", "true"], ["no checkpoint in ckpt_0"]),
    (["--mindrecord_dir", "RECORDS", "--save_checkpoint_path", "/proc/nowhere"], ["/proc/nowhere"]),
    (["--mindrecord_dir", "RECORDS", "--train_steps", 0], ["nothing to train"]),
    (["--mindrecord_dir", "RECORDS", "--device_target", "Ascend"], ["MindSpore finds none"]),
    (["--mindrecord_dir", "RECORDS", "--distribute", "true"], ["launcher"]),
])
def test_training_mistakes(args, fragments, tiny_records, tmp_path):
    args = [tiny_records if arg == "RECORDS" else arg for arg in args]
    assert_user_error(call_script("train.py", *TINY, *args, cwd=tmp_path, check=False), *fragments)


def test_a_damaged_checkpoint_is_named(least_run, tmp_path):
    path = tmp_path / "centernet-1_3.ckpt"
    path.write_bytes((least_run / "ckpt_0" / "centernet-1_3.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match="centernet-1_3.ckpt"):
        read_checkpoint(str(path))


def test_checkpoints_of_another_shape(undrawn, make_config):
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", 16)
    network = build_network(config.net_config, classes_of(3), "composite")
    parameters = {name: ms.Parameter(np.full(shape, 2, np.float32), name=name)
                  for name, shape in parameter_shapes(network).items()}
    parameters |= {name: ms.Parameter(np.zeros(1, np.float32), name=name)
                   for name in ("global_step", "moment1.hm.0.weight")}
    other_classes = build_network(config.net_config, classes_of(5), "composite")
    with pytest.raises(UserError, match="hm.2.weight"):
        load_weights(other_classes, parameters, "c")
    kept = load_weights(other_classes, parameters, "c", fine_tuning=True)
    assert kept == ["hm.2.weight", "hm.2.bias"]
    np.testing.assert_array_equal(other_classes.hm[0].weight.asnumpy(), parameters["hm.0.weight"].asnumpy())
    resnet18 = build_network(make_config().net_config, classes_of(3), "composite")
    with pytest.raises(UserError, match=r"^c .*num_stacks \[1, 1, 1, 1\].*--net_config.arch"):
        load_weights(resnet18, parameters, "c")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "network."])
def test_a_backbone_can_be_loaded_alone(prefix, tmp_path, make_config):
    """Ours, and the model zoo's, with a cell's name as a prefix of the parameters' names."""
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]",
                         "--net_config.load_backbone_path", tmp_path / "b.ckpt")
    source = build_network(config.net_config, classes_of(2), "composite")
    entries = [{"name": f"{prefix}{p.name}", "data": p} for p in source.backbone.get_parameters()]
    ms.save_checkpoint(entries, str(tmp_path / "b.ckpt"))
    network = build_network(config.net_config, classes_of(2), "composite")
    fine_tuning.start_weights(network, config, ["a", "b"])
    np.testing.assert_array_equal(network.backbone.conv1.weight.asnumpy(), source.backbone.conv1.weight.asnumpy())
    with pytest.raises(UserError, match="b.ckpt .*--net_config.load_backbone_path"):
        load_weights(network, read_checkpoint(str(tmp_path / "b.ckpt")), "b.ckpt")
