"""What is peculiar to FLUX.1: packed latents, the guidance scale, the shift by resolution."""

import math

import pytest
import torch
from diffusers import FluxPipeline

from penchant.families import flux, tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return flux.load(tiny.flux(tmp_path_factory.mktemp("model") / "flux"))


class Spy(torch.nn.Module):
    """Gives back its input and keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, **named):
        self.named = named
        return (named["hidden_states"],)


def called(guidance):
    spy, noisy = Spy(), torch.randn(2, 4, 6, 10)
    condition = {"prompt": torch.zeros(2, 3, 8), "pooled": torch.zeros(2, 8)}
    output = flux.predicted(spy, noisy, torch.tensor([250.0, 500.0]), condition, guidance=guidance)
    return spy.named, noisy, output


def test_packing_is_that_of_the_pipeline_and_is_undone():
    named, noisy, output = called(3.5)
    assert torch.equal(named["hidden_states"], FluxPipeline._pack_latents(noisy, 2, 4, 6, 10))
    assert torch.equal(
        named["img_ids"], FluxPipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    )
    assert torch.equal(named["txt_ids"], torch.zeros(3, 3))
    assert torch.equal(output, noisy)
    assert named["timestep"].tolist() == [0.25, 0.5]


def test_the_guidance_scale_is_told_where_the_model_takes_one(family, tmp_path):
    assert called(3.5)[0]["guidance"].tolist() == [3.5, 3.5]
    assert called(None)[0]["guidance"] is None
    assert family.predict.keywords == {"guidance": 3.5}
    schnell = flux.load(tiny.flux(tmp_path / "schnell", guidance=False))
    assert schnell.predict.keywords == {"guidance": None}


def test_the_shift_follows_the_resolution(family):
    """64 x 64 tokens: exp(1.15) = 3.158193; 3.158193 * 0.5 / (1 + 2.158193 * 0.5) = 0.759511."""
    assert family.size == 256 and family.sample_shape == (4, 128, 128)
    assert family.process.shift == pytest.approx(math.exp(1.15))
    assert family.process.timestep(torch.tensor([0.5])).item() == pytest.approx(759.511, abs=1e-3)
