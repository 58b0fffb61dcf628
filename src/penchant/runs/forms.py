"""The forms that a trained model can leave the house in."""

import enum


class Form(enum.StrEnum):
    """What an exported folder holds, named by what reads it."""

    DIFFUSERS = "diffusers"
    """A LoRA for `load_lora_weights` of any diffusers pipeline; ComfyUI reads it for SD 3 and FLUX."""
    PEFT = "peft"
    """A LoRA for `PeftModel.from_pretrained`."""
    KOHYA = "kohya"
    """A LoRA in kohya's key style, with diffusers' names of the layers, as ComfyUI reads it."""
    PIPELINE = "pipeline"
    """A whole pipeline folder for `from_pretrained`, a LoRA folded into its weights."""
