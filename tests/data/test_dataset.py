"""src/dataset.py: conversion and the training pipeline."""
import dataclasses
import gc
import re
import shutil

import cv2
import mindspore.dataset as ds
import numpy as np
import pytest

from src.commands.dataset import check_paths
from src.core.errors import UserError
from src.data import epochs
from src.data.coco import Split, find_split
from src.data.manifest import read_manifest
from src.data.train_set import TrainSet
from src.model_utils.config import get_config
from src.tasks.detection import targets
from tests.conftest import (
    TINY,
    assert_user_error,
    batches,
    call_script,
    convert,
    noise_image,
    run_script,
    user_error,
    write_coco,
)

# ---------------------------------------------------------------- conversion


def read_back(folder, prefix="coco_det.train.mind"):
    """{image id: (bytes, boxes, labels)} of MindRecord files, read by MindSpore."""
    manifest = read_manifest(get_config("", ["--mindrecord_dir", str(folder), "--mindrecord_prefix", prefix]))
    files = [str(folder / name) for name in manifest["files"]]
    rows = ds.MindDataset(files, shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True)
    return {int(row["image_id"]): (row["image"].tobytes(), row["boxes"], row["labels"]) for row in rows}


def test_conversion_round_trip(tmp_path):
    images = {10: noise_image(1), 2**40: noise_image(2), 12: noise_image(3)}
    objects = [(10, 18, [1, 2, 30, 40]), (10, 44, [5.5, 6.5, 20, 20]), (2**40, 44, [0, 0, 128, 96])]
    annotation = write_coco(tmp_path, "train", images, objects, ids=(18, 44))
    split = Split(annotation, str(tmp_path / "train2017"))
    manifest = convert(split, tmp_path / "out", "coco_det.train.mind", "round", num_shards=2)
    assert manifest["classes"] == ["disc", "square"] and manifest["category_ids"] == [18, 44]
    assert (manifest["images"], manifest["objects"], manifest["images_without_objects"]) == (3, 3, 1)
    assert len(manifest["files"]) == 2 and manifest["skipped"] == []
    rows = read_back(tmp_path / "out")
    assert set(rows) == set(images)
    for image_id, (data, _, _) in rows.items():
        assert data == (tmp_path / "train2017" / f"{image_id:012d}.jpg").read_bytes()
    np.testing.assert_array_equal(rows[10][1], [[1, 2, 31, 42], [5.5, 6.5, 25.5, 26.5]])
    np.testing.assert_array_equal(rows[10][2], [0, 1])
    np.testing.assert_array_equal(rows[2**40][2].ravel(), [1])


