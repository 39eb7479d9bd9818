"""src/training/divergence.py: overflow, divergence, losses that are not finite."""
import numpy as np
import pytest

from src.training.divergence import DivergenceMonitor

LOSSES = ("hm_loss", "wh_loss")


def check(monitor, losses, overflows=(), hm_losses=None, empty=()):
    """Pass losses to a DivergenceMonitor; empty: the steps without objects.

    Returns (the first step that ends training, the problem), or (None, "").
    """
    for step, loss in enumerate(losses, 1):
        hm_loss = hm_losses[step - 1] if hm_losses else loss / 2
        losses = {"loss": loss, "hm_loss": hm_loss, "wh_loss": float(step not in empty)}
        problem = monitor.check(step, {**losses, "overflow": step in overflows})
        if problem:
            return step, problem
    return None, ""


def test_a_run_that_learns_continues():
    """A noisy loss with outliers; a small constant heatmap loss."""
    rng = np.random.default_rng(0)
    losses = [100 * 0.97**step * float(rng.uniform(0.3, 3)) for step in range(300)]
    losses[50] = losses[200] = 1000.0
    monitor = DivergenceMonitor(LOSSES, 3, 3)
    assert check(monitor, losses) == (None, "") and monitor.summary() == []
    assert check(DivergenceMonitor(LOSSES, 3, 3), [0.5] * 50) == (None, "")
    hm_losses = [2 + 1e-5 * step for step in range(50)]
    assert check(DivergenceMonitor(LOSSES, 3, 3), [5.0] * 50, hm_losses=hm_losses) == (None, "")


def test_a_saturated_heatmap():
    """Losses of a run with a learning rate of 10: -log(1e-4) (1 - 1e-4)^2 in float32 for any batch."""
    stuck = float(np.float32(9.2084951))
    losses = [80.0, 700.0] + [stuck + 0.1 * step for step in range(30)]
    hm_losses = [70.0, 600.0] + [stuck] * 30
    step, problem = check(DivergenceMonitor(LOSSES, 50, 20), losses, hm_losses=hm_losses)
    assert step == 23 and all(fragment in problem for fragment in ("heatmap", "9.208495", "20 steps", "step 23"))
    assert check(DivergenceMonitor(LOSSES, 50, 0), losses, hm_losses=hm_losses) == (None, "")


def test_a_loss_that_has_multiplied():
    losses = [3.0 - 0.01 * step for step in range(100)] + [40.0 + step for step in range(100)]
    step, problem = check(DivergenceMonitor(LOSSES, 50, 25), losses)
    assert step == 125 and all(fragment in problem for fragment in ("10 times", " 2.1,", "25 steps", "step 125"))


def test_a_recovered_loss_resets_the_count(console):
    losses = [2.0, 2.1, 1.9] + [50.0, 51.0] * 4
    monitor = DivergenceMonitor(LOSSES, 50, 10)
    assert check(monitor, losses * 5) == (None, "")
    assert monitor.diverging and len(monitor.summary()) == 1 and "10 times" in monitor.summary()[0]
    assert console.readouterr().out.count("warning: ") == 5
    monitor.check(99, {"loss": 2.0, "hm_loss": 1.0, "wh_loss": 1.0, "overflow": False})
    assert not monitor.diverging and not monitor.protects_checkpoints and monitor.summary() == []


@pytest.mark.parametrize("background", [0.001, 700.0, 9.2084951])
def test_steps_without_objects_are_not_compared(background, console):
    """With keep_empty and a batch of one; the loss of the background is first far above the others, then far below."""
    losses = [2.0, 2.1, 1.9, *[background] * 60, 2.0, 2.1, *[background] * 60, *[1.8, 1.7] * 10]
    empty = {step for step, loss in enumerate(losses, 1) if loss == background}
    monitor = DivergenceMonitor(LOSSES, 50, 10)
    assert check(monitor, losses, hm_losses=losses, empty=empty) == (None, "") and monitor.summary() == []
    assert not monitor.diverging and "warning" not in console.readouterr().out
    step, problem = check(DivergenceMonitor(LOSSES, 50, 10), [2.0, *(50.0 + step for step in range(30))], empty={5, 6})
    assert step == 13 and "10 times" in problem  # other steps are still compared


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_non_finite_loss(loss):
    problem = check(DivergenceMonitor(LOSSES, 50, 50), [2.0, loss])[1]
    assert str(loss) in problem and "step 2" in problem
    assert check(DivergenceMonitor(LOSSES, 50, 50), [2.0, loss], overflows={2})[0] == 2  # float32
    monitor = DivergenceMonitor(LOSSES, 50, 50, skips=True)
    assert check(monitor, [2.0, loss, 2.0], overflows={2}) == (None, "")
    assert len(monitor.summary()) == 1 and "1 of 3 steps" in monitor.summary()[0]
    assert check(DivergenceMonitor(LOSSES, 50, 50, skips=True), [2.0, loss])[0] == 2  # without an overflow


def test_overflows_in_a_row():
    losses = [2.0] * 20
    assert check(DivergenceMonitor(LOSSES, 4, 0), losses, overflows={1, 2, 3, 5, 6, 7}) == (None, "")
    step, problem = check(DivergenceMonitor(LOSSES, 4, 0), losses, overflows=set(range(3, 20)))
    assert step == 6 and all(fragment in problem for fragment in ("4 steps", "step 6", "overflow", "max_overflows"))
