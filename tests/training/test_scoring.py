"""src/training/scoring.py and src/training/detector.py: scores while training are those of eval.py on the same weights."""
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
from src.weights.side_file import find_checkpoints, read_side_file, side_file
from tests.conftest import TINY, assert_user_error, call_script, noise_image, own_detector, resdcn_18_is, write_coco
from tests.metainfo import classes_of


@pytest.fixture
def scoring(tiny_data, small_file, make_config):
    """Call it with a checkpoint: (the network that trains, with its weights; its average; the Scoring of it); without, it is the least."""
    def made(checkpoint=None, average=None, **across):
        config = make_config(*TINY, "--data_dir", tiny_data, "--eval_epochs", 1, "--eval_config.K", 20, "--eval_config.keep_res", "false")
        description = read_side_file(str(checkpoint or small_file))
        with contextlib.nullcontext() if checkpoint else resdcn_18_is("LEAST"):
            network = build_network(Config(description["net_config"]), classes_of(3), "native")
        if checkpoint:
            load_weights(network, read_checkpoint(str(checkpoint)), "lively", use_ema=False)
        network.set_train()
        average = average and average(network)
        trained = TrainingDetector(network, average, description, config, "CPU")
        return network, average, Scoring(trained, evaluator.scored_part(config, description), 5, **across)

    return made


def detected_by_checkpoint(path, scoring):
    """The records of eval.py's detector of a checkpoint."""
    config = scoring.config
    detector = own_detector(path, config.eval_config, "CPU", "native")
    return evaluator.detect(detector, scoring.part, config)[0].records


def values(network):
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


@pytest.mark.slow
def test_records_are_those_of_the_checkpoint(least, least_checkpoint, scoring, tmp_path):
    """To the last bit, also the second time, after the weights have changed; the training's weights stay as they are."""
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
    """The inference network has the training's parameters; its own are the biases that folding gives its layers."""
    network, _, scores = scoring(lively_checkpoint)
    trains = {id(parameter) for parameter in network.get_parameters()}
    with scores.trained.borrowed() as detector:
        own = [parameter for parameter in detector.network.get_parameters() if id(parameter) not in trains]
        assert own and all(parameter.ndim == 1 for parameter in own)
        shared = {id(parameter) for parameter in detector.network.get_parameters()} & trains
    assert len(shared) > 20
    assert sum(parameter.size for parameter in own) < 0.01 * sum(parameter.size for parameter in network.get_parameters())


@pytest.mark.slow
def test_a_batch_norm_that_can_no_longer_be_folded_is_kept(least, least_checkpoint, scoring, tmp_path):
    """Which makes another graph."""
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
def test_the_average_is_what_is_scored(least, least_checkpoint, scoring, tmp_path):
    """As eval.py takes it from a checkpoint that has one; with use_ema false both take the weights. No graph is compiled."""
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
    plain = evaluator.detect(detector, scores.part, scores.config)[0].records
    assert plain == detected_by_checkpoint(least_checkpoint, scores)


def test_an_image_is_drawn_as_its_entry_means_it(tmp_path, make_config):
    """EXIF turns both, and one is annotated as it is stored: the boxes are of that."""
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
    scoring.config, scoring.records, scoring.trained = make_config(), [], types.SimpleNamespace(description={"classes": ["a"]})
    coco = read_coco(path)
    split = Split(path, str(tmp_path / "val2017"))
    scoring.part = evaluator.Part(DETECTION, coco, path, split.image_dir, image_list(split, coco), True, [1])
    heights = {name: drawing.shape[:2] for name, drawing in scoring.drawings()}
    caption = heights["1"][0] - 60
    assert heights["1"][1] == 200 and heights["2"] == (100 + caption, 120)


def test_records_of_ranks_are_joined_to_the_last_bit():
    rng = np.random.default_rng(0)
    ranks = [[{"image_id": 2**63 - 1 - rank, "category_id": 2**53 + 1,  # which float64 does not hold
               "bbox": rng.random(4).tolist(), "score": float(rng.random())}
              for _ in range(count)] for rank, count in enumerate((3, 0, 5))]
    sent = []
    for records in ranks:
        join_records(records, lambda array: sent.append(array) or [array])
    assert all(array.dtype == np.int32 for array in sent)
    assert join_records(ranks[0], lambda array: sent) == sum(ranks, [])


