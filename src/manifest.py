"""The file beside MindRecord files that says what they hold; JSON only."""
import os

from src import errors
from src.errors import UserError
from src.utils import read_json


def manifest_path(mindrecord_dir, prefix):
    """The file that is written last, and says what the MindRecord files hold."""
    return os.path.join(mindrecord_dir, f"{prefix}.manifest.json")


def read_manifest(mindrecord_dir, prefix):
    """The manifest of a finished conversion, with the shards' presence checked. Raises UserError."""
    errors.require_dir(mindrecord_dir, "MindRecord folder (--mindrecord_dir)")
    path = manifest_path(mindrecord_dir, prefix)
    if not os.path.isfile(path):
        raise UserError(f"no finished conversion in {mindrecord_dir}: {os.path.basename(path)} is missing; "
                        "run bash scripts/convert_dataset_to_mindrecord.sh first")
    manifest = read_json(path, "a manifest of MindRecord files", ("files", "classes", "category_ids"))
    for name in [*manifest["files"], *(f"{file}.db" for file in manifest["files"])]:
        errors.require_file(os.path.join(mindrecord_dir, name), "MindRecord file")
    return manifest
