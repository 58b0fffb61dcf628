"""Logger set-up and the one list of metric names and units."""

import logging
import os
from collections.abc import Mapping
from typing import Final

METRICS: Final[Mapping[str, str]] = {
    "loss": "nats; mean over the global batch of weight times objective, plus terms",
    "loss/objective": "nats; the preference objective alone, without weight and terms",
    "margin/mean": "log-ratio of the best candidate minus the worst, in nats (unary: label times log-ratio)",
    "margin/positive": "implicit accuracy: share of groups with margin > 0, ties 0.5",
    "log_ratio/winner": "log policy - log reference of the best candidate, in nats",
    "log_ratio/loser": "log policy - log reference of the worst candidate, in nats",
    "error/winner_change": "denoising error of the winner: policy minus reference",
    "error/loser_change": "denoising error of the loser: policy minus reference",
    "gradient/factor": "pull of a group on the policy relative to its pull at rest, times 0.5; 0.5 at rest",
    "gradient/saturated": "share of groups whose gradient factor is below 0.005",
    "gradient/norm": "norm of the gradient before clipping",
    "weight/mean": "mean weight of a group",
    "learning_rate": "of the first parameter group",
    "epoch": "pass over the data, from 0",
    "samples": "groups seen so far",
    "data/broken": "rows of the step that could not be read, over all processes; only with data.streaming",
    "data/small": "groups of the step that data.min_size leaves out, over all processes; only with streaming",
    "time/step_s": "wall-clock seconds of the step",
    "time/samples_per_s": "groups per second",
}
"""Name of every metric in metrics.jsonl and what it is; a suffix /t0../t3 is a quarter of the noise scale."""


_EXTRAS: Final = (
    "bitsandbytes",  # kernels that are not downloaded
    "torchao",  # kernels for other machines
    "torch.utils._pytree",  # torchao's enumerations
    "diffusers.quantizers.torchao.torchao_quantizer",  # weights in torchao's form, which no family reads
)
"""Loggers that warn when optional packages are imported, which being installed is enough for; of what."""


def silence_extras() -> None:
    """Silence all but the errors of optional packages; to be called before they are imported."""
    for name in _EXTRAS:
        logging.getLogger(name).setLevel(logging.ERROR)


def is_main_process() -> bool:
    """True unless a launcher says that this is one of several processes and not the first."""
    return os.environ.get("RANK", "0") == "0"


def set_up(level: int = logging.INFO) -> None:
    """Log to the terminal from the main process only."""
    logger = logging.getLogger("penchant")
    logger.setLevel(level if is_main_process() else logging.ERROR)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
