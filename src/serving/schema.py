"""What the web service takes and answers, as types of which its OpenAPI document is made."""
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, create_model


class Sent(BaseModel):
    """Query parameters of POST /predict; others are refused."""

    model_config = ConfigDict(extra="forbid")
    score: float | None = Field(None, ge=0, le=1, description="smallest score; by default the service's score_thresh")
    format: Literal["json", "image"] = Field("json", description="json, or image: a JPEG with the boxes drawn")


class Detected(BaseModel):
    """An image and the time it took. The milliseconds count from when its bytes are there."""

    width: int
    height: int
    milliseconds: float = Field(description="from the last byte of the request to the answer")
    queue_milliseconds: float = Field(description="waiting for others")
    network_milliseconds: float = Field(description="in the network, with the others of its batch")


def answer_of(object_model: type[BaseModel]) -> type[BaseModel]:
    """The model of an answer: that of an image whose objects, best first, are a task's schema.Object."""
    return create_model("Answer", __base__=Detected, __doc__="The objects of an image, best first, and the time they took.",
                        objects=(list[object_model], ...))  # type: ignore[valid-type]


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
