"""Guards: a run that has gone wrong says why, and stops before it does harm."""

import logging
import math
from typing import Any, Literal, final

from penchant.errors import TrainingStopped
from penchant.training.loop import Record

logger = logging.getLogger(__name__)


@final
class Health:
    """Stops on numbers that are not numbers and on dead gradients; warns of what often follows.

    Every warning is given once, and again when it has gone away for a while and come back.

    Args:
        winner_error_limit: Largest rise of the winners' denoising error over the reference that is taken
            without a word, averaged over `window` steps; None turns the guard off.
        on_winner_error: Warn, or stop.
        spike_factor: A gradient norm this many times the running mean is a spike.
        saturation_share: Warn when this share of the groups no longer pulls.
        window: Steps over which the running means reach back.
    """

    def __init__(
        self,
        *,
        winner_error_limit: float | None,
        on_winner_error: Literal["warn", "stop"],
        spike_factor: float,
        saturation_share: float,
        window: int = 20,
    ) -> None:
        self.winner_error_limit, self.on_winner_error = winner_error_limit, on_winner_error
        self.spike_factor, self.saturation_share, self.window = spike_factor, saturation_share, window
        self.means: dict[str, float] = {}
        self.warned: dict[str, int] = {}
        self.dead = 0
        self.first_warning: int | None = None
        self.sentences: list[str] = []

    def guard(self, record: Record) -> None:
        """Stop before a broken gradient reaches the weights."""
        loss, norm = record.metrics.get("loss", math.nan), record.metrics["gradient/norm"]
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingStopped(
                f"step {record.step}: the loss is {loss} and the gradient norm {norm}: not a number. The "
                "weights are those of the step before, all checkpoints are older. Usual causes: a learning "
                "rate that is too high, or images or scores that are not finite."
            )
        self.dead = self.dead + 1 if norm == 0 else 0
        if self.dead >= 3:
            raise TrainingStopped(
                f"step {record.step}: the gradient has been exactly 0 for 3 steps: nothing trains. Usual "
                "causes: identical images in a pair, an adapter that no layer uses, or pairs beyond a clip."
            )
        typical = self.means.get("gradient/norm")
        if typical and record.step > self.window and norm > self.spike_factor * typical:
            self._warn(
                record.step, "spike", f"gradient norm {norm:.3g} is {norm / typical:.0f} times the usual"
            )

    def follow(self, record: Record) -> None:
        """Follow the running means."""
        for name in ("gradient/norm", "gradient/saturated", "error/winner_change"):
            if name in record.metrics:
                self._follow(name, record.metrics[name])
        if record.step < self.window:
            return
        if self.means.get("gradient/saturated", 0) > self.saturation_share:
            share = self.means["gradient/saturated"]
            self._warn(
                record.step,
                "saturation",
                f"{share:.0%} of the groups no longer pull (gradient factor below 0.005): learnt, or beta is "
                "too high",
            )
        self._guard_winners(record)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one would."""
        return {
            "means": self.means,
            "warned": self.warned,
            "dead": self.dead,
            "first_warning": self.first_warning,
            "sentences": self.sentences,
        }

    def load(self, stored: dict[str, Any]) -> None:
        """Put a stored state back."""
        self.means, self.warned, self.dead = stored["means"], stored["warned"], stored["dead"]
        self.first_warning, self.sentences = stored["first_warning"], stored["sentences"]

    def _guard_winners(self, record: Record) -> None:
        rise = self.means.get("error/winner_change")
        if rise is None or self.winner_error_limit is None or rise <= self.winner_error_limit:
            return
        cause = (
            f"the winners' own denoising error is {rise:.4f} above the reference's (limit "
            f"{self.winner_error_limit}): preferred images are being unlearnt"
        )
        if self.on_winner_error == "stop":
            raise TrainingStopped(
                f"step {record.step}: {cause}. Raise beta, lower the learning rate, or add a winner-kept "
                "term; checkpoints are kept."
            )
        self._warn(record.step, "winners", cause)

    def _follow(self, name: str, value: float) -> None:
        before = self.means.get(name)
        share = 1 / self.window
        self.means[name] = value if before is None else (1 - share) * before + share * value

    def _warn(self, step: int, kind: str, sentence: str) -> None:
        if step - self.warned.get(kind, -10 * self.window) > 5 * self.window:
            logger.warning("step %d: %s", step, sentence)
            self.sentences.append(f"step {step}: {sentence}")
            self.first_warning = self.first_warning or step
        self.warned[kind] = step
