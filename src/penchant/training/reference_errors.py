"""Denoising errors of the reference, measured once for a fixed set of noise draws.

A run that has them needs no reference network and no reference pass. All runs of a sweep over beta,
objective, learning rate or seed share them, because a draw depends on its number alone: pass e over the data
sees draw e modulo how many there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from penchant.protocols import Condition, Denoiser, Models
from penchant.slots.ratios.denoising import Denoising
from penchant.training.source import EncodedExamples, ReferenceErrors, repeated_draws
from penchant.training.table import Rows


@torch.no_grad()
def with_reference_errors(
    examples: EncodedExamples,
    ratio: Denoising,
    reference: Denoiser,
    *,
    wanted: Sequence[tuple[int, Sequence[int]]],
    prompt_dropout: float,
    rows: Rows,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> EncodedExamples:
    """The same examples with the errors of a reference; those that `rows` has are not measured again.

    Args:
        examples: Encoded groups.
        ratio: The log-ratio of the method, which says what an error is.
        reference: What the policy is compared with.
        wanted: Number of a draw and the examples that are wanted at it, in the order in which they are seen;
            what stands together goes through the network together, so that a longer run measures the same.
        prompt_dropout: As in training, whose draws are repeated here.
        rows: Where errors are kept.
        batch_size: Groups that go through the network at once.
        device: Where the network is.
        progress: Called with the number of errors that are there, of the distinct ones.

    Raises:
        DataError: Errors that were kept are not what the reference gives now.
    """

    def errors(group_rows: Sequence[int], number: int) -> Condition:
        draws = repeated_draws(number)
        batch = examples.batch(group_rows, draws, prompt_dropout=prompt_dropout)
        error = ratio(Models(policy=reference), batch.to(device), draws).error
        assert error is not None
        return {"error": error.float().cpu()}

    pairs = list(dict.fromkeys((number, row) for number, together in wanted for row in together))
    # Candidates may be judged more than once, lists are padded to the longest: a key says what a group shows.
    keys = {
        (number, row): f"{number}/{examples.ids[row]}/{examples.contents[row]}/{examples.image.shape[-1]}"
        for number, row in pairs
    }
    missing = set(rows.missing(keys.values()))
    pair_of = {key: pair for pair, key in keys.items()}
    rows.spot_check(lambda key: errors([pair_of[key][1]], pair_of[key][0]))
    done = len(pairs) - len(missing)
    for number, together in wanted:
        absent = [row for row in together if keys[number, row] in missing]
        for piece in examples.pieces(absent, batch_size):
            names = [keys[number, row] for row in piece]
            rows.add(names, errors(piece, number))
            missing.difference_update(names)
            done += len(piece)
            progress(done)
    table = rows.table(list(keys.values()))
    row_of = {pair: at for at, pair in enumerate(pairs)}
    return replace(examples, reference_errors=ReferenceErrors(table, row_of))
