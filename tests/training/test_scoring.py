"""src/training/scoring.py, src/training/detector.py: scores during training equal eval.py's for the same weights."""
import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import types

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from PIL import Image

from src.core.errors import UserError
from src.data.coco import Split, image_list, read_coco
from src.evaluation import evaluator, results
from src.inference.pipeline import Detected
from src.model_utils.config import Config
from src.network.centernet import build_network
from src.network.folding import fold_batch_norm
from src.runs.record import read_scores, read_training_log
from src.tasks.detection import DETECTION
from src.training.detector import TrainingDetector
from src.training.ema import WeightAverage
from src.training.scoring import Scoring, join_records, measure_of, start_scoring
from src.weights.checkpoints import EMA_PREFIX, CheckpointFolder, load_weights, read_checkpoint, save_weights
from src.weights.run_folder import find_checkpoints
from src.weights.side_file import read_side_file, side_file
from tests.conftest import (
    TINY,
    assert_user_error,
    call_script,
    noise_image,
    own_detector,
    replace_resdcn_18,
    write_coco,
)
from tests.metainfo import classes_of


@pytest.fixture
def scoring(tiny_data, small_file, make_config):
    """Function of a checkpoint: (a network in training with its weights, its average, its Scoring).

    Without a checkpoint, the network is LEAST.
    """
    def make(checkpoint=None, average=None, **across):
        config = make_config(*TINY, "--data_dir", tiny_data, "--eval_epochs", 1, "--eval_config.K", 20,
                             "--eval_config.keep_res", "false")
        description = read_side_file(str(checkpoint or small_file))
        with contextlib.nullcontext() if checkpoint else replace_resdcn_18("LEAST"):
            network = build_network(Config(description["net_config"]), classes_of(3), "native")
        if checkpoint:
            load_weights(network, read_checkpoint(str(checkpoint)), "lively", use_ema=False)
        network.set_train()
        average = average and average(network)
        trained = TrainingDetector(network, average, description, config, "CPU")
        return network, average, Scoring(trained, evaluator.scoring_set(config, description), 5, **across)

    return make


def detected_by_checkpoint(path, scoring):
    """The records of eval.py's detector for a checkpoint."""
    config = scoring.config
    detector = own_detector(path, config.eval_config, "CPU", "native")
    return evaluator.detect(detector, scoring.eval_set, config)[0].records


def values(network):
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


@pytest.mark.slow
def test_records_equal_those_of_the_checkpoint(least, least_checkpoint, scoring, tmp_path):
    """Exactly, also after a change of the weights; the weights in training stay unchanged."""
    network, _, scores = scoring(least_checkpoint)
    before = values(network)
    first = scores._detect()
    assert first == detected_by_checkpoint(least_checkpoint, scores) and len(first) == 120
    for name, value in values(network).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    for parameter in network.get_parameters():
        if not parameter.name.endswith("moving_variance"):
            parameter.set_data(parameter * 1.01)
    changed = save_weights(str(tmp_path / "changed.ckpt"), values(network))
    shutil.copy(side_file(str(least_checkpoint)), side_file(changed))
    second = scores._detect()
    assert second == detected_by_checkpoint(changed, scores) != first


@pytest.mark.slow
def test_the_device_holds_no_second_copy(lively_checkpoint, scoring):
    """The inference network shares the parameters in training; only the biases from folding are its own."""
    network, _, scores = scoring(lively_checkpoint)
    trains = {id(parameter) for parameter in network.get_parameters()}
    with scores.trained.borrowed() as detector:
        own = [parameter for parameter in detector.network.get_parameters() if id(parameter) not in trains]
        assert own and all(parameter.ndim == 1 for parameter in own)
        shared = {id(parameter) for parameter in detector.network.get_parameters()} & trains
    assert len(shared) > 20
    total = sum(parameter.size for parameter in network.get_parameters())
    assert sum(parameter.size for parameter in own) < 0.01 * total


@pytest.mark.slow
def test_a_batch_norm_that_can_no_longer_be_folded_is_kept(least, least_checkpoint, scoring, tmp_path):
    """In a new graph."""
    network, _, scores = scoring(least_checkpoint)
    scores._detect()
    mean = network.backbone[1].moving_mean
    mean.set_data(mean + 500)
    changed = save_weights(str(tmp_path / "changed.ckpt"), values(network))
    shutil.copy(side_file(str(least_checkpoint)), side_file(changed))
    assert scores._detect() == detected_by_checkpoint(changed, scores)
    check = build_network(Config(read_side_file(changed)["net_config"]), classes_of(3), "native")
    load_weights(check, read_checkpoint(changed), "changed")
    assert fold_batch_norm(check) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("graphless")
