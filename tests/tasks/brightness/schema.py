"""What the web service answers."""
from src.tasks.detection import schema


class Object(schema.Object):
    """An object detected, with its brightness in each channel."""

    light: list[float]


def objects(rows, metainfo):
    return [{**found, "light": light} for found, light in zip(schema.objects(rows[:, :6], metainfo), rows[:, 6:].tolist())]
