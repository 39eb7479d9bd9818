"""A module name of earlier versions; zoo_names.py lists the modules with its content."""
if __package__:  # run as a script it does nothing, as in the model zoo
    from .model_utils.zoo_names import getter

    __getattr__ = getter(__name__)
