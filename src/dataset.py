"""The model zoo's command to convert a data set.

python src/dataset.py --coco_data_dir D --mindrecord_dir M [--mindrecord_prefix P]
"""
import os
import sys

if __name__ == "__main__":
    if __package__:  # python -m centernet.dataset
        from .commands import start
    else:
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        from src.commands import start

    start("dataset")
else:
    from .model_utils.zoo_names import getter

    __getattr__ = getter(__name__)
