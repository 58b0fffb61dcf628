"""Pictures in the page: every pixel kept where promised, size held where not."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from penchant.errors import DataError
from penchant.reports import gallery as module
from penchant.reports.contents import ImagePair
from penchant.reports.gallery import NUM_VISIBLE, SHEET_SIDE, contact_sheets, gallery, picture


def noise(path, size: tuple[int, int], seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    image.save(path)
    return image


def decoded(address: str) -> Image.Image:
    head, text = address.split(",", 1)
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_small_pictures_keep_every_pixel(tmp_path):
    image = noise(tmp_path / "a.png", (64, 48))
    shown = picture(tmp_path / "a.png")
    assert (shown.width, shown.height, shown.exact) == (64, 48, True)
    np.testing.assert_array_equal(np.array(decoded(shown.address)), np.array(image))


def test_large_pictures_are_shown_smaller(tmp_path):
    noise(tmp_path / "a.png", (1024, 512))
    shown = picture(tmp_path / "a.png")
    assert not shown.exact
    assert (shown.width, shown.height) == (1024, 512)
    assert decoded(shown.address).size == (256, 128)


def test_beyond_the_budget_only_hidden_pairs_become_lossy(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOSSLESS_BUDGET", 1)
    noise(tmp_path / "a.png", (32, 32))
    pair = ImagePair(prompt="p", seed=0, base=tmp_path / "a.png", tuned=tmp_path / "a.png")
    rows = gallery([pair] * (module.NUM_VISIBLE + 3))
    assert [row.base.exact for row in rows] == [True] * module.NUM_VISIBLE + [False] * 3


def test_240_pairs_of_noise_stay_below_five_megabytes(tmp_path):
    for side in ("base", "tuned"):
        noise(tmp_path / f"{side}.png", (64, 64))  # the worst case: noise cannot be compressed
    pair = ImagePair(prompt="p", seed=0, base=tmp_path / "base.png", tuned=tmp_path / "tuned.png")
    rows = gallery([pair] * 130)
    sizes = [len(row.base.address) + len(row.tuned.address) for row in rows]
    assert rows[100].base.exact
    assert not rows[-1].base.exact
    assert sum(sizes) + (240 - 130) * sizes[-1] < 4_900_000


def test_the_contact_sheets_hold_the_first_pairs_in_the_same_places(tmp_path):
    pairs = []
    for number in range(NUM_VISIBLE + 1):
        for side, value in (("base", 10 * number), ("tuned", 255 - 10 * number)):
            Image.new("RGB", (64, 32), (value, value, value)).save(tmp_path / f"{side}{number}.png")
        pairs.append(
            ImagePair(
                prompt="p",
                seed=number,
                base=tmp_path / f"base{number}.png",
                tuned=tmp_path / f"tuned{number}.png",
            )
        )
    for sheet, grey in zip(contact_sheets(pairs), (lambda n: 10 * n, lambda n: 255 - 10 * n), strict=True):
        image = decoded(sheet.address)
        assert image.size == (6 * SHEET_SIDE, 4 * SHEET_SIDE) == (sheet.width, sheet.height)
        for number in (0, 7, 23):
            x, y = (number % 6 + 0.5) * SHEET_SIDE, number // 6 * SHEET_SIDE
            assert abs(image.getpixel((x, y + SHEET_SIDE / 2))[0] - grey(number)) <= 4
            assert min(image.getpixel((x, y + 4))) >= 250  # a wide picture
    one = contact_sheets(pairs[:1])
    assert (one[0].width, one[0].height) == (SHEET_SIDE, SHEET_SIDE)
    assert contact_sheets([]) is None


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match="a.png: not a readable image"):
        picture(tmp_path / "a.png")
