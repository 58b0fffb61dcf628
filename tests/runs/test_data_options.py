"""Options of `data`: what columns mean, how candidates become groups; every option changes the groups."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import small

from penchant.data.rows import Candidate, Example
from penchant.errors import ConfigError, DataError
from penchant.runs import data as module
from penchant.runs.assemble import method_of
from penchant.runs.load import check
from penchant.training.encode import groups_of

SCORES = (0.0, 1.0, 0.9, 0.2)
METHODS = {
    "pairs": "diffusion-dpo",
    "min_gap": "diffusion-dpo",
    "labels": "diffusion-kto",
    "top_k": "rank-dpo",
}


def run_of(options, **changes):
    return check(options(**{"objective": {}} | changes), where="run.yaml")


def groups(run):
    candidates = tuple(Candidate(image=bytes([number])) for number in range(4))
    example = Example(prompt="p", candidates=candidates, preference=SCORES)
    method = method_of(run, where="run.yaml")
    found = groups_of([example], method.shape, where="x", rules=module.rules_of(run))
    return [([c.image[0] for c in group.candidates], group.score) for group in found]


@pytest.mark.parametrize(
    ("name", "value", "before", "after"),
    [
        ("pairs", "best-vs-worst", 6, [([1, 0], None)]),
        ("pairs", "adjacent", 6, [([1, 2], None), ([2, 3], None), ([3, 0], None)]),
        ("min_gap", 0.75, 6, [([1, 3], None), ([1, 0], None), ([2, 0], None)]),
        ("labels", "always", 4, [([0], [-1]), ([1], [1])]),
        ("labels", "best-of-n", 4, [([0], [-1]), ([1], [1]), ([2], [-1]), ([3], [-1])]),
        ("top_k", 2, 1, [([1, 2], pytest.approx([1, 2 / 3]))]),
    ],
)
def test_every_rule_changes_the_groups(options, name, value, before, after):
    changes = {"method": METHODS[name]}
    plain = groups(run_of(options, **changes))
    assert len(plain) == before
    changed = groups(run_of(options, **changes, **{f"data.{name}": value}))
    assert changed == after and changed != plain


@pytest.mark.parametrize(
    ("name", "value", "method", "shape"),
    [
        ("pairs", "adjacent", "diffusion-kto", "pair"),
        ("min_gap", 0.5, "rank-dpo", "pair"),
        ("labels", "always", "diffusion-dpo", "unary"),
        ("top_k", 3, "diffusion-dpo", "ranked"),
    ],
)
def test_a_rule_that_the_method_does_not_read_is_refused(options, name, value, method, shape):
    with pytest.raises(ConfigError) as caught:
        method_of(run_of(options, method=method, **{f"data.{name}": value}), where="run.yaml")
    assert str(caught.value) == (
        f"run.yaml: data.{name}: method {method!r} does not read it; it is for methods of shape {shape}. "
        "Remove it."
    )


@pytest.fixture
def table(tmp_path):
    columns = {"text": ["p", "q"], "a": [small.picture(1, 9), small.picture(2, 9)], "b": [b"3", b"4"]}
    pq.write_table(pa.table(columns | {"won": [1, 0]}), tmp_path / "train.parquet")
    return tmp_path


def test_columns_of_a_run_file_say_what_a_table_means(options, table):
    columns = {"prompt": "text", "images": ["a", "b"], "winner": "won"}
    run = run_of(options, **{"data.path": str(table), "data.columns": columns})
    data = module.data_of(run, "train", where="run.yaml")
    assert [(example.prompt, example.preference) for example in data] == [
        ("p", (0.0, 1.0)),
        ("q", (1.0, 0.0)),
    ]
    inner = run_of(
        options, **{"data.path": str(table.parent), "data.config": table.name, "data.columns": columns}
    )
    assert len(module.data_of(inner, "train", where="run.yaml")) == 2
    assert len(module.stream_of(inner, "train", where="run.yaml")) == 2


def test_columns_that_are_not_there_or_contradict_each_other(options, table):
    run = run_of(options, **{"data.path": str(table), "data.columns": {"images": ["a", "c"]}})
    with pytest.raises(DataError) as caught:
        module.data_of(run, "train", where="run.yaml")
    assert str(caught.value) == (
        f"{table / 'train.parquet'}: no column 'c' as `columns` names it. There are: text, a, b, won."
    )
    twice = {"images": ["a", "b"], "winner": "won", "label": "won"}
    with pytest.raises(ConfigError) as caught:
        module.data_of(run_of(options, **{"data.columns": twice}), "train", where="run.yaml")
    assert str(caught.value).startswith(
        "run.yaml: data.columns: at most one of scores, ranks, votes, winner, "
    )


def test_a_data_set_of_the_hub_is_downloaded(options, table, monkeypatch):
    asked = []

    def fetched(name, *, config, where):
        asked.append((name, config, where))
        return table

    monkeypatch.setattr(module.hub, "download", fetched)
    run = run_of(options, **{"data.path": "owner/name@v1", "data.config": "8k"})
    assert module.data_place(run, where="run.yaml") == table
    assert asked == [("owner/name@v1", "8k", "run.yaml: data.path")]


@pytest.mark.parametrize("name", ["shuffle_buffer", "max_broken"])
def test_options_of_streaming_are_refused_without_it(options, name):
    with pytest.raises(ConfigError) as caught:
        run_of(options, **{f"data.{name}": 1})
    assert str(caught.value) == (
        f"run.yaml: data.{name}: is only read with streaming: true. Remove {name} or set that."
    )
