"""Splits by prompt: all rows of one prompt go to the same side, whatever order or file they come in."""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from penchant.data.dataset import Dataset
from penchant.data.rows import Example
from penchant.errors import ConfigError, DataError


def normalised(prompt: str) -> str:
    """The prompt without differences of case, spacing and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def shares(written: str) -> dict[str, float]:
    """Shares by name of the split, from text like `train=0.8,test=0.2`.

    Raises:
        ConfigError: The text has another form, or names a split twice.
    """
    found: dict[str, float] = {}
    for part in written.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = None
        if not name or name in found or value is None:
            raise ConfigError(f"shares: must be like train=0.8,test=0.2, got {written!r}.")
        found[name] = value
    return found


def splits_of(prompts: Sequence[str], fractions: Mapping[str, float], *, key: str = "penchant") -> list[str]:
    """Name of the split of each prompt.

    A keyed hash of the normalised prompt gives a number in [0, 1); the split whose share covers it takes the
    prompt. So a prompt keeps its split when rows are added, moved or removed, and the shares hold on average.

    Args:
        prompts: Any number of prompts.
        fractions: Share of the prompts by name of the split, in order; each > 0, together 1.
        key: Another key makes another split.

    Raises:
        ConfigError: The shares are not shares.
    """
    if not fractions or not all(share > 0 for share in fractions.values()):
        raise ConfigError(f"shares: every share must be > 0, got {_written(fractions)}.")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(
            f"shares: must add up to 1, got {_written(fractions)} = {sum(fractions.values()):g}."
        )
    return [_split_of(prompt, fractions, key) for prompt in prompts]


def assign(dataset: Dataset, fractions: Mapping[str, float], *, key: str = "penchant") -> Iterator[Example]:
    """The examples with their splits set as `splits_of` assigns them; earlier splits are replaced.

    Raises:
        ConfigError: The shares are not shares.
        DataError: A split would stay empty.
    """
    names = splits_of([header.prompt for header in dataset.headers], fractions, key=key)
    for name in fractions:
        if name not in names:
            num_prompts = len({normalised(header.prompt) for header in dataset.headers})
            raise DataError(
                f"{dataset.path}: split {name!r} would stay empty, got {num_prompts} prompts in all. "
                f"Add prompts, enlarge its share, or choose another key."
            )
    return (replace(example, split=name) for example, name in zip(dataset, names, strict=True))


def _split_of(prompt: str, fractions: Mapping[str, float], key: str) -> str:
    hashed = hashlib.blake2b(normalised(prompt).encode(), key=hashlib.sha256(key.encode()).digest())
    point = int.from_bytes(hashed.digest()[:8], "big") / 2**64
    *first, last = fractions
    for name in first:
        point -= fractions[name]
        if point < 0:
            return name
    return last


def _written(fractions: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={share:g}" for name, share in fractions.items()) or "none"
