import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from penchant.data.images import decode, decode_candidate, dimensions, framing, prepare
from penchant.data.rows import Candidate
from penchant.errors import DataError


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width=12, height=8, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def refused(encoded):
    with pytest.raises(DataError) as error:
        decode(encoded, where="pairs.parquet: row 17: column 'jpg_0'")
    return str(error.value).removeprefix("pairs.parquet: row 17: column 'jpg_0': ")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_images_decode_to_their_pixels(kind, tmp_path):
    image = noise()
    (tmp_path / "a").write_bytes(saved(image, kind))
    for source in (saved(image, kind), tmp_path / "a"):
        assert np.array_equal(decode(source, where=""), image)


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    assert np.asarray(decode(saved(image), where="")).tolist() == [[[255, 0, 0], [255] * 3, [127] * 3]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert decode(saved(palette, transparency=0), where="").getpixel((0, 0)) == (255, 255, 255)


def test_grey_of_16_bits_is_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))
    assert np.asarray(decode(saved(image), where=""))[0, :, 0].tolist() == [0, 128, 255]


def test_the_orientation_of_a_photo_is_honoured():
    image = Image.new("RGB", (16, 8), "blue")
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show it rotated by 90 degrees
    assert decode(saved(image, "JPEG", exif=exif), where="").size == (8, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_header_tells_the_dimensions_of_the_decoded_image(kind):
    for orientation in (1, 3, 6, 8) if kind in ("PNG", "JPEG", "WEBP", "TIFF") else (None,):
        exif = Image.Exif()
        exif[274] = orientation
        candidate = Candidate(image=saved(noise(16, 8), kind, **({"exif": exif} if orientation else {})))
        image = decode_candidate(candidate)
        assert dimensions(candidate) == (image.height, image.width)


def test_a_broken_header_names_its_row():
    with pytest.raises(DataError, match=r"^f: row 3: not an image\."):
        dimensions(Candidate(image=b"nothing", where="f: row 3"))


def test_an_image_cut_off_is_refused():
    assert refused(saved(noise())[:-40]).startswith("damaged or cut off image (")
    assert refused(saved(noise(64, 64), "JPEG")[:-200]).startswith("damaged or cut off image (")


def test_what_is_not_an_image_is_refused(tmp_path):
    known = "Known: PNG, JPEG, WEBP, GIF, BMP, TIFF."
    assert refused(b"%PDF-1.7 and more") == f"not an image. {known}"
    assert refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == f"not an image. {known}"
    assert refused(b"") == "no image, got 0 bytes."
    path = tmp_path / "lost.png"
    assert refused(path) == f"no such file, got '{path}'."
    with pytest.raises(DataError) as error:
        decode_candidate(Candidate(text="t", where="f: line 3: text"))
    assert str(error.value) == "f: line 3: text: must be an image, got text."


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (9_000, "too large an image, got 9000 x 9000 pixels. At most 67108864 pixels are read."),
        (12_000, "too large an image. At most 67108864 pixels are read."),
        (60_000, "too large an image. At most 67108864 pixels are read."),
    ],
)
def test_a_small_file_of_very_many_pixels_is_refused(side, message):
    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    assert refused(bomb) == message


@pytest.mark.parametrize("size", [(1, 60_000), (101, 2)])
def test_a_long_and_thin_image_is_refused(size):
    encoded = saved(Image.new("L", size))  # of 196 bytes, and 4 GB at a window of 128 pixels
    sentence = (
        f"too long and thin an image, got {size[0]} x {size[1]} pixels. The longer side may be 50 times the "
        "shorter at most; cut it."
    )
    assert refused(encoded) == sentence
    with pytest.raises(DataError, match="too long and thin"):
        dimensions(Candidate(image=encoded))
    assert decode(saved(Image.new("L", (1, 50))), where="").size == (1, 50)


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.int16, "I"), (np.float32, "F")])
def test_a_tiff_that_does_not_say_what_is_white_is_refused(kind, mode):
    encoded = saved(Image.fromarray(np.array([[0, 1], [127, 200]]).astype(kind)), "TIFF")
    assert refused(encoded) == (
        f"a TIFF of 32-bit or signed numbers, got mode {mode!r}, which does not say what is white. Save it "
        "with 8 or 16 bits."
    )