def test_the_average_is_scored(least, least_checkpoint, scoring, tmp_path):
    """As in eval.py; with use_ema false both use the weights. No graph is compiled."""
    def make_average(network):
        average = WeightAverage(network, 0.9)
        for parameter in average.averages:
            if not parameter.name.endswith("moving_variance"):
                parameter.set_data(parameter * 1.01)
        return average

    network, average, scores = scoring(least_checkpoint, make_average)
    both = {**values(network), **{parameter.name: parameter.asnumpy() for parameter in average.averages}}
    path = save_weights(str(tmp_path / "both.ckpt"), both)
    shutil.copy(side_file(str(least_checkpoint)), side_file(path))
    records = scores._detect()
    assert records == detected_by_checkpoint(path, scores) != detected_by_checkpoint(least_checkpoint, scores)
    detector = own_detector(path, scores.config.eval_config, "CPU", "native", use_ema=False)
    plain = evaluator.detect(detector, scores.eval_set, scores.config)[0].records
    assert plain == detected_by_checkpoint(least_checkpoint, scores)


def test_an_image_is_drawn_in_the_orientation_of_its_annotation(tmp_path, make_config):
    """EXIF rotates both images; one is annotated unrotated."""
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (100, 60)).save(data, "JPEG", exif=exif)
    path = write_coco(tmp_path, "val", {1: data.getvalue(), 2: data.getvalue()}, [(1, 1, [1, 1, 9, 9])])
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    for entry, (width, height) in zip(content["images"], ((100, 60), (60, 100))):
        entry.update(width=width, height=height)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    scoring = object.__new__(Scoring)
    scoring.config, scoring.records = make_config(), []
    scoring.trained = types.SimpleNamespace(description={"classes": ["a"]})
    coco = read_coco(path)
    split = Split(path, str(tmp_path / "val2017"))
    images = image_list(split, coco)
    scoring.eval_set = evaluator.EvaluationSet(DETECTION, coco, path, split.image_dir, images, True, [1])
    heights = {name: drawing.shape[:2] for name, drawing in scoring.drawings()}
    caption = heights["1"][0] - 4 * 60  # small images are enlarged
    assert heights["1"][1] == 4 * 200 and heights["2"] == (4 * 100 + caption, 4 * 120)


def test_records_of_ranks_are_joined_exactly():
    rng = np.random.default_rng(0)
    ranks = [[{"image_id": 2**63 - 1 - rank, "category_id": 2**53 + 1,  # not exact in float64
               "bbox": rng.random(4).tolist(), "score": float(rng.random())}
              for _ in range(count)] for rank, count in enumerate((3, 0, 5))]
    sent = []
    for records in ranks:
        join_records(records, lambda array: sent.append(array) or [array])
    assert all(array.dtype == np.int32 for array in sent)
    assert join_records(ranks[0], lambda array: sent) == sum(ranks, [])


@pytest.fixture(scope="module")
def scored(tiny_records, tiny_data, train_least_again):
    """Function of arguments and cwd: train_least_again with an average, evaluated every --eval_epochs epochs."""
    args = ["--data_dir", tiny_data, "--mindrecord_dir", tiny_records, "--train_config.ema_decay", 0.9,
            "--save_checkpoint_num", 5, "--best_metric", "AR_100", "--eval_config.keep_res", "false"]
    return functools.partial(train_least_again, *args)


