import torch

from penchant.protocols import Groups
from penchant.slots.weights.uniform import Uniform


def test_every_group_weighs_1():
    assert Uniform()(Groups(log_policy=torch.zeros((3, 2)))).tolist() == [1, 1, 1]
