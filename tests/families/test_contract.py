"""What holds for every family: it computes what its plain diffusers pipeline computes, and it trains.

Every model here is tiny and random, built from the real config classes.
"""

import warnings

import diffusers
import pytest
import torch
from rich.console import Console
from tests import small
from torch import nn

from penchant import families, methods
from penchant.evaluation.sampling import Sampler, draw, requests_for
from penchant.families import tiny
from penchant.protocols import Framing, LatentBatch, Models
from penchant.randomness import Randomness
from penchant.runs.evaluate import sampled
from penchant.runs.load import load
from penchant.slots.compose import step
from penchant.training.adapters import add_lora, continue_lora, save_lora
from penchant.training.encode import sampling_conditions
from penchant.training.reference import SwitchedReference

SIZE = 16
PROMPTS = ["a red fish", "two birds"]
BUILDERS = {
    "sd15": tiny.stable_diffusion,
    "sdxl": tiny.stable_diffusion_xl,
    "sd3": tiny.stable_diffusion_3,
    "flux": tiny.flux,
}
UNGUIDED = {"flux": 3.5}
"""Guidance scale at which the pipeline calls its network as in training; 1 where it is not named."""


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture(scope="module")
def plain(folder):
    """The pipeline as a user of diffusers loads it."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def family(folder):
    """As loaded; not changed by any test."""
    return families.load(str(folder))


@pytest.fixture
def tuned(folder):
    """With an adapter whose second factor is not zero, so that all of it matters."""
    loaded = families.load(str(folder))
    add_lora(loaded.network, rank=2, alpha=2, targets=loaded.lora_targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in loaded.network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return loaded


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(family, number):
    return normal(number, family.sample_shape[0], SIZE // 2, SIZE // 2)


def pictures(number=2):
    return torch.rand((number, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)) * 2 - 1


def conditions(family, prompts):
    whole = Framing(original=(SIZE, SIZE), crop=(0, 0), size=(SIZE, SIZE))
    return {**family.encode_prompts(prompts), **family.image_conditions([whole] * len(prompts))}


def batch(family):
    """Two pairs, their latents from the VAE."""
    mean, _ = family.encode_images(pictures(4))
    condition = {name: value[:, None] for name, value in conditions(family, PROMPTS).items()}
    return LatentBatch(ids=("0", "1"), latents=mean.unflatten(0, (2, 2)), condition=condition)


def models(family, network=None):
    policy = family.denoiser(network or family.network)
    return Models(policy=policy, reference=SwitchedReference(denoiser=policy, network=family.network))


def gradients(family, draws=0):
    """Of one step of Diffusion-DPO, by parameter; beta is small, so that nothing saturates."""
    method = methods.catalog.get("diffusion-dpo")
    family.network.zero_grad()
    step(method, models(family), batch(family), Randomness(run=draws)).loss.backward()
    return {n: p.grad.clone() for n, p in family.network.named_parameters() if p.requires_grad}


class Recorder:
    """Notes what the pipeline gives its network, and what comes back."""

    def __init__(self, network):
        self.calls = []
        self.handle = network.register_forward_hook(self.note, with_kwargs=True)

    def note(self, network, arguments, named, output):
        self.calls.append((arguments, named, output[0]))


def test_it_keeps_the_seam(family):
    assert family.network is getattr(family.pipeline, family.network_part)
    assert len(family.sample_shape) >= 3 and family.size > 0
    for part in family.pipeline.components.values():
        if isinstance(part, nn.Module):
            assert not part.training and not any(p.requires_grad for p in part.parameters())


def test_the_forward_is_the_network_call_of_the_pipeline(family, plain):
    """Latents go in at each step and come out after it: the pipeline's own calls, seen by a hook."""
    recorder = Recorder(getattr(plain, family.network_part))
    seen = []

    def note(pipeline, number, timestep, tensors):
        seen.append((timestep, tensors["latents"]))
        return {}

    plain(
        PROMPTS,
        num_inference_steps=2,
        guidance_scale=UNGUIDED.get(family.name, 1.0),
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        callback_on_step_end=note,
    )
    recorder.handle.remove()
    condition = conditions(family, PROMPTS)
    for (timestep, _), (arguments, named, output) in zip(seen, recorder.calls, strict=True):
        given = arguments[0] if arguments else named["hidden_states"]
        with torch.no_grad():
            found = family.denoiser(family.network)(unpacked(given), timestep.expand(len(PROMPTS)), condition)
        torch.testing.assert_close(found, unpacked(output), rtol=1e-5, atol=1e-5)


def unpacked(latents):
    """Channels, height and width of what the network sees, also where the pipeline packs 2 x 2 patches."""
    if latents.ndim != 3:
        return latents
    size = SIZE // 2
    return diffusers.FluxPipeline._unpack_latents(latents, size, size, 1)


def test_prompts_are_encoded_as_the_pipeline_does(family, plain):
    found = family.encode_prompts([*PROMPTS, ""])
    with torch.no_grad():
        expected, empty = encoded(plain, PROMPTS)
    assert all(value.dtype is torch.float32 and len(value) == 3 for value in found.values())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value[:2], expected[name])
        torch.testing.assert_close(value[2:], empty[name][:1])