@pytest.fixture(scope="module")
def scored_run(scored, tmp_path_factory):
    """The folder of a run of two epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "stdout.txt").write_text(scored("--eval_epochs", 1, cwd=folder).stdout)
    return folder


@pytest.fixture(scope="module")
def begun_run(scored, tmp_path_factory):
    """The same, stopped after 7 steps."""
    folder = tmp_path_factory.mktemp("begun")
    scored("--eval_epochs", 1, "--save_checkpoint_steps", 7, "--train_steps", 7, cwd=folder)
    return folder


@pytest.mark.slow
def test_scoring_does_not_change_training(scored, scored_run, tmp_path):
    """Weights, moments, statistics and averages are equal, bit for bit."""
    scored("--eval_epochs", 0, cwd=tmp_path)
    ours, theirs = (read_checkpoint(str(folder / "ckpt_0" / "centernet-2_10.ckpt"))
                    for folder in (scored_run, tmp_path))
    assert set(ours) == set(theirs) and any(name.startswith(EMA_PREFIX) for name in ours)
    for name, value in ours.items():
        np.testing.assert_array_equal(value.asnumpy(), theirs[name].asnumpy(), err_msg=name)


@pytest.mark.slow
def test_scores_equal_those_of_eval(scored_run, tiny_data, least, tmp_path):
    """For the best checkpoint, named by its run's folder."""
    scores = {step: values for step, _, values in read_scores(str(scored_run / "train_record.jsonl"))}
    assert sorted(scores) == [5, 10] and len(read_training_log(str(scored_run / "train_record.jsonl"))) == 10
    command = f" --data_dir {tiny_data} --load_checkpoint_path .\n"
    assert command in (scored_run / "stdout.txt").read_text()
    best = json.loads((scored_run / "ckpt_0" / "centernet-best.json").read_text())["scores"]["best"]
    assert best["value"] == max(score["AR_100"] for score in scores.values())
    call_script("eval.py", "--device_target", "CPU", "--net_config.dcn_impl", "native", "--data_dir", tiny_data,
                "--load_checkpoint_path", scored_run / "best", "--run_dir", ".", cwd=tmp_path)
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert {name: metrics[name] for name in scores[best["step"]]} == scores[best["step"]]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "on"])
def test_a_resumed_scored_run_equals_an_undisturbed_one(place, scored, scored_run, begun_run, tmp_path):
    """Average, scores, record and best checkpoint, exactly; in the same folder, or in a new one, as with launchers."""
    begun = shutil.copytree(begun_run, tmp_path / "begun")
    folder = begun / place
    folder.mkdir(exist_ok=True)
    load = ["--load_checkpoint_path", begun / "last"] if place else []
    scored("--eval_epochs", 1, "--resume", "true", *load, cwd=folder)
    for name in ("centernet-2_10.ckpt", "centernet-best.ckpt"):
        ours, theirs = (read_checkpoint(str(run / "ckpt_0" / name)) for run in (scored_run, folder))
        for key, value in ours.items():
            np.testing.assert_array_equal(value.asnumpy(), theirs[key].asnumpy(), err_msg=f"{name} {key}")
    undisturbed, resumed = (str(run / "train_record.jsonl") for run in (scored_run, folder))
    assert [record for record in read_scores(resumed) if record[0] != 7] == read_scores(undisturbed)
    ours, theirs = ([(record["step"], record["loss"]) for record in read_training_log(path)]
                    for path in (resumed, undisturbed))
    assert ours == theirs and len(ours) == 10


