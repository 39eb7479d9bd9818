"""CenterNet (Objects as Points) on MindSpore. The names below are loaded on first use."""
from typing import TYPE_CHECKING

from .core.version import __version__

if TYPE_CHECKING:
    from .core.errors import UserError
    from .inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "UserError", "__version__"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        from .model_utils.zoo_names import refuse_zoo_name

        refuse_zoo_name(__name__, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .core import errors
    from .inference import predictor  # slow to load

    return getattr(errors if name == "UserError" else predictor, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
