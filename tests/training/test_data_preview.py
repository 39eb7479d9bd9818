"""src/training/data_preview.py: the table, warnings and image of the training data."""
import os

import cv2
import numpy as np
import pytest

from src.core.errors import UserError
from src.data import manifest, samples
from src.data.coco import Split
from src.data.train_set import TrainSet
from src.runs.record import read_training_log
from src.training import data_preview
from tests.conftest import ROOT, TINY, convert, lines_with, noise_image, run_script, train_least, write_coco


@pytest.fixture
def make_set(tiny_records, make_config, tmp_path):
    """Function of arguments: (Config, TrainSet) of tiny_records, with output in tmp_path."""
    def make(*args):
        config = make_config(*TINY, "--mindrecord_dir", tiny_records, "--save_result_dir", tmp_path, *args)
        return config, TrainSet(config)

    return make


def test_train_logs_and_draws_its_data(least_run):
    output = (least_run / "stdout.txt").read_text()
    assert lines_with(output, "20 images, 0 without ", "96x96")
    assert not lines_with(output, "warning: ", "train_config.batch_size")
    for name in ("rectangle", "ellipse", "triangle", "all"):
        assert sum(line.split()[:1] == [name] for line in output.splitlines()) == 1
    assert lines_with(output, "4 training images", "train_batch.jpg")
    image = cv2.imread(str(least_run / "train_batch.jpg"))
    assert image.shape[1] == 4 * 480 + 5 * 8 and image.std() > 10


def test_the_image_shows_the_first_batch_after_device_input(by_operation, make_set, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("src.tasks.detection.preview.draw_batch",
                        lambda batch, names, *_: drawn.update(batch, names=names) or np.zeros((9, 9, 3), np.uint8))
    for where in ("host", "device"):
        config, train_set = make_set("--dataset_config.heatmap_on", where)
        data_preview.preview_data(config, train_set)
        first = next(train_set.batches(0, 1).create_dict_iterator(num_epochs=1, output_numpy=True))
        images = [train_set._read_image(row) for row in train_set.rows_of_epoch(0)[:4]]
        made = samples.augmented_batch(images, 4, 0, config, train_set.layout, True)
        for name in ("ind", "reg", "reg_mask", "wh"):
            np.testing.assert_array_equal(drawn[name], first[name])
        np.testing.assert_allclose(drawn["hm"], made[2], atol=1e-6)
        color, image = first["color"], first["image"].astype(np.float64)
        expected = np.einsum("nij,nhwj->nihw", color[:, :, :3], image) + color[:, :, 3:, None]
        np.testing.assert_allclose(drawn["image"], expected, atol=1e-4)
        ids = [train_set.read_row(row)[1] for row in train_set.rows_of_epoch(0)[:4]]
        assert drawn["names"] == [f"image {image_id}" for image_id in ids]
    assert (tmp_path / "train_batch.1.jpg").exists()  # the first one's


def test_16_images_of_a_large_batch_are_drawn(make_set):
    _, train_set = make_set("--train_config.batch_size", 20)
    batch, image_ids = train_set.first_images(16)
    assert len(image_ids) == 16 and all(len(values) == 16 for values in batch)


def test_only_rank_0_draws_and_a_resumed_run_keeps_its_image(by_operation, make_set, tmp_path, console):
    config, train_set = make_set()
    data_preview.preview_data(config, train_set, rank=1)
    assert list(tmp_path.iterdir()) == [] and console.readouterr().out == ""
    (tmp_path / "train_batch.jpg").write_bytes(b"that of the start")
    config.resume = True
    data_preview.preview_data(config, train_set)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"that of the start"]
    assert "20 images" in console.readouterr().out


@pytest.mark.parametrize("error", [UserError("no room"), RuntimeError("device"), MemoryError()])
def test_failures_are_logged_and_end_nothing(error, by_operation, make_set, tmp_path, monkeypatch, console):
    def fail(*_):
        raise error

    config, train_set = make_set()
    monkeypatch.setattr("src.tasks.detection.preview.draw_batch", fail)
    monkeypatch.setattr(data_preview, "read_boxes", fail)
    data_preview.preview_data(config, train_set)
    output = console.readouterr().out
    assert len(lines_with(output, "warning: ", f"{type(error).__name__}: {error}")) == 2
    assert lines_with(output, "warning: ", str(tmp_path / "train_batch.jpg"))
    assert train_set.failure is None and list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_ends_nothing(by_operation, make_set, console):
    config, train_set = make_set("--save_result_dir", "/proc/nowhere")
    data_preview.preview_data(config, train_set)
    assert lines_with(console.readouterr().out, "warning: ", "/proc/nowhere/train_batch.jpg")


@pytest.mark.parametrize("args, scratch", [
    ([], True), (["--resume", "true"], False), (["--load_checkpoint_path", "c"], False),
    (["--net_config.load_backbone_path", "b"], False),
])
def test_from_scratch_means_without_weights(args, scratch, make_config):
    assert data_preview.recipe_of(make_config(*args), 1).from_scratch is scratch


# ---------------------------------------------------------------- the sizes of the boxes


def equal(one, other):
    """Whether two Boxes are equal."""
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in manifest.BOXES)
    return arrays and one.images == other.images


@pytest.fixture
def converted(tmp_path, make_config):
    """The Config of a converted data set, in which one image has no boxes."""
    images = {3: noise_image(1, 50, 80), 5: noise_image(2, 96, 40), 9: noise_image(3)}
    objects = [(3, 1, [70, 10, 30, 20]), (5, 2, [0, 0, 10, 90]), (5, 1, [1, 2, 3, 4])]
    path = write_coco(tmp_path, "train", images, objects)
    convert(Split(path, str(tmp_path / "train2017")), tmp_path / "m")
    return make_config("--mindrecord_dir", tmp_path / "m", "--train_config.batch_size", 1)


