"""3D boxes of labels: the fields of the annotations that have them.

dim [h, w, l] and location [x, y, z], the bottom's center, in meters in camera coordinates; depth, its z; alpha and
rotation_y, the observation angle and the rotation about the y axis, in radians. Their images have calib, the camera's
3x4 projection matrix.
"""
import math
from collections.abc import Iterable
from typing import Any

from ...core.errors import UserError
from ...core.kinds import is_number, list_of

TESTS = {"dim": list_of(is_number, 3), "location": list_of(is_number, 3), "depth": is_number, "alpha": is_number,
         "rotation_y": is_number}
DONT_CARE = "DontCare"  # the class of regions with objects that are not labeled: their 3D boxes are placeholders


def check_box(annotation: dict[str, Any], name: str) -> None:
    """Raise UserError unless the 3D box of an annotation of the class `name` is one in front of the camera.

    DONT_CARE regions and crowds may have any numbers.
    """
    for field, test in TESTS.items():
        if field in annotation and not test(annotation[field]):
            expected = "3 finite numbers" if field in ("dim", "location") else "a finite number"
            raise UserError(f"{field} {str(annotation[field])[:50]}; expected {expected}")
    if name == DONT_CARE or annotation.get("iscrowd"):
        return
    if min(annotation["dim"]) <= 0:
        raise UserError(f"dim {annotation['dim']}; expected height, width and length in meters, above 0")
    if wrong := [angle for angle in ("alpha", "rotation_y") if abs(annotation.get(angle, 0)) > 2 * math.pi]:
        raise UserError(f"{wrong[0]} {annotation[wrong[0]]:g}; expected radians")
    depth = annotation["depth"] if "depth" in annotation else annotation["location"][2]
    if depth <= 0:
        raise UserError(f"depth {depth:g}; expected meters in front of the camera, above 0")


def drop_fields(annotations: Iterable[dict]) -> None:
    """Remove the fields of 3D boxes from annotations, in place."""
    for annotation in annotations:
        for field in TESTS:
            annotation.pop(field, None)
