"""src/imaging/camera.py: calibrations, projection, 3D boxes and their edges."""
import json

import numpy as np
import pytest

from src.core.errors import UserError
from src.imaging import camera
from tests.conftest import load_golden, user_error

GOOD = [[700.0, 0.0, 600.0, 45.0], [0.0, 710.0, 180.0, -0.5], [0.0, 0.0, 1.0, 0.005]]
FLAT = [number for row in GOOD for number in row]
SIMPLE = np.array([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0]])  # center 50, 40; 100 pixels at a meter
ROW = " ".join(map(str, FLAT))
KITTI = f"P0: {' '.join(['7'] * 12)}\nP1: {' '.join(['8'] * 12)}\nP2: {ROW}\nP3: 1 2\nR0_rect: 1 0 0\n\n"


def changed(row, column, value):
    """GOOD with another number."""
    matrix = [list(numbers) for numbers in GOOD]
    matrix[row][column] = value
    return matrix


# ---------------------------------------------------------------- calibrations


@pytest.mark.parametrize("value, expected", [
    (GOOD, GOOD), (FLAT, GOOD), (np.array(GOOD), GOOD), (np.array(GOOD, np.float32), np.float32(GOOD)),
    (np.array(FLAT), GOOD), (tuple(map(tuple, GOOD)), GOOD), (tuple(FLAT), GOOD),
    ([700, 710, 600, 180], [[700, 0, 600, 0], [0, 710, 180, 0], [0, 0, 1, 0]]),
    ((700, 710, 600, 180), [[700, 0, 600, 0], [0, 710, 180, 0], [0, 0, 1, 0]]),
    (np.array([700, 710, 600, 180]), [[700, 0, 600, 0], [0, 710, 180, 0], [0, 0, 1, 0]]),
])
def test_calibrations_of_every_form(value, expected):
    found = camera.check_calib(value)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [
    None, 3, "text", ROW, {}, [], [700, 700, 600], GOOD[:2], [*GOOD, [0, 0, 0, 1]], FLAT[:9], [*FLAT, 1],
    [row[:3] for row in GOOD], [GOOD[0], GOOD[1], GOOD[2][:3]], changed(0, 3, float("nan")),
    changed(1, 1, float("inf")), changed(0, 0, "700"), changed(0, 0, None), changed(0, 0, True), changed(0, 0, [700]),
    [GOOD], np.array(GOOD)[:, :3], np.zeros((0, 4)), np.array("x"), np.array(7), ["7"] * 12, (("a",) * 4,) * 3,
    [[[]] * 4] * 3, [700, 700, 600, float("nan")], 12 * [10**400],
])
def test_other_values_are_refused(value):
    with user_error("3 rows of 4 finite numbers", "fx, fy, cx, cy"):
        camera.check_calib(value)


@pytest.mark.parametrize("value, parts", [
    (changed(0, 0, 0.0), ("focal", "0 and 710")), (changed(1, 1, -710.0), ("focal", "-710")),
    ([-1, 700, 600, 180], ("focal", "-1")), ([0, 0, 0, 0], ("focal", "0 and 0")), (12 * [0], ("focal",)),
    (changed(2, 2, 0.0), ("singular",)), ([GOOD[0], GOOD[1], [0, 0, 1e-9, 1]], ("singular",)),
    ([GOOD[0], GOOD[1], GOOD[0]], ("singular",)), ([[700, 700, 1, 0], [700, 700, 1, 0], GOOD[2]], ("singular",)),
    (changed(0, 1, 70), ("skew",)), (changed(1, 0, -70), ("skew",)), (changed(2, 0, 0.1), ("rotation",)),
    (changed(2, 1, 0.1), ("rotation",)), (changed(2, 2, 2.0), ("fx, 0, cx; 0, fy, cy; 0, 0, 1",)),
])
def test_calibrations_that_are_no_cameras_are_refused(value, parts):
    """Skew and rotation would be left out when a pixel is taken back to a point."""
    with user_error(*parts):
        camera.check_calib(value)


