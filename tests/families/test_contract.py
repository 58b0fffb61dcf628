"""What holds for every family: it computes what its plain diffusers pipeline computes, and it trains.

Every model here is tiny and random, built from the real config classes.
"""

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import diffusers
import pytest
import torch
from rich.console import Console
from tests import small
from torch import nn

from penchant import families, methods
from penchant.diffusion.flow import RectifiedFlow
from penchant.evaluation.sampling import Sampler, draw, requests_for
from penchant.families import tiny
from penchant.protocols import Framing, LatentBatch, Models
from penchant.randomness import Randomness
from penchant.runs.assemble import assemble
from penchant.runs.evaluate import sampled
from penchant.runs.load import check, load
from penchant.runs.memory import rehearsed
from penchant.slots.compose import step
from penchant.training.adapters import add_lora, continue_lora, save_lora
from penchant.training.encode import sampling_conditions
from penchant.training.live_bytes import LiveBytes
from penchant.training.loop import fit
from penchant.training.reference import SwitchedReference

PROMPTS = ["a red fish", "two birds"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
"""From within diffusers' multistep scheduler."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model, and how its pipeline is called.

    Attributes:
        build: Writes the model.
        family: The family that must be found.
        size: Side of the images, in pixels.
        guidance: Guidance scale at which the pipeline calls its network as in training.
        options: What else the call is told to draw one image of that size.
        steps: Denoising steps.
        called: Side of the images gives what the call is told of what it draws.
        first: Writes the model that begins the images; None if the family draws them itself.
        noisiest: Timesteps between which the noisiest one of training lies.
        encoded: Condition of prompts by the pipeline's own method.
        unpacked: Latents [N, *D] of what the network is given, in the pipeline.
        output: The same of what it gives back.
    """

    build: Callable
    family: str
    size: int = 16
    guidance: float = 1.0
    options: dict = field(default_factory=dict)
    steps: int = 2
    called: Callable = lambda size: {"height": size, "width": size}
    first: Callable | None = None
    noisiest: tuple[int, int] = (900, 1000)
    encoded: Callable
    unpacked: Callable = lambda latents: latents
    output: Callable | None = None


def sd_encoded(pipeline, prompts):
    return {"prompt": pipeline.encode_prompt(prompts, "cpu", 1, False)[0]}


def sdxl_encoded(pipeline, prompts):
    guided, unguided, pooled, unguided_pooled = pipeline.encode_prompt(prompts, device="cpu")
    if prompts == [""]:
        return {"prompt": unguided, "pooled": unguided_pooled}
    return {"prompt": guided, "pooled": pooled}


def refiner_encoded(pipeline, prompts):
    """The score is a default of the pipeline's call; another one goes with the unguided half."""
    named = "negative_aesthetic_score" if prompts == [""] else "aesthetic_score"
    score = inspect.signature(pipeline.__call__).parameters[named].default
    return {**sdxl_encoded(pipeline, prompts), "score": torch.tensor([[score]] * len(prompts))}


def sd3_encoded(pipeline, prompts):
    prompt, _, pooled, _ = pipeline.encode_prompt(prompts, None, None)
    return {"prompt": prompt, "pooled": pooled}


def flux_encoded(pipeline, prompts):
    prompt, pooled, _ = pipeline.encode_prompt(prompts, device="cpu")
    return {"prompt": prompt, "pooled": pooled}


def sana_encoded(pipeline, prompts):
    """With the instruction that the pipeline's call has as a default; the unguided half has none."""
    instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    prompt, mask, empty, empty_mask = pipeline.encode_prompt(prompts, complex_human_instruction=instruction)
    if prompts == [""]:
        return {"prompt": empty, "attended": empty_mask}
    return {"prompt": prompt, "attended": mask}


def z_image_encoded(pipeline, prompts):
    states, _ = pipeline.encode_prompt(prompts)
    padded = [torch.cat([rows, rows.new_zeros(512 - len(rows), rows.shape[1])]) for rows in states]
    attended = [torch.arange(512) < len(rows) for rows in states]
    return {"prompt": torch.stack(padded), "attended": torch.stack(attended)}


def wan_encoded(pipeline, prompts):
    return {"prompt": pipeline.encode_prompt(prompts, max_sequence_length=512)[0]}


def flux_unpacked(latents):
    return diffusers.FluxPipeline._unpack_latents(latents, 8, 8, 1)


CASES = {
    "sd15": Case(
        build=partial(tiny.stable_diffusion, prediction="epsilon"), family="sd15", encoded=sd_encoded
    ),
    "sd2": Case(build=partial(tiny.stable_diffusion, second=True), family="sd15", encoded=sd_encoded),
    "sdxl": Case(build=tiny.stable_diffusion_xl, family="sdxl", encoded=sdxl_encoded),
    "sdxl_refiner": Case(
        build=tiny.stable_diffusion_xl_refiner,
        family="sdxl_refiner",
        steps=10,  # of which the refiner gets two
        called=lambda size: {"image": normal(2, 4, size // 2, size // 2), "denoising_start": 0.8},
        first=tiny.stable_diffusion_xl,
        noisiest=(198, 200),
        encoded=refiner_encoded,
    ),
    "sd3": Case(build=tiny.stable_diffusion_3, family="sd3", encoded=sd3_encoded),
    "flux": Case(build=tiny.flux, family="flux", guidance=3.5, encoded=flux_encoded, unpacked=flux_unpacked),
    "sana": Case(
        build=tiny.sana,
        family="sana",
        size=32,
        options={"use_resolution_binning": False},
        encoded=sana_encoded,
    ),
    "z_image": Case(
        build=tiny.z_image,
        family="z_image",
        guidance=0.0,
        encoded=z_image_encoded,
        unpacked=lambda latents: (
            latents if isinstance(latents, torch.Tensor) else torch.stack(latents)[:, :, 0]
        ),
        output=lambda velocities: -torch.stack(velocities)[:, :, 0],
    ),
    "wan": Case(build=tiny.wan, family="wan", options={"num_frames": 1}, encoded=wan_encoded),
}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    return CASES[name]


@pytest.fixture(scope="module")
def folder(name, case, tmp_path_factory):
    return case.build(tmp_path_factory.mktemp("model") / name)


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
def loaded(family):
    """A copy, to be changed."""
    return copy.deepcopy(family)


@pytest.fixture
def tuned(loaded):
    """With an adapter whose second factor is not zero, so that all of it matters."""
    add_lora(loaded.network, rank=2, alpha=2, targets=loaded.lora_targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in loaded.network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return loaded


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(case, number=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand((number, 3, case.size, case.size), generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def condition(family, case):
    """Of the two prompts, for whole images."""
    whole = Framing(original=(case.size, case.size), crop=(0, 0), size=(case.size, case.size))
    return {**family.encode_prompts(PROMPTS), **family.image_conditions([whole] * 2)}


@pytest.fixture(scope="module")
def batch(family, case, condition):
    """Two pairs, their latents from the VAE."""
    mean, _ = family.encode_images(pictures(case, 4))
    rows = {name: value[:, None] for name, value in condition.items()}
    return LatentBatch(ids=("0", "1"), latents=mean.unflatten(0, (2, 2)), condition=rows)


@pytest.fixture(scope="module")
def noisy(batch):
    """Four noisy latents."""
    return normal(4, *batch.latents.shape[2:])


def models(family, network=None):
    policy = family.denoiser(network or family.network)
    return Models(policy=policy, reference=SwitchedReference(denoiser=policy, network=family.network))


def gradients(family, batch):
    """Of one step of Diffusion-DPO, by parameter; beta is small, so that nothing saturates."""
    method = methods.catalog.get("diffusion-dpo")
    family.network.zero_grad()
    step(method, models(family), batch, Randomness(run=0)).loss.backward()
    return {n: p.grad.clone() for n, p in family.network.named_parameters() if p.requires_grad}


class Recorder:
    """Notes what the pipeline gives its network, and what comes back."""

    def __init__(self, network):
        self.calls = []
        self.handle = network.register_forward_hook(self.note, with_kwargs=True)

    def note(self, network, arguments, named, output):
        self.calls.append((arguments, named, output[0]))


def test_it_keeps_the_seam(family, case, batch):
    assert family.name == case.family
    assert family.network is getattr(family.pipeline, family.network_part)
    assert len(batch.latents.shape[2:]) == len(family.sample_shape) >= 3
    assert case.size % family.size_step == family.size % family.size_step == 0
    assert batch.latents.shape[-1] * family.size == family.sample_shape[-1] * case.size
    for part in family.pipeline.components.values():
        if isinstance(part, nn.Module):
            assert not part.training and not any(p.requires_grad for p in part.parameters())


def drawn(pipeline, case, **options):
    return pipeline(
        list(PROMPTS),
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        **case.called(case.size),
        generator=torch.Generator().manual_seed(0),
        **case.options,
        **options,
    )[0]


def test_the_forward_is_the_network_call_of_the_pipeline(family, plain, case, condition):
    """Latents go in at each step and come out after it: the pipeline's own calls, seen by a hook."""
    recorder = Recorder(getattr(plain, family.network_part))
    seen = []

    def note(pipeline, number, timestep, tensors):
        seen.append(timestep)
        return {}

    drawn(plain, case, output_type="latent", callback_on_step_end=note)
    recorder.handle.remove()
    assert len(seen) == 2
    for timestep, (arguments, named, output) in zip(seen, recorder.calls, strict=True):
        given = case.unpacked(arguments[0] if arguments else named["hidden_states"])
        with torch.no_grad():
            found = family.denoiser(family.network)(given, timestep.expand(len(PROMPTS)), condition)
        torch.testing.assert_close(found, (case.output or case.unpacked)(output), rtol=1e-5, atol=1e-5)


def test_prompts_are_encoded_as_the_pipeline_does(family, plain, case):
    found = family.encode_prompts([*PROMPTS, ""])
    with torch.no_grad():
        expected, empty = case.encoded(plain, list(PROMPTS)), case.encoded(plain, [""])
    assert all(value.dtype is torch.float32 and len(value) == 3 for value in found.values())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value[:2], expected[name].float())
        torch.testing.assert_close(value[2:], empty[name].float())


def test_a_latent_is_decoded_as_the_pipeline_does(family, plain, case):
    latents = case.unpacked(drawn(plain, case, output_type="latent"))
    images = drawn(plain, case, output_type="pt")
    expected = images.reshape(2, 3, case.size, case.size)
    torch.testing.assert_close(family.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_an_image_becomes_the_latents_that_decoding_undoes(family, case):
    """Mean, and mean plus a deviation, decode to what the bare autoencoder makes of its own two."""
    mean, deviation = family.encode_images(pictures(case))
    vae = family.pipeline.vae
    with torch.no_grad():
        encoded = vae.encode(pictures(case) if mean.ndim == 4 else pictures(case).unsqueeze(2))
        raw = encoded.latent if family.name == "sana" else encoded.latent_dist.mean
        spread = torch.zeros_like(raw) if family.name == "sana" else encoded.latent_dist.std
        for latents, own in ((mean, raw), (mean + deviation, raw + spread)):
            expected = vae.decode(own).sample.reshape(2, 3, case.size, case.size) / 2 + 0.5
            torch.testing.assert_close(family.decode(latents), expected.clamp(0, 1), rtol=1e-4, atol=1e-4)
    assert mean.dtype == deviation.dtype == torch.float32 and not torch.equal(mean, raw)


def test_noise_and_target_are_those_of_the_scheduler(family, plain):
    process, scheduler = family.process, type(plain.scheduler).from_config(plain.scheduler.config)
    clean, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    if isinstance(process, RectifiedFlow):
        scheduler.set_timesteps(50, **({"mu": 0.8} if scheduler.config.use_dynamic_shifting else {}))
        levels = [5, 25, 45]
        timestep, sigma = scheduler.timesteps[levels], scheduler.sigmas[levels]
        expected = (
            scheduler.scale_noise(clean, timestep, noise)
            if hasattr(scheduler, "scale_noise")
            else scheduler.add_noise(clean, noise, timestep)
        )
        torch.testing.assert_close(process.noised(clean, noise, sigma * 1000), expected, rtol=1e-4, atol=1e-5)
        target = process.target(clean, noise, sigma * 1000)
        start, end = (level.expand(3) * 1000 for level in scheduler.sigmas[1:3])
        # with the true velocity, a step of the sampler stays on the line
        noised = process.noised(clean, noise, start)
        stepped = scheduler.step(target, scheduler.timesteps[1], noised).prev_sample
        torch.testing.assert_close(stepped, process.noised(clean, noise, end), rtol=1e-4, atol=1e-5)
        return
    timestep = scheduler.timesteps[[10, 500, 900]]
    expected = scheduler.add_noise(clean, noise, timestep)
    torch.testing.assert_close(process.noised(clean, noise, timestep).float(), expected, rtol=1e-4, atol=1e-5)
    velocity = scheduler.get_velocity(clean, noise, timestep)
    expected = {"epsilon": noise, "v_prediction": velocity}[scheduler.config.prediction_type]
    torch.testing.assert_close(process.target(clean, noise, timestep).float(), expected, rtol=1e-4, atol=1e-5)


def test_noise_levels_of_training_lie_on_the_networks_scale(family, case):
    timestep = family.process.timestep(torch.linspace(0, 0.999, 50))
    low, high = case.noisiest
    assert (timestep.diff() > 0).all() and timestep.min() >= 0 and low < timestep.max() <= high
    assert family.noise_span == high / 1000


def test_winner_and_loser_in_one_forward_are_two_forwards(family, noisy, condition):
    timestep = family.process.timestep(torch.tensor([0.3] * 4))
    condition = {name: torch.cat([value, value]) for name, value in condition.items()}
    denoiser = family.denoiser(family.network)
    with torch.no_grad():
        together = denoiser(noisy, timestep, condition)
        apart = [
            denoiser(noisy[half], timestep[half], {n: v[half] for n, v in condition.items()})
            for half in (slice(2), slice(2, None))
        ]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)
    assert together.shape == noisy.shape


def test_every_lora_parameter_gets_a_gradient(tuned, batch):
    found = gradients(tuned, batch)
    for target in tuned.lora_targets:
        assert any(f".{name}".endswith(f".{target}.lora_A.default.weight") for name in found), target
    without = [name for name, gradient in found.items() if not gradient.abs().max() > 0]
    assert without == []


def test_at_the_reference_the_margin_is_exactly_zero(loaded, batch):
    add_lora(loaded.network, rank=2, alpha=2, targets=loaded.lora_targets, seed=0)
    output = step(methods.catalog.get("diffusion-dpo"), models(loaded), batch, Randomness(run=0))
    assert (output.measured["margin/mean"] == 0).all()
    assert output.loss.item() == pytest.approx(0.6931472, abs=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(tuned, batch):
    plain = gradients(tuned, batch)
    tuned.checkpoint_gradients()
    again = gradients(tuned, batch)
    assert tuned.network.is_gradient_checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_saved_adapter_is_continued_from_where_it_was(family, tuned, noisy, condition, tmp_path):
    save_lora(tuned, tmp_path)
    other = copy.deepcopy(family)
    continue_lora(other.network, tmp_path, part=other.network_part)
    timestep = tuned.process.timestep(torch.tensor([0.2, 0.7]))
    both = models(other)
    with torch.no_grad():
        expected = tuned.denoiser(tuned.network)(noisy[:2], timestep, condition)
        for denoiser in (both.policy, both.reference):  # kernels may round by where weights lie in memory
            torch.testing.assert_close(denoiser(noisy[:2], timestep, condition), expected, rtol=0, atol=1e-6)
        untaught = family.denoiser(family.network)(noisy[:2], timestep, condition)
        assert (untaught - expected).abs().max() > 1e-3


@pytest.fixture(scope="module")
def first(case, tmp_path_factory):
    """The model that begins the images, if one does."""
    return None if case.first is None else str(case.first(tmp_path_factory.mktemp("first") / "model"))


@pytest.fixture(scope="module")
def run_folder(folder, case, first, tiny_pairs, tmp_path_factory):
    """A run of two steps through the run file."""
    raw = small.run_options(
        folder,
        tiny_pairs,
        tmp_path_factory.mktemp("run") / "out",
        {
            "data.size": case.size,
            "training.ema": small.REMOVED,
            "training.learning_rate": 0.05,
            "training.gradient_checkpointing": True,
            "evaluation.num_steps": case.steps,
            "evaluation.first_model": first,
        },
    )
    return small.train(raw)[0]


def whole(pipeline, first):
    """What draws from noise in plain diffusers: the pipeline, or another one and then it."""
    if first is None:
        return pipeline
    begins = diffusers.DiffusionPipeline.from_pretrained(first)
    begins.set_progress_bar_config(disable=True)

    def call(height, width, output_type, **both):
        begun = begins(height=height, width=width, denoising_end=0.8, output_type="latent", **both)[0]
        return pipeline(image=begun, denoising_start=0.8, output_type=output_type, **both)

    return call


def test_a_run_is_trained_and_its_adapter_loads_in_plain_diffusers(run_folder, plain, case, first):
    requests = requests_for(PROMPTS, seeds_per_prompt=1, seed=0)
    base, trained = sampled(run_folder, load(run_folder.run_file), requests, Console(quiet=True))
    assert base.shape == (2, 3, case.size, case.size) and not torch.equal(base, trained)
    pipeline = copy.deepcopy(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.load_lora_weights(run_folder.adapter)
    guidance = case.guidance + 2.0 if case.guidance != 3.5 else 3.0  # penchant counts from 1, unguided
    sampler = Sampler(
        num_steps=case.steps, guidance=guidance, eta=0.0, batch_size=16, size=case.size, options=case.options
    )
    assert torch.equal(draw(whole(pipeline, first), requests, sampler), trained)


def test_a_fully_trained_pipeline_loads_in_plain_diffusers(family, folder, tmp_path):
    families.copy_other_parts(folder, tmp_path / "pipeline", trained=family.network_part)
    family.network.save_pretrained(str(tmp_path / "pipeline" / family.network_part))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline, type(family.pipeline))
    assert families.resolve(str(tmp_path / "pipeline"))


def test_the_estimated_peak_of_memory_is_the_measured_one(folder, case, tiny_pairs, tmp_path):
    """Counted in real steps of the real loop; the estimate loads no weights."""
    changes = {"data.size": case.size, "data.heldout_split": None, "training.ema": None}
    run = check(small.run_options(folder, tiny_pairs, tmp_path / "out", changes), where="run.yaml")
    parts = assemble(run, where="run.yaml")
    with LiveBytes() as live:
        live.count(parts.bare.parameters())
        fit(
            parts.method, parts.models, parts.network, parts.sources.train, parts.optimizer, parts.schedule,
            accelerator=parts.accelerator, steps=2,
        )  # fmt: skip
    condition = sampling_conditions([""], families.load(str(folder)))
    estimated = rehearsed(run, parts.method, folder, condition, where="run.yaml")
    assert estimated.peak == pytest.approx(live.peak, rel=0.2)


def test_its_parts_are_loaded_one_after_the_other(family, folder, case, condition, batch):
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
        for a, b in zip(
            images.encode_images(pictures(case)), family.encode_images(pictures(case)), strict=True
        )
    )
    network, last = loaded(families.Part.DENOISER)
    assert not names & others and not (names | others) & last and last == {family.network_part}
    network.release_encoders()
    noisy, timestep = batch.latents[:, 0], family.process.timestep(torch.tensor([0.2, 0.7]))
    with torch.no_grad():
        a, b = (f.denoiser(f.network)(noisy, timestep, condition) for f in (network, family))
    assert torch.equal(a, b)
    for found in (text, images, network):
        assert (found.size, found.size_step, found.sample_shape, found.lora_targets) == (
            family.size, family.size_step, family.sample_shape, family.lora_targets,
        )  # fmt: skip


def test_encoders_leave_memory(loaded):
    network = loaded.network
    loaded.release_encoders()
    left = [name for name, part in loaded.pipeline.components.items() if isinstance(part, nn.Module)]
    assert left == [loaded.network_part] and loaded.network is network
