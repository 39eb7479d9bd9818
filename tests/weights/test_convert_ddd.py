"""tools/convert_centernet.py for 3D boxes: the paper authors' detectors, both directions."""
import json

import numpy as np
import pytest
import torch

from src.commands import convert_centernet
from src.core.errors import UserError
from src.inference.predictor import Predictor
from src.weights.side_file import read_side_file
from tests import parity
from tests.weights.test_convert import call, save
from tests.weights.test_convert_pose import shapes_of

pytestmark = pytest.mark.usefixtures("undrawn")  # all weights come from files
# The original's.
CALIB = [[707.0493, 0, 604.0814, 45.75831], [0, 707.0493, 180.5066, -0.3454157], [0, 0, 1, 0.004981016]]


def ddd_state(without=(), classes=3):
    """Different numbers in the shapes of the original's DLA-34 for 3D boxes, without some heads."""
    shapes = {name: (classes, *shape[1:]) if name.startswith("hm.2.") else shape
              for name, shape in shapes_of("ddd_dla_34_shapes.json").items() if name.split(".")[0] not in without}
    return parity.counting(shapes)


@pytest.mark.slow
def test_round_trip_of_the_originals_detector(tmp_path, capsys):
    """ddd_3dop: KITTI's classes and camera, its recipe's normalization and input, and the same bits back."""
    state = ddd_state()
    call(convert_centernet.main, "--ckpt_file", save(tmp_path / "ddd_3dop.pth", state), "--output_file",
         tmp_path / "d.ckpt")
    output = capsys.readouterr().out
    assert "3 classes, dla_34" in output and "--dataset_config.mean '[0.485, 0.456, 0.406]'" in output
    side = read_side_file(str(tmp_path / "d.ckpt"))
    assert (side["classes"], side["category_ids"], side["dataset"]) == (["Pedestrian", "Car", "Cyclist"], [1, 2, 3],
                                                                        "kitti")
    assert (side["mean"], side["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert side["input_res_train"] == [1280, 384] and side["camera"]["matrix"] == CALIB
    assert side["camera"]["focal"] == pytest.approx(707.0493 * 1280 / 1224)
    assert side["evaluation"]["eval_config.keep_res"] is False
    assert side["evaluation"]["dataset_config.input_res_test"] == [1280, 384]
    options = side["net_config"]
    assert (options["task"], options["arch"]) == ("ddd", "dla_34") and options["reg_bbox"] and options["reg_offset"]
    call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "d.ckpt", "--output_file", tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert set(back) == {name for name in state if not name.startswith("base.fc.")}
    for name, value in back.items():
        assert np.array_equal(value.numpy(), state[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("without, option", [(("wh",), "reg_bbox"), (("reg",), "reg_offset")])
def test_a_detector_without_a_head_detects(without, option, tmp_path):
    call(convert_centernet.main, "--ckpt_file", save(tmp_path / "d.pth", ddd_state(without)), "--output_file",
         tmp_path / "d.ckpt")
    assert read_side_file(str(tmp_path / "d.ckpt"))["net_config"][option] is False
    found = Predictor(tmp_path / "d.ckpt", "CPU", input_res=[128, 64])(np.zeros((60, 128, 3), np.uint8))
    assert found.boxes_3d.shape == (100, 7) and found.corners.shape == (100, 8, 3)


@pytest.mark.parametrize("missing", ["dep", "rot", "dim"])
def test_a_missing_head_is_named(missing, tmp_path):
    with pytest.raises(UserError, match=f"it lacks {missing}.0.weight"):
        call(convert_centernet.main, "--ckpt_file", save(tmp_path / "d.pth", ddd_state((missing,))), "--output_file",
             tmp_path / "d.ckpt")


def test_other_classes_and_their_camera_come_from_an_annotation_file(tmp_path):
    annotation = tmp_path / "a.json"
    calib = [[500, 0, 300, 0], [0, 500, 100, 0], [0, 0, 1, 0]]
    images = [{"id": 1, "file_name": "1.png", "width": 600, "height": 200, "calib": calib}]
    annotation.write_text(json.dumps({"images": images, "annotations": [], "categories": [
        {"id": 4, "name": "boat"}, {"id": 9, "name": "buoy"}]}))
    path = save(tmp_path / "d.pth", ddd_state(classes=2))
    with pytest.raises(UserError, match="2 classes but no names; name them with --annotation"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "d.ckpt")
    call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "d.ckpt", "--annotation", annotation)
    side = read_side_file(str(tmp_path / "d.ckpt"))
    assert side["classes"] == ["boat", "buoy"] and side["camera"]["matrix"] == calib
    assert side["camera"]["focal"] == pytest.approx(500 * 1280 / 600)