@pytest.mark.parametrize("value", [changed(0, 1, 1e-9), changed(2, 2, 1 + 1e-9), changed(1, 0, 0.5)])
def test_rounded_numbers_are_accepted(value):
    np.testing.assert_array_equal(camera.check_calib(value), value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [
    [1e200, 1e200, 600, 180], [1e-200, 1e-200, 600, 180], [5e-324, 5e-324, 0, 0], [1e308, 1e308, 1e308, 1e308],
    changed(0, 3, 1e200), changed(2, 2, 1e250), changed(1, 2, -1e300), 12 * [1e300], [1e200, 700, 600, 180],
    [700, 700, 600, 1.5e308],
])
def test_numbers_that_overflow_are_refused(value):
    """The determinant, or positions in the image, would be infinite; without a warning of NumPy."""
    with pytest.raises(UserError):
        camera.check_calib(value)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("content", [
    KITTI, f"P2: {ROW}", f"  P2: {ROW}\r\nP3: 1\r\n", ROW, f"{', '.join(map(str, FLAT))}\n", ROW.replace(" ", "\n"),
    json.dumps(GOOD), json.dumps(FLAT), json.dumps({"calib": GOOD}), json.dumps({"file": "a:b", "calib": FLAT}),
    json.dumps({"calib": GOOD, "image": "1.png"}, indent=2), json.dumps(GOOD, indent=1),
    "\ufeff" + KITTI, "\ufeff" + json.dumps({"calib": GOOD}), "\ufeff" + ROW, f"\n{json.dumps({'calib': GOOD})}",
])
def test_files_of_every_form(content, tmp_path):
    (tmp_path / "c.txt").write_bytes(content.encode())
    np.testing.assert_array_equal(camera.read_calib(str(tmp_path / "c.txt")), GOOD)


def test_four_numbers_in_a_file(tmp_path):
    (tmp_path / "c.txt").write_text("700 710 600 180\n")
    assert camera.read_calib(str(tmp_path / "c.txt")).tolist() == [[700, 0, 600, 0], [0, 710, 180, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("content, parts", [
    ("", ("3 rows",)), ("\n \n", ("3 rows",)), (KITTI.replace("P2:", "P4:"), ("P2:", "P0, P1, P4, P3")),
    ("calib_time: 09-Jan-2012 13:57:47\nP_rect_02: 1 2\n", ("P2:", "calib_time, P_rect_02")),
    (KITTI.replace(ROW, ROW + " 3"), ("3 rows",)), (KITTI.replace(ROW, ""), ("3 rows",)),
    (KITTI.replace("700.0", "nan"), ("3 rows",)), (KITTI.replace("700.0", "1e999"), ("3 rows",)),
    (KITTI.replace("700.0", "seven"), ("seven",)), (KITTI.replace("700.0", "-700"), ("focal", "-700")),
    (KITTI.replace("700.0", "0"), ("focal",)), ("some words", ("some",)), ("700 700 600", ("3 rows",)),
    ("[1, 2", ("[1",)), ("{}", ("3 rows",)), ('{"calib": null}', ("3 rows",)), ('{"calib": "x"}', ("3 rows",)),
    ('{"P2": [1]}', ("3 rows",)), ("null", ("3 rows",)), ("12", ("3 rows",)), ("[[[[]]]]", ("3 rows",)),
    ('{"calib": [NaN, 1, 2, 3]}', ("3 rows",)),
])
def test_files_without_a_calibration_are_named(content, parts, tmp_path):
    (tmp_path / "c.txt").write_text(content)
    with user_error("c.txt", *parts):
        camera.read_calib(str(tmp_path / "c.txt"))


@pytest.mark.parametrize("content", [
    "[" * 100_000, '{"a":' * 100_000, "\0" * 100, "1" * 5000, f"[{'9' * 5000}]", f"P2: {'x' * 100_000}",
    f"{'x' * 100_000}:", f"P2: {'1 ' * 100_000}"], ids=range(8))
def test_messages_about_long_files_are_short(content, tmp_path):
    """One line, whatever the file has."""
    (tmp_path / "c.txt").write_text(content)
    with user_error("c.txt") as raised:
        camera.read_calib(str(tmp_path / "c.txt"))
    assert len(str(raised.value)) < len(str(tmp_path)) + 400 and "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [bytes(range(256)) * 40, b"\xff\xfe" + ROW.encode("utf-16-le"), b"\x89PNG\r\n\x1a\n"])
def test_binary_files_are_named(data, tmp_path):
    (tmp_path / "c.txt").write_bytes(data)
    with user_error("c.txt"):
        camera.read_calib(str(tmp_path / "c.txt"))


def test_folders_and_missing_files_are_named(tmp_path):
    with user_error("calibration is a folder", tmp_path):
        camera.read_calib(str(tmp_path))
    with user_error("calibration not found", "no.txt"):
        camera.read_calib(str(tmp_path / "no.txt"))


# ---------------------------------------------------------------- projection


def test_points_are_projected_by_hand():
    points = np.array([[0, 0, 1], [1, 0, 2], [-1, 0.5, 10], [0, 0, -1]])
    np.testing.assert_allclose(camera.project(points, SIMPLE), [[50, 40], [100, 40], [40, 45], [50, 40]])
    moved = SIMPLE + np.array([[0, 0, 0, 6], [0, 0, 0, -8], [0, 0, 0, 1]])  # the point 0, 0, 1 is at (56, 32) / 2
    np.testing.assert_allclose(camera.project(points[0], moved), [28, 16])


def test_points_are_projected_as_in_opencv():
    import cv2

    points = np.random.default_rng(1).uniform([-5, -2, 2], [5, 2, 30], (40, 3))
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), SIMPLE[:, :3].copy(), None)[0][:, 0]
    np.testing.assert_allclose(camera.project(points, SIMPLE), expected, atol=1e-9)


