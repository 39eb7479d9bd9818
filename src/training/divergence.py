"""Detection of failing training runs: overflow, divergence, a loss that is not finite."""
import math
from collections.abc import Iterable, Mapping

from ..core.console import LOG

FACTOR = 10.0  # a step diverges if its loss exceeds the lowest smoothed loss by this factor
SMOOTHING = 0.1  # weight of a new loss in the smoothed one
LOWER_SCALE = "lower train_config.loss_scale_value, or set train_config.dynamic_loss_scale"
WARN_AFTER = 5  # consecutive diverging steps


class DivergenceMonitor:
    """Counts overflowed and diverging steps.

    A step diverges if the loss has multiplied, or if the heatmap loss is above 1 and constant to 1e-6: a heatmap with
    saturated sigmoids has the same loss for every image, 9.2, and no gradient. Steps without objects are not compared
    with others: their loss is that of the background alone, and is not divided by the number of objects.

    Args: losses, the names of the task's losses, the heatmap's first; max_overflows, max_diverged: the numbers of
    consecutive such steps that end training (0: no limit); skips, whether a loss that is not finite counts as an
    overflow (float16) instead of ending training.
    """

    def __init__(self, losses: Iterable[str], max_overflows: int, max_diverged: int, skips: bool = False):
        self.heatmap_loss, *self.object_losses = losses
        self.max_overflows, self.max_diverged, self.skips = max_overflows, max_diverged, skips
        self.steps = self.overflows = self.overflows_in_row = self.diverged = 0
        self.smoothed: float | None = None
        self.lowest: float | None = None
        self.last_hm_loss: float | None = None
        self.symptom = ""

    def check(self, step: int, results: Mapping[str, float]) -> str:
        """Check a step's results {name: number}. Return the reason to end training, or an empty string.

        A step without objects is recognized by its object losses, which are exactly 0.
        """
        loss, overflow = results["loss"], bool(results["overflow"])
        self.steps += 1
        self.overflows += overflow
        self.overflows_in_row = self.overflows_in_row + 1 if overflow else 0
        if not math.isfinite(loss) and not (overflow and self.skips):
            return f"the loss is {loss} at step {step}: training stopped; lower the learning rate, or check the data"
        if self.max_overflows and self.overflows_in_row >= self.max_overflows:
            return (f"the last {self.overflows_in_row} steps, up to step {step}, overflowed and were skipped: "
                    f"the network learns nothing; {LOWER_SCALE} (limit: train_config.max_overflows)")
        if not overflow and any(results[name] != 0 for name in self.object_losses):
            self._compare(step, loss, results[self.heatmap_loss])
        if self.max_diverged and self.diverged >= self.max_diverged:
            return (f"{self.symptom} for {self.diverged} steps, up to step {step}: training has diverged; lower the "
                    "learning rate, or check the data (limit: train_config.max_diverged)")
        return ""

    def _compare(self, step: int, loss: float, hm_loss: float) -> None:
        """Compare a step's losses with earlier ones, and count or reset the diverging steps."""
        self.symptom = ""
        if self.last_hm_loss is not None and hm_loss > 1 and math.isclose(hm_loss, self.last_hm_loss, rel_tol=1e-6):
            self.symptom = f"the heatmap loss has stayed at {hm_loss:.7g}"
        elif self.lowest is not None and loss > FACTOR * self.lowest:
            self.symptom = f"the loss has been more than {FACTOR:g} times its lowest, {self.lowest:.4g},"
        self.last_hm_loss = hm_loss
        self.diverged = self.diverged + 1 if self.symptom else 0
        if not self.symptom:
            self.smoothed = loss if self.smoothed is None else (1 - SMOOTHING) * self.smoothed + SMOOTHING * loss
            self.lowest = self.smoothed if self.lowest is None else min(self.lowest, self.smoothed)
        if self.diverged == WARN_AFTER:
            LOG.warning(f"warning: {self.symptom} for {WARN_AFTER} steps, up to step {step}: training is diverging; "
                        "older checkpoints are kept meanwhile")

    @property
    def diverging(self) -> bool:
        """Whether the last steps diverged, with a warning logged."""
        return self.diverged >= WARN_AFTER

    @property
    def protects_checkpoints(self) -> bool:
        """Whether to keep older checkpoints: new ones may be worthless, and training is about to end."""
        return self.diverging and self.max_diverged > 0

    def all_skipped(self) -> str:
        """Return the error message if every step was skipped, or an empty string."""
        if not self.max_overflows or self.overflows < self.steps:
            return ""
        return f"all {self.steps} steps overflowed and were skipped: the network learned nothing; {LOWER_SCALE}"

    def summary(self) -> list[str]:
        """The lines to log at the end of training; empty if nothing happened."""
        lines = []
        if self.overflows:
            lines.append(f"{self.overflows} of {self.steps} steps overflowed and were skipped")
        if self.diverging:
            lines.append(f"warning: {self.symptom} for the last {self.diverged} steps: this run has diverged")
        return lines
