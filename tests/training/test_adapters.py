"""LoRA on a network: what is added, what is refused, what is written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import small

from penchant import families
from penchant.errors import ConfigError, ModelError
from penchant.families import sd15, sdxl, tiny
from penchant.training.adapters import add_lora, continue_lora, save_lora
from penchant.training.quantized import quantize

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def family(tiny_model):
    return sd15.load(tiny_model)


@pytest.fixture
def unet(family):
    return family.network


def test_the_first_factor_hangs_on_the_seed_alone(tiny_model):
    def factor(seed):
        net = sd15.load(tiny_model).network
        add_lora(net, rank=3, alpha=3, targets=["to_q"], seed=seed)
        return {n: p for n, p in net.named_parameters() if "lora_A" in n}

    first, again, other = factor(0), factor(0), factor(1)
    assert len(first) > 0 and all(p.shape[0] == 3 for p in first.values())
    assert all("to_q" in name for name in first)
    assert all((first[n] == again[n]).all() for n in first)
    assert not any((first[n] == other[n]).all() for n in first)


def test_targets_that_no_layer_has_are_refused(unet):
    with pytest.raises(ModelError) as caught:
        add_lora(unet, rank=2, alpha=2, targets=["to_z"], seed=0)
    assert str(caught.value).startswith(
        "training.lora.targets: no layer ends in to_z. Names of linear layers here: "
    )
    assert "to_k, to_q, to_v" in str(caught.value)


def test_a_folder_without_an_adapter_is_refused(unet, tmp_path):
    with pytest.raises(ModelError) as caught:
        continue_lora(unet, tmp_path, part="unet")
    assert str(caught.value) == (
        f"training.lora.start_from: no LoRA in {tmp_path}. Give a folder that holds "
        "pytorch_lora_weights.safetensors."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not fit the model (Error while deserializing header"),
        ({}, "is of another family or in another form: it holds nothing; the model has a unet"),
        (
            {"transformer.x.lora_A.weight": (2, 2)},
            "is of another family or in another form: it holds transformer.x.lora_A.weight; the model has a "
            "unet, of the class UNet2DConditionModel. Give an adapter that was trained on this model, as "
            "diffusers writes it.",
        ),
        (
            {"unet.x.lora_A.weight": (2, 2), "refiner.y.lora_A.weight": (2, 2)},
            "also adapts other parts than the unet, for example 'refiner.y.lora_A.weight'; they would "
            "be lost. Give a LoRA of this model's unet alone.",
        ),
        (
            {"text_encoder.y.lora_A.weight": (2, 2)},
            "adapts a text encoder, for example 'text_encoder.y.lora_A.weight'; only a LoRA of the unet "
            "alone can be continued. Give one, or begin anew with training.lora.text_encoder.",
        ),
        (
            {"unet.down_blocks.9.to_q.lora_A.weight": (2, 16)},
            "is of another family: it adapts a layer 'down_blocks.9.to_q', which the model, of the class "
            "UNet2DConditionModel, has not. Give an adapter that was trained on this model.",
        ),
        (
            {f"unet.{LAYER}.lora_magnitude_vector": (16,)},
            f"is no plain LoRA: it holds 'unet.{LAYER}.lora_magnitude_vector', as of DoRA, of biases, or of "
            "another trainer's form. Give one that holds lora_A.weight and lora_B.weight alone.",
        ),
        ({f"unet.{LAYER}.lora_A.weight": (2,)}, "is no plain LoRA: it holds"),
        (
            {
                f"unet.{LAYER}.lora_A.weight": (2, 16),
                f"unet.{LAYER}.lora_B.weight": (16, 2),
                f"unet.{LAYER[:-4]}to_v.lora.down.weight": (2, 16),
                f"unet.{LAYER[:-4]}to_v.lora.up.weight": (16, 2),
            },
            "names some layers as diffusers does now (lora_A, lora_B) and some as it did before (lora.down, "
            "lora.up), and would be half read. Give all in one form.",
        ),
        (
            {f"unet.{LAYER}.lora_A.weight": (2, 16), f"unet.{LAYER}.lora_B.weight": (64, 2)},
            f"is of another family: {LAYER!r} has 64 output channels in it, 16 in the model, of the class "
            "UNet2DConditionModel. Give an adapter that was trained on this model.",
        ),
        (
            {f"unet.{LAYER}.lora_A.weight": (2, 64), f"unet.{LAYER}.lora_B.weight": (16, 2)},
            f"is of another family: {LAYER!r} has 64 input channels in it, 16 in the model, of the class",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(unet, tmp_path, content, reason):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if content is None:
        path.write_bytes(b"\x00\x01half")
    else:
        save_file({name: torch.zeros(shape) for name, shape in content.items()}, path)
    with pytest.raises(ModelError) as caught:
        continue_lora(unet, tmp_path, part="unet")
    assert str(caught.value).startswith(f"training.lora.start_from: {path} {reason}")


def test_an_adapter_of_another_family_is_refused(unet, tmp_path):
    """SDXL has the same part and names of layers, but other sizes."""
    xl = sdxl.load(tiny.stable_diffusion_xl(tmp_path / "xl"))
    add_lora(xl.network, rank=2, alpha=2, targets=xl.lora_targets, seed=0)
    save_lora(xl, tmp_path / "lora")
    with pytest.raises(ModelError, match="is of another family: "):
        continue_lora(unet, tmp_path / "lora", part="unet")


def test_rank_and_scale_are_those_of_the_adapter(family, tmp_path, tiny_model):
    add_lora(family.network, rank=2, alpha=6, targets=["to_q"], seed=0)
    save_lora(family, tmp_path)
    other = sd15.load(tiny_model).network
    continue_lora(other, tmp_path, part="unet")
    for name in ("default", "start"):
        assert (other.peft_config[name].r, other.peft_config[name].lora_alpha) == (2, 6)


@pytest.mark.parametrize(
    ("old_names", "kind"), [(False, None), (True, None), (False, "int8"), (False, "nf4")]
)
def test_an_adapter_on_frozen_weights_in_bfloat16_is_float32_to_the_bit(
    family, tmp_path, tiny_model, old_names, kind
):
    """Policy and start; rounded, the run would begin elsewhere than the adapter's own run ended."""
    add_lora(family.network, rank=2, alpha=2, targets=["to_q"], seed=0)
    torch.manual_seed(0)
    for parameter in (p for p in family.network.parameters() if p.requires_grad):
        parameter.data = torch.randn(parameter.shape)
    save_lora(family, tmp_path)
    stored = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    if old_names:  # of diffusers before it took peft
        old = {
            name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value
            for name, value in stored.items()
        }
        save_file(old, tmp_path / "pytorch_lora_weights.safetensors")
    other = families.load_folder(tiny_model, dtype=torch.bfloat16).network
    if kind is not None:
        quantize(other, kind)
    continue_lora(other, tmp_path, part="unet")
    found = dict(other.named_parameters())
    for adapter in ("default", "start"):
        for name, weight in stored.items():
            assert torch.equal(
                found[name.removeprefix("unet.").replace(".weight", f".{adapter}.weight")], weight
            )


