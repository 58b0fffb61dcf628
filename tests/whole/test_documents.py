"""The worked example of docs/add-a-method.md is run as it stands there."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from penchant.errors import CompositionError
from penchant.methods import catalog
from penchant.protocols import Groups
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.ratios.stepwise import Stepwise

PAGE = Path(__file__).parents[2] / "docs/add-a-method.md"


@pytest.fixture(scope="module")
def example():
    module = types.ModuleType("worked_example")
    sys.modules[module.__name__] = module
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S).group(1)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_the_new_method_has_the_number_of_its_worked_example(example):
    # A_w = -2, A_l = -3: z = 2.5 * 1 - 1.375 = 1.125
    groups = Groups(log_policy=torch.tensor([[-2.0, -3.0]]))
    assert example.TargetMargin(beta=2.5)(groups).item() == pytest.approx(0.281150, abs=1e-6)


def test_it_needs_no_reference_and_is_refused_on_denoising_errors(example):
    method: Method = example.METHOD
    assert not method.needs_reference
    parts = dict(
        name="mine", source="test", shape=method.shape, objective=method.objective, weight=method.weight
    )
    Method(ratio=Stepwise(), **parts)
    with pytest.raises(CompositionError, match="TargetMargin reads the log-likelihood; Denoising does not"):
        replace(method, ratio=Denoising())


def test_every_method_has_a_section(example):
    sections = re.findall(r"^## (.+)$", (PAGE.parent / "methods.md").read_text(), re.M)
    assert set(catalog.names()) <= set(sections)