def test_conversion_writes_box_sizes_and_older_data_sets_work(converted, tmp_path):
    """By hand: of a box that begins at 70 of 80 pixels, 10 pixels are inside."""
    train_set = TrainSet(converted)
    written = data_preview.read_train_boxes(train_set)
    assert written.image_sizes.tolist() == [[80, 50], [40, 96], [128, 96]] and written.counts.tolist() == [1, 2, 0]
    assert written.sizes.tolist() == [[10, 20], [10, 90], [3, 4]] and written.labels.tolist() == [0, 1, 0]
    assert written.images == 3
    path = manifest.boxes_path(str(tmp_path / "m"), converted.mindrecord_prefix)
    os.remove(path)  # as with an earlier version or the model zoo
    assert equal(data_preview.read_train_boxes(train_set), written)


def test_without_sizes_a_sample_of_the_images_is_read(converted, tmp_path, monkeypatch):
    os.remove(manifest.boxes_path(str(tmp_path / "m"), converted.mindrecord_prefix))
    monkeypatch.setattr(data_preview, "SAMPLE", 2)
    boxes = data_preview.read_train_boxes(TrainSet(converted))
    assert (len(boxes.counts), boxes.images) == (2, 3)


@pytest.mark.parametrize("damage", [
    lambda data, _: data[: len(data) // 2], lambda *_: b"", lambda *_: b"text",
    lambda data, _: data[:60] + bytes(40) + data[100:],
    lambda _, save: save(labels=np.array([0, 1, 7])), lambda _, save: save(counts=np.array([1, 1, 0])),
    lambda _, save: save(counts=np.array([4, -1, 0])),
    lambda _, save: save(image_sizes=np.array([[80, 50], [0, 0], [1, 1]])),
    lambda _, save: save(sizes=np.full((3, 2), np.nan)), lambda _, save: save(sizes=np.array([[1, 2]])),
    lambda _, save: save(labels=np.array(["a", "b", "c"])),
    lambda _, save: save(labels=np.array([{}, (), None], object)),
])
def test_damaged_sizes_are_replaced(damage, converted, tmp_path):
    train_set = TrainSet(converted)
    written = data_preview.read_train_boxes(train_set)
    path = manifest.boxes_path(str(tmp_path / "m"), converted.mindrecord_prefix)

    def save(**changes):
        np.savez(tmp_path / "other.npz", **{name: getattr(written, name) for name in manifest.BOXES} | changes)
        return (tmp_path / "other.npz").read_bytes()

    with open(path, "rb") as file:
        data = damage(file.read(), save)
    with open(path, "wb") as file:
        file.write(data)
    assert manifest.read_boxes(path, 3, 2) is None
    assert equal(data_preview.read_train_boxes(train_set), written)


# ---------------------------------------------------------------- effects on training


@pytest.mark.slow
def test_the_preview_does_not_change_training(least_run, tiny_records, least_graphs, tmp_path):
    args = [*TINY, "--epoch_size", 2, "--compile_cache_dir", least_graphs, "--train_steps", 7,
            "--save_checkpoint_steps", 3, "--save_checkpoint_num", 5, "--mindrecord_dir", tiny_records]
    script = tmp_path / "without_preview.py"
    script.write_text(f"import sys\nsys.path[0] = {ROOT!r}\nfrom src.training import data_preview\n"
                      "data_preview.preview_data = lambda *_: None\n"
                      f"import runpy\nrunpy.run_path({ROOT!r} + '/tests/least_train.py', run_name='__main__')\n")
    run_script(script, *args, cwd=tmp_path)
    assert not (tmp_path / "train_batch.jpg").exists()
    without, with_preview = (read_training_log(str(folder / "train_record.jsonl")) for folder in (tmp_path, least_run))
    for one, other in zip(without, with_preview, strict=True):
        assert {**one, "images_per_second": 0} == {**other, "images_per_second": 0}
    for name in ("1_3", "2_6", "2_7"):
        one, other = ((folder / "ckpt_0" / f"centernet-{name}.ckpt").read_bytes() for folder in (tmp_path, least_run))
        assert one == other


@pytest.mark.slow
def test_a_second_run_backs_up_the_first_ones_image(tiny_records, light_steps, tmp_path):
    """A run on an unsuitable data set continues after the warning."""
    first = b"an earlier image of CenterNet on MindSpore"
    (tmp_path / "train_batch.jpg").write_bytes(first)
    args = ["--mindrecord_dir", tiny_records, "--train_steps", 1, "--enable_save_ckpt", "false",
            "--dataset_config.max_objs", 1]
    done = train_least(*args, cwd=tmp_path)
    assert (tmp_path / "train_batch.1.jpg").read_bytes() == first
    assert lines_with(done.stdout, "warning: ", "dataset_config.max_objs, 1") and "step: 1 |" in done.stdout


@pytest.mark.parametrize("record, ours", [('{"hm_loss": 1.0}', True), ("my notes", False), (None, False)])
def test_an_earlier_versions_image_is_recognized_by_its_record(record, ours, tmp_path):
    cv2.imwrite(str(tmp_path / "train_batch.jpg"), np.zeros((8, 8, 3), np.uint8))
    if record:
        (tmp_path / "train_record.jsonl").write_text(record)
    assert data_preview.is_first_batch(str(tmp_path / "train_batch.jpg")) == ours
