"""A trained LoRA on disk, and the same in the forms that other tools read.

Axes: R rank, I and O channels in and out of a layer; of a convolution, I and its window are together.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, final

import torch
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from penchant import families
from penchant.errors import ModelError, RunFolderError
from penchant.runs.schema import Lora
from penchant.training.adapters import FILE, POLICY

_DOWN: Final = ".lora_A.weight"
_UP: Final = ".lora_B.weight"
_METADATA: Final = "lora_adapter_metadata"
_COMFYUI_READS_DIFFUSERS: Final = ("StableDiffusion3Pipeline", "FluxPipeline")
"""Pipelines for whose models ComfyUI reads the names of the form `diffusers`."""
_TEXT: Final = f"{families.TEXT_ENCODER}."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLora:
    """Two factors for each adapted layer, and how their product is scaled.

    Attributes:
        part: Name of the network in its pipeline: `unet` or `transformer`.
        down: First factor of each layer by the layer's name in the network, or in the pipeline if it is one
            of the text encoder: [R, I], or [R, I, window] of a convolution.
        up: Second factor: [O, R], or [O, R, 1, 1].
        config: Rank, alpha and targets, as peft names them.
    """

    part: str
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    config: LoraConfig

    @classmethod
    def read(cls, folder: Path, *, part: str) -> Self:
        """The LoRA that `penchant train` has exported, or that its run was started from.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something that is no plain LoRA, such as
                DoRA.
        """
        path = folder / FILE
        if not path.is_file():
            raise RunFolderError(f"{path}: is missing. Train again, or put the file back.")
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name.removeprefix(f"{part}."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                notes = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise RunFolderError(
                f"{path}: is damaged ({error}). Put the file back, or train again."
            ) from error
        options = {name.partition(".")[2]: value for name, value in notes.items()}  # alike for both parts
        return cls._of(tensors, LoraConfig(**options) if options else None, part=part, where=path)

    @classmethod
    def of_checkpoint(cls, weights: Path, options: Lora, *, part: str) -> Self:
        """The LoRA of a run that has not finished.

        Args:
            weights: Weights of a checkpoint, or their moving average.
            options: The run's own.
            part: Name of the network in its pipeline.
        """
        stored = {name.replace(f".{POLICY}.", "."): value for name, value in load_file(weights).items()}
        own, text = families.apart(stored)
        tensors = own | {_TEXT + name: value for name, value in text.items()}
        if options.start_from is not None:
            config = cls.read(Path(options.start_from), part=part).config
        else:
            config = LoraConfig(r=options.rank, lora_alpha=options.alpha or options.rank)
        return cls._of(tensors, config, part=part, where=weights)

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], config: LoraConfig | None, *, part: str, where: Path) -> Self:
        down = {name.removesuffix(_DOWN): value for name, value in tensors.items() if name.endswith(_DOWN)}
        up = {name.removesuffix(_UP): value for name, value in tensors.items() if name.endswith(_UP)}
        rest = [name for name in tensors if not name.endswith((_DOWN, _UP))]
        if rest or down.keys() != up.keys() or not down:
            odd = sorted(rest or down.keys() ^ up.keys())[:1] or ["nothing"]
            raise RunFolderError(
                f"{where}: holds {odd[0]}, which is no plain LoRA, and cannot be exported. Use adapter/ as "
                "it is, with diffusers."
            )
        if config is None:  # a file without notes: alpha is the rank
            ranks = {name: len(value) for name, value in down.items()}
            config = LoraConfig(r=1, lora_alpha=1, rank_pattern=ranks, alpha_pattern=dict(ranks))
        if not config.target_modules:
            config = replace(config, target_modules=sorted(name.removeprefix(_TEXT) for name in down))
        return cls(part=part, down=down, up=up, config=config)

    def scale(self, layer: str) -> float:
        """Factor of the product of a layer's two factors."""
        alphas, rank = self.config.alpha_pattern or {}, len(self.down[layer])
        alpha = alphas.get(get_pattern_key(list(alphas), layer), self.config.lora_alpha)
        return alpha / (math.sqrt(rank) if self.config.use_rslora else rank)

    @property
    def of_text_encoder(self) -> set[str]:
        """Names of the layers of the text encoder."""
        return {layer for layer in self.down if layer.startswith(_TEXT)}

    def add_to_text_encoder(self, folder: Path) -> None:
        """Add the products of the factors to the weights of a text encoder's folder, in their own type."""
        layers = {f"{name.removeprefix(f'{_TEXT}text_model.')}.weight": name for name in self.of_text_encoder}
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            for name in tensors:
                layer = layers.get(name.removeprefix("text_model."))
                if layer is not None:
                    product = self.scale(layer) * self.up[layer].float() @ self.down[layer].float()
                    tensors[name] = (tensors[name].float() + product).to(tensors[name].dtype)
            _save(tensors, path)

    def write_diffusers(self, folder: Path) -> Path:
        """Write it for `load_lora_weights`, the scale multiplied into the second factor.

        Scale 1 is what every reader takes without being told: diffusers reads another one from the file's
        notes, ComfyUI and older versions do not.
        """
        tensors = {}
        for layer in self.down:
            scale, name = self.scale(layer), layer if layer.startswith(_TEXT) else f"{self.part}.{layer}"
            tensors[f"{name}{_DOWN}"] = self.down[layer]
            tensors[f"{name}{_UP}"] = self.up[layer] if scale == 1 else self.up[layer] * scale
        return _save(tensors, folder / FILE)

    def write_peft(self, folder: Path, *, base: str | None) -> Path:
        """Write it for `PeftModel.from_pretrained`.

        Args:
            folder: Gets `adapter_config.json` and `adapter_model.safetensors`.
            base: Name of the base model on the hub, if it has one.

        Raises:
            ModelError: It also adapts the text encoder.
        """
        if self.of_text_encoder:
            raise ModelError(
                f"--form peft: holds the adapter of one network, and this LoRA adapts the {self.part} and "
                "the text encoder. Take --form diffusers."
            )
        config = replace(self.config, base_model_name_or_path=base, inference_mode=True)
        config.save_pretrained(str(folder))
        tensors = {f"base_model.model.{layer}{_DOWN}": value for layer, value in self.down.items()}
        tensors |= {f"base_model.model.{layer}{_UP}": value for layer, value in self.up.items()}
        return _save(tensors, folder / "adapter_model.safetensors")

    def write_kohya(self, path: Path, *, pipeline: Any) -> Path:
        """Write it in kohya's key style, and read it back as diffusers does.

        Of a UNet, names begin with `lora_unet_`, of its text encoder with `lora_te_`; of a transformer with
        `lora_transformer_`, as OneTrainer has it, which ComfyUI and diffusers read without joining layers.
        The layers have diffusers' names; sd-scripts itself has those of the original code for SDXL and FLUX.

        Args:
            path: File to write.
            pipeline: Class of the model's diffusers pipeline.

        Raises:
            ModelError: The pipeline would not find every layer again.
        """
        tensors = {}
        for layer, down in self.down.items():
            part = "te" if layer.startswith(_TEXT) else self.part
            name = f"lora_{part}_{layer.removeprefix(_TEXT).replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = self.up[layer]
            tensors[f"{name}.alpha"] = torch.tensor(self.scale(layer) * len(down))
        if lost := sorted(self.down.keys() - _layers_read_by(pipeline, tensors, part=self.part)):
            name = pipeline.__name__
            also = ", which ComfyUI reads for this model as well" if name in _COMFYUI_READS_DIFFUSERS else ""
            raise ModelError(
                f"--form kohya: {name} of diffusers would not read {len(lost)} of {len(self.down)} layers "
                f"under these key names, for example {lost[0]}. Take --form diffusers{also}."
            )
        return _save(tensors, path)


def _layers_read_by(pipeline: Any, tensors: dict[str, Tensor], *, part: str) -> set[str]:
    """Names of the layers that a pipeline class reads from a file with these keys; empty if it cannot."""
    try:
        read = pipeline.lora_state_dict(dict(tensors))
    except (ValueError, NotImplementedError, KeyError):
        return set()
    read = read[0] if isinstance(read, tuple) else read
    own = convert_unet_state_dict_to_peft(
        {name.removeprefix(f"{part}."): 0 for name in read if not name.startswith(_TEXT)}
    )
    text = {name.removeprefix(_TEXT): 0 for name in read if name.startswith(_TEXT)}
    text = convert_state_dict_to_peft(convert_state_dict_to_diffusers(text)) if text else {}
    names = [*own, *(_TEXT + name for name in text)]
    return {name.removesuffix(_DOWN) for name in names if name.endswith(_DOWN)}


def _save(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})
    return path