WHOLE = {kind: saved(noise(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged metadata, and reads on
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_bytes_give_an_image_or_a_data_error(kind, data):
    encoded = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    encoded = bytes(encoded[: data.draw(st.integers(1, len(encoded)))])
    try:
        assert decode(encoded, where="x").mode == "RGB"
    except DataError as error:
        assert str(error).startswith("x: ")


sizes = st.tuples(st.integers(4, 40), st.integers(4, 40))
shares = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(st.lists(sizes, min_size=1, max_size=3), st.tuples(st.integers(1, 24), st.integers(1, 24)), shares)
def test_every_candidate_gets_the_size_in_range_and_its_framing_says_where(dimensions, size, crop):
    images = [noise(*pair) for pair in dimensions]
    out = prepare(images, size=size, crop=crop, flip=True)
    assert out.shape == (len(dimensions), 3, *size)
    assert out.dtype == torch.float32
    assert out.min() >= -1
    assert out.max() <= 1
    for image in images:
        told = framing(image, size=size, crop=crop)
        assert told.original == (image.height, image.width) and told.size == size
        assert min(told.crop) >= 0 and 0 in told.crop, "one side is covered without a rest"


@given(sizes, st.integers(1, 24), shares, st.booleans())
def test_equal_candidates_stay_equal_so_crop_and_flip_are_joint(pair, size, crop, flip):
    first, second = prepare([noise(*pair)] * 2, size=size, crop=crop, flip=flip)
    assert torch.equal(first, second)


@given(sizes, st.integers(1, 24), shares)
def test_a_flip_mirrors_the_same_window(pair, size, crop):
    image = noise(*pair)
    plain = prepare([image], size=size, crop=crop)
    assert torch.equal(prepare([image], size=size, crop=crop, flip=True), plain.flip(-1))


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = noise(8, 8)
    expected = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(prepare([image], size=8)[0], expected)
    assert prepare([Image.new("RGB", (2, 2), "white")], size=2).unique().tolist() == [1.0]
    assert prepare([Image.new("RGB", (2, 2), "black")], size=2).unique().tolist() == [-1.0]


def test_the_crop_moves_along_the_long_side():  # columns 0..5 of brightness 0, 51, ..., 255; a window of 2
    wide = Image.fromarray(np.tile(np.arange(6, dtype=np.uint8)[None, :, None] * 51, (2, 1, 3)))
    for share, columns in ((0.0, [0, 1]), (0.5, [2, 3]), (1.0, [4, 5])):
        window = (prepare([wide], size=2, crop=(0.3, share)) + 1) * 2.5
        assert window[0, 0, 0].round().tolist() == columns
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    assert ((prepare([tall], size=2, crop=(1.0, 0.3)) + 1) * 2.5)[0, 0, :, 0].round().tolist() == [4, 5]


def test_a_window_of_another_ratio_covers_the_image():
    """8 x 4 pixels fill a window of 4 x 2 rows and columns when they are halved: nothing is cut."""
    image = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(8, 4).repeat(3).reshape(8, 4, 3))
    told = framing(image, size=(4, 2))
    assert told.crop == (0, 0)
    halved = torch.tensor(np.asarray(image.resize((2, 4), Image.Resampling.BILINEAR)))
    torch.testing.assert_close(prepare([image], size=(4, 2))[0], halved.permute(2, 0, 1) / 127.5 - 1)
    assert framing(image, size=(2, 2), crop=(1.0, 1.0)).crop == (2, 0)


def test_shrinking_averages_instead_of_dropping_pixels():
    board = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8)[..., None].repeat(3, 2) % 2 * 255)
    assert prepare([board], size=8).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be >= 1, got 0"),
        ({"size": 4, "crop": (0.5, 1.5)}, r"crop must be two shares in \[0, 1\], got \(0.5, 1.5\)"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        prepare([noise()], **options)
