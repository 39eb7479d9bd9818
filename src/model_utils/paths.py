"""The paths in a configuration, for processes that work in other folders than their caller."""
import os

from .config import load_defaults

IN_BUCKET = ("load_checkpoint_path", "export_config.ckpt_file", "data_dir")  # with enable_modelarts: inside checkpoint_url and data_url


def absolute_paths(config):
    """{parameter: absolute path} of what a Config reads. What is written goes where such a process works."""
    _, _, rules = load_defaults()
    kept = IN_BUCKET if config.enable_modelarts else ()
    found = {name: os.path.abspath(value) for name, value in config.parameters().items()
             if rules[name]["kind"] == "path" and value.strip() and name not in kept}
    annotation = training_annotation(config)
    if os.path.isfile(annotation):
        found["dataset_config.train_annotation"] = os.path.abspath(annotation)
    return found


def training_annotation(config):
    """The path of the file that train_annotation names: in data_dir if it is there, else from the current folder; "" without."""
    annotation = config.dataset_config.train_annotation
    in_data_dir = os.path.join(config.data_dir, annotation)
    return in_data_dir if os.path.isfile(in_data_dir) else annotation
