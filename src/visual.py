"""Drawing: loss curves, boxes with labels, pictures side by side."""
import colorsys
import os

import cv2
import numpy as np

from src.image import decode_image
from src.utils import read_training_log, whole_file


def plot_losses(record_path, path):
    """Draw the loss, its parts and the learning rate of a training record over the steps as a PNG; returns path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_training_log(record_path)
    steps = np.array([record["step"] for record in records])
    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110, layout="constrained")
    parts = {
        "loss": ("loss", "black"), "hm_loss": ("heatmap", "tab:red"), "wh_loss": ("size (before its weight)", "tab:blue"),
        "off_loss": ("offset", "tab:green"),
    }
    for name, (label, color) in parts.items():
        values = np.array([record[name] for record in records])
        axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth(values, max(1, len(values) // 40)), color=color, label=label)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(steps, [record["lr"] for record in records], color="tab:orange", linestyle="--", label="learning rate")
    rate.set_ylabel("learning rate")
    lines = [line for a in (axes, rate) for line in a.get_legend_handles_labels()[0]]
    axes.legend(lines, [line.get_label() for line in lines], loc="upper right")
    with whole_file(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)
    return path


def smooth(values, window):
    """Mean over the last `window` values (fewer at the start): float64 [M]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def class_color(label):
    """A colour (BGR, 0-255) for a class; neighbouring classes are far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.61 * label + 0.02) % 1.0, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_detections(picture, detections, classes, score_thresh=0.0, with_scores=True):
    """Draw detections [M, 6] (pixels of the picture) of at least score_thresh on a copy of a BGR uint8 picture; returns it.

    Labels are filled with the class's colour, their text is black or white, whichever is easier to read on it.
    """
    canvas = picture.copy()
    thickness = max(1, round(max(canvas.shape[:2]) / 400))
    shown = detections[detections[:, 4] >= score_thresh]
    shown = shown[np.argsort(shown[:, 4], kind="stable")]  # the best on top
    for x1, y1, x2, y2, _, label in shown:
        cv2.rectangle(canvas, (round(x1), round(y1)), (round(x2), round(y2)), class_color(int(label)), thickness, cv2.LINE_AA)
    for x1, y1, _, _, score, label in shown:
        text = f"{classes[int(label)]} {score:.2f}" if with_scores else classes[int(label)]
        _draw_label(canvas, text, round(x1), round(y1), class_color(int(label)), thickness)
    return canvas


def _draw_label(canvas, text, x, y, color, thickness):
    """A filled label above the point (x, y), moved to lie inside the picture."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.36 + 0.08 * thickness
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    x, y = min(max(x, 0), max(canvas.shape[1] - width - 4, 0)), max(y, 0)
    bottom = y if y >= height + below + 2 else y + height + below + 2
    cv2.rectangle(canvas, (x, bottom - height - below - 2), (x + width + 4, bottom), color, cv2.FILLED)
    dark = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] < 140
    cv2.putText(canvas, text, (x + 2, bottom - below), font, size, (255, 255, 255) if dark else (0, 0, 0), 1, cv2.LINE_AA)


def compare(picture, detections, truth, classes, score_thresh):
    """Predictions, and to their right the ground truth [M, 6] (if not None), under captions; BGR uint8."""
    panels = [_captioned(draw_detections(picture, detections, classes, score_thresh), "prediction")]
    if truth is not None:
        panels.append(_captioned(draw_detections(picture, truth, classes, with_scores=False), "ground truth"))
    return np.hstack(panels)


def _captioned(picture, caption):
    size = max(0.4, picture.shape[1] / 800)
    strip = np.full((round(30 * size), picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, caption, (6, round(22 * size)), cv2.FONT_HERSHEY_SIMPLEX, 0.7 * size, (0, 0, 0), max(1, round(size)), cv2.LINE_AA)
    return np.vstack([strip, picture])


def save_comparison(path, image_path, detections, truth, classes, score_thresh):
    """Write compare()'s picture of an image file."""
    with open(image_path, "rb") as file:
        picture = decode_image(file.read())
    save_picture(path, compare(picture, detections, truth, classes, score_thresh))


def save_picture(path, picture):
    """Write a BGR picture; the file appears whole. Raises OSError if it cannot be written."""
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    data = cv2.imencode(os.path.splitext(path)[1], picture)[1]
    with whole_file(path) as partial, open(partial, "wb") as file:
        file.write(data.tobytes())


def contact_sheet(pictures, columns, width):
    """Pictures (BGR) in rows, each scaled to the given width, with a gap between them: one BGR picture."""
    gap = 8
    sizes = [(width, round(picture.shape[0] * width / picture.shape[1])) for picture in pictures]
    scaled = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture, size in zip(pictures, sizes)]
    height = max(picture.shape[0] for picture in scaled)
    rows = -(-len(scaled) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, picture in enumerate(scaled):
        y, x = gap + place // columns * (height + gap), gap + place % columns * (width + gap)
        sheet[y : y + picture.shape[0], x : x + width] = picture
    return sheet
