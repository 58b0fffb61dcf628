"""N images per prompt from a model, stored batch by batch, so that what was drawn is never drawn again."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.data import store
from penchant.data.rows import Candidate, Example
from penchant.numerics import eight_bit


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """One image to draw."""

    prompt: str
    seed: int


Draw = Callable[[Sequence[Wanted]], Float[Tensor, "N 3 H W"]]
"""Draws one batch of images, values in [0, 1], each from its own seed."""


def draw_candidates(
    folder: Path,
    wanted: Sequence[Wanted],
    draw: Draw,
    *,
    batch_size: int,
    provenance: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Draw every image that is not there yet; the files of all batches, in the order of `wanted`.

    A batch is one parquet file named by a hash of what it holds and how it is drawn. It appears when it is
    complete, so an interrupted run goes on with the next batch, and a change of the settings draws anew.

    Args:
        folder: Where the batches are kept.
        wanted: What to draw.
        draw: Draws one batch.
        batch_size: Images at once.
        provenance: What an image depends on beside prompt and seed, as plain JSON values; stored with it.
        progress: Told how many images are there.
    """
    files = []
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        named = json.dumps([dict(provenance), [(one.prompt, one.seed) for one in batch]], sort_keys=True)
        file = folder / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.parquet"
        if not file.exists():
            store.write_parquet(_examples(batch, draw(batch), provenance), file)
        files.append(file)
        progress(min(start + batch_size, len(wanted)))
    return files


def _examples(
    batch: Sequence[Wanted], images: Float[Tensor, "N 3 H W"], provenance: Mapping[str, Any]
) -> Iterator[Example]:
    for one, image in zip(batch, images, strict=True):
        file = io.BytesIO()
        Image.fromarray(eight_bit(image).numpy()).save(file, format="PNG")
        candidate = Candidate(
            image=file.getvalue(), source=provenance["model"], meta={**provenance, "seed": one.seed}
        )
        yield Example(prompt=one.prompt, candidates=(candidate,))
