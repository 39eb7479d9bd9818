"""The paths in a configuration, for processes that work in other folders than their caller."""
import os

from src.model_utils.config import load_defaults

IN_BUCKET = ("load_checkpoint_path", "export_config.ckpt_file", "data_dir")  # with enable_modelarts: inside checkpoint_url and data_url


def absolute_paths(config):
    """{parameter: absolute path} of what a Config reads at relative paths. What is written goes where such a process works."""
    _, _, rules = load_defaults()
    kept = IN_BUCKET if config.enable_modelarts else ()
    found = {name: os.path.abspath(value) for name, value in config.parameters().items()
             if rules[name]["kind"] == "path" and value.strip() and not os.path.isabs(value) and name not in kept}
    annotation = config.dataset_config.train_annotation  # in data_dir or, for the model zoo's MindRecord files, anywhere
    if os.path.isfile(annotation) and not (config.data_dir and os.path.isfile(os.path.join(config.data_dir, annotation))):
        found["dataset_config.train_annotation"] = os.path.abspath(annotation)
    return found
