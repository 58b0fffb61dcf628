"""Random weights of every supported family, built from the real config classes: for tests and dry runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from penchant.diffusion.prediction import Prediction

_UNET: Final[dict[str, Any]] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
_VAE: Final[dict[str, Any]] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}
_SCHEDULER: Final[dict[str, Any]] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_SECOND: Final[dict[str, Any]] = {"attention_head_dim": (2, 4), "use_linear_projection": True}
"""What the UNet of SD 2.x has beside that of 1.x."""
_MULTISTEP_FLOW: Final[dict[str, Any]] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
"""Of a multistep scheduler that samples a flow."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789,.-'"


def stable_diffusion(
    folder: Path, *, prediction: Prediction = "v_prediction", second: bool = False, seed: int = 0
) -> Path:
    """Write a random `StableDiffusionPipeline` of 16 x 16 px images and 4 x 8 x 8 latents.

    Args:
        folder: Where to write it; made if missing.
        prediction: Prediction type of the scheduler config.
        second: True for the UNet and the text encoder (OpenCLIP's) of SD 2.x, False for those of 1.x.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**(_UNET | _SECOND if second else _UNET))
        vae = AutoencoderKL(**_VAE)
        text_encoder = CLIPTextModel(_text_config(activation="gelu" if second else "quick_gelu"))
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer(folder / "tokenizer"),
        "unet": unet,
        "scheduler": DDIMScheduler(prediction_type=prediction, **_SCHEDULER),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


def stable_diffusion_xl(folder: Path, *, seed: int = 0) -> Path:
    """Write a random `StableDiffusionXLPipeline` of 16 x 16 px images and 4 x 8 x 8 latents.

    Args:
        folder: Where to write it; made if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            **{**_UNET, "cross_attention_dim": 32, "transformer_layers_per_block": (1, 2)},
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        )
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**_VAE),
            "text_encoder": CLIPTextModel(_text_config()),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config()),
            "tokenizer": tokenizer(folder / "tokenizer"),
            "tokenizer_2": tokenizer(folder / "tokenizer_2"),
            "scheduler": DDIMScheduler(prediction_type="epsilon", **_SCHEDULER),
        }
    StableDiffusionXLPipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def stable_diffusion_xl_refiner(folder: Path, *, seed: int = 0) -> Path:
    """Write a random refiner, a `StableDiffusionXLImg2ImgPipeline` for the latents of `stable_diffusion_xl`.

    Args:
        folder: Where to write it; made if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            **{
                **_UNET,
                "block_out_channels": (24, 48),  # other widths than the base model's, as published
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            },
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=5 * 8 + 16,
        )
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**_VAE),
            "text_encoder": None,
            "text_encoder_2": CLIPTextModelWithProjection(_text_config()),
            "tokenizer": None,
            "tokenizer_2": tokenizer(folder / "tokenizer_2"),
            "scheduler": DDIMScheduler(prediction_type="epsilon", **_SCHEDULER),
        }
    pipeline = StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


def stable_diffusion_3(folder: Path, *, t5: bool = True, seed: int = 0) -> Path:
    """Write a random `StableDiffusion3Pipeline` of 16 x 16 px images and 4 x 8 x 8 latents.

    Args:
        folder: Where to write it; made if missing.
        t5: False leaves the third text encoder empty.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": SD3Transformer2DModel(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_projection_dim=16,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                pos_embed_max_size=8,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            "vae": AutoencoderKL(**_VAE, shift_factor=0.06),
            "text_encoder": CLIPTextModelWithProjection(_text_config()),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config()),
            "text_encoder_3": t5_encoder() if t5 else None,
            "tokenizer": tokenizer(folder / "tokenizer"),
            "tokenizer_2": tokenizer(folder / "tokenizer_2"),
            "tokenizer_3": t5_tokenizer() if t5 else None,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
    StableDiffusion3Pipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def flux(folder: Path, *, guidance: bool = True, seed: int = 0) -> Path:
    """Write a random `FluxPipeline` of 256 x 256 px images and 4 x 128 x 128 latents; smaller ones also fit.

    Args:
        folder: Where to write it; made if missing.
        guidance: False leaves out the embedding of the guidance scale.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=16,
                guidance_embeds=guidance,
                axes_dims_rope=(4, 6, 6),
            ),
            "vae": AutoencoderKL(**_VAE, shift_factor=0.12),
            "text_encoder": CLIPTextModel(_text_config()),
            "text_encoder_2": t5_encoder(),
            "tokenizer": tokenizer(folder / "tokenizer"),
            "tokenizer_2": t5_tokenizer(),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        }
    FluxPipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def sana(folder: Path, *, seed: int = 0) -> Path:
    """Write a random `SanaPipeline` of 32 x 32 px images and 4 x 16 x 16 latents.

    Its tokenizer knows few letters, and unknown ones in a row are one token: the pipeline's instruction is
    long.

    Args:
        folder: Where to write it; made if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"bdwxz0123456789"]
    blocks: Any = ("ResBlock", "EfficientViTBlock")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": SanaTransformer2DModel(
                sample_size=16,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=8,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=16,
            ),
            "vae": AutoencoderDC(
                latent_channels=4,
                attention_head_dim=2,
                encoder_block_types=blocks,
                decoder_block_types=blocks,
                encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8),
                encoder_layers_per_block=(1, 1),
                decoder_layers_per_block=(1, 1),
                encoder_qkv_multiscales=((), (5,)),
                decoder_qkv_multiscales=((), (5,)),
                downsample_block_type="conv",
                upsample_block_type="interpolate",
                scaling_factor=0.41407,
            ),
            "text_encoder": Gemma2Model(Gemma2Config(**_language_config(len(vocabulary)))),
            "tokenizer": GemmaTokenizer(vocab=_numbered(vocabulary)),
            "scheduler": DPMSolverMultistepScheduler(**_MULTISTEP_FLOW),
        }
    SanaPipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def z_image(folder: Path, *, seed: int = 0) -> Path:
    """Write a random `ZImagePipeline` of 4 x H/2 x W/2 latents.

    Args:
        folder: Where to write it; made if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*marks, *_LETTERS, "\u0120", "\u010a"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": ZImageTransformer2DModel(
                in_channels=4,
                dim=16,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=16,
                axes_dims=[4, 2, 2],
                axes_lens=[1024, 64, 64],
            ),
            "vae": AutoencoderKL(**_VAE, shift_factor=0.1159),
            "text_encoder": Qwen3Model(Qwen3Config(**_language_config(len(vocabulary)))),
            "tokenizer": Qwen2Tokenizer(
                vocab=_numbered(vocabulary),
                merges=[],
                additional_special_tokens=marks[1:],
                chat_template="{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
            ),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
    ZImagePipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def wan(folder: Path, *, seed: int = 0) -> Path:
    """Write a random `WanPipeline` of 4 x 1 + (T - 1)/4 x H/4 x W/4 latents.

    Args:
        folder: Where to write it; made if missing.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": WanTransformer3DModel(
                in_channels=4,
                out_channels=4,
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=12,
                text_dim=16,
                freq_dim=16,
                ffn_dim=32,
                rope_max_seq_len=128,
            ),
            "vae": AutoencoderKLWan(
                base_dim=4,
                z_dim=4,
                dim_mult=[1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[True, True],
                latents_mean=[0.1, 0.2, -0.1, 0.0],
                latents_std=[1.0, 2.0, 0.5, 1.5],
                scale_factor_temporal=4,
                scale_factor_spatial=4,
            ),
            "text_encoder": UMT5EncoderModel(
                UMT5Config(
                    vocab_size=len(_LETTERS) + 4,
                    d_model=16,
                    d_kv=8,
                    d_ff=32,
                    num_layers=2,
                    num_heads=2,
                    is_encoder_decoder=False,
                    use_cache=False,
                )
            ),
            "tokenizer": t5_tokenizer(),
            "scheduler": UniPCMultistepScheduler(**_MULTISTEP_FLOW),
        }
    WanPipeline(**parts).save_pretrained(str(folder), safe_serialization=True)
    return folder


def t5_encoder() -> T5EncoderModel:
    """A random T5 encoder of two layers and 32 channels."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_LETTERS) + 4,
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer of single letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in _LETTERS)], extra_ids=0)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load a byte-pair tokenizer of single letters, with room for 16 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=16)


def causal_lm(*, vocabulary: int = 32, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama of two layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
            )
        )


def _text_config(*, activation: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_act=activation,
        vocab_size=len(_vocabulary()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _language_config(vocabulary: int) -> dict[str, Any]:
    """Sizes of a language model that encodes prompts."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 2048,
    }


def _vocabulary() -> dict[str, int]:
    letters = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    return _numbered(["<|startoftext|>", "<|endoftext|>", *letters])


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}
