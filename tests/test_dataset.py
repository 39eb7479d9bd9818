"""src/dataset.py: evaluation inputs, conversion, pipeline."""
import dataclasses
import gc
import json
import shutil

import cv2
import mindspore.dataset as ds
import numpy as np
import pytest

from src import dataset, epochs, image, targets
from src.coco import Split, find_split, ground_truth_boxes, image_list, read_coco, usable_boxes
from src.errors import UserError
from src.manifest import read_manifest
from src.model_utils.config import get_config
from src.post_process import to_image
from src.pre_process import make_input
from tests.conftest import TINY, assert_user_error, call_script, convert, noise_image, run_script, write_coco

# ---------------------------------------------------------------- padding to few shapes


@pytest.mark.parametrize("height, width", [(93, 131), (480, 640), (64, 63), (1, 700)])
def test_padding_keeps_the_image_on_the_stride_grid(height, width):
    """Padding to multiples of 64 adds black right and below; the rest is pixel for pixel what padding to 32 gives."""
    image = noise_image(0, height, width)
    near, near_view = make_input(image, 1.0, True, None, 4, 32)
    far, far_view = make_input(image, 1.0, True, None, 4, 64)
    assert far.shape[0] % 64 == 0 and far.shape[1] % 64 == 0
    np.testing.assert_array_equal(far[: near.shape[0], : near.shape[1]], near)
    assert not far[near.shape[0] :].any() and not far[:, near.shape[1] :].any()
    boxes = np.array([[3.0, 4.0, 20.0, 22.0, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(to_image(boxes, far_view), to_image(boxes, near_view), atol=1e-3)


def test_a_box_survives_the_way_in_and_out():
    """An image box, put into output pixels by the sample's matrix and taken back by to_image, is where it was."""
    _, view = make_input(noise_image(0, 300, 500), 0.75, False, (384, 288), 4)
    matrix = image.affine_matrix(view.center, view.width, 0, view.out_hw[::-1])
    box = np.array([[40, 30, 200, 210.0]], np.float32)
    out = image.transform_boxes(box * 0.75, matrix)
    back = to_image(np.hstack([out, [[1, 0]]]), view)
    np.testing.assert_allclose(back[:, :4], box, atol=1e-2)


# ---------------------------------------------------------------- reading COCO


def test_usable_boxes_names_what_it_leaves_out():
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 5, "category_id": 8, "bbox": [1, 2, 3, 4]},
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [1, 2, 0, 4]},
        {"id": 4, "image_id": 5, "category_id": 7, "bbox": [200, 2, 3, 4]},
        {"id": 5, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3]},
        {"id": 6, "image_id": 5, "category_id": 7, "bbox": [1, 2, float("nan"), 4]},
        {"id": 7, "image_id": 5, "category_id": 7, "bbox": [90, 90, 30, 30]},
    ]
    boxes, labels, skipped = usable_boxes(annotations, {7: 0}, 100, 100)
    np.testing.assert_array_equal(boxes, [[1, 2, 4, 6], [90, 90, 120, 120]])
    np.testing.assert_array_equal(labels, [0, 0])
    assert [line.split(":")[0] for line in skipped] == [f"annotation {n} of image 5" for n in (2, 3, 4, 5, 6)]
    assert "unknown category id 8" in skipped[0] and "without area" in skipped[1] and "outside" in skipped[2]


@pytest.mark.parametrize("layout", [
    ("annotations/instances_train2017.json", "train2017"),
    ("annotations/instance_train2017.json", "train2017"),
    ("annotations/train.json", "images/train/images"),
])
def test_find_split_knows_the_documented_layouts(tmp_path, layout, make_config):
    annotation, image_dir = (tmp_path / part for part in layout)
    annotation.parent.mkdir(parents=True)
    annotation.write_text("{}")
    image_dir.mkdir(parents=True)
    split = find_split(str(tmp_path), "train", make_config().dataset_config)
    assert (split.annotation, split.image_dir) == (str(annotation), str(image_dir))


