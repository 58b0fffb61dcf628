"""Batches are a pure function of the step; every draw hangs on example, epoch and purpose alone."""

import pytest
import torch

from penchant.errors import DataError
from penchant.randomness import Randomness
from penchant.training.source import EncodedExamples, StoredSource
from penchant.training.table import Table


def examples(number=10, *, deviation=1.0, variants=1, candidates=2, sides=(2,)):
    """Example n has the mean 100 n, 10 more in its second variant, and the shape of bucket n % len(sides)."""
    shards, places, image = [], [], []
    for n in range(number):
        side = sides[n % len(sides)]
        mean = 100.0 * n + 10.0 * torch.arange(variants).repeat_interleave(candidates)
        mean = mean.reshape(-1, 1, 1, 1).expand(-1, 1, 2, side)
        image.append(len(places) + torch.arange(variants * candidates).reshape(variants, candidates))
        places += [[n, row] for row in range(len(mean))]
        shards.append({"mean": mean, "deviation": torch.full(mean.shape, deviation)})
    prompts = {"prompt": torch.arange(4.0).reshape(4, 1)}
    return EncodedExamples(
        ids=tuple(f"example {n}" for n in range(number)),
        contents=tuple(f"content {n}" for n in range(number)),
        latents=Table(shards, torch.tensor(places)),
        image=torch.stack(image),
        conditions=Table([prompts], torch.tensor([[0, row] for row in range(4)])),
        prompt=[1 + n % 3 for n in range(number)],
        score=torch.arange(2.0 * number).reshape(number, 2),
    )


def means(number):
    """What `examples` gives each candidate in its first variant."""
    return (100.0 * torch.arange(number)).reshape(-1, 1, 1, 1, 1).expand(-1, 2, 1, 2, 2)


def source(data=None, **options):
    defaults = {"batch_size": 4, "micro_batch_size": 4, "prompt_dropout": 0.0, "seed": 3}
    return StoredSource(data or examples(), **(defaults | options))


def seen(batch):
    """What each example looks like in a global batch, by id."""
    return {
        name: (piece.latents[row], piece.condition["prompt"][row], piece.score[row])
        for piece in batch.micro
        for row, name in enumerate(piece.ids)
    }


def test_a_step_is_the_same_whenever_it_is_asked_for():
    first, second = source(), source()
    for step in (5, 0, 5):
        a, b = seen(first(step)), seen(second(step))
        assert a.keys() == b.keys() and len(a) == 4
        assert all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


@pytest.mark.parametrize("split", [{"micro_batch_size": 1}, {"micro_batch_size": 3}])
def test_pieces_and_processes_change_no_draw(split):
    whole = seen(source(prompt_dropout=0.5)(1))
    pieces = source(prompt_dropout=0.5, **split)(1)
    shares = [source(prompt_dropout=0.5, process=p, num_processes=2)(1) for p in (0, 1)]
    assert pieces.size == shares[0].size == 4
    assert max(len(piece.ids) for piece in pieces.micro) == split["micro_batch_size"]
    for other in (seen(pieces), seen(shares[0]) | seen(shares[1])):
        assert other.keys() == whole.keys()
        assert all(torch.equal(x, y) for name in whole for x, y in zip(whole[name], other[name], strict=True))
    assert not seen(shares[0]).keys() & seen(shares[1]).keys()


def test_an_epoch_sees_each_example_at_most_once_in_an_order_of_its_own():
    data = source()
    assert data.steps_per_epoch == 2
    epochs = [[data(2 * epoch).micro[0].ids + data(2 * epoch + 1).micro[0].ids] for epoch in range(3)]
    orders = [epoch[0] for epoch in epochs]
    assert all(len(set(order)) == 8 for order in orders)
    assert len(set(orders)) == 3
    assert [data(step).epoch for step in range(5)] == [0, 0, 1, 1, 2]
    assert source(seed=4)(0).micro[0].ids != data(0).micro[0].ids


