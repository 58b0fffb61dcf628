"""What is peculiar to Wan: frames, latents scaled by channel, prompts without padding, two transformers."""

import json
import shutil

import pytest
import torch

from penchant.errors import ModelError
from penchant.families import tiny, wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.wan(tmp_path_factory.mktemp("model") / "wan")


@pytest.fixture(scope="module")
def family(folder):
    return wan.load(folder)


def pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_an_image_is_a_video_of_one_frame(family):
    image = pixels(2, 3, 16, 16)
    found, of_video = family.encode_images(image), family.encode_images(image.unsqueeze(2))
    assert found[0].shape == (2, 4, 1, 4, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, of_video, strict=True))
    assert family.decode(found[0]).shape == (2, 3, 16, 16)


def test_a_video_of_nine_frames_has_three_latents_and_the_first_is_that_of_its_first_frame(family):
    video = pixels(1, 3, 9, 16, 16)
    mean, deviation = family.encode_images(video)
    assert mean.shape == deviation.shape == (1, 4, 3, 4, 4)
    torch.testing.assert_close(mean[:, :, :1], family.encode_images(video[:, :, 0])[0])
    assert family.decode(mean).shape == (1, 3, 9, 16, 16)


def test_latents_are_those_of_the_autoencoder_less_mean_over_deviation(family):
    video = pixels(1, 3, 5, 16, 16)
    with torch.no_grad():
        posterior = family.pipeline.vae.encode(video).latent_dist
    mean, deviation = family.encode_images(video)
    for channel, (shift, scale) in enumerate(zip([0.1, 0.2, -0.1, 0.0], [1.0, 2.0, 0.5, 1.5], strict=True)):
        torch.testing.assert_close(mean[:, channel], (posterior.mean[:, channel] - shift) / scale)
        torch.testing.assert_close(deviation[:, channel], posterior.std[:, channel] / scale)


def test_one_noise_level_is_that_of_every_token(family):
    """Wan 2.2 TI2V is told one for each token: of equal ones, the network makes the same."""
    noisy, condition = torch.randn(2, 4, 3, 4, 4), family.encode_prompts(["a fish", "birds"])
    timestep = torch.tensor([300, 700])
    with torch.no_grad():
        found = family.denoiser(family.network)(noisy, timestep, condition)
        each = family.denoiser(family.network)(noisy, timestep[:, None].expand(2, 3 * 2 * 2), condition)
    torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-5)
    assert found.shape == noisy.shape


def test_prompts_are_zero_beyond_their_end(family, caplog):
    found = family.encode_prompts(["ab", "x" * 600])["prompt"]
    assert found.shape == (2, 512, 16)
    assert [(rows != 0).any(1).sum().item() for rows in found] == [
        4,
        512,
    ]  # the first: a mark, a, b and an end
    assert "1 of 2 prompts are longer than 512 tokens and are cut" in caplog.text


@pytest.mark.parametrize(
    "change", [{"boundary_ratio": 0.875}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}]
)
def test_two_transformers_are_refused_in_a_sentence(folder, tmp_path, change):
    other = shutil.copytree(folder, tmp_path / "a14b")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ModelError) as caught:
        wan.load(other)
    assert str(caught.value) == (
        f"{other}: two transformers, one for high and one for low noise, as in Wan 2.2 A14B; they cannot be "
        "trained as one model. Give a Wan model with one transformer, such as 2.1 or 2.2 TI2V."
    )