def test_a_foreign_table_is_refused(tiny_data, tiny_records, tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    args = ("--mindrecord_dir", tiny_records, "--data_dir", tiny_data, "--eval_epochs", 1)
    assert_user_error(call_script("train.py", *TINY, *args, cwd=tmp_path, check=False), "results.csv")
    assert os.listdir(tmp_path) == ["results.csv"]


@pytest.mark.parametrize("args, message", [
    (("--eval_epochs", 1), "(--data_dir)"),
    (("--patience", 2), "eval_epochs"),
    (("--eval_epochs", 1, "--data_dir", "DATA", "--best_metric", "AP_large"), "AP_large"),
    (("--eval_epochs", 1, "--data_dir", "no/where"), "no/where"), (("--best_metric", "AP5"), "AP50"),
    (("--eval_epochs", 1, "--data_dir", "DATA", "--run_mode", "test"), "run_mode"),
    (("--eval_epochs", 1, "--data_dir", "OTHER"), "classes"),
    (("--train_config.freeze", "backbone"), "net_config.load_backbone_path"),
])
def test_mistakes_are_reported_before_the_first_step(args, message, tiny_data, tiny_records, tmp_path):
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    content = json.loads(annotation.read_text())
    shutil.copytree(tiny_data, tmp_path / "other")
    for category in content["categories"]:
        category["name"] += "s"
    (tmp_path / "other" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    args = [{"DATA": tiny_data, "OTHER": tmp_path / "other"}.get(arg, arg) for arg in args]
    done = call_script("train.py", *TINY, "--mindrecord_dir", tiny_records, *args, cwd=tmp_path, check=False)
    assert_user_error(done, message)
    assert not (tmp_path / "ckpt_0").exists()


STATE = {"metric": "AP", "step": 15, "best": {"step": 5, "value": 0.3}, "since_best": 2}


@pytest.fixture
def folder(tmp_path):
    """A CheckpointFolder with checkpoints of steps 5 (the best) and 15, and STATE in their side files."""
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    for step in (5, 15):
        weights = {"w": Parameter(Tensor([float(step)]), name="w")}
        path = folder.save(weights, 0, step, {}, extra_metadata={"scores": STATE})
        if step == 5:
            folder.keep_best(path)
    return folder


def test_exhausted_patience_is_an_error(scoring, folder):
    _, _, scores = scoring()
    scores.config.patience = 2
    with pytest.raises(UserError, match="nothing to train: 2 evaluations"):
        scores.resume(find_checkpoints(folder.folder)[-1], folder)


def test_a_resumed_run_knows_the_best_checkpoint(scoring, folder):
    """A best checkpoint prevented by a kill is restored; one of another branch is backed up, its score forgotten."""
    _, _, scores = scoring()
    first, last = find_checkpoints(folder.folder)
    scores.resume(last, folder)
    measure = {"of": scores.state["of"]}
    assert scores.state == {**STATE, **measure}
    scores.resume(last, folder, step_count_reset=True)
    assert scores.state == {**STATE, **measure, "step": 0}
    folder.keep_best(last)  # as if killed between the regular checkpoint and the new best one
    scores.resume(first, folder)
    assert folder.best_step() == 5 and scores.state == {**STATE, **measure}
    folder.keep_best(last)
    scores.resume(last, folder)
    assert scores.state == {**STATE, **measure, "best": None, "since_best": 0} and folder.best_step() == 0
    assert os.path.exists(os.path.join(folder.folder, "centernet-best.1.ckpt"))


def test_renumbered_steps_leave_the_best_checkpoint(scoring, folder):
    """A checkpoint may get the best one's step number, from another numbering: that does not make it the best."""
    _, _, scores = scoring()
    first, last = find_checkpoints(folder.folder)
    scores.resume(last, folder, step_count_reset=True)
    state = {**STATE, "of": scores.state["of"], "step": 0}
    metadata = {"scores": state, "best": False}
    later = folder.save({"w": Parameter(Tensor([7.0]), name="w")}, 0, 5, {}, extra_metadata=metadata)
    scores.resume(later, folder)
    assert folder.best_step() == 5 and read_checkpoint(folder.best)["w"].asnumpy() == [5.0]
    metadata = {"scores": state, "best": True}
    later = folder.save({"w": Parameter(Tensor([8.0]), name="w")}, 0, 5, {}, extra_metadata=metadata)
    scores.resume(later, folder)  # as if killed before it became the best
    assert read_checkpoint(folder.best)["w"].asnumpy() == [8.0]


@pytest.mark.parametrize("damage", [5, {"best": 5}, {"best": {"step": "x", "value": 1}}, {"step": None},
                                    {"metric": "AP50"}, {"of": 7}])
def test_a_damaged_or_foreign_state_is_ignored(damage, scoring, folder):
    _, _, scores = scoring()
    last = find_checkpoints(folder.folder)[-1]
    state = {**STATE, **damage} if isinstance(damage, dict) else damage
    with open(side_file(last), "w", encoding="utf-8") as file:
        json.dump({"scores": state, "step": 15}, file)
    scores.resume(last, folder)
    measure = measure_of(scores.eval_set, scores.config)
    assert scores.state == {"metric": "AP", "of": measure, "step": 0, "best": None, "since_best": 0}


def test_other_images_and_settings_change_the_measure(scoring, make_config):
    _, _, scores = scoring()
    eval_set, config = scores.eval_set, scores.config
    one = measure_of(eval_set, config)
    assert measure_of(dataclasses.replace(eval_set, images=eval_set.images[1:]), config) != one
    config.eval_config.flip_test = not config.eval_config.flip_test
    assert measure_of(eval_set, config) != one
    config.eval_config.flip_test = not config.eval_config.flip_test
    assert measure_of(eval_set, config) == one


@pytest.mark.parametrize("change", [{"bbox": [1, 2, 3, 4]}, {"category_id": 3}, {"area": 7}, {"iscrowd": 1},
                                    {"image_id": 2}])
def test_changed_objects_change_the_measure(change, tmp_path, make_config):
    def measure(changes):
        images = {1: noise_image(1), 2: noise_image(2)}
        path = write_coco(str(tmp_path), "val", images, [(1, 1, [10, 10, 20, 20]), (2, 2, [30, 30, 40, 40])])
        coco = read_coco(path)
        coco.dataset["annotations"][0].update(changes)
        images = [(1, "1.jpg"), (2, "2.jpg")]
        return measure_of(evaluator.EvaluationSet(DETECTION, coco, path, "", images, True, [1, 2]), make_config())

    assert measure(change) != measure({}) == measure({"id": 99, "note": "seen"})


@pytest.mark.parametrize("rank_size", [1, 2])
def test_no_readable_image_is_an_error(rank_size, scoring, monkeypatch):
    """On every rank; a rank without readable images continues if others have some."""
    across = {"rank_size": 2, "sum_over_ranks": lambda tensor: tensor * 2} if rank_size == 2 else {}
    _, _, scores = scoring(**across)
    skipped = [f"image {number}: damaged" for number in range(len(scores.eval_set.images) // rank_size)]
    monkeypatch.setattr(evaluator, "detect", lambda *_: (results.Results(DETECTION, "", [], [], skipped), None))
    monkeypatch.setattr(scores.trained, "borrowed", contextlib.nullcontext)
    monkeypatch.setattr(scores, "_gather", lambda array: [array])
    with pytest.raises(UserError, match="6 images in "):
        scores._detect()
    skipped.pop()
    assert scores._detect() == []


def test_a_folder_without_images_is_an_error_before_training(tiny_data, small_file, make_config):
    config = make_config("--data_dir", tiny_data, "--eval_epochs", 1, "--dataset_config.val_image_dir", "annotations")
    with pytest.raises(UserError, match="6 images of .*json .*annotations; dataset_config.val_image_dir"):
        evaluator.scoring_set(config, read_side_file(str(small_file)))


def test_evaluations_during_training_write_no_images(scoring, tmp_path, monkeypatch, console):
    """Even with visual_image, which is logged."""
    monkeypatch.chdir(tmp_path)
    _, _, scores = scoring()
    scores.config.visual_image = True
    found = Detected(scores.eval_set.images[0], np.zeros((9, 9, 3), np.uint8), np.zeros((0, 6), np.float32))
    monkeypatch.setattr(evaluator, "detect_all",
                        lambda *_: [dataclasses.replace(found, item=item) for item in scores.eval_set.images])
    detector = types.SimpleNamespace(description=scores.trained.description)
    monkeypatch.setattr(scores.trained, "borrowed", lambda: contextlib.nullcontext(detector))
    assert scores._detect() == [] and os.listdir(tmp_path) == []
    start_scoring(scores.trained, scores.eval_set, types.SimpleNamespace(steps_per_epoch=5, rank=0, rank_size=1), None)
    assert "visual_image applies to eval.py only" in console.readouterr().out


def test_evaluations_use_no_cached_graphs(scoring, monkeypatch):
    """MindSpore identifies cached graphs by their order only: it would use one without flip test for one with it."""
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    uncached = []

    def compiled(*_):
        uncached.append("MS_COMPILER_CACHE_ENABLE" not in os.environ)
        return results.Results(DETECTION, "", [], [], []), None

    def of_both_ranks(tensor):
        compiled()
        return Tensor(np.tile(tensor.asnumpy(), 2))

    def summed(tensor):
        compiled()
        return tensor * 2

    _, _, scores = scoring()
    monkeypatch.setattr(scores.trained, "borrowed", contextlib.nullcontext)
    monkeypatch.setattr(evaluator, "detect", compiled)
    assert scores._detect() == []
    scores.rank_size, scores.sum_over_ranks, scores.all_gather = 2, summed, of_both_ranks
    assert [row.tolist() for row in scores._gather(np.arange(3, dtype=np.int32))] == [[0, 1, 2, 0, 0, 0], []]
    assert len(uncached) == 3 and all(uncached) and os.environ["MS_COMPILER_CACHE_ENABLE"] == "1"