def encoded(pipeline, prompts):
    """Condition and unguided condition by the pipeline's own method."""
    name = type(pipeline).__name__
    if name == "StableDiffusionPipeline":
        prompt, empty = pipeline.encode_prompt(prompts, "cpu", 1, True)
        return {"prompt": prompt}, {"prompt": empty}
    if name == "FluxPipeline":
        (prompt, pooled, _), (empty, empty_pooled, _) = (
            pipeline.encode_prompt(texts, device="cpu") for texts in (prompts, [""])
        )
    elif name == "StableDiffusion3Pipeline":
        prompt, empty, pooled, empty_pooled = pipeline.encode_prompt(prompts, None, None)
    else:
        prompt, empty, pooled, empty_pooled = pipeline.encode_prompt(prompts, device="cpu")
    return {"prompt": prompt, "pooled": pooled}, {"prompt": empty, "pooled": empty_pooled}


def test_the_posterior_and_its_decoding_are_those_of_the_pipeline(family, plain):
    mean, deviation = family.encode_images(pictures())
    assert mean.shape == deviation.shape and mean.shape[1] == family.sample_shape[0]
    config = plain.vae.config
    shift = config.shift_factor or 0.0
    with torch.no_grad():
        posterior = plain.vae.encode(pictures()).latent_dist
        decoded = plain.vae.decode(mean / config.scaling_factor + shift).sample
    torch.testing.assert_close(mean, (posterior.mean - shift) * config.scaling_factor)
    torch.testing.assert_close(deviation, posterior.std * config.scaling_factor)
    torch.testing.assert_close(
        family.decode(mean), plain.image_processor.postprocess(decoded, output_type="pt")
    )


def test_a_sampled_latent_is_decoded_as_the_pipeline_does(family, plain):
    def drawn(output_type):
        return plain(
            PROMPTS, num_inference_steps=2, guidance_scale=1.0, height=SIZE, width=SIZE,
            generator=torch.Generator().manual_seed(0), output_type=output_type,
        ).images  # fmt: skip

    torch.testing.assert_close(family.decode(unpacked(drawn("latent"))), drawn("pt"), rtol=1e-4, atol=1e-4)


def test_noise_and_target_are_those_of_the_scheduler(family, plain):
    process, scheduler = family.process, type(plain.scheduler).from_config(plain.scheduler.config)
    clean, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    is_flow = hasattr(scheduler, "scale_noise")
    timestep = scheduler.timesteps[[10, 500, 900]]
    add_noise = scheduler.scale_noise if is_flow else scheduler.add_noise
    arguments = (clean, timestep, noise) if is_flow else (clean, noise, timestep)
    torch.testing.assert_close(
        process.noised(clean, noise, timestep).float(), add_noise(*arguments), rtol=1e-4, atol=1e-5
    )
    target = process.target(clean, noise, timestep).float()
    if is_flow:  # with the true velocity, a step of the sampler stays on the line
        scheduler.set_timesteps(4, mu=0.8 if scheduler.config.use_dynamic_shifting else None)
        start, end = (t.expand(3) for t in scheduler.timesteps[1:3])
        stepped = scheduler.step(target, start[0], process.noised(clean, noise, start)).prev_sample
        torch.testing.assert_close(stepped, process.noised(clean, noise, end), rtol=1e-4, atol=1e-5)
    else:
        velocity = scheduler.get_velocity(clean, noise, timestep)
        expected = {"epsilon": noise, "v_prediction": velocity}[scheduler.config.prediction_type]
        torch.testing.assert_close(target, expected, rtol=1e-4, atol=1e-5)


def test_noise_levels_of_training_lie_on_the_networks_scale(family):
    timestep = family.process.timestep(torch.linspace(0, 0.999, 50))
    assert (timestep.diff() > 0).all() and timestep.min() >= 0 and 900 < timestep.max() <= 1000


def test_winner_and_loser_in_one_forward_are_two_forwards(family):
    noisy, timestep = latents(family, 4), family.process.timestep(torch.tensor([0.3] * 4))
    condition = sampling_conditions(PROMPTS * 2, family)
    denoiser = family.denoiser(family.network)
    with torch.no_grad():
        together = denoiser(noisy, timestep, condition)
        apart = [
            denoiser(noisy[half], timestep[half], {n: v[half] for n, v in condition.items()})
            for half in (slice(2), slice(2, None))
        ]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)
    assert together.shape == noisy.shape


def test_every_lora_parameter_gets_a_gradient(tuned):
    found = gradients(tuned)
    for target in tuned.lora_targets:
        assert any(f".{name}".endswith(f".{target}.lora_A.default.weight") for name in found), target
    without = [name for name, gradient in found.items() if not gradient.abs().max() > 0]
    assert without == []


