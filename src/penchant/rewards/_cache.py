"""Scores on disk by what was scored: no image is scored twice for the same prompt by the same reward.

Axes: N images, 3 channels, H W pixels.
"""

import hashlib
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.errors import RewardError
from penchant.numerics import eight_bit
from penchant.protocols import Reward
from penchant.rewards._pixels import IMAGES_AT_ONCE
from penchant.rewards.combined import Combined

Key = tuple[str, str]
"""Hash of the pixels, and the prompt."""


@final
class ScoreCache:
    """A SQLite file of scores, which several processes and runs may share.

    Args:
        path: The file; it is made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, reward: Reward, keys: Sequence[Key]) -> dict[Key, float]:
        """Scores that are stored for a reward of this name and version."""
        if not self.path.exists():
            return {}
        with self._open() as database:
            rows = (
                (key, database.execute(_SELECT, (reward.name, reward.version, *key)).fetchone())
                for key in dict.fromkeys(keys)
            )
            return {key: row[0] for key, row in rows if row is not None}

    def store(self, reward: Reward, scores: Mapping[Key, float]) -> None:
        """Add scores; they are on disk when this returns."""
        rows = [(reward.name, reward.version, *key, score) for key, score in scores.items()]
        with self._open() as database:
            database.executemany(_INSERT, rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                database.execute(_TABLE)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise RewardError(
                f"{self.path}: cannot be used for scores ({error}). Remove it, or name another file; scores "
                "are then asked for again."
            ) from error


@final
@dataclass(frozen=True, slots=True)
class Cached:
    """A reward that looks its scores up, and asks only for those that are not there.

    It scores images as a file would hold them, rounded to 8 bits, so that a picture has one score before and
    after it is stored.
    """

    reward: Reward
    cache: ScoreCache

    @property
    def name(self) -> str:
        """That of the reward."""
        return self.reward.name

    @property
    def unit(self) -> str:
        """That of the reward."""
        return self.reward.unit

    @property
    def version(self) -> str:
        """That of the reward."""
        return self.reward.version

    @property
    def judges(self) -> bool:
        """As the reward."""
        return self.reward.judges

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image; images are rounded, scored and stored a few at a time."""
        pictures = (picture for part in images.split(IMAGES_AT_ONCE) for picture in eight_bit(part).numpy())
        keys = [
            (hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest(), prompt)
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]
        known = self.cache.known(self.reward, keys)
        places = list({key: place for place, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(places), IMAGES_AT_ONCE):
            some = places[start : start + IMAGES_AT_ONCE]
            rounded = eight_bit(images[some]).permute(0, 3, 1, 2).float() / 255
            found = self._checked(self.reward(rounded, [prompts[place] for place in some]), len(some))
            fresh = {keys[place]: score for place, score in zip(some, found, strict=True)}
            self.cache.store(self.reward, fresh)
            known |= fresh
        return torch.tensor([known[key] for key in keys], dtype=torch.float32)

    def _checked(self, scores: Tensor, count: int) -> list[float]:
        found = scores.double().tolist()
        if len(found) != count:
            raise RewardError(
                f"reward {self.name}: must give one score per image, got {len(found)} for {count}."
            )
        for number, score in enumerate(found, start=1):
            if not math.isfinite(score):
                raise RewardError(
                    f"reward {self.name}: scores must be finite numbers, got {score} for image {number} of "
                    f"{count}."
                )
        return found


def cached(reward: Reward, cache: ScoreCache) -> Reward:
    """The reward with a cache; of a combination, every part has it, so that parts share it with others."""
    if isinstance(reward, Combined):
        parts = (replace(part, reward=cached(part.reward, cache)) for part in reward.parts)
        return replace(reward, parts=tuple(parts))
    return Cached(reward, cache)


_TABLE = """CREATE TABLE IF NOT EXISTS scores (
    reward TEXT, version TEXT, picture TEXT, prompt TEXT, score REAL NOT NULL,
    PRIMARY KEY (reward, version, picture, prompt)
) WITHOUT ROWID"""
_SELECT = "SELECT score FROM scores WHERE reward = ? AND version = ? AND picture = ? AND prompt = ?"
_INSERT = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)"