def test_find_split_takes_chosen_paths_and_says_what_it_looked_for(tmp_path, make_config):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "images").mkdir()
    for part in ("train", "val", "test"):
        words = [f"--dataset_config.{part}_annotation", "a.json", f"--dataset_config.{part}_image_dir", "images"]
        split = find_split(str(tmp_path), part, make_config(*words).dataset_config)
        assert split.annotation == str(tmp_path / "a.json") and split.image_dir == str(tmp_path / "images")
    with pytest.raises(UserError, match="instances_train2017.json.*train_annotation"):
        find_split(str(tmp_path), "train", make_config().dataset_config)


def test_test_images_are_those_of_the_annotation_file_if_there_is_one(tmp_path, make_config):
    (tmp_path / "list.json").write_text('{"images": [{"id": 7, "file_name": "b.png"}], "categories": [{"id": 1, "name": "x"}]}')
    (tmp_path / "test2017").mkdir()
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / "test2017" / name).write_bytes(b"")
    options = make_config("--dataset_config.test_annotation", "list.json").dataset_config
    split = find_split(str(tmp_path), "test", options)
    assert image_list(split, read_coco(split.annotation)) == [(7, str(tmp_path / "test2017" / "b.png"))]
    folder = image_list(find_split(str(tmp_path), "test", make_config().dataset_config), None)
    assert [(image_id, path.rsplit("/", 1)[1]) for image_id, path in folder] == [(1, "a.png"), (2, "b.png")]


def test_class_folders_below_the_image_folder(tmp_path, make_config):
    """The second documented layout: file_name holds the class folder."""
    (tmp_path / "annotations").mkdir()
    folder = tmp_path / "images" / "train" / "images" / "cat"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "1.png"), noise_image(1))
    content = {"images": [{"id": 1, "file_name": "cat/1.png"}], "categories": [{"id": 4, "name": "cat"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [5, 5, 20, 20]}]}
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    split = find_split(str(tmp_path), "train", make_config().dataset_config)
    manifest = convert(split, tmp_path / "out", "p", "cats")
    assert (manifest["images"], manifest["objects"], manifest["category_ids"]) == (1, 1, [4])


