import pytest
import torch

from penchant.numerics import at_least_float32, eight_bit, is_finite, mean_over_elements, require_positive


def test_only_half_precision_is_promoted():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert at_least_float32(torch.ones(1, dtype=dtype)).dtype is torch.float32
    assert at_least_float32(torch.ones(1, dtype=torch.float64)).dtype is torch.float64


def test_mean_over_all_axes_but_the_first():
    values = torch.arange(12.0).reshape(2, 3, 2)
    assert mean_over_elements(values).tolist() == [2.5, 8.5]


def test_a_mean_of_many_half_precision_numbers_keeps_its_digits():
    values = torch.full((1, 16384), 0.1, dtype=torch.bfloat16)
    assert mean_over_elements(values).item() == pytest.approx(values[0, 0].item(), rel=1e-6)


def test_a_weighted_mean_is_divided_by_the_sum_of_weights():
    values, weight = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]])
    assert mean_over_elements(values, weight).item() == pytest.approx(2.5)


def test_images_are_cut_to_the_range_and_rounded_to_the_nearest_of_256():
    red = torch.tensor([[-0.5, 0.0, 0.498], [0.5, 0.998, 1.5]])  # 0.498 * 255 = 126.99, 0.998 * 255 = 254.49
    image = torch.stack([red, torch.zeros(2, 3), torch.ones(2, 3)]).requires_grad_()
    pixels = eight_bit(image)  # 127.5 goes to the even 128
    assert pixels.tolist() == [[[r, 0, 255] for r in row] for row in ([0, 0, 127], [128, 254, 255])]
    assert torch.equal(eight_bit(image[None].expand(2, -1, -1, -1)), torch.stack([pixels, pixels]))


def test_what_is_not_positive_is_refused_by_name():
    require_positive("beta", 0.1)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="beta must be > 0, got"):
            require_positive("beta", value)


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        (1, True),
        (-1.5, True),
        (10**308, True),
        (10**400, False),
        (float("inf"), False),
        (float("nan"), False),
    ],
)
def test_a_number_that_no_float_holds_is_not_finite(value, finite):
    assert is_finite(value) is finite
