"""TensorBoard's event files of a training: losses, rates, scores, images."""
import glob
import os
import time

import cv2

from ..core import errors
from ..core.backups import back_up_existing, contains_files
from ..core.errors import UserError
from ..core.project import how_to_install
from .record import loss_names

RATES = ("lr", "images_per_second", "scaling_sens")  # what of a step's record is in this group
EVENTS = contains_files("events.out.tfevents.*.[0-9][0-9][0-9][0-9]")  # the test for back_up_existing whether a folder is a run's
FLUSH_SECONDS = 5.0  # a flush waits for the disk


def require_writer():
    """Raise UserError unless tensorboardX, which writes the files, is installed."""
    try:
        import tensorboardX.event_file_writer  # noqa: F401
    except (ImportError, TypeError) as error:  # protobuf answers a version that it does not go with by a TypeError
        raise UserError(f"tensorboard true needs the package tensorboardX ({str(error).splitlines()[0]}): install it with "
                        f"{how_to_install('tensorboard')}, or set tensorboard false") from error


class Summaries:
    """A run's folder of event files, one file for each start of the run.

    The files are written by tensorboardX's EventsWriter, which works in this thread: its SummaryWriter writes in another one, and waits
    for ever once that has met a full disk. Every method raises UserError if a file cannot be written.
    """

    def __init__(self, folder, done):
        """A run that starts after `done` steps; what is in the folder of later ones is hidden, and that of an earlier run kept aside."""
        require_writer()
        if not done:
            back_up_existing(folder, EVENTS)
        self.folder, self.writer, self.flushed = folder, None, time.monotonic()
        with errors.writing(folder):
            os.makedirs(folder, exist_ok=True)
        self.empty = not glob.glob(os.path.join(glob.escape(folder), "events.*"))
        self._open(done + 1)

    def _open(self, step):
        """Begin a file; TensorBoard hides what earlier files have from this step on."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        number = len(os.listdir(self.folder))  # two files of one second would have one name
        with errors.writing(self.folder):
            self.writer = EventsWriter(os.path.join(self.folder, "events"), f".{number:04d}")
        self._write(step, session_log=SessionLog(status=SessionLog.START))
        self._flush()

    def replay(self, records):
        """Hide all that the folder has, and write the steps and scores of a train_record.jsonl in its place."""
        self.close()
        self._open(1)
        for record in records:
            if "scores" in record:
                self.scores(record["step"], record["scores"])
            else:
                self.step(record["step"], record)

    def step(self, step, values):
        """Losses and rates of a step, of its record in train_record.jsonl."""
        charts = {"losses": loss_names(values), "rates": RATES}
        self._numbers(step, {f"{group}/{name}": values[name] for group, names in charts.items() for name in names if name in values})
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self._flush()

    def scores(self, step, scores):
        """Scores {name: value} of an evaluation after a step; COCO's -1 stands for no objects, and is left out."""
        self._numbers(step, {f"scores/{name}": value for name, value in scores.items() if not value < 0})
        self._flush()

    def image(self, step, name, image):
        """An image (BGR uint8) that a JPEG can hold, such as one with its detections, under a name that it has at other steps, too."""
        from tensorboardX.proto.summary_pb2 import Summary

        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        encoded = Summary.Image(height=image.shape[0], width=image.shape[1], colorspace=3, encoded_image_string=data)
        tag = f"predictions/{name}".encode("utf-8", "backslashreplace").decode()  # a file's name may hold halves of letters
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=encoded)]))
        self._flush()

    def close(self):
        """Close the file."""
        if self.writer:
            writer, self.writer = self.writer, None
            with errors.writing(self.folder):
                writer.close()

    def _numbers(self, step, numbers):
        from tensorboardX.proto.summary_pb2 import Summary

        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]))

    def _write(self, step, **content):
        from tensorboardX.proto.event_pb2 import Event

        self._try(lambda writer: writer.write_event(Event(step=step, wall_time=time.time(), **content)))

    def _flush(self):
        self._try(lambda writer: writer.flush())
        self.flushed = time.monotonic()

    def _try(self, act):
        """Let the writer do something; once that has failed there is none."""
        if self.writer is None:
            return
        try:
            with errors.writing(self.folder):
                act(self.writer)
        except UserError:
            self.writer = None
            raise
