"""A source that samples the policy: the loop cannot tell it from a file."""

import math

import pytest
import torch
from tests import small

from penchant.training.loop import accumulate, aggregate
from penchant.training.source import GlobalBatch

D3PO = {
    "method": "d3po",
    "objective": {},
    "ratio": {"sampler": {"num_steps": 3, "guidance": 2.0}},
    "online": {"reward": "compressibility", "prompts_per_step": 3},
    "training.batch_size": small.REMOVED,
    "training.micro_batch_size": small.REMOVED,
}


@pytest.fixture
def parts(options):
    return small.assembled(options(**D3PO))


def test_two_trajectories_from_one_start_the_better_one_first(parts):
    batch = parts.sources.train(0)
    assert isinstance(batch, GlobalBatch) and batch.size == 3 and len(batch.micro) == 3
    first, last = batch.micro[0], batch.micro[-1]
    assert first.timestep.tolist() == [667] * 3 and last.next_timestep.tolist() == [0] * 3
    assert torch.equal(first.state[:, 0], first.state[:, 1]), "one initial noise"
    assert not torch.isclose(first.action[:, 0], first.action[:, 1]).all()
    for piece, following in zip(batch.micro, batch.micro[1:], strict=False):
        assert torch.equal(piece.action, following.state)
        assert piece.ids == following.ids and torch.equal(piece.next_timestep, following.timestep)
    score = last.score
    assert (score[:, 0] >= score[:, 1]).all()
    for column in (0, 1):
        images = parts.family.decode(last.action[:, column])
        judged = parts.sources.train.reward(images, ["x"] * 3)
        torch.testing.assert_close(judged.float(), score[:, column].float())


def test_the_stored_steps_have_the_density_they_were_drawn_with(parts):
    batch = parts.sources.train(1)
    for piece in batch.micro:
        groups = parts.method.ratio(parts.models, piece, batch.draws)
        assert torch.isfinite(groups.log_policy).all()
        assert groups.log_ratio.abs().max() == 0
        state, t, t_next = piece.state.flatten(0, 1), piece.timestep.repeat(2), piece.next_timestep.repeat(2)
        order = [0, 1, 2]
        condition = {k: v.expand(-1, 2, *v.shape[2:]).flatten(0, 1) for k, v in piece.condition.items()}
        empty = {k: v.expand(-1, 2, *v.shape[2:]).flatten(0, 1) for k, v in piece.unconditional.items()}
        sampler = parts.method.ratio.sampler
        with torch.no_grad():
            output = sampler.predict(parts.models.policy, state, t, condition, empty)
            step = sampler.transition(parts.models.policy.process, output, state, t, t_next)
        noise = (piece.action.flatten(0, 1) - step.mean) / step.deviation.reshape(-1, 1, 1, 1)
        assert 0.8 < noise[order].std() < 1.2
        by_hand = -(noise**2) / 2 - step.deviation.log().reshape(-1, 1, 1, 1) - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(
            groups.log_policy.flatten(), by_hand.flatten(1).mean(1), rtol=1e-4, atol=1e-5
        )


def test_the_first_step_is_on_policy(parts):
    outputs = accumulate(parts.method, parts.models, parts.network, parts.sources.train(0), parts.accelerator)
    metrics = aggregate(outputs, parts.accelerator)
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert metrics["margin/mean"] == 0
    assert [metrics[f"loss/t{bucket}"] for bucket in (0, 1, 2)] == pytest.approx([math.log(2)] * 3)


def test_it_samples_the_policy_of_now_and_its_draws_hang_on_the_step(parts):
    before = parts.sources.train(0)
    again = parts.sources.train(0)
    assert all(torch.equal(a.action, b.action) for a, b in zip(before.micro, again.micro, strict=True))
    assert parts.sources.train(1).micro[0].ids != before.micro[0].ids
    for name, parameter in parts.bare.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    now = parts.sources.train(0)
    assert torch.equal(now.micro[0].state, before.micro[0].state)
    assert not torch.equal(now.micro[0].action, before.micro[0].action)
    assert all(p.grad is None for p in parts.bare.parameters())


def test_two_processes_share_the_prompts(parts):
    whole = parts.sources.train(0)
    parts.sources.train.num_processes = 2
    ids, states = [], {}
    for process in (0, 1):
        parts.sources.train.process = process
        share = parts.sources.train(0)
        assert share.size == 3
        ids += share.micro[0].ids
        states |= dict(zip(share.micro[0].ids, share.micro[0].state, strict=True))
    assert sorted(ids) == sorted(whole.micro[0].ids)
    for name, state in zip(whole.micro[0].ids, whole.micro[0].state, strict=True):
        assert torch.equal(states[name], state)


def test_more_prompts_per_step_than_prompts_are_repeated_with_noise_of_their_own(parts):
    parts.sources.train.prompts = parts.sources.train.prompts[:2]
    batch = parts.sources.train(0)
    prompts = [name.split("/", 1)[1] for name in batch.micro[0].ids]
    assert len(set(prompts)) == 2 and len(set(batch.micro[0].ids)) == 3
    states = batch.micro[0].state[:, 0]
    assert not any(torch.equal(states[i], states[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_whole_run(options):
    folder, shown = small.train(options(**D3PO, **{"training.steps": 2, "data.heldout_split": None}))
    rows = small.metrics(folder.path)
    assert "loss 0.6931, margin 0," in shown
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["margin/mean"] == 0 and rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[1]["samples"] == 6
    assert folder.adapter.is_dir()
