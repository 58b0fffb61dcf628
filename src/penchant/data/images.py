"""Encoded images to RGB, and the candidates of one example to one tensor.

Axes: K candidates, H W pixels.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from penchant.data.buckets import Size
from penchant.data.rows import Candidate
from penchant.errors import DataError
from penchant.protocols import Framing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 2**26  # 8192 x 8192; Pillow itself warns from about 89 million
MAX_RATIO = 50  # longer side to shorter; a window of 1024 pixels is then cut of at most 157 MB
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


def decode(encoded: bytes | Path, *, where: str) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says, transparent parts on white.

    Of an animation this is the first frame.

    Args:
        encoded: Bytes or path of an encoded image.
        where: Place of the image, for messages.

    Raises:
        DataError: It is not an image of a known format, is cut off or damaged, has more than 67 million
            pixels, is more than 50 times as long as wide (or as wide as long), or a TIFF whose numbers have
            no known white.
    """
    with _opened(encoded, where) as image:
        return _rgb(ImageOps.exif_transpose(image))


def decode_candidate(candidate: Candidate) -> Image.Image:
    """The image of a candidate, as `decode`; the message of an error names its row."""
    return decode(_image(candidate), where=candidate.where)


def dimensions(candidate: Candidate) -> Size:
    """Height and width of the image that `decode_candidate` gives, read from its header alone."""
    with _opened(_image(candidate), candidate.where) as image:
        height, width = image.height, image.width
        if image.format == "TIFF":  # Pillow has turned these two already
            return height, width
        return (
            (width, height) if image.getexif().get(ExifTags.Base.Orientation) in _TURNED else (height, width)
        )


def is_small(candidates: Iterable[Candidate], min_size: int | None) -> bool:
    """True if the shorter side of one of the images is below `min_size` pixels; only headers are read."""
    return min_size is not None and any(min(dimensions(candidate)) < min_size for candidate in candidates)


def prepare(
    images: Sequence[Image.Image],
    *,
    size: int | Size,
    crop: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> Float[Tensor, "K 3 H W"]:
    """All candidates of one example at one size, in [-1, 1], resized, cropped and mirrored in the same way.

    The image is brought to the smallest size that covers the window (bilinear, averaging when it shrinks);
    what stands out on one side is then cropped.

    Args:
        images: RGB images of one example; they may differ in size.
        size: Height and width of the result in pixels, or the side of a square.
        crop: Place of the window along height and width, as shares of the room there is: 0 is top or left,
            0.5 the middle, 1 bottom or right.
        flip: Mirror left and right.
    """
    if not all(0 <= share <= 1 for share in crop):
        raise ValueError(f"crop must be two shares in [0, 1], got {crop}")
    window = _sides(size)
    if min(window) < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    windows = [np.asarray(cut(image, window, crop)) for image in images]
    pixels = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.flip(-1) if flip else pixels.contiguous()


def cut(image: Image.Image, size: Size, crop: tuple[float, float]) -> Image.Image:
    """The window that `prepare` takes of an image, by the same arguments; it keeps 3 bytes a pixel."""
    resized, (top, left) = _place(image, size, crop)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size[1], top + size[0]))


def framing(
    image: Image.Image, *, size: int | Size, crop: tuple[float, float] = (0.5, 0.5), flip: bool = False
) -> Framing:
    """How `prepare` cuts an image, by the same arguments; the crop of a mirrored one lies in the mirror."""
    window = _sides(size)
    (width, _), (top, left) = _place(image, window, crop)
    left = width - window[1] - left if flip else left
    return Framing(original=(image.height, image.width), crop=(top, left), size=window)


def _image(candidate: Candidate) -> bytes | Path:
    if candidate.image is None:
        raise DataError(f"{candidate.where}: must be an image, got text.")
    return candidate.image


def _sides(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else size


def _place(
    image: Image.Image, size: Size, crop: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height to resize to; top and left of the window there."""
    scale = max(size[0] / image.height, size[1] / image.width)
    height, width = max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))
    return (width, height), (round(crop[0] * (height - size[0])), round(crop[1] * (width - size[1])))


@contextmanager
def _opened(encoded: bytes | Path, where: str) -> Iterator[Image.Image]:
    """An image whose header is read; what goes wrong inside, decoding included, becomes a DataError."""
    if isinstance(encoded, bytes) and not encoded:
        raise DataError(f"{where}: no image, got 0 bytes.")
    try:
        source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{where}: too large an image, got {image.width} x {image.height} pixels. "
                    f"At most {MAX_PIXELS} pixels are read."
                )
            if max(image.size) > MAX_RATIO * min(image.size):
                raise DataError(
                    f"{where}: too long and thin an image, got {image.width} x {image.height} pixels. The "
                    f"longer side may be {MAX_RATIO} times the shorter at most; cut it."
                )
            if image.format == "TIFF" and image.mode in ("I", "F"):
                raise DataError(
                    f"{where}: a TIFF of 32-bit or signed numbers, got mode {image.mode!r}, which does not "
                    "say what is white. Save it with 8 or 16 bits."
                )
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file, got {str(encoded)!r}.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{where}: not an image. Known: {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where}: too large an image. At most {MAX_PIXELS} pixels are read.") from error
    except _BROKEN as error:
        raise DataError(f"{where}: damaged or cut off image ({error}).") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip to 255 instead of scaling
        grey = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
