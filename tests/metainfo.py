"""Metainfo of data sets, as read from annotation files."""


def classes_of(count):
    """The metainfo of a data set with `count` classes, and for pose three keypoints; the last class has only one."""
    keypoints = {"names": ["nose", "left", "right"], "skeleton": [[0, 1]], "flip_idx": [[1, 2]],
                 "of_class": [*[[0, 1, 2]] * (count - 1), [0] if count > 1 else [0, 1, 2]]}
    return {"classes": [f"class {number}" for number in range(count)], "category_ids": list(range(1, count + 1)),
            "keypoints": keypoints}
