"""What the web service takes and answers, as types of which its OpenAPI document is made."""
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Sent(BaseModel):
    """Query parameters of POST /predict; others are refused."""

    model_config = ConfigDict(extra="forbid")
    score: float | None = Field(None, ge=0, le=1, description="smallest score; by default the service's score_thresh")
    format: Literal["json", "image"] | None = Field(
        None, description="json, or image: a JPEG with the boxes drawn; by default what Accept prefers, json or image/jpeg")
    url: str | None = Field(None, max_length=2000, description="address of the image, instead of a body; of a host that --allow_urls names")


def wants_image(sent: Sent, accept: str) -> bool:
    """Whether a request wants a JPEG rather than JSON: by its format, else by its header Accept (RFC 9110, 12.5.1). Of two kinds of one
    quality that counts which is named more exactly, and then which is named first."""
    if sent.format is not None:
        return sent.format == "image"
    ranges = [parsed for part in accept.split(",") if (parsed := media_range(part))]
    return preference("image/jpeg", ranges) > preference("application/json", ranges)


def media_range(part):
    """(name, quality) of a part of Accept such as image/*;q=0.5; None if it is none."""
    name, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
    return (name, float(quality)) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else None


def preference(kind, ranges):
    """What kinds are compared by: (quality, how exactly it is named, how early); the most exact of the ranges counts."""
    names = ("*/*", f"{kind.partition('/')[0]}/*", kind)
    exact, early, quality = max(((names.index(name), -place, quality) for place, (name, quality) in enumerate(ranges) if name in names),
                                default=(0, -len(ranges), 0.0))
    return quality, exact, early


class Object(BaseModel):
    """An object detected."""

    model_config = ConfigDict(populate_by_name=True)
    class_name: str = Field(alias="class", description="name of its class")
    label: int = Field(ge=0, description="index of its class in /health's classes")
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels of the image, turned as its EXIF tag says")


class Answer(BaseModel):
    """The objects of an image, best first. The milliseconds count from when its bytes are there."""

    width: int
    height: int
    milliseconds: float = Field(description="from the last byte of the request to the answer")
    queue_milliseconds: float = Field(description="waiting for others")
    network_milliseconds: float = Field(description="in the network, with the others of its batch")
    objects: list[Object]


class FileAnswer(BaseModel):
    """The answer for one of several files: its result, or why there is none."""

    file: str
    status: int = Field(description="the status it would have had alone")
    detail: str | None = None
    result: Answer | None = None


class Answers(BaseModel):
    """The answers for several files, in their order."""

    files: list[FileAnswer]


class WrongField(BaseModel):
    """A parameter that cannot be."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """Why a request was refused: a sentence, or a sentence for each wrong parameter."""

    detail: str | list[WrongField]


class ServedLimits(BaseModel):
    """What a request may ask for."""

    max_bytes: int
    max_pixels: int
    queue: int
    deadline: float
    body_seconds: float


class Health(BaseModel):
    """That the service runs, and what it serves."""

    status: str
    model: str
    classes: list[str]
    score_thresh: float
    limits: ServedLimits


class Ready(BaseModel):
    """Whether the graphs are compiled, and for which batch sizes."""

    ready: bool
    batch_sizes: list[int]


class Version(BaseModel):
    """What answers."""

    version: str
    model: str