def test_both_adapters_are_float32_on_frozen_weights_in_bfloat16(tiny_model):
    """A moving reference that is kept in bfloat16 would lose small steps towards the policy."""
    network = families.load_folder(tiny_model, dtype=torch.bfloat16).network
    add_lora(network, rank=2, alpha=2, targets=["to_q"], seed=0, twice=True)
    adapters = {name: p for name, p in network.named_parameters() if ".lora_" in name}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    for name, parameter in adapters.items():
        assert torch.equal(parameter, adapters[name.replace(".start.", ".default.")])


def test_an_adapter_with_half_a_layer_is_refused(unet, tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({f"unet.{LAYER}.lora_A.weight": torch.zeros(2, 16)}, path)
    with pytest.raises(ModelError) as caught:
        continue_lora(unet, tmp_path, part="unet")
    assert str(caught.value) == (
        f"training.lora.start_from: {path} is half an adapter: it holds 'unet.{LAYER}.lora_A.weight' without "
        f"'unet.{LAYER}.lora_B.weight'. Give a whole one, as diffusers writes it."
    )


def test_options_that_the_adapter_decides_are_refused(options):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(**{"training.lora": {"start_from": "x", "rank": 4}}))
    assert str(caught.value) == (
        "run.yaml: training.lora.rank: is that of the adapter in start_from. Remove rank."
    )


def test_the_file_says_rank_scale_and_targets(family, tmp_path):
    add_lora(family.network, rank=2, alpha=6, targets=["to_v", "to_q"], seed=0)
    save_lora(family, tmp_path / "adapter")
    tensors, notes = small.adapter(tmp_path)
    known = json.loads(notes["lora_adapter_metadata"])
    assert (known["unet.r"], known["unet.lora_alpha"]) == (2, 6)
    assert known["unet.target_modules"] == ["to_q", "to_v"]
    assert all(name.startswith("unet.") for name in tensors)
