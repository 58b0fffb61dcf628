"""Subprocess: a scorer in a child process, which answers lines of JSON with lines of JSON.

Axes: N images, 3 channels, H W pixels.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from penchant.errors import RewardError
from penchant.rewards._child import child_of
from penchant.rewards._remote import asked_in_batches, scores_in

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Subprocess:
    """A program that reads questions from standard input and writes answers to standard output.

    It is started once and kept; one that ends or does not answer in time is started anew, as often as
    `retries` says.

    Attributes:
        command: Program and arguments; no shell reads them.
        name: Name under which the scores are stored.
        revision: Change it when the scorer changes, so that stored scores are not taken for new ones.
        unit: Unit of the score.
        batch_size: Images per question; >= 1.
        timeout: Seconds until an answer must be there; > 0.
        start_timeout: The same for the first answer, before which a program loads its weights; > 0.
        retries: How often a question is asked of a new process; >= 0.
        judges: False if the score only describes an image.
    """

    command: Sequence[str]
    name: str
    revision: str = ""
    unit: str = "points"
    batch_size: int = 8
    timeout: float = 60.0
    start_timeout: float = 600.0
    retries: int = 1
    judges: bool = True

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command must be a list of at least 1, got []")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if not min(self.timeout, self.start_timeout) > 0:
            raise ValueError(f"timeout must be > 0, got {min(self.timeout, self.start_timeout)}")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}")

    @property
    def version(self) -> str:
        """The command, and the revision."""
        return f"{' '.join(self.command)} {self.revision}".strip()

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, as the program answers."""
        return asked_in_batches(images, prompts, self._ask, batch_size=self.batch_size)

    def _ask(self, question: bytes, count: int) -> Float[Tensor, " n"]:
        where, reason = f"reward {self.name}: {os.path.basename(self.command[0])}", ""
        child = child_of(tuple(self.command))
        for _ in range(self.retries + 1):
            try:
                answer = child.ask(question, timeout=self.timeout, start_timeout=self.start_timeout)
            except TimeoutError:
                reason = f"no answer in time for {count} images"
            except ChildProcessError as error:
                reason = f"the program ended ({error})"
            else:
                try:
                    return scores_in(answer, count=count, where=where)
                except RewardError:
                    child.stop()  # what it writes next may answer this question, not the next one
                    raise
            logger.warning("%s: %s", where, reason)
        raise RewardError(
            f"{where}: {reason}, asked {self.retries + 1} times. Run the program by hand, or raise timeout, "
            "start_timeout or retries."
        )


REWARD = Subprocess
