"""TensorBoard event files of a training: losses, rates, scores, images."""
import glob
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from ..core import errors
from ..core.backups import back_up_existing, contains_files
from ..core.errors import UserError
from ..core.project import how_to_install
from .record import loss_names

RATES = ("lr", "images_per_second", "scaling_sens")  # fields of a step's record in the group "rates"
EVENTS = contains_files("events.out.tfevents.*.[0-9][0-9][0-9][0-9]")  # test for back_up_existing: a run's folder
FLUSH_SECONDS = 5.0  # between flushes, which wait for the disk


def require_writer() -> None:
    """Raise UserError unless tensorboardX is installed."""
    try:
        import tensorboardX.event_file_writer  # noqa: F401
    except (ImportError, TypeError) as error:  # TypeError of an incompatible protobuf
        raise UserError(f"tensorboard true needs the package tensorboardX ({str(error).splitlines()[0]}); install it "
                        f"with {how_to_install('tensorboard')}, or set tensorboard false") from error


class Summaries:
    """A run's folder of event files, one for each start of the run.

    tensorboardX's EventsWriter writes in this thread. Its SummaryWriter uses another thread, and blocks forever after
    that meets a full disk. Every method raises UserError if a file cannot be written.
    """

    def __init__(self, folder: str, done: int):
        """Start after `done` steps: hides later steps in the folder, or backs up the folder of an earlier run."""
        require_writer()
        if not done:
            back_up_existing(folder, EVENTS)
        self.folder, self.flushed = folder, time.monotonic()
        self.writer: Any = None
        with errors.writing(folder):
            os.makedirs(folder, exist_ok=True)
        self.empty = not glob.glob(os.path.join(glob.escape(folder), "events.*"))
        self._open(done + 1)

    def _open(self, step: int) -> None:
        """Start a file. TensorBoard hides the events of earlier files from this step on."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        number = len(os.listdir(self.folder))  # files of the same second would have the same name
        with errors.writing(self.folder):
            self.writer = EventsWriter(os.path.join(self.folder, "events"), f".{number:04d}")
        self._write(step, session_log=SessionLog(status=SessionLog.START))
        self._flush()

    def replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Hide all events in the folder, and write the steps and scores of a train_record.jsonl instead."""
        self.close()
        self._open(1)
        for record in records:
            if "scores" in record:
                self.scores(record["step"], record["scores"])
            else:
                self.step(record["step"], record)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the losses and rates in a step's record of train_record.jsonl."""
        charts: dict[str, Iterable[str]] = {"losses": loss_names(values), "rates": RATES}
        self._numbers(step, {f"{group}/{name}": values[name]
                             for group, names in charts.items() for name in names if name in values})
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self._flush()

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores {name: value} of an evaluation after a step, without COCO's -1 (no objects)."""
        self._numbers(step, {f"scores/{name}": value for name, value in scores.items() if not value < 0})
        self._flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image (BGR uint8) as JPEG, such as one with detections; use the same name at every step."""
        from tensorboardX.proto.summary_pb2 import Summary

        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        encoded = Summary.Image(height=image.shape[0], width=image.shape[1], colorspace=3, encoded_image_string=data)
        tag = f"predictions/{name}".encode("utf-8", "backslashreplace").decode()  # file names may contain surrogates
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=encoded)]))
        self._flush()

    def close(self) -> None:
        """Close the file."""
        if self.writer:
            writer, self.writer = self.writer, None
            with errors.writing(self.folder):
                writer.close()

    def _numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._write(step, summary=Summary(value=values))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._try(lambda writer: writer.write_event(Event(step=step, wall_time=time.time(), **content)))

    def _flush(self) -> None:
        self._try(lambda writer: writer.flush())
        self.flushed = time.monotonic()

    def _try(self, act: Callable[[Any], object]) -> None:
        """Call act(writer). A failure closes the writer for good."""
        if self.writer is None:
            return
        try:
            with errors.writing(self.folder):
                act(self.writer)
        except UserError:
            self.writer = None
            raise
