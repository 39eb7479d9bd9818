"""What the web service takes and answers, as types of which its OpenAPI document is made."""
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Sent(BaseModel):
    """Query parameters of POST /predict; others are refused."""

    model_config = ConfigDict(extra="forbid")
    score: float | None = Field(None, ge=0, le=1, description="smallest score; by default the service's score_thresh")
    format: Literal["json", "image"] = Field("json", description="json, or image: a JPEG with the boxes drawn")


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


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="a sentence")


class Limits(BaseModel):
    """What a request may ask for: bytes of its body, pixels of its image, images at a time, seconds until its answer."""

    max_bytes: int
    max_pixels: int
    queue: int
    deadline: float


class Health(BaseModel):
    """That the service runs, and what it serves."""

    status: str
    version: str
    model: str
    classes: list[str]
    score_thresh: float
    limits: Limits
