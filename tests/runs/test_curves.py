"""src/runs/curves.py: charts of a training record."""
import cv2
import numpy as np
import pytest

from src.runs import curves
from src.runs.record import TrainingLog
from tests.conftest import step_results


@pytest.mark.parametrize("values, window, expected", [
    ([1, 2, 3, 4], 2, [1, 1.5, 2.5, 3.5]), ([1, float("inf"), 3, float("nan"), 5], 2, [1, 1, 3, 3, 5]),
    ([float("nan"), 2], 1, [float("nan"), 2]), ([], 3, []), ([1, 2], 9, [1, 1.5]),
])
def test_means_exclude_values_that_are_not_finite(values, window, expected):
    """A step that overflowed does not break a curve."""
    np.testing.assert_allclose(curves.smooth(values, window), expected)


def drawn_losses(path, monkeypatch):
    """The axes of the loss chart."""
    from matplotlib import pyplot

    figures = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", figures.append)
        curves.plot_losses(str(path), str(path.parent / "loss.png"))
    pyplot.close(figures[0])
    return figures[0].axes


@pytest.mark.slow
def test_the_loss_chart_has_the_scores(tmp_path, monkeypatch):
    """AP and AP50 over the epochs trained, below the losses and the learning rate, and aligned with them; without
    scores, only these two. No legend is on its axes."""
    path = tmp_path / "r.jsonl"
    log = TrainingLog(str(path), 0, interval=100)
    for step in range(1, 11):
        log.step(step, 4, step_results(2.0, 1.0, 5.0, 0.5, False, 1.0, 1e-4), 8.0)
        if step in (4, 8, 10):
            log.scores(step, 4, {"AP": step / 100, "AP50": step / 50 if step != 8 else -1.0})
    log.close()
    losses, rate, scores = axes = drawn_losses(path, monkeypatch)
    assert [one.get_ylabel() for one in axes] == ["loss", "learning rate", "score"]
    assert [list(line.get_ydata()) for line in rate.lines] == [[1e-4] * 10] and losses.get_xlim() == rate.get_xlim()
    assert not any(line.get_ydata()[0] == 1e-4 for line in losses.lines)
    tops = [one.get_window_extent().y1 for one in axes]
    assert all(one.get_legend().get_window_extent().y0 >= top for one, top in zip(axes, tops) if one is not rate)
    assert tops == sorted(tops, reverse=True)
    lines = {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in scores.lines}
    assert lines == {"AP": [[1, 2, 2.5], [0.04, 0.08, 0.1]], "AP50": [[1, 2.5], [0.08, 0.2]]}
    np.testing.assert_allclose(np.array(losses.get_xlim()) / 4, scores.get_xlim())
    high = cv2.imread(str(tmp_path / "loss.png")).shape[0]
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "scores" not in line))
    assert [one.get_ylabel() for one in drawn_losses(path, monkeypatch)] == ["loss", "learning rate"]
    assert cv2.imread(str(tmp_path / "loss.png")).shape[0] == high * 7 / 10
