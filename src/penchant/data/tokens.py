"""Tokenizers, as far as data needs them: how long is a prompt, and how much of it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from penchant.errors import ModelError


class Tokenizer(Protocol):
    """What a tokenizer of transformers offers.

    Attributes:
        model_max_length: Tokens that the text encoder reads, with those that mark start and end.
    """

    model_max_length: int

    def __call__(self, text: str) -> Mapping[str, Any]:
        """The token ids under `input_ids`, uncut."""
        ...


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder, or the first one of a pipeline folder; nothing is downloaded.

    Raises:
        ModelError: There is no tokenizer in that folder.
    """
    from transformers import AutoTokenizer

    inside = (path / "tokenizer", path / "tokenizer_2")  # the SDXL refiner has the second alone
    folder = next((place for place in inside if place.is_dir()), path)
    if not folder.is_dir():
        raise ModelError(f"{path}: no such folder. Give the folder of a model or of its tokenizer.")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: no tokenizer could be loaded. Is tokenizer_config.json there?"
        ) from error
