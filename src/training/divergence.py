"""Looks at every step of a training for what makes its rest worthless."""
import math

from ..core.console import LOG

FACTOR = 10.0  # so much larger than the lowest loss so far, smoothed, is a step that diverges
SMOOTHING = 0.1  # weight of a new loss in the smoothed one
LOWER_SCALE = "lower train_config.loss_scale_value, or set train_config.dynamic_loss_scale"
NOTICED = 5  # diverging steps in a row that are said


class DivergenceMonitor:
    """Counts steps that overflow, and steps that diverge.

    A step diverges if the loss has multiplied, or if the heatmap loss is above 1 and stays the same to 1e-6: a heatmap whose sigmoids
    are saturated has the same loss for every image, 9.2, and no gradient. A step without any object is not compared with the others: its
    loss is of background alone, and is not divided by objects.

    Args: losses, the names of the task's, the heatmap's first; max_overflows, max_diverged: how many such steps in a row end a training
    (0: any number goes on); skips, whether a step with a loss that is not finite is skipped as an overflow (float16), not an end.
    """

    def __init__(self, losses, max_overflows, max_diverged, skips=False):
        self.heatmap_loss, *self.object_losses = losses
        self.max_overflows, self.max_diverged, self.skips = max_overflows, max_diverged, skips
        self.steps = self.overflows = self.overflows_in_row = self.diverged = 0
        self.smoothed = self.lowest = self.last_hm_loss = None
        self.why = ""

    def check(self, step, results):
        """Take a step's results {name: number}; returns the sentence with which training has to end, "" if it goes on.

        Losses of objects of exactly 0 are those of a step without objects.
        """
        loss, overflow = results["loss"], results["overflow"]
        self.steps += 1
        self.overflows += overflow
        self.overflows_in_row = self.overflows_in_row + 1 if overflow else 0
        if not math.isfinite(loss) and not (overflow and self.skips):
            return f"the loss is {loss} at step {step}: training stops; lower the learning rate, or look at the data"
        if self.max_overflows and self.overflows_in_row >= self.max_overflows:
            return (f"the last {self.overflows_in_row} steps, up to step {step}, overflowed and were skipped: nothing is learnt; "
                    f"{LOWER_SCALE} (train_config.max_overflows is the limit)")
        if not overflow and any(results[name] != 0 for name in self.object_losses):
            self._compare(step, loss, results[self.heatmap_loss])
        if self.max_diverged and self.diverged >= self.max_diverged:
            return (f"{self.why} for {self.diverged} steps, up to step {step}: training has diverged; lower the learning rate, or look at "
                    "the data (train_config.max_diverged is the limit)")
        return ""

    def _compare(self, step, loss, hm_loss):
        self.why = ""
        if self.last_hm_loss is not None and hm_loss > 1 and math.isclose(hm_loss, self.last_hm_loss, rel_tol=1e-6):
            self.why = f"the heatmap loss has stayed at {hm_loss:.7g}"
        elif self.lowest is not None and loss > FACTOR * self.lowest:
            self.why = f"the loss has been more than {FACTOR:g} times its lowest, {self.lowest:.4g},"
        self.last_hm_loss = hm_loss
        self.diverged = self.diverged + 1 if self.why else 0
        if not self.why:
            self.smoothed = loss if self.smoothed is None else (1 - SMOOTHING) * self.smoothed + SMOOTHING * loss
            self.lowest = self.smoothed if self.lowest is None else min(self.lowest, self.smoothed)
        if self.diverged == NOTICED:
            LOG.warning(f"warning: {self.why} for {NOTICED} steps, up to step {step}: training diverges; older "
                        "checkpoints stay while it does")

    @property
    def diverging(self):
        """Whether the last steps diverged, and that has been said."""
        return self.diverged >= NOTICED

    @property
    def protects(self):
        """Whether older checkpoints are to stay: what is written now may be worth nothing, and training will not go on for long."""
        return self.diverging and self.max_diverged > 0

    def wasted(self):
        """The sentence that a training ends with of which every step was skipped, "" for any other."""
        if not self.max_overflows or self.overflows < self.steps:
            return ""
        return f"all {self.steps} steps overflowed and were skipped: nothing is learnt; {LOWER_SCALE}"

    def summary(self):
        """Lines that a training ends with; none if nothing happened."""
        lines = []
        if self.overflows:
            lines.append(f"{self.overflows} of {self.steps} steps overflowed and were skipped")
        if self.diverging:
            lines.append(f"warning: {self.why} for the last {self.diverged} steps: this training has diverged")
        return lines