def test_unproject_is_the_inverse():
    """The depth is z plus the matrix's last number, as in the original; (x, y) alone or in arrays."""
    points = np.random.default_rng(0).uniform([-20, -2, 1], [20, 2, 80], (4, 5, 3))
    calib = np.array(GOOD)
    pixels = camera.project(points, calib)
    np.testing.assert_allclose(camera.unproject(pixels, points[..., 2] + 0.005, calib), points, atol=1e-9)
    np.testing.assert_allclose(camera.unproject(np.array([100, 40]), np.array(2), SIMPLE), [1, 0, 2])


@pytest.mark.parametrize("angle, expected", [
    (0, 0), (3, 3), (np.pi, np.pi), (-np.pi, -np.pi), (4, 4 - 2 * np.pi), (-4, 2 * np.pi - 4), (6.2, 6.2 - 2 * np.pi),
    (2 * np.pi, 0)])
def test_angles_wrap(angle, expected):
    assert camera.wrapped(angle) == pytest.approx(expected)
    np.testing.assert_allclose(camera.wrapped(np.array([angle, 1])), [expected, 1], atol=1e-12)


def test_observation_angles_by_hand():
    """In the middle both are equal; 100 pixels beside it, with a focal length of 100, they differ by 45 degrees."""
    alpha, x = np.array([0.5, 0.5, 0.5, 3.0, -3.0]), np.array([50, 150, -50, 150, -50])
    expected = [0.5, 0.5 + np.pi / 4, 0.5 - np.pi / 4, 3 + np.pi / 4 - 2 * np.pi, -3 - np.pi / 4 + 2 * np.pi]
    np.testing.assert_allclose(camera.rotation_of(alpha, x, SIMPLE), expected)
    np.testing.assert_allclose(camera.alpha_of(camera.rotation_of(alpha, x, SIMPLE), x, SIMPLE), alpha)


