"""The fields of labels that a task keeps: keypoints, 3D boxes, or neither."""
from ...core.errors import UserError
from ...core.tables import abbreviate
from ...tasks.ddd.targets import has_box
from .boxes_3d import DONT_CARE, drop_fields
from .common import Labels, count_labeled
from .keypoints import OUTSIDE


def _objects(labels: Labels) -> list[tuple[str, dict]]:
    """The objects of all images."""
    return [item for images in labels.parts.values() for image in images for item in image.objects]


def choose_task(labels: Labels, task: str) -> None:
    """Keep the keypoints of labels for "pose", their 3D boxes for "ddd", for "auto" those that they have; drop others.

    Raises UserError if "pose" finds no keypoints, or "ddd" no 3D boxes.
    """
    keypoints = sum(count_labeled(labels, split) for split in labels.parts)
    solid = [name for name, annotation in _objects(labels) if has_box(annotation)]
    if task == "pose" and not keypoints or task == "ddd" and not {*solid} - {DONT_CARE}:
        what = "keypoints" if task == "pose" else "a 3D box (dim and depth)"
        raise UserError(f"{labels.folder}: no object has {what}; choose --task detection"
                        f"{f'; {labels.skipped[0]}' if labels.skipped else ''}")
    _keep_keypoints(labels, task, keypoints)
    if solid and task not in ("auto", "ddd"):
        _drop_boxes_3d(labels)


def _keep_keypoints(labels: Labels, task: str, found: int) -> None:
    """Keep the keypoints of labels for "pose", and for "auto" if some are found; drop the others."""
    if task not in ("auto", "pose") or not found:
        if task == "auto" and labels.keypoints:
            named = abbreviate(labels.keypoints, 3)
            labels.notes.append(f"no object has keypoints, although classes name some ({named}): boxes are imported")
        labels.keypoints, labels.repairs[OUTSIDE] = {}, 0
    for name, annotation in _objects(labels):
        if name not in labels.keypoints:
            annotation.pop("keypoints", None)
            annotation.pop("num_keypoints", None)


def _drop_boxes_3d(labels: Labels) -> None:
    """Drop the 3D boxes of labels, and the regions whose objects are not labeled."""
    drop_fields(annotation for _, annotation in _objects(labels))
    regions = sum(name == DONT_CARE for name, _ in _objects(labels))
    for image in (image for images in labels.parts.values() for image in images):
        image.objects = [(name, annotation) for name, annotation in image.objects if name != DONT_CARE]
    labels.categories.pop(DONT_CARE, None)
    if regions:
        labels.notes.append(f"{regions} {DONT_CARE} regions are dropped, and count as background: only 3D boxes "
                            "(--task ddd) are trained with regions to ignore")
