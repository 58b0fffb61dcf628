"""Buckets have the area of the square, and an image goes where its sides fit best."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.data.buckets import bucket_sizes, nearest


def test_the_buckets_of_sdxl_worked_by_hand():
    """1024 * sqrt(3 / 4) = 886.8, nearest multiple of 64: 896; 1024 / sqrt(3 / 4) = 1182.4: 1152."""
    found = bucket_sizes(["1x1", "3x4", "4x3", "832x1216", "16x9"], size=1024, step=64)
    assert found == ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (768, 1344))


def test_ratios_that_come_to_the_same_sides_are_one_bucket():
    assert bucket_sizes(["1x1", "2x2", "100x101"], size=512, step=64) == ((512, 512),)
    assert bucket_sizes(["1x100"], size=64, step=64) == ((640, 64),), "no side vanishes"


ratios = st.tuples(st.integers(1, 30), st.integers(1, 30)).filter(lambda r: 1 / 3 <= r[0] / r[1] <= 3)


@given(st.lists(ratios, min_size=1, max_size=6), st.sampled_from([512, 768, 1024]))
def test_sides_are_multiples_and_areas_nearly_equal(pairs, size):
    for height, width in bucket_sizes([f"{w}x{h}" for w, h in pairs], size=size, step=8):
        assert height % 8 == width % 8 == 0
        assert abs(height * width / size**2 - 1) < 0.03


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ((500, 500), (512, 512)),
        ((100, 150), (448, 576)),
        ((150, 100), (576, 448)),
        ((1000, 3000), (448, 576)),
        ((100, 112), (512, 512)),
    ],
)
def test_the_nearest_ratio_wins(dimensions, expected):
    """Between 1 and 9/7 the border is sqrt(9/7) = 1.134."""
    assert nearest(dimensions, ((512, 512), (448, 576), (576, 448))) == expected
    assert math.sqrt(9 / 7) > 1.12


def test_half_way_the_first_bucket_is_taken():
    assert nearest((10, 10), ((10, 20), (20, 10))) == (10, 20)
    assert nearest((10, 10), ((20, 10), (10, 20))) == (20, 10)
