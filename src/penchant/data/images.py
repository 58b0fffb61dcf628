"""Encoded images to RGB, and the candidates of one example to one tensor.

Axes: K candidates, H W pixels.
"""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from penchant.data.rows import Candidate
from penchant.errors import DataError
from penchant.protocols import Framing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 2**26  # 8192 x 8192; Pillow itself warns from about 89 million
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


def decode(encoded: bytes | Path, *, where: str) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says, transparent parts on white.

    Of an animation this is the first frame.

    Args:
        encoded: Bytes or path of an encoded image.
        where: Place of the image, for messages.

    Raises:
        DataError: It is not an image of a known format, is cut off or damaged, or has more than
            67 million pixels.
    """
    if isinstance(encoded, bytes) and not encoded:
        raise DataError(f"{where}: no image, got 0 bytes.")
    try:
        source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file, got {str(encoded)!r}.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{where}: not an image. Known: {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where}: too large an image. At most {MAX_PIXELS} pixels are read.") from error
    except _BROKEN as error:
        raise DataError(f"{where}: damaged or cut off image ({error}).") from error
    raise DataError(
        f"{where}: too large an image, got {width} x {height} pixels. At most {MAX_PIXELS} pixels are read."
    )


def decode_candidate(candidate: Candidate) -> Image.Image:
    """The image of a candidate, as `decode`; the message of an error names its row."""
    if candidate.image is None:
        raise DataError(f"{candidate.where}: must be an image, got text.")
    return decode(candidate.image, where=candidate.where)


def prepare(
    images: Sequence[Image.Image], *, size: int, crop: tuple[float, float] = (0.5, 0.5), flip: bool = False
) -> Float[Tensor, "K 3 H W"]:
    """All candidates of one example as squares in [-1, 1], resized, cropped and mirrored in the same way.

    The short side is brought to `size` (bilinear, averaging when it shrinks); the long side is then cropped.

    Args:
        images: RGB images of one example; they may differ in size.
        size: Height and width of the result in pixels.
        crop: Place of the window along height and width, as shares of the room there is: 0 is top or left,
            0.5 the middle, 1 bottom or right.
        flip: Mirror left and right.
    """
    if not all(0 <= share <= 1 for share in crop):
        raise ValueError(f"crop must be two shares in [0, 1], got {crop}")
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    windows = [_window(image, size, crop) for image in images]
    pixels = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.flip(-1) if flip else pixels.contiguous()


def framing(
    image: Image.Image, *, size: int, crop: tuple[float, float] = (0.5, 0.5), flip: bool = False
) -> Framing:
    """How `prepare` cuts an image, by the same arguments; the crop of a mirrored one lies in the mirror."""
    (width, _), (top, left) = _cut(image, size, crop)
    left = width - size - left if flip else left
    return Framing(original=(image.height, image.width), crop=(top, left), size=size)


def _window(image: Image.Image, size: int, crop: tuple[float, float]) -> np.ndarray:
    resized, (top, left) = _cut(image, size, crop)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _cut(image: Image.Image, size: int, crop: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height to resize to; top and left of the window there."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    return (width, height), (round(crop[0] * (height - size)), round(crop[1] * (width - size)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip to 255 instead of scaling
        grey = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