def test_latents_are_drawn_from_the_posterior_afresh_in_each_epoch():
    many = examples(400, deviation=3.0)
    rows = list(range(400))
    first, second = (many.batch(rows, Randomness(run=1, epoch=epoch)).latents for epoch in (0, 1))
    noise = (first - means(400)) / 3
    assert noise.mean().abs() < 0.05 and (noise.std() - 1).abs() < 0.05
    assert (first != second).float().mean() > 0.99
    assert (noise[:, 0] != noise[:, 1]).float().mean() > 0.99, "each candidate has a draw of its own"
    still = examples(4, deviation=0.0)
    assert torch.equal(still.batch([2], Randomness(run=1)).latents, means(4)[2:3])


def test_a_group_is_mirrored_as_a_whole():
    batch = examples(200, deviation=0.0, variants=2).batch(list(range(200)), Randomness(run=1))
    mirrored = (batch.latents.flatten(1) % 100) == 10
    assert torch.equal(mirrored.all(1), mirrored.any(1))
    assert 70 < mirrored.all(1).sum() < 130


def test_prompt_dropout_shows_the_empty_prompt_to_that_share():
    data = examples(1000)
    rows = list(range(1000))

    def prompts(rate):
        batch = data.batch(rows, Randomness(run=1), prompt_dropout=rate)
        return batch.condition["prompt"].flatten()

    assert torch.equal(prompts(0.0), torch.tensor(data.prompt).float())
    assert (prompts(1.0) == 0).all()
    assert 230 < (prompts(0.25) == 0).sum() < 270


def test_fewer_rows_than_a_batch_are_refused():
    with pytest.raises(DataError) as caught:
        source(batch_size=11)
    assert str(caught.value) == (
        "training.batch_size: the training split has 10 usable groups, fewer than one batch of 11. Give more "
        "data or a smaller batch_size."
    )
    assert source(batch_size=10).steps_per_epoch == 1


BUCKETS = {"sides": (2, 3, 4)}


def test_buckets_change_neither_the_order_nor_the_draws():
    """Only the pieces differ: a step sees the same examples, and each has the noise it has alone."""
    plain, bucketed = source(), source(examples(**BUCKETS))
    for step in range(4):
        whole = seen(bucketed(step))
        assert whole.keys() == seen(plain(step)).keys()
        for row in (int(name.removeprefix("example ")) for name in whole):
            alone = bucketed.examples.batch([row], bucketed(step).draws)
            assert torch.equal(whole[f"example {row}"][0], alone.latents[0])


def test_a_piece_holds_one_bucket_and_no_more_than_is_allowed():
    data = source(examples(20, **BUCKETS), batch_size=10, micro_batch_size=3)
    for step in range(4):
        pieces = data(step).micro
        assert sum(len(piece.ids) for piece in pieces) == 10
        assert all(len(piece.ids) <= 3 for piece in pieces)
        for piece in pieces:
            assert len({int(name.removeprefix("example ")) % 3 for name in piece.ids}) == 1
    assert examples(20, **BUCKETS).pieces([3, 4, 0, 6, 9], 3) == [[3, 0, 6], [9], [4]]


def test_every_process_makes_the_same_number_of_forward_passes():
    """Whatever buckets its share falls into; else processes that wait for each other would wait for ever."""
    data = examples(24, **BUCKETS)
    options = {"batch_size": 8, "micro_batch_size": 4}
    uneven = 0
    for step in range(6):
        shares = [source(data, process=p, num_processes=2, **options)(step) for p in (0, 1)]
        assert len(shares[0].micro) == len(shares[1].micro)
        groups = [[row for piece in share.micro for row in piece.ids] for share in shares]
        assert len(groups[0]) == len(groups[1]) == 4 and len({*groups[0], *groups[1]}) == 8
        rows = [[int(name.removeprefix("example ")) for name in group] for group in groups]
        uneven += len(data.pieces(rows[0], 4)) != len(data.pieces(rows[1], 4))
    assert uneven > 0
