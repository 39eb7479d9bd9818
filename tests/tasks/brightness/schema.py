"""The web service's description of an object."""
from src.tasks.detection import schema


class Object(schema.Object):
    """A detected object, with its brightness in each channel."""

    light: list[float]


def about(metainfo):
    return {"channels": metainfo["channels"]}


def objects(rows, metainfo):
    return [{**found, "light": light}
            for found, light in zip(schema.objects(rows[:, :6], metainfo), rows[:, 6:].tolist())]