@pytest.mark.parametrize("text, words", [
    ("{", "not a COCO annotation file"), ("[]", "not a COCO annotation file"), ('{"images": []}', "not a COCO annotation file"),
    ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "file_name"),
    ('{"images": [], "annotations": [], "categories": []}', "no categories"),
])
def test_broken_annotation_files(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_coco(str(path))


# ---------------------------------------------------------------- conversion


def read_back(folder, prefix="coco_det.train.mind"):
    """{image id: (bytes, boxes, labels)} of MindRecord files, by MindSpore's own reader."""
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


def test_bad_records_are_skipped_counted_and_named(tmp_path, capsys):
    whole = cv2.imencode(".jpg", noise_image(1))[1].tobytes()
    images = {1: whole, 2: whole[: len(whole) // 2], 3: b"", 4: b"text", 5: whole}
    objects = [(1, 1, [1, 2, 30, 40]), (1, 9, [1, 2, 3, 4]), (1, 1, [1, 1, 0, 5]), (1, 1, [500, 2, 3, 4]), (2, 1, [1, 2, 3, 4])]
    annotation = write_coco(tmp_path, "train", images, objects)
    (tmp_path / "train2017" / "000000000005.jpg").unlink()
    manifest = convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad", num_shards=4)
    assert (manifest["images"], manifest["objects"]) == (1, 1)
    assert len(manifest["skipped"]) == 7
    output = capsys.readouterr().out
    for name in [f"annotation {number} of image 1" for number in (2, 3, 4)] + [f"image {number} " for number in (2, 3, 4, 5)]:
        assert f"skipped {name}" in output


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    annotation = write_coco(tmp_path, "train", {1: b"text"}, [])
    with pytest.raises(UserError, match="no usable image"):
        convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad")
    assert list((tmp_path / "out").iterdir()) == []


def test_empty_data_set_is_an_error(tmp_path):
    annotation = write_coco(tmp_path, "train", {}, [])
    with pytest.raises(UserError, match="no usable image"):
        convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "out", "p", "bad")


def test_a_stopped_conversion_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    annotation = write_coco(tmp_path, "train", {1: noise_image(1), 2: noise_image(2)}, [(1, 1, [1, 2, 30, 40])])
    split = Split(annotation, str(tmp_path / "train2017"))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mindspore.mindrecord.FileWriter.commit", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(split, tmp_path / "out", "p", "stopped")
    with pytest.raises(UserError, match="no finished conversion"):
        read_manifest(get_config("", ["--mindrecord_dir", str(tmp_path / "out"), "--mindrecord_prefix", "p"]))
    assert convert(split, tmp_path / "out", "p", "again")["images"] == 2


def test_a_finished_conversion_is_not_overwritten(tiny_data, tiny_records):
    before = {path: path.read_bytes() for path in tiny_records.iterdir()}
    done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", tiny_records, check=False)
    assert_user_error(done, "this conversion is done")
    assert {path: path.read_bytes() for path in tiny_records.iterdir()} == before


@pytest.mark.parametrize("words, part", [
    (["--coco_data_dir", "/nowhere", "--mindrecord_dir", "m"], "data set folder (--coco_data_dir) not found: /nowhere"),
    ([], "no data set folder (--coco_data_dir) given"),
])
def test_conversion_mistakes(tmp_path, words, part):
    assert_user_error(call_script("src/dataset.py", *words, cwd=tmp_path, check=False), part)


def test_conversion_into_a_read_only_folder(tiny_data):
    """/proc takes no files, not even from root."""
    done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", "/proc/nowhere", check=False)
    assert_user_error(done, "/proc/nowhere")


def test_missing_shard_is_named(tiny_records, tmp_path, make_config):
    shutil.copytree(tiny_records, tmp_path / "m")
    (tmp_path / "m" / "coco_det.train.mind1").unlink()
    with pytest.raises(UserError, match="coco_det.train.mind1"):
        dataset.TrainSet(make_config("--mindrecord_dir", tmp_path / "m"))


# ---------------------------------------------------------------- the training pipeline


def test_shares_cover_an_epoch_once():
    order = epochs.epoch_order(1003, 1, 4, True)
    assert sorted(order) == list(range(1003))
    shares = [epochs.rank_share(order, 8, rank, 3) for rank in range(3)]
    seen = np.concatenate(shares)
    assert len(np.unique(seen)) == len(seen) and 1003 - len(seen) < 24
    one = epochs.rank_share(order, 24, 0, 1)
    np.testing.assert_array_equal(np.concatenate([share.reshape(-1, 8) for share in shares], 1).ravel(), one)


def test_orders_differ_by_epoch_and_seed_alone():
    assert not np.array_equal(epochs.epoch_order(50, 1, 0, True), epochs.epoch_order(50, 1, 1, True))
    assert not np.array_equal(epochs.epoch_order(50, 1, 0, True), epochs.epoch_order(50, 2, 0, True))
    np.testing.assert_array_equal(epochs.epoch_order(50, 1, 3, True), epochs.epoch_order(50, 1, 3, True))
    np.testing.assert_array_equal(epochs.epoch_order(50, 1, 3, False), np.arange(50))


def batches(records, make_config, *words, first_step=0, epoch=1):
    small = ("--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4)
    config = make_config("--mindrecord_dir", records, *small, *words)
    train_set = dataset.TrainSet(config)
    start = epoch * train_set.steps_per_epoch
    pipeline = train_set.batches(start + first_step, start + train_set.steps_per_epoch)
    return list(pipeline.create_dict_iterator(num_epochs=1, output_numpy=True))


def network_input(batch):
    """What the network sees of the first sample of a batch: float32 [3, H, W]."""
    return image.apply_color(batch["image"][0], batch["color"][0])


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
    """MindSpore takes the arrays without copying them: they must not be freed while a tensor shows them."""
    config = make_config("--mindrecord_dir", tiny_records, "--train_config.batch_size", 4)
    train_set = dataset.TrainSet(config)
    made = []

    def make_batch(*words):
        batch = dataset.TrainSet.make_batch(train_set, *words)
        made.append([array.copy() for array in batch])
        return batch

    train_set.make_batch = make_batch
    train_set.config.dataset_config.num_workers = 1  # so that they are made in order
    batches = list(train_set.batches(0, 5).create_tuple_iterator(num_epochs=1))
    gc.collect()
    others = [np.full_like(array, 7) for batch in made for array in batch]
    assert len(batches) == len(made) == 5 and len(others) == 40
    for batch, expected in zip(batches, made):
        for tensor, array in zip(batch, expected):
            np.testing.assert_array_equal(tensor.asnumpy(), array)


def test_an_epoch_can_start_in_the_middle(tiny_records, make_config):
    whole, rest = batches(tiny_records, make_config), batches(tiny_records, make_config, first_step=3)
    assert len(rest) == 2
    np.testing.assert_array_equal(rest[0]["image"], whole[3]["image"])


def test_one_pipeline_serves_many_epochs(tiny_records, make_config):
    """From the middle of the second epoch to the fourth; what each epoch shuffles is its own."""
    config = make_config("--mindrecord_dir", tiny_records, "--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4)
    train_set = dataset.TrainSet(config)
    together = list(train_set.batches(8, 17).create_dict_iterator(num_epochs=1, output_numpy=True))
    apart = [batch for epoch in (1, 2, 3) for batch in batches(tiny_records, make_config, epoch=epoch)][3:12]
    assert len(together) == len(apart) == 9
    for a, b in zip(together, apart):
        for name in targets.columns(True):
            np.testing.assert_array_equal(a[name], b[name])
    assert train_set.batches(0, 10**9).get_dataset_size() == 10**9  # no list of them is made


def test_without_augmentation_a_sample_is_the_whole_image(tiny_data, tiny_records, make_config):
    """flip_prop, color_aug, scale, shift, aug_rot, do_shuffle switched off: the first sample is the first image."""
    words = ["--dataset_config.flip_prop", 0, "--dataset_config.color_aug", "false", "--dataset_config.rand_crop", "false",
             "--dataset_config.scale", 0, "--dataset_config.shift", 0, "--do_shuffle", "false"]
    sample = batches(tiny_records, make_config, *words)[0]
    options = make_config().dataset_config
    image = cv2.imread(str(tiny_data / "train2017" / "000001.jpg"))
    expected = ((image / 255.0 - options.mean) / options.std).transpose(2, 0, 1)
    np.testing.assert_allclose(network_input(sample), expected, atol=1e-4)
    coco = read_coco(str(tiny_data / "annotations" / "instances_train2017.json"))
    boxes = ground_truth_boxes(coco, 1, [1, 2, 3])[:, :4] / 4
    np.testing.assert_allclose(sample["wh"][0][: len(boxes)], np.clip(boxes[:, 2:], 0, 23) - np.clip(boxes[:, :2], 0, 23), atol=1e-4)


@pytest.mark.parametrize("words", [
    ("--dataset_config.aug_rot", 1, "--dataset_config.rotate", 30), ("--dataset_config.rand_crop", "false"),
    ("--dataset_config.flip_prop", 1), ("--dataset_config.color_aug", "false"), ("--dataset_config.scale", 0.1),
    ("--dataset_config.shift", 0.3, "--dataset_config.rand_crop", "false"), ("--seed", 5), ("--do_shuffle", "false"),
    ("--dataset_config.mean", "[0, 0, 0]"), ("--dataset_config.std", "[1, 1, 1]"),
    ("--dataset_config.eig_val", "[1, 1, 1]"), ("--dataset_config.eig_vec", "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"),
])
def test_every_augmentation_option_changes_the_samples(tiny_records, make_config, words):
    one, other = (network_input(batches(tiny_records, make_config, *changes)[0]) for changes in ((), words))
    assert not np.array_equal(one, other)


def test_rotation_stays_within_its_limit(make_config):
    options = make_config("--dataset_config.aug_rot", 0.5, "--dataset_config.rotate", 20).dataset_config
    rng = np.random.default_rng(0)
    angles = [image.random_rotation(rng, options.aug_rot, options.rotate) for _ in range(400)]
    assert max(map(abs, angles)) <= 20
    assert 0.4 < np.mean([angle != 0 for angle in angles]) < 0.6


def test_a_dense_size_with_mean_squared_error_fills_centers_alone():
    """The heatmap's gaussian is wider than draw_dense_reg's of radius 2, so that this is nowhere above it but at the center."""
    hm = np.zeros((2, 32, 32), np.float32)
    boxes = np.array([[4, 4, 20, 16], [18, 20, 26, 28]], np.float32)
    layout = targets.Layout((128, 128), 2, 8, 4, [], [], [], [], mse_loss=True, dense_wh=True)
    found = targets.encode_targets(boxes, np.array([0, 1]), layout, hm)
    expected = np.zeros((2, 32, 32), np.float32)
    expected[:, 10, 12] = 16, 12
    expected[:, 24, 22] = 8, 8
    np.testing.assert_array_equal(found["wh"], expected)
    assert (found["wh_mask"][0] > 0).sum() > 2 * 73


def test_max_objs_limits_the_slots(tiny_records, make_config):
    sample = batches(tiny_records, make_config, "--dataset_config.max_objs", 1)[0]
    assert sample["ind"].shape == (4, 1) and sample["reg_mask"].max() == 1


def test_an_image_without_objects_has_an_empty_heatmap(tmp_path, make_config):
    annotation = write_coco(tmp_path, "train", {1: noise_image(1)}, [])
    convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "m", "coco_det.train.mind", "none")
    sample = batches(tmp_path / "m", make_config, "--train_config.batch_size", 1)[0]
    assert sample["hm"].max() == 0 and sample["reg_mask"].max() == 0


def test_fewer_images_than_a_batch_is_an_error(tiny_records, make_config):
    with pytest.raises(UserError, match="20 images are fewer than one batch"):
        dataset.TrainSet(make_config("--mindrecord_dir", tiny_records, "--train_config.batch_size", 21))


@pytest.mark.parametrize("name, damage", [
    ("coco_det.train.mind0", lambda data: data[:3000]), ("coco_det.train.mind1.db", lambda data: data[:40] + bytes(500) + data[540:]),
    ("coco_det.train.mind0", lambda data: data[:-9000] + bytes(9000)),
])
def test_damaged_mindrecord_files_end_in_words(name, damage, tiny_records, tmp_path):
    shutil.copytree(tiny_records, tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(damage(path.read_bytes()))
    done = run_script("train.py", *TINY, "--mindrecord_dir", "m", "--epoch_size", 2, cwd=tmp_path, check=False)
    assert_user_error(done, "m: its MindRecord files are damaged", "convert the data set again")


def test_only_damage_is_called_damage(tiny_records, make_config):
    words = ("--mindrecord_dir", tiny_records, "--train_config.batch_size", 4)
    train_set = dataset.TrainSet(make_config(*words))
    with pytest.raises(RuntimeError, match="something else"), train_set.named_errors():
        raise RuntimeError("something else")
    train_set.layout = dataclasses.replace(train_set.layout, mean=[0.4, 0.4])  # which a configuration may not say
    with pytest.raises(UserError, match="the training images cannot be made .ValueError: ") as raised, train_set.named_errors():
        list(train_set.batches(0, 5).create_tuple_iterator(num_epochs=1))
    assert "damaged" not in str(raised.value)


def test_a_random_crop_without_scaling(tiny_records, make_config):
    """scale 0 is no scaling: regions are as wide as the image is long."""
    for seed in range(5):
        assert image.random_crop(np.random.default_rng(seed), (64, 48), 128.0, (128, 96), (True, 0.0, 0.1))[1] == 128
    assert len(batches(tiny_records, make_config, "--dataset_config.scale", 0)) == 5


def test_conversions_leave_foreign_folders_alone(tiny_data, tmp_path, make_config):
    """A folder with a name like that of an unfinished conversion stays; the files have a new file's usual mode."""
    (tmp_path / "m" / ".p.partial").mkdir(parents=True)
    split = find_split(str(tiny_data), "train", make_config().dataset_config)
    convert(split, tmp_path / "m", "p", tiny_data)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {".p.partial", "p", "p.db", "p.manifest.json"}
    (tmp_path / "plain").touch()
    assert (tmp_path / "m" / "p").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_of_another_size_are_not_opened(tiny_records, tmp_path, make_config):
    """Bytes added to a MindRecord file end MindSpore by signal 11."""
    shutil.copytree(tiny_records, tmp_path / "m")
    with open(tmp_path / "m" / "coco_det.train.mind1", "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"are damaged.*coco_det.train.mind1 has \d+ bytes, the conversion wrote \d+"):
        dataset.TrainSet(make_config("--mindrecord_dir", tmp_path / "m"))