def test_bad_records_are_skipped_counted_and_named(tmp_path, console):
    complete = cv2.imencode(".jpg", noise_image(1))[1].tobytes()
    images = {1: complete, 2: complete[: len(complete) // 2], 3: b"", 4: b"text", 5: complete}
    objects = [(1, 1, [1, 2, 30, 40]), (1, 9, [1, 2, 3, 4]), (1, 1, [1, 1, 0, 5]), (1, 1, [500, 2, 3, 4]),
               (2, 1, [1, 2, 3, 4])]
    annotation = write_coco(tmp_path, "train", images, objects)
    (tmp_path / "train2017" / "000000000005.jpg").unlink()
    manifest = convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad", num_shards=4)
    assert (manifest["images"], manifest["objects"]) == (1, 1)
    assert len(manifest["skipped"]) == 7
    output = console.readouterr().out
    names = [f"annotation {number} of image 1" for number in (2, 3, 4)]
    for name in names + [f"image {number} " for number in (2, 3, 4, 5)]:
        assert f"skipped {name}" in output


def test_a_data_set_without_usable_images_is_an_error_and_leaves_no_files(tmp_path):
    annotation = write_coco(tmp_path, "train", {1: b"text"}, [])
    with user_error(tmp_path / "train2017"):
        convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_data_set_is_an_error(tmp_path):
    annotation = write_coco(tmp_path, "train", {}, [])
    with user_error(tmp_path / "train2017"):
        convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad")


def test_a_stopped_conversion_does_not_look_finished(tmp_path, monkeypatch):
    annotation = write_coco(tmp_path, "train", {1: noise_image(1), 2: noise_image(2)}, [(1, 1, [1, 2, 30, 40])])
    split = Split(annotation, str(tmp_path / "train2017"))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mindspore.mindrecord.FileWriter.commit", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(split, tmp_path / "out", "p", "stopped")
    with user_error(tmp_path / "out", "p.manifest.json"):
        read_manifest(get_config("", ["--mindrecord_dir", str(tmp_path / "out"), "--mindrecord_prefix", "p"]))
    assert convert(split, tmp_path / "out", "p", "again")["images"] == 2


@pytest.mark.parametrize("where", ["write_raw_data", "commit", "boxes", "manifest"])
def test_a_full_disk_ends_a_conversion_with_a_short_error(where, tmp_path, monkeypatch):
    """MindSpore's message takes pages; no incomplete file is left."""
    annotation = write_coco(tmp_path, "train", {1: noise_image(1), 2: noise_image(2)}, [(1, 1, [1, 2, 30, 40])])

    def full(*_, **__):
        if where in ("boxes", "manifest"):
            raise OSError(28, "No space left on device")
        raise RuntimeError("Exception thrown from dataset pipeline.\n\n---\n[ERROR] Failed to seekp file.\n\n"
                           "shard_writer.cc(1)")

    places = {"boxes": "numpy.savez_compressed", "manifest": "json.dump"}
    monkeypatch.setattr(places.get(where, f"mindspore.mindrecord.FileWriter.{where}"), full)
    with user_error(tmp_path / "out") as raised:
        convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "full")
    if where not in places:
        assert re.search(r"\[ERROR\] Failed to seekp file\.\D*\d+ MB", str(raised.value))
        assert "shard_writer" not in str(raised.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_finished_conversion_is_not_overwritten(tiny_data, tiny_records):
    before = {path: path.read_bytes() for path in tiny_records.iterdir()}
    done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", tiny_records, check=False)
    assert_user_error(done, str(tiny_records), "--mindrecord_prefix")
    assert {path: path.read_bytes() for path in tiny_records.iterdir()} == before


def test_conversion_into_a_read_only_folder(tiny_data):
    """/proc accepts no files, not even from root."""
    done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", "/proc/nowhere", check=False)
    assert_user_error(done, "/proc/nowhere")


def test_a_missing_shard_is_named(tiny_records, tmp_path, make_config):
    shutil.copytree(tiny_records, tmp_path / "m")
    (tmp_path / "m" / "coco_det.train.mind1").unlink()
    with pytest.raises(UserError, match="coco_det.train.mind1"):
        TrainSet(make_config("--mindrecord_dir", tmp_path / "m"))


# ---------------------------------------------------------------- the training pipeline


def test_shares_cover_an_epoch_once():
    order = epochs.epoch_order(1003, 1, 4, True)
    assert sorted(order) == list(range(1003))
    shares = [epochs.rank_share(order, 8, rank, 3) for rank in range(3)]
    seen = np.concatenate(shares)
    assert len(np.unique(seen)) == len(seen) and 1003 - len(seen) < 24
    one = epochs.rank_share(order, 24, 0, 1)
    np.testing.assert_array_equal(np.concatenate([share.reshape(-1, 8) for share in shares], 1).ravel(), one)


def test_orders_differ_only_by_epoch_and_seed():
    assert not np.array_equal(epochs.epoch_order(50, 1, 0, True), epochs.epoch_order(50, 1, 1, True))
    assert not np.array_equal(epochs.epoch_order(50, 1, 0, True), epochs.epoch_order(50, 2, 0, True))
    np.testing.assert_array_equal(epochs.epoch_order(50, 1, 3, True), epochs.epoch_order(50, 1, 3, True))
    np.testing.assert_array_equal(epochs.epoch_order(50, 1, 3, False), np.arange(50))


def test_samples_do_not_depend_on_the_number_of_workers(tiny_records, make_config):
    one = batches(tiny_records, make_config, "--dataset_config.num_workers", 1)
    four = batches(tiny_records, make_config, "--dataset_config.num_workers", 4)  # or as many as there are cores
    assert len(one) == 5 and list(one[0]) == targets.columns(True)
    for a, b in zip(one, four):
        for name in targets.columns(True):
            np.testing.assert_array_equal(a[name], b[name])
    other_epoch = batches(tiny_records, make_config, epoch=2)
    assert not np.array_equal(one[0]["image"], other_epoch[0]["image"])


def test_batches_outlive_their_pipeline(tiny_records, make_config):
    """MindSpore does not copy the arrays: they must not be freed while a tensor shares their memory."""
    config = make_config("--mindrecord_dir", tiny_records, "--train_config.batch_size", 4)
    train_set = TrainSet(config)
    made = []

    def make_batch(*args):
        batch = TrainSet.make_batch(train_set, *args)
        made.append([array.copy() for array in batch])
        return batch

    train_set.make_batch = make_batch
    train_set.config.dataset_config.num_workers = 1  # one worker makes them in order
    batches = list(train_set.batches(0, 5).create_tuple_iterator(num_epochs=1))
    gc.collect()
    others = [np.full_like(array, 7) for batch in made for array in batch]
    assert len(batches) == len(made) == 5 and len(others) == 40
    for batch, expected in zip(batches, made):
        for tensor, array in zip(batch, expected):
            np.testing.assert_array_equal(tensor.asnumpy(), array)


def test_an_epoch_can_start_in_the_middle(tiny_records, make_config):
    complete, remainder = batches(tiny_records, make_config), batches(tiny_records, make_config, first_step=3)
    assert len(remainder) == 2
    np.testing.assert_array_equal(remainder[0]["image"], complete[3]["image"])


def test_one_pipeline_serves_many_epochs(tiny_records, make_config):
    """From the middle of the second epoch to the fourth, each shuffled in its own order."""
    config = make_config("--mindrecord_dir", tiny_records, "--dataset_config.input_res_train", "[96, 96]",
                         "--train_config.batch_size", 4)
    train_set = TrainSet(config)
    together = list(train_set.batches(8, 17).create_dict_iterator(num_epochs=1, output_numpy=True))
    apart = [batch for epoch in (1, 2, 3) for batch in batches(tiny_records, make_config, epoch=epoch)][3:12]
    assert len(together) == len(apart) == 9
    for a, b in zip(together, apart):
        for name in targets.columns(True):
            np.testing.assert_array_equal(a[name], b[name])
    assert train_set.batches(0, 10**9).get_dataset_size() == 10**9  # without a list of the steps


def test_fewer_images_than_a_batch_is_an_error(tiny_records, make_config):
    with pytest.raises(UserError, match=r"\b20\b.*\b21\b"):
        TrainSet(make_config("--mindrecord_dir", tiny_records, "--train_config.batch_size", 21))


@pytest.mark.slow
@pytest.mark.parametrize("name, damage", [
    ("coco_det.train.mind0", lambda data: data[:3000]),
    ("coco_det.train.mind1.db", lambda data: data[:40] + bytes(500) + data[540:]),
    ("coco_det.train.mind0", lambda data: data[:-9000] + bytes(9000)),
])
def test_damaged_mindrecord_files_are_reported(name, damage, tiny_records, tmp_path):
    shutil.copytree(tiny_records, tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(damage(path.read_bytes()))
    done = run_script("train.py", *TINY, "--mindrecord_dir", "m", "--epoch_size", 2, cwd=tmp_path, check=False)
    assert_user_error(done, "m: ", "MindRecord", "damaged")


def test_only_damage_is_reported_as_damage(tiny_records, make_config):
    args = ("--mindrecord_dir", tiny_records, "--train_config.batch_size", 4)
    train_set = TrainSet(make_config(*args))
    with pytest.raises(RuntimeError, match="something else"), train_set.named_errors():
        raise RuntimeError("something else")
    train_set.layout = dataclasses.replace(train_set.layout, mean=[0.4, 0.4])  # invalid
    with pytest.raises(UserError, match="ValueError: ") as raised, train_set.named_errors():
        list(train_set.batches(0, 5).create_tuple_iterator(num_epochs=1))
    assert "damaged" not in str(raised.value)


def test_conversions_leave_foreign_folders_alone(tiny_data, tmp_path, make_config):
    """A folder named like an unfinished conversion is kept; the files have the usual mode of new files."""
    (tmp_path / "m" / ".p.partial").mkdir(parents=True)
    split = find_split(str(tiny_data), "train", make_config().dataset_config)
    convert(split, tmp_path / "m", "p", tiny_data)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        ".p.partial", "p", "p.boxes.npz", "p.db", "p.manifest.json"}
    (tmp_path / "plain").touch()
    assert (tmp_path / "m" / "p").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["coco_det.train.mind0", "coco_det.train.mind"])
def test_foreign_mindrecord_files_are_not_overwritten(name, tiny_data, tmp_path, make_config):
    """Such as the model zoo's, with the same names: no manifest marks them as ours."""
    (tmp_path / name).write_text("theirs")
    with pytest.raises(UserError, match=f"/{name} "):
        check_paths(make_config("--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path))
    (tmp_path / name).rename(tmp_path / "coco_det.train.minds")
    check_paths(make_config("--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path))


def test_files_of_another_size_are_not_opened(tiny_records, tmp_path, make_config):
    """Extra bytes in a MindRecord file crash MindSpore with signal 11."""
    shutil.copytree(tiny_records, tmp_path / "m")
    with open(tmp_path / "m" / "coco_det.train.mind1", "ab") as file:
        size = file.tell()
        file.write(b"more")
    with pytest.raises(UserError, match=rf"coco_det.train.mind1 \D*{size + 4} \D*{size}\b"):
        TrainSet(make_config("--mindrecord_dir", tmp_path / "m"))
