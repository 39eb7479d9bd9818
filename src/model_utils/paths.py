"""Paths in a configuration, for processes that run in other folders than their caller."""
import os

from .config import Config, load_defaults

# With enable_modelarts these are paths in checkpoint_url and data_url.
IN_BUCKET = ("load_checkpoint_path", "export_config.ckpt_file", "data_dir")


def absolute_paths(config: Config) -> dict[str, str]:
    """{parameter: absolute path} of a Config's inputs. Output paths stay relative to the folder of such a process."""
    _, _, rules = load_defaults()
    kept = IN_BUCKET if config.enable_modelarts else ()
    found = {name: os.path.abspath(value) for name, value in config.parameters().items()
             if rules[name]["kind"] == "path" and value.strip() and name not in kept}
    annotation = training_annotation(config)
    if os.path.isfile(annotation):
        found["dataset_config.train_annotation"] = os.path.abspath(annotation)
    return found


def training_annotation(config: Config) -> str:
    """The path of train_annotation: in data_dir if it exists there, else relative to the current folder; an empty
    string if it is not set."""
    annotation = config.dataset_config.train_annotation
    in_data_dir = os.path.join(config.data_dir, annotation)
    return in_data_dir if os.path.isfile(in_data_dir) else annotation
