"""What is peculiar to Z-Image: time and velocity the other way, prompts without padding, guidance from 0."""

import pytest
import torch

from penchant.families import tiny, z_image


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return z_image.load(tiny.z_image(tmp_path_factory.mktemp("model") / "z_image"))


class Spy(torch.nn.Module):
    """Gives back its input and keeps what it was told."""

    def forward(self, images, timestep, prompts, *, return_dict):
        self.told = images, timestep, prompts
        return (images,)


def test_time_and_velocity_run_from_noise_to_data_and_prompts_have_their_own_length():
    spy, noisy = Spy(), torch.randn(2, 4, 6, 10)
    condition = {
        "prompt": torch.arange(12.0).reshape(2, 3, 2),
        "attended": torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    }
    output = z_image.predicted(spy, noisy, torch.tensor([250.0, 1000.0]), condition)
    images, timestep, prompts = spy.told
    assert torch.equal(output, -noisy)
    assert [image.shape for image in images] == [(4, 1, 6, 10)] * 2
    assert timestep.tolist() == [0.75, 0.0]
    assert [prompt.tolist() for prompt in prompts] == [[[0, 1], [2, 3]], [[6, 7]]]


def test_the_size_is_that_of_the_pipeline_and_the_shift_that_of_the_config(family):
    """3 * 0.5 / (1 + 2 * 0.5) = 0.75."""
    assert family.size == 1024 and family.sample_shape == (4, 512, 512) and family.unguided == 0
    assert family.process.timestep(torch.tensor([0.5])).item() == pytest.approx(750)


def test_the_length_of_a_prompt_is_that_of_its_chat(family, caplog):
    """Both marks are one token each."""
    found = family.encode_prompts(["a red fish", "x" * 511])
    assert found["attended"].sum(1).tolist() == [12, 512]
    assert "1 of 2 prompts are longer than 512 tokens and are cut" in caplog.text
