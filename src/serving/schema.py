"""Request and response types of the web service, the source of its OpenAPI document."""
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, create_model


class PredictQuery(BaseModel):
    """Query parameters of POST /predict; others are rejected."""

    model_config = ConfigDict(extra="forbid")
    score: float | None = Field(None, ge=0, le=1, description="minimum score; default: the service's score_thresh")
    calib: str | None = Field(None, max_length=400, description=(
        "camera of the image, for models with 3D boxes: fx,fy,cx,cy or the 12 numbers of the projection matrix; "
        "default: the service's --calib, or the training's camera"))
    format: Literal["json", "image"] = Field("json", description="json, or image for a JPEG with the objects drawn")


class AnswerBase(BaseModel):
    """The size of an image and the time it took, counted from the arrival of its last byte."""

    width: int
    height: int
    milliseconds: float = Field(description="from the last byte of the request to the response")
    queue_milliseconds: float = Field(description="waiting for other images")
    network_milliseconds: float = Field(description="in the network, together with its batch")


def answer_of(object_model: type[BaseModel]) -> type[BaseModel]:
    """The type of an answer whose objects are of a task's schema.Object."""
    return create_model("Answer", __base__=AnswerBase, __doc__="The objects in an image, best first, and timings.",
                        objects=(list[object_model], ...))  # type: ignore[valid-type]


class Problem(BaseModel):
    """The reason a request failed."""

    detail: str = Field(description="a sentence")


class Limits(BaseModel):
    """Limits: bytes of a body, pixels of an image, images at a time, seconds until the response."""

    max_bytes: int
    max_pixels: int
    queue: int
    deadline: float


class Health(BaseModel):
    """The status of the service, its model and limits, and what the task says about the model (its schema.about)."""

    model_config = ConfigDict(extra="allow")
    status: str
    version: str
    model: str
    classes: list[str]
    score_thresh: float
    limits: Limits