def test_geometry_is_the_originals():
    """Corners, pixels and angles that the paper's code computes."""
    golden = load_golden("tasks/ddd_geometry.npz")
    calib = golden["calib"].astype(np.float64)
    found = camera.corners(golden["dim"], golden["location"], golden["rotation_y"])
    np.testing.assert_allclose(found, golden["corners"], atol=1e-4)
    np.testing.assert_allclose(camera.project(found, calib), golden["pixels"], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(camera.alpha_of(golden["rotation_y"], golden["center_x"], calib), golden["alpha"],
                               atol=1e-5)


# ---------------------------------------------------------------- 3D boxes


def box(h=2.0, w=1.0, length=4.0, place=(0.0, 0.0, 10.0), degrees=0.0):
    """The corners [8, 3] of one box."""
    return camera.corners(np.array([[h, w, length]]), np.array([place]), np.radians([degrees]))[0]


def test_corners_by_hand():
    """Without rotation the length lies along x, and the front is at the right; y is down, so the top is at -h."""
    ground = [[2, 0, 10.5], [2, 0, 9.5], [-2, 0, 9.5], [-2, 0, 10.5]]
    np.testing.assert_allclose(box(), ground + [[x, -2, z] for x, _, z in ground], atol=1e-12)
    front = [[0.5, 0, 8], [-0.5, 0, 8], [-0.5, 0, 12], [0.5, 0, 12]]  # a quarter turn: towards the camera
    np.testing.assert_allclose(box(degrees=90), front + [[x, -2, z] for x, _, z in front], atol=1e-12)
    np.testing.assert_allclose(box(degrees=-90)[:2, 2], [12, 12])
    np.testing.assert_allclose(box(place=(1, 2, 3)) - box(place=(0, 0, 0)), np.tile([1, 2, 3], (8, 1)))


def test_corners_of_several_boxes():
    sizes, places, angles = np.array([[2, 1, 4], [1, 1, 1.0]]), np.array([[0, 0, 10], [3, 1, 5.0]]), np.radians([0, 90])
    found = camera.corners(sizes, places, angles)
    assert found.shape == (2, 8, 3)
    np.testing.assert_allclose(found[1], box(1, 1, 1, (3, 1, 5), 90))
    assert camera.corners(sizes[:0], places[:0], angles[:0]).shape == (0, 8, 3)


def test_edges_connect_neighboring_corners():
    """Each of the twelve is parallel to one side of the box, four to each."""
    solid = box()
    lengths = [np.linalg.norm(solid[a] - solid[b]) for a, b in camera.EDGES]
    assert sorted(np.round(lengths, 9)) == [1] * 4 + [2] * 4 + [4] * 4
    assert len({frozenset(edge) for edge in camera.EDGES}) == 12


def test_segments_of_a_box_in_front():
    solid = box()
    found = camera.segments(solid, SIMPLE)
    assert found.shape == (12, 2, 2)
    np.testing.assert_allclose(found, camera.project(solid, SIMPLE)[np.array(camera.EDGES)])


def test_segments_are_cut_at_the_near_plane():
    """A box from z = -1 to 1 and x = -1 to 1 whose bottom is 1 m below the camera: its edges along z end at 0.1 m.

    There, x = 1 is 50 + 100 / 0.1 and y = 1 is 40 + 1000; at z = 1, they are 150 and 140. The back's edges are hidden.
    """
    found = camera.segments(box(0.5, 2, 2, (0, 1, 0)), SIMPLE)
    assert found.shape == (8, 2, 2)  # four at z = 1, four along z
    along = {tuple(map(tuple, segment.round(6).tolist())) for segment in found}
    along = {frozenset(ends) for ends in along}
    assert {frozenset([(150, 140), (1050, 1040)]), frozenset([(-50, 140), (-950, 1040)]),
            frozenset([(150, 90), (1050, 540)]), frozenset([(-50, 90), (-950, 540)])} <= along
    np.testing.assert_allclose(camera.bounding_boxes(box(0.5, 2, 2, (0, 1, 0))[None], SIMPLE),
                               [[-950, 90, 1050, 1040]])


def test_the_near_plane_counts_with_the_matrixs_depth():
    """A calibration that adds 2 m to each depth shows what is up to 1.9 m behind the camera."""
    deep = SIMPLE + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2.0]])
    assert camera.segments(box(place=(0, 0, -1)), deep).shape == (12, 2, 2)
    assert camera.segments(box(place=(0, 0, -3)), deep).shape == (0, 2, 2)


@pytest.mark.parametrize("z", [-0.5, -10, -1e9])
def test_boxes_behind_the_camera_are_nowhere(z):
    solid = box(place=(0, 0, z), w=0.5)
    assert camera.segments(solid, SIMPLE).shape == (0, 2, 2)
    np.testing.assert_array_equal(camera.bounding_boxes(solid[None], SIMPLE), [[0, 0, 0, 0]])


def test_bounding_boxes_surround_the_corners():
    """x from -2 to 2 at 9.5 and 10.5 m, y from -2 to 0, by hand; no boxes are none."""
    near = 100 / 9.5
    found = camera.bounding_boxes(np.stack([box(), box(place=(0, 0, -10))]), SIMPLE)
    np.testing.assert_allclose(found, [[50 - 2 * near, 40 - 2 * near, 50 + 2 * near, 40], [0, 0, 0, 0]])
    assert camera.bounding_boxes(np.zeros((0, 8, 3)), SIMPLE).shape == (0, 4)


@pytest.mark.filterwarnings("error")
def test_edges_of_random_boxes_are_finite():
    """Around, in and behind the camera, and of no size."""
    rng = np.random.default_rng(2)
    solids = camera.corners(rng.uniform(0, 5, (300, 3)) * rng.integers(0, 2, (300, 1)), rng.uniform(-4, 4, (300, 3)),
                            rng.uniform(-4, 4, 300))
    seen = [camera.segments(solid, np.array(GOOD)) for solid in solids]
    assert all(np.isfinite(lines).all() for lines in seen) and {0, 12} < set(map(len, seen))
    assert np.isfinite(camera.bounding_boxes(solids, np.array(GOOD))).all()