@pytest.fixture(scope="module")
def scored(tiny_records, tiny_data, train_least_again):
    """Call it with words and cwd: train_least_again with an average, scored as --eval_epochs says."""
    words = ["--data_dir", tiny_data, "--mindrecord_dir", tiny_records, "--train_config.ema_decay", 0.9, "--save_checkpoint_num", 5,
             "--best_metric", "AR_100", "--eval_config.keep_res", "false"]
    return functools.partial(train_least_again, *words)


@pytest.fixture(scope="module")
def scored_run(scored, tmp_path_factory):
    """A folder in which train.py has trained two epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "stdout.txt").write_text(scored("--eval_epochs", 1, cwd=folder).stdout)
    return folder


@pytest.fixture(scope="module")
def begun_run(scored, tmp_path_factory):
    """The same after 7 steps."""
    folder = tmp_path_factory.mktemp("begun")
    scored("--eval_epochs", 1, "--save_checkpoint_steps", 7, "--train_steps", 7, cwd=folder)
    return folder


@pytest.mark.slow
def test_a_scored_training_is_the_unscored_one(scored, scored_run, tmp_path):
    """Bit for bit: an evaluation leaves no trace in weights, moments, statistics and averages."""
    scored("--eval_epochs", 0, cwd=tmp_path)
    ours, theirs = (read_checkpoint(str(folder / "ckpt_0" / "centernet-2_10.ckpt")) for folder in (scored_run, tmp_path))
    assert set(ours) == set(theirs) and any(name.startswith(EMA_PREFIX) for name in ours)
    for name, value in ours.items():
        np.testing.assert_array_equal(value.asnumpy(), theirs[name].asnumpy(), err_msg=name)


@pytest.mark.slow
def test_scores_are_those_of_eval(scored_run, tiny_data, least, tmp_path):
    """Of the best checkpoint, by the name of its run's folder."""
    scores = {step: values for step, _, values in read_scores(str(scored_run / "train_record.jsonl"))}
    assert sorted(scores) == [5, 10] and len(read_training_log(str(scored_run / "train_record.jsonl"))) == 10
    assert f" --data_dir {tiny_data} --load_checkpoint_path ckpt_0/centernet-best.ckpt\n" in (scored_run / "stdout.txt").read_text()
    best = json.loads((scored_run / "ckpt_0" / "centernet-best.json").read_text())["scores"]["best"]
    assert best["value"] == max(score["AR_100"] for score in scores.values())
    call_script("eval.py", "--device_target", "CPU", "--net_config.dcn_impl", "native", "--data_dir", tiny_data,
                "--load_checkpoint_path", scored_run / "best", cwd=tmp_path)
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert {name: metrics[name] for name in scores[best["step"]]} == scores[best["step"]]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "on"])
def test_a_resumed_scored_training_is_the_undisturbed_one(place, scored, scored_run, begun_run, tmp_path):
    """Average, scores, record and the choice of the best one, to the last bit; in the same folder, or in a new one as launchers do."""
    begun = shutil.copytree(begun_run, tmp_path / "begun")
    folder = begun / place
    folder.mkdir(exist_ok=True)
    scored("--eval_epochs", 1, "--resume", "true", *(["--load_checkpoint_path", begun / "last"] if place else []), cwd=folder)
    for name in ("centernet-2_10.ckpt", "centernet-best.ckpt"):
        ours, theirs = (read_checkpoint(str(run / "ckpt_0" / name)) for run in (scored_run, folder))
        for key, value in ours.items():
            np.testing.assert_array_equal(value.asnumpy(), theirs[key].asnumpy(), err_msg=f"{name} {key}")
    undisturbed, resumed = (str(run / "train_record.jsonl") for run in (scored_run, folder))
    assert [record for record in read_scores(resumed) if record[0] != 7] == read_scores(undisturbed)
    ours, theirs = ([(record["step"], record["loss"]) for record in read_training_log(path)] for path in (resumed, undisturbed))
    assert ours == theirs and len(ours) == 10


