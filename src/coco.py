"""This project's name of earlier versions: zoo_names.py says where its content lives."""
from .model_utils.zoo_names import getter

__getattr__ = getter(__name__)