def test_at_the_reference_the_margin_is_exactly_zero(folder):
    loaded = families.load(str(folder))
    add_lora(loaded.network, rank=2, alpha=2, targets=loaded.lora_targets, seed=0)
    output = step(methods.catalog.get("diffusion-dpo"), models(loaded), batch(loaded), Randomness(run=0))
    assert (output.measured["margin/mean"] == 0).all()
    assert output.loss.item() == pytest.approx(0.6931472, abs=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(tuned):
    plain = gradients(tuned)
    tuned.network.enable_gradient_checkpointing()
    again = gradients(tuned)
    assert tuned.network.is_gradient_checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_saved_adapter_is_continued_from_where_it_was(tuned, folder, tmp_path):
    save_lora(tuned, tmp_path)
    other = families.load(str(folder))
    continue_lora(other.network, tmp_path, part=other.network_part)
    noisy, timestep = latents(tuned, 2), tuned.process.timestep(torch.tensor([0.2, 0.7]))
    condition = conditions(tuned, PROMPTS)
    both = models(other)
    with torch.no_grad():
        expected = tuned.denoiser(tuned.network)(noisy, timestep, condition)
        for denoiser in (both.policy, both.reference):
            assert torch.equal(denoiser(noisy, timestep, condition), expected)
        assert not torch.equal(tuned.denoiser(plain_network(folder))(noisy, timestep, condition), expected)


def plain_network(folder):
    return families.load(str(folder)).network


@pytest.fixture(scope="module")
def run_folder(folder, tiny_pairs, tmp_path_factory):
    """A run of two steps through the run file."""
    raw = small.run_options(
        folder,
        tiny_pairs,
        tmp_path_factory.mktemp("run") / "out",
        {
            "data.size": SIZE,
            "training.ema": small.REMOVED,
            "training.learning_rate": 0.05,
            "training.gradient_checkpointing": True,
            "evaluation.num_steps": 2,
        },
    )
    return small.train(raw)[0]


def test_a_run_is_trained_and_its_adapter_loads_in_plain_diffusers(run_folder, folder):
    requests = requests_for(PROMPTS, seeds_per_prompt=1, seed=0)
    base, trained = sampled(run_folder, load(run_folder.run_file), requests, Console(quiet=True))
    assert base.shape == (2, 3, SIZE, SIZE) and not torch.equal(base, trained)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.load_lora_weights(run_folder.adapter)
    sampler = Sampler(num_steps=2, guidance=3.0, eta=0.0, batch_size=16, size=SIZE)
    assert torch.equal(draw(pipeline, requests, sampler), trained)


def test_a_fully_trained_pipeline_loads_in_plain_diffusers(folder, tmp_path):
    loaded = families.load(str(folder))
    families.copy_other_parts(folder, tmp_path / "pipeline", trained=loaded.network_part)
    loaded.network.save_pretrained(str(tmp_path / "pipeline" / loaded.network_part))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline, type(loaded.pipeline))
    assert families.resolve(str(tmp_path / "pipeline"))


def test_its_parts_are_loaded_one_after_the_other(family, folder):
    """Each alone gives what it gives in the whole; what is not loaded has no memory."""

    def loaded(part):
        found = families.load_folder(folder, part=part)
        found.to(torch.device("cpu"))
        parts = {name: p for name, p in found.pipeline.components.items() if isinstance(p, nn.Module)}
        whole = {name for name, p in parts.items() if not any(q.is_meta for q in p.parameters())}
        assert all(q.is_meta for name in parts.keys() - whole for q in parts[name].parameters())
        assert parts.keys() == {n for n, p in family.pipeline.components.items() if isinstance(p, nn.Module)}
        return found, whole

    text, names = loaded(families.Part.TEXT_ENCODERS)
    assert names and all(name.startswith("text_encoder") for name in names)
    expected = family.encode_prompts([*PROMPTS, ""])
    for name, value in text.encode_prompts([*PROMPTS, ""]).items():
        assert torch.equal(value, expected[name])
    images, others = loaded(families.Part.AUTOENCODER)
    assert all(
        torch.equal(a, b)
        for a, b in zip(images.encode_images(pictures()), family.encode_images(pictures()), strict=True)
    )
    network, last = loaded(families.Part.DENOISER)
    assert not names & others and not (names | others) & last and last == {family.network_part}
    network.release_encoders()
    noisy, timestep = latents(family, 2), family.process.timestep(torch.tensor([0.2, 0.7]))
    condition = conditions(family, PROMPTS)
    with torch.no_grad():
        a, b = (f.denoiser(f.network)(noisy, timestep, condition) for f in (network, family))
    assert torch.equal(a, b)
    for found in (text, images, network):
        assert (found.size, found.size_step, found.sample_shape, found.lora_targets) == (
            family.size, family.size_step, family.sample_shape, family.lora_targets,
        )  # fmt: skip


def test_encoders_leave_memory(folder):
    loaded = families.load(str(folder))
    network = loaded.network
    loaded.release_encoders()
    left = [name for name, part in loaded.pipeline.components.items() if isinstance(part, nn.Module)]
    assert left == [loaded.network_part] and loaded.network is network