@pytest.mark.parametrize("words, said", [
    (("--eval_epochs", 1), "(--data_dir)"),
    (("--patience", 2), "eval_epochs"),
    (("--eval_epochs", 1, "--data_dir", "DATA", "--best_metric", "AP_large"), "AP_large"),
    (("--eval_epochs", 1, "--data_dir", "no/where"), "no/where"), (("--best_metric", "AP5"), "AP50"),
    (("--eval_epochs", 1, "--data_dir", "DATA", "--run_mode", "test"), "run_mode"),
    (("--eval_epochs", 1, "--data_dir", "OTHER"), "classes"), (("--train_config.freeze", "backbone"), "net_config.load_backbone_path"),
])
def test_mistakes_are_told_before_the_first_step(words, said, tiny_data, tiny_records, tmp_path):
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    content = json.loads(annotation.read_text())
    shutil.copytree(tiny_data, tmp_path / "other")
    for category in content["categories"]:
        category["name"] += "s"
    (tmp_path / "other" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    words = [{"DATA": tiny_data, "OTHER": tmp_path / "other"}.get(word, word) for word in words]
    done = call_script("train.py", *TINY, "--mindrecord_dir", tiny_records, *words, cwd=tmp_path, check=False)
    assert_user_error(done, said)
    assert not (tmp_path / "ckpt_0").exists()


STATE = {"metric": "AP", "step": 15, "best": {"step": 5, "value": 0.3}, "since_best": 2}


@pytest.fixture
def folder(tmp_path):
    """A CheckpointFolder with checkpoints of steps 5 and 15, whose side files have STATE; that of step 5 is the best one."""
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    for step in (5, 15):
        path = folder.save({"w": Parameter(Tensor([float(step)]), name="w")}, 0, step, {}, extra_metadata={"scores": STATE})
        if step == 5:
            folder.keep_best(path)
    return folder


def test_a_used_up_patience_is_said(scoring, folder):
    _, _, scores = scoring()
    scores.config.patience = 2
    with pytest.raises(UserError, match="nothing to train: 2 evaluations"):
        scores.go_on(find_checkpoints(folder.folder)[-1], folder)


def test_a_resumed_run_knows_the_best_one(scoring, folder):
    """One that a kill came before is made of the resumed checkpoint; one that is gone is forgotten; one of another past is set aside."""
    _, _, scores = scoring()
    first, last = find_checkpoints(folder.folder)
    scores.go_on(last, folder)
    measure = {"of": scores.state["of"]}
    assert scores.state == {**STATE, **measure}
    scores.go_on(last, folder, step_count_reset=True)
    assert scores.state == {**STATE, **measure, "step": 0}
    folder.keep_best(last)  # the kill came between the regular checkpoint and the best one, which is still the one before
    scores.go_on(first, folder)
    assert folder.best_step() == 5 and scores.state == {**STATE, **measure}
    folder.keep_best(last)
    scores.go_on(last, folder)
    assert scores.state == {**STATE, **measure, "best": None, "since_best": 0} and folder.best_step() == 0
    assert os.path.exists(os.path.join(folder.folder, "centernet-best.1.ckpt"))


def test_steps_counted_anew_leave_the_best_one_alone(scoring, folder):
    """A checkpoint may come by the number of the best one, which counted other steps: it is not the best for that."""
    _, _, scores = scoring()
    first, last = find_checkpoints(folder.folder)
    scores.go_on(last, folder, step_count_reset=True)
    state = {**STATE, "of": scores.state["of"], "step": 0}
    later = folder.save({"w": Parameter(Tensor([7.0]), name="w")}, 0, 5, {}, extra_metadata={"scores": state, "best": False})
    scores.go_on(later, folder)
    assert folder.best_step() == 5 and read_checkpoint(folder.best)["w"].asnumpy() == [5.0]
    later = folder.save({"w": Parameter(Tensor([8.0]), name="w")}, 0, 5, {}, extra_metadata={"scores": state, "best": True})
    scores.go_on(later, folder)  # a kill came before it was made the best
    assert read_checkpoint(folder.best)["w"].asnumpy() == [8.0]


@pytest.mark.parametrize("damage", [5, {"best": 5}, {"best": {"step": "x", "value": 1}}, {"step": None}, {"metric": "AP50"}, {"of": 7}])
def test_a_damaged_or_foreign_state_is_not_taken(damage, scoring, folder):
    _, _, scores = scoring()
    last = find_checkpoints(folder.folder)[-1]
    state = {**STATE, **damage} if isinstance(damage, dict) else damage
    with open(side_file(last), "w", encoding="utf-8") as file:
        json.dump({"scores": state, "step": 15}, file)
    scores.go_on(last, folder)
    assert scores.state == {"metric": "AP", "of": measure_of(scores.part, scores.config), "step": 0, "best": None, "since_best": 0}


def test_what_cannot_be_compared_has_another_measure(scoring, make_config):
    _, _, scores = scoring()
    part, config = scores.part, scores.config
    one = measure_of(part, config)
    assert measure_of(dataclasses.replace(part, images=part.images[1:]), config) != one
    config.eval_config.flip_test = not config.eval_config.flip_test
    assert measure_of(part, config) != one
    config.eval_config.flip_test = not config.eval_config.flip_test
    assert measure_of(part, config) == one


@pytest.mark.parametrize("change", [{"bbox": [1, 2, 3, 4]}, {"category_id": 3}, {"area": 7}, {"iscrowd": 1}, {"image_id": 2}])
def test_changed_objects_have_another_measure(change, tmp_path, make_config):
    def measure(changes):
        images = {1: noise_image(1), 2: noise_image(2)}
        path = write_coco(str(tmp_path), "val", images, [(1, 1, [10, 10, 20, 20]), (2, 2, [30, 30, 40, 40])])
        coco = read_coco(path)
        coco.dataset["annotations"][0].update(changes)
        return measure_of(evaluator.Part(DETECTION, coco, path, "", [(1, "1.jpg"), (2, "2.jpg")], True, [1, 2]), make_config())

    assert measure(change) != measure({}) == measure({"id": 99, "note": "seen"})


@pytest.mark.parametrize("rank_size", [1, 2])
def test_images_of_which_none_can_be_read_are_an_error(rank_size, scoring, monkeypatch):
    """On every rank; where others can read theirs, a rank goes on without."""
    across = {"rank_size": 2, "sum_over_ranks": lambda tensor: tensor * 2} if rank_size == 2 else {}
    _, _, scores = scoring(**across)
    skipped = [f"image {number}: damaged" for number in range(len(scores.part.images) // rank_size)]
    monkeypatch.setattr(evaluator, "detect", lambda *_: (results.Results(DETECTION, "", [], [], skipped), None))
    monkeypatch.setattr(scores.trained, "borrowed", contextlib.nullcontext)
    monkeypatch.setattr(scores, "_gather", lambda array: [array])
    with pytest.raises(UserError, match="6 images in "):
        scores._detect()
    skipped.pop()
    assert scores._detect() == []


def test_a_folder_without_the_images_is_noticed_before_the_training(tiny_data, small_file, make_config):
    config = make_config("--data_dir", tiny_data, "--eval_epochs", 1, "--dataset_config.val_image_dir", "annotations")
    with pytest.raises(UserError, match="6 images of .*json .*annotations; dataset_config.val_image_dir"):
        evaluator.scored_part(config, read_side_file(str(small_file)))


def test_evaluations_while_training_draw_no_files(scoring, tmp_path, monkeypatch, console):
    """Whatever visual_image says, which is told."""
    monkeypatch.chdir(tmp_path)
    _, _, scores = scoring()
    scores.config.visual_image = True
    found = Detected(scores.part.images[0], np.zeros((9, 9, 3), np.uint8), np.zeros((0, 6), np.float32))
    monkeypatch.setattr(evaluator, "detect_all", lambda *_: [dataclasses.replace(found, item=item) for item in scores.part.images])
    monkeypatch.setattr(scores.trained, "borrowed", contextlib.nullcontext)
    assert scores._detect() == [] and os.listdir(tmp_path) == []
    start_scoring(scores.trained, scores.part, types.SimpleNamespace(steps_per_epoch=5, rank=0, rank_size=1), None)
    assert "visual_image is eval.py's" in console.readouterr().out


def test_kept_graphs_do_not_reach_evaluations(scoring, monkeypatch):
    """MindSpore tells a folder's graphs apart by their order alone: it would take one without a flip for one with it."""
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    taken = []

    def compiled(*_):
        taken.append("MS_COMPILER_CACHE_ENABLE" not in os.environ)
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
    assert len(taken) == 3 and all(taken) and os.environ["MS_COMPILER_CACHE_ENABLE"] == "1"
