"""Moving average of the weights."""

import torch

from penchant.training.ema import MovingAverage
from penchant.training.loop import Record


def network():
    net = torch.nn.Linear(1, 1)
    net.weight.data.fill_(1.0)
    net.bias.requires_grad_(False)
    return net


def test_two_steps_by_hand():
    """0.75 * 1 + 0.25 * 3 = 1.5; 0.75 * 1.5 + 0.25 * 7 = 2.875."""
    net = network()
    average = MovingAverage(net, decay=0.75)
    for weight in (3.0, 7.0):
        net.weight.data.fill_(weight)
        average.follow(Record(step=1))
    assert average.tensors().keys() == {"weight"}
    assert average.tensors()["weight"].item() == 2.875


def test_it_is_kept_in_float32_for_weights_of_half_precision():
    net = network().bfloat16()
    average = MovingAverage(net, decay=0.999)
    net.weight.data.fill_(2.0)
    for _ in range(10):
        average.follow(Record(step=1))
    assert average.tensors()["weight"].dtype is torch.float32
    torch.testing.assert_close(average.tensors()["weight"].item(), 2 - 0.999**10)


def test_applied_only_inside():
    net = network()
    average = MovingAverage(net, decay=0.5)
    net.weight.data.fill_(3.0)
    average.follow(Record(step=1))
    with average.applied():
        assert net.weight.item() == 2.0
    assert net.weight.item() == 3.0
    average.load({"weight": torch.tensor([[9.0]])})
    assert average.tensors()["weight"].item() == 9.0
