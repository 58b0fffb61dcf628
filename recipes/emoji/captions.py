"""Random training captions of a name: the name, a synonym or keywords, with or without a style word."""

import random

from sources import STYLES, Emoji, styled


def words_of(emoji: Emoji, dice: random.Random) -> str:
    """The name (about 76 %), a synonym, or the name with one or two keywords."""
    roll = dice.random()
    if roll < 0.12 and emoji.synonyms:
        return dice.choice(emoji.synonyms)
    if roll < 0.24 and emoji.keywords:
        return ", ".join(
            [emoji.name, *dice.sample(emoji.keywords, min(len(emoji.keywords), dice.randint(1, 2)))]
        )
    return emoji.name


def caption_of(emoji: Emoji, style: int, dice: random.Random, *, styled_share: float) -> tuple[str, bool]:
    """A caption, and whether it names the style."""
    named = dice.random() < styled_share
    return styled(words_of(emoji, dice), STYLES[style] if named else None), named
