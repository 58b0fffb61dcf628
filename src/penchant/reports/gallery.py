"""Before and after, side by side: pictures inside the page as data addresses."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image, ImageOps, UnidentifiedImageError

from penchant.errors import DataError
from penchant.reports.contents import ImagePair

NUM_VISIBLE = 24
"""Pairs shown at once; the others wait behind a click."""

LARGEST_SIDE = 256
"""Larger pictures are shown smaller, and lossy; up to this size every pixel is kept."""

SHEET_COLUMNS = 6
"""Pictures in a row of the contact sheets."""

SHEET_SIDE = 128
"""Side of the square that a picture gets in a contact sheet, in pixels."""

LOSSLESS_BUDGET = 2_800_000
"""Bytes of lossless pictures in one page; beyond it the pairs behind the click become lossy."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture inside the page: its data address and the size of the file it was made from."""

    address: str
    width: int
    height: int
    exact: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryPair:
    """One line of the gallery."""

    prompt: str
    seed: int
    base: Picture
    tuned: Picture


def picture(path: Path, *, exact: bool = True) -> Picture:
    """An image file as a picture for the page.

    Args:
        path: Any image that Pillow reads.
        exact: Keep every pixel if the image is at most `LARGEST_SIDE` wide and high.

    Raises:
        DataError: The file is no image.
    """
    image = _opened(path)
    width, height = image.size
    exact = exact and max(image.size) <= LARGEST_SIDE
    if not exact:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return Picture(address=_address(image, exact=exact), width=width, height=height, exact=exact)


def contact_sheets(pairs: Sequence[ImagePair]) -> tuple[Picture, Picture] | None:
    """The pairs shown at once as one sheet before and one after, in the same places; None without pairs."""
    shown = pairs[:NUM_VISIBLE]
    if not shown:
        return None
    return sheet([pair.base for pair in shown]), sheet([pair.tuned for pair in shown])


def sheet(paths: Sequence[Path]) -> Picture:
    """Image files side by side, `SHEET_COLUMNS` in a row, as one picture.

    Raises:
        DataError: A file is no image.
    """
    columns = min(SHEET_COLUMNS, len(paths))
    rows = -(-len(paths) // columns)
    whole = Image.new("RGB", (columns * SHEET_SIDE, rows * SHEET_SIDE), "white")
    for number, path in enumerate(paths):
        tile = ImageOps.contain(_opened(path), (SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
        left, top = number % columns * SHEET_SIDE, number // columns * SHEET_SIDE
        whole.paste(tile, (left + (SHEET_SIDE - tile.width) // 2, top + (SHEET_SIDE - tile.height) // 2))
    return Picture(address=_address(whole, exact=False), width=whole.width, height=whole.height, exact=False)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: not a readable image, {error}. Sample again.") from None


def _address(image: Image.Image, *, exact: bool) -> str:
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    else:
        image.save(buffer, format="WEBP", quality=82, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}"


def gallery(pairs: Sequence[ImagePair]) -> list[GalleryPair]:
    """All pairs in their order, lossless as far as the budget of the page allows."""
    rows, spent = [], 0
    for number, pair in enumerate(pairs):
        exact = number < NUM_VISIBLE or spent < LOSSLESS_BUDGET
        base, tuned = picture(pair.base, exact=exact), picture(pair.tuned, exact=exact)
        spent += (len(base.address) + len(tuned.address)) * 3 // 4
        rows.append(GalleryPair(prompt=pair.prompt, seed=pair.seed, base=base, tuned=tuned))
    return rows
