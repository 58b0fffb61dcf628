"""Near duplicates among the candidates of one prompt, by a perceptual hash."""

from collections.abc import Sequence

from penchant.data.images import decode_candidate
from penchant.data.rows import Candidate
from penchant.errors import ConfigError


def far_apart(candidates: Sequence[Candidate], bits: int) -> list[Candidate]:
    """The candidates that differ from every earlier one that is kept.

    Args:
        candidates: Images of one prompt.
        bits: Two images whose 64-bit hashes differ in at most so many bits are near duplicates.

    Raises:
        ConfigError: The package imagehash is missing.

    Source:
        The hash is pHash of the package imagehash: signs of the low frequencies of the grey picture.
    """
    try:
        from imagehash import phash
    except ImportError:
        raise ConfigError(
            "filters.near_duplicates: needs the package imagehash. Install it with "
            "`pip install 'penchant[build]'`, or leave the option out."
        ) from None
    kept, hashes = [], []
    for candidate in candidates:
        own = phash(decode_candidate(candidate))
        if all(own - other > bits for other in hashes):
            kept.append(candidate)
            hashes.append(own)
    return kept
