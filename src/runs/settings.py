"""The settings of a run, as its folder records them."""
from ..core.errors import UserError
from ..core.files import read_json
from ..model_utils.config import as_text, flatten, load_defaults, read_config_file
from ..tasks import task_of

SECTIONS = ("net_config", "training", "evaluation")  # of a side file, besides its fields about the data
DATA = ("dataset", "classes", "category_ids")
SAME = {"input_res_train": "dataset_config.input_res_train", "mean": "dataset_config.mean", "std": "dataset_config.std"}


def read_settings_file(path: str) -> dict[str, str]:
    """{parameter: value as text} of a run's settings.yaml. Raises UserError."""
    return {str(name): as_text(value) or '""' for name, value in read_config_file(path).items()}


def read_settings(path: str) -> dict[str, str]:
    """{parameter: value as text} of a checkpoint's side file. Raises UserError."""
    description = read_json(path, "the side file of a checkpoint", {})
    flat = {SAME.get(name, name): value for name, value in description.items() if name in (*DATA, *SAME)}
    try:
        for section in SECTIONS:
            if isinstance(description.get(section), dict):
                flat |= flatten(description[section], "net_config." if section == "net_config" else "")
        flat.setdefault("net_config.task", task_of({}).name)  # earlier versions name none
        return {name: as_text(value) or '""' for name, value in flat.items()}
    except RecursionError as error:
        raise UserError(f"{path}: not the side file of a checkpoint (settings nested too deeply)") from error


def changed(settings: dict[str, str]) -> list[tuple[str, str, str]]:
    """Rows (parameter, value, default) of the settings that differ from their defaults; "–" if there is no default."""
    defaults = {name: as_text(value) or '""' for name, value in load_defaults()[0].items()}
    return [(name, value, defaults.get(name, "–")) for name, value in sorted(settings.items())
            if name not in DATA and value != defaults.get(name)]
