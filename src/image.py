"""A module name of the model zoo; zoo_names.py lists the modules with its content."""
from .model_utils.zoo_names import getter

__getattr__ = getter(__name__)
