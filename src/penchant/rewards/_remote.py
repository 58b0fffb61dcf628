"""What is sent to a scorer outside of this process, and what its answer must be.

Question: {"images": [PNG in base64, ...], "prompts": [text, ...]}. Answer: {"scores": [number, ...]}, one per
image in their order, higher is better. Both are one JSON object.
Axes: N images, 3 channels, H W pixels.
"""

import base64
import io
import json
import reprlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.errors import RewardError
from penchant.numerics import eight_bit, is_finite


def question(images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> bytes:
    """The JSON of some images and their prompts, without a line break."""
    pictures = []
    for pixels in eight_bit(images).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        pictures.append(base64.b64encode(file.getvalue()).decode())
    return json.dumps({"images": pictures, "prompts": list(prompts)}).encode()


def scores_in(answer: bytes, *, count: int, where: str) -> Float[Tensor, " N"]:
    """The scores of an answer.

    Args:
        answer: What the scorer has answered.
        count: Number of images in the question.
        where: Reward and place, for messages.

    Raises:
        RewardError: It is no JSON object, says `error`, or has another number of scores or one that is no
            finite number.
    """
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        raise RewardError(
            f'{where}: must answer with JSON such as {{"scores": [0.5]}}, got {_shown(answer)}.'
        ) from None
    if isinstance(content, dict) and "error" in content:
        raise RewardError(f"{where}: the scorer reports: {_shown(str(content['error']).encode())}.")
    scores = content.get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, list):
        raise RewardError(f"{where}: the answer must have a list 'scores', got {_shown(answer)}.")
    if len(scores) != count:
        raise RewardError(
            f"{where}: wrong number of scores, got {len(scores)} for {count} images. The scorer must answer "
            "with one score per image, in their order."
        )
    for number, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not is_finite(score):
            raise RewardError(
                f"{where}: scores must be finite numbers, got {reprlib.repr(score)} for image {number + 1} "
                f"of {count}. Look at what the scorer does with this image and prompt."
            )
    return torch.tensor(scores, dtype=torch.float64)


def asked_in_batches(
    images: Float[Tensor, "N 3 H W"],
    prompts: Sequence[str],
    ask: Callable[[bytes, int], Float[Tensor, " n"]],
    *,
    batch_size: int,
) -> Float[Tensor, " N"]:
    """Scores of all images, asked for `batch_size` at a time; `ask` takes a question and its size."""
    parts = []
    for start in range(0, len(images), batch_size):
        some = images[start : start + batch_size]
        parts.append(ask(question(some, prompts[start : start + batch_size]), len(some)).float())
    return torch.cat(parts) if parts else torch.zeros(0)


def _shown(text: bytes) -> str:
    shown = text[:80].decode("utf-8", errors="replace")
    return repr(shown) if len(text) <= 80 else f"{shown!r}..."
