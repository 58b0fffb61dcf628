"""A stream is a pure function of the step too: any step, any number of processes, any rest in memory."""

import io
import logging
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import small

from penchant.data.columns import Columns
from penchant.data.rows import DEFAULT_RULES, GroupRules
from penchant.data.stream import Piece, open_stream
from penchant.errors import DataError, TrainingStopped
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.encode import Preparation, encode, groups_of
from penchant.training.loop import Record
from penchant.training.source import StoredSource
from penchant.training.stream import BROKEN, SMALL, BrokenRows, RecentPrompts, StreamSource, first_groups

SHARDS, ROWS, GROUP = 4, 10, 3


class Tiny:
    """Encoders that are quick and say what they saw: the mean colour of an image, the length of a prompt."""

    def __init__(self):
        self.prompts = []

    def encode_prompts(self, prompts):
        self.prompts += prompts
        return {"prompt": torch.tensor([[float(len(prompt))] for prompt in prompts])}

    def image_conditions(self, framings):
        return {}

    def encode_images(self, pixels):
        mean = pixels.mean((2, 3), keepdim=True)
        return mean, torch.ones_like(mean)


def rows(shard, *, label=lambda number: 1.0, image=small.picture):
    numbers = [shard * ROWS + row for row in range(ROWS)]
    return [
        {
            "caption": "x" * (1 + number),
            "jpg_0": image(2 * number, 200),
            "jpg_1": image(2 * number + 1, 60),
            "label_0": label(number),
        }
        for number in numbers
    ]


def write(folder, **options):
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        path = folder / f"train-{shard:05}-of-{SHARDS:05}.parquet"
        pq.write_table(pa.Table.from_pylist(rows(shard, **options)), path, row_group_size=GROUP)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stream") / "data")


SQUARE = Preparation(sizes=((8, 8),))


def source(
    path, *, shape=Shape.PAIR, rules=DEFAULT_RULES, split="train", family=None, preparation=SQUARE, **options
):
    defaults = {
        "batch_size": 4,
        "micro_batch_size": 4,
        "shuffle_buffer": 8,
        "max_broken": 0.5,
        "prompt_dropout": 0.0,
        "seed": 3,
    }
    return StreamSource(
        open_stream(path, split=split), shape, rules, family or Tiny(), preparation, **(defaults | options)
    )


def ids(batch):
    return [name for piece in batch.micro for name in piece.ids]


def seen(batch):
    return {
        name: (piece.latents[row], piece.condition["prompt"][row])
        for piece in batch.micro
        for row, name in enumerate(piece.ids)
    }


def test_a_step_is_the_same_whenever_it_is_asked_for(data):
    first, second = source(data), source(data)
    for step in (13, 2, 0, 13):
        a, b = seen(first(step)), seen(second(step))
        assert a.keys() == b.keys() and len(a) == 4
        assert all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def test_an_epoch_shows_every_row_once_in_an_order_of_its_own(data):
    stream = source(data)
    assert stream.reader.steps_per_epoch == 10
    orders = [[name for step in range(10) for name in ids(stream(10 * epoch + step))] for epoch in range(2)]
    assert all(len(set(order)) == SHARDS * ROWS for order in orders)
    assert orders[0] != orders[1] and set(orders[0]) == set(orders[1])
    assert [stream(step).epoch for step in (9, 10)] == [0, 1]
    assert orders[0] != [name for step in range(10) for name in ids(source(data, seed=4)(step))]


def test_a_batch_draws_from_several_files_and_a_window_is_shuffled(data):
    by_id = {group.id: len(group.prompt) - 1 for group in all_groups(data)}
    batches = [[by_id[name] for name in ids(source(data)(step))] for step in range(10)]
    assert sum(len({row // ROWS for row in batch}) > 1 for batch in batches) >= 8
    in_lane = [row for batch in batches for row in batch[:1]]  # one of the four lanes
    assert any(later < earlier for earlier, later in zip(in_lane, in_lane[1:], strict=False))
    larger = [[by_id[name] for name in ids(source(data, shuffle_buffer=32)(step))] for step in range(10)]
    assert larger != batches and sorted(sum(larger, [])) == sorted(sum(batches, []))


def all_groups(data, shape=Shape.PAIR):
    return groups_of(open_stream(data).in_file_order(), shape, where="data")


def test_latents_are_those_of_stored_examples(data):
    stored = encode(all_groups(data), Tiny(), SQUARE)
    whole = StoredSource(stored, batch_size=40, micro_batch_size=40, prompt_dropout=0.5, seed=3)
    wanted = seen(whole(1))
    stream = source(data, prompt_dropout=0.5)
    for step in range(10, 20):
        for name, values in seen(stream(step)).items():
            assert all(torch.equal(x, y) for x, y in zip(values, wanted[name], strict=True))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_batch_and_read_their_own_lanes(data, processes):
    whole = seen(source(data)(7))
    options = {"num_processes": processes, "micro_batch_size": 1, "ahead": 0}
    shares = [source(data, process=p, **options) for p in range(processes)]
    batches = [share(7) for share in shares]
    merged = {name: values for batch in batches for name, values in seen(batch).items()}
    assert merged.keys() == whole.keys() and all(batch.size == 4 for batch in batches)
    assert all(torch.equal(x, y) for n in whole for x, y in zip(whole[n], merged[n], strict=True))
    assert [set(share.reader._windows) for share in shares] == [
        set(range(p, 4, processes)) for p in range(processes)
    ]


def test_a_number_of_processes_that_does_not_divide_the_lanes_shares_them(data):
    options = {"batch_size": 6, "shuffle_buffer": 8}
    assert source(data, **options).reader.num_lanes == 2
    whole = seen(source(data, **options)(3))
    shares = [seen(source(data, process=p, num_processes=3, **options)(3)) for p in range(3)]
    assert {name for share in shares for name in share} == whole.keys()


def test_ties_give_their_places_to_other_groups_of_the_window(tmp_path):
    path = write(tmp_path / "ties", label=lambda number: 1.0 if number % 3 else 0.5)
    stream = source(path, shuffle_buffer=12)
    batches = [ids(stream(step)) for step in range(10)]
    assert all(len(batch) == 4 for batch in batches)
    decided = {group.id for group in all_groups(path)}
    assert {name for batch in batches for name in batch} == decided and len(decided) == 26


def test_only_ties_are_refused(tmp_path):
    path = write(tmp_path / "ties", label=lambda number: 0.5)
    with pytest.raises(DataError, match="no usable group of shape pair in 40 rows. Are all ties"):
        source(path)(0)
    with pytest.raises(DataError, match=r"scores differ by min_gap, 2, or more. Lower min_gap.$"):
        source(path, rules=GroupRules(min_gap=2))(0)


def test_only_rows_of_the_split_take_part(tmp_path):
    path = small.write_pairs(tmp_path / "pairs.parquet")
    stream = source(path)
    wanted = {
        group.id
        for group in groups_of(open_stream(path, split="train").in_file_order(), Shape.PAIR, where="")
    }
    assert len(stream.stream) == len(wanted) == 12
    assert {name for step in range(3) for name in ids(stream(step))} == wanted
    labels = source(path, shape=Shape.UNARY)(0)
    assert labels.micro[0].score.abs().eq(1).all()
    with pytest.raises(DataError) as caught:
        open_stream(path, split="dev")
    assert str(caught.value) == (
        f"{path}: no row of split 'dev', by the name of its file or its own. Make splits with `penchant data "
        "split`, name the files after them, or leave the split out."
    )


def test_a_broken_row_of_another_split_takes_no_place(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(small.picture(number, 99))
    row = '{"prompt": "%s", "chosen": "%s.png", "rejected": "1.png", "split": "%s"}\n'
    lines = [("t0", 0, "train"), ("lost", 9, "train"), ("v1", 9, "validation"), ("t1", 0, "train")]
    path = tmp_path / "pairs.jsonl"
    path.write_text(row % ("v0", 9, "validation") + "".join(row % line for line in lines))
    stream = open_stream(path, split="train")
    first, lost, last = stream.read([Piece(0, 0, 0, 3)])
    assert [first.prompt, last.prompt] == ["t0", "t1"] and "line 3" in str(lost)
    assert [found.prompt for found in stream.read([Piece(0, 0, 2, 3)])] == ["t1"]
    assert list(stream.prompts()) == ["t0", "t1"]
    [other] = open_stream(path, split="validation").read([Piece(0, 0, 1, 2)])
    assert "line 4" in str(other)


def test_splits_of_every_layout(tmp_path, data):
    lines = tmp_path / "pairs.jsonl"
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(small.picture(number, 99))
    row = '{"prompt": "p", "chosen": "0.png", "rejected": "1.png", "split": "%s"}\n'
    lines.write_text("".join(row % name for name in ("train", "test", "train")))
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"i": [[b"1", b"2"]] * 3, "part": ["train", None, "test"]}), table)
    columns = Columns(images=("i",), split="part")
    own = small.write_lists(tmp_path / "lists.parquet")
    assert [len(open_stream(path, split="train")) for path in (lines, own, data)] == [2, 8, 40]
    assert len(open_stream(table, split="test", columns=columns)) == 1
    assert list(open_stream(lines, split="train").prompts()) == ["p", "p"]
    assert list(open_stream(own, split="train").prompts()) == [f"list {number}" for number in range(8)]
    (tmp_path / "folder" / "w").mkdir(parents=True)
    (tmp_path / "folder" / "l").mkdir()
    for side in ("w", "l"):
        (tmp_path / "folder" / side / "a.png").write_bytes(small.picture(1, 9))
    (tmp_path / "folder" / "w" / "a.txt").write_text("p")
    assert len(list(open_stream(tmp_path / "folder").in_file_order())) == 1
    with pytest.raises(DataError, match="no row of split 'train'"):
        open_stream(tmp_path / "folder", split="train")


def test_rules_change_the_groups(tmp_path):
    path = small.write_lists(tmp_path / "lists.parquet")
    narrow = GroupRules(top_k=2)
    assert source(path, shape=Shape.RANKED)(0).micro[0].latents.shape[1] == 4
    assert source(path, shape=Shape.RANKED, rules=narrow)(0).micro[0].latents.shape[1] == 2


def broken_picture(number, brightness):
    return b"" if number % 20 == 4 else small.picture(number, brightness)


def test_broken_images_are_counted_and_replaced_in_the_same_way_each_time(tmp_path, caplog):
    path = write(tmp_path / "broken", image=broken_picture)
    with caplog.at_level(logging.WARNING):
        stream = source(path, shuffle_buffer=16)
        batches = [stream(step) for step in range(10)]
    assert sum(batch.counted[BROKEN] for batch in batches) == 4  # rows 2, 12, 22 and 32 of 40
    assert all(len(ids(batch)) == 4 for batch in batches)
    assert len({name for batch in batches for name in ids(batch)}) == 36
    assert len(caplog.messages) == 1 and "no image, got 0 bytes." in caplog.messages[0]
    again = source(path, shuffle_buffer=16)
    for step in (6, 2):
        assert ids(again(step)) == ids(batches[step])
        assert again(step).counted == batches[step].counted


def small_picture(number, brightness):
    return small.picture(number, brightness, height=12 if number % 20 == 4 else 16)


def test_small_images_are_counted_and_replaced(tmp_path, caplog):
    path = write(tmp_path / "small", image=small_picture)
    rules = GroupRules(min_size=13)
    stream = source(path, shuffle_buffer=16, rules=rules)
    batches = [stream(step) for step in range(10)]
    assert sum(batch.counted[SMALL] for batch in batches) == 4  # rows 2, 12, 22 and 32 of 40
    assert sum(batch.counted[BROKEN] for batch in batches) == 0 and not caplog.messages
    assert len({name for batch in batches for name in ids(batch)}) == 36
    guard = BrokenRows(stream, share=0.0, at_least=8)
    guard.guard(Record(step=1, metrics=dict(batches[0].counted) | {SMALL: 3}))
    guard.report()
    with caplog.at_level(logging.WARNING):
        assert len(first_groups(open_stream(path), Shape.PAIR, rules, 5)) == 5
    assert caplog.messages == [
        f"{path}: {left_out} groups are left out: the shorter side of an image is below min_size, 13 px"
        for left_out in ("3 of 4", "1 of 6")
    ]
    with pytest.raises(DataError) as caught:
        source(path, rules=GroupRules(min_size=17))(0)
    assert str(caught.value) == (
        f"{path}: each group of 40 rows has an image whose shorter side is below min_size, 17 px. "
        "Lower min_size, or give larger images."
    )


def broken_in(*numbers):
    return lambda number, brightness: b"" if number // 2 in numbers else small.picture(number, brightness)


@pytest.mark.parametrize(
    ("num_rows", "row_group", "options"),
    [
        (8, 8, {"batch_size": 8}),  # one row in each of 8 lanes
        (40, 10, {"shuffle_buffer": 4}),  # each lane is one window; all of rows 10 to 19 are broken
        (60, 4, {"shuffle_buffer": 4}),  # lanes end with windows of few rows
    ],
)
def test_a_window_without_a_good_row_takes_those_of_another(tmp_path, caplog, num_rows, row_group, options):
    broken = {3, *range(10, 20)} & set(range(num_rows))
    numbers = range(num_rows)
    columns = {
        "caption": ["x" * (1 + number) for number in numbers],
        "jpg_0": [broken_in(*broken)(2 * number, 200) for number in numbers],
        "jpg_1": [small.picture(2 * number + 1, 60) for number in numbers],
        "label_0": [1.0] * num_rows,
    }
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    stream = source(path, ahead=0, **options)
    steps = range(2 * stream.reader.steps_per_epoch)
    with caplog.at_level(logging.WARNING):
        batches = [stream(step) for step in steps]
    in_epochs = [batch.counted[BROKEN] for batch in batches]
    assert sum(in_epochs) == 2 * len(broken)
    assert all(len(ids(batch)) == stream.batch_size for batch in batches)
    assert len({name for batch in batches for name in ids(batch)}) == num_rows - len(broken)
    assert "no row of a whole window can be used; others take their places. One of them: " in caplog.text
    for step in reversed(steps):  # resumed at any step, by any number of processes
        shares = [
            source(path, ahead=0, process=p, num_processes=2, micro_batch_size=1, **options)(step)
            for p in range(2)
        ]
        assert sum(share.counted[BROKEN] for share in shares) == batches[step].counted[BROKEN]
        assert {n for share in shares for n in ids(share)} == set(ids(batches[step]))
        assert ids(source(path, ahead=0, **options)(step)) == ids(batches[step])


def test_a_window_of_small_images_takes_those_of_another(tmp_path):
    def picture(number, brightness):
        return small.picture(number, brightness, height=12 if number < 4 * ROWS else 16)

    path = write(tmp_path / "small", image=picture)  # the first two files
    stream = source(path, rules=GroupRules(min_size=13))
    batches = [stream(step) for step in range(10)]
    assert sum(batch.counted[SMALL] for batch in batches) == 20
    assert len({name for batch in batches for name in ids(batch)}) == 20


def test_a_lane_of_ties_takes_groups_of_another(tmp_path):
    path = write(tmp_path / "ties", label=lambda number: 1.0 if number == 17 else 0.5)
    assert {name for step in range(10) for name in ids(source(path)(step))} == {all_groups(path)[0].id}


def test_a_window_without_a_good_row_is_read_once(tmp_path, monkeypatch):
    path = write(tmp_path / "broken", image=broken_in(*range(ROWS, 2 * ROWS)))
    stream = source(path, ahead=0, shuffle_buffer=4)
    read, pieces = stream.stream.read, []
    monkeypatch.setattr(stream.stream, "read", lambda some: pieces.append(some) or read(some))
    for step in range(10):
        stream(step)
    num_windows = sum(len(lane.windows) for lane in stream.stream.lanes(Randomness(run=3, epoch=0), 4, 1))
    assert num_windows <= len(pieces) <= num_windows + 4


def test_what_is_read_ahead_is_told_at_its_own_step(tmp_path, caplog):
    """Of the broken images of later steps, which the thread has met already, nothing is heard."""
    path = write(tmp_path / "broken", image=broken_picture)
    plain = source(path, shuffle_buffer=16, ahead=0)
    counts = [plain(step).counted[BROKEN] for step in range(10)]
    first = next(step for step, count in enumerate(counts) if count)
    caplog.clear()
    stream = source(path, shuffle_buffer=16, ahead=9)
    with caplog.at_level(logging.WARNING):
        for step in range(10):
            assert (len(caplog.messages), stream.first_broken is None) == (step > first, step <= first)
            assert stream(step).counted[BROKEN] == counts[step]
    stream.close()


def test_samples_with_missing_members_are_counted(tmp_path):
    path = tmp_path / "train-000.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(16):
            names = {"0.png": small.picture(2 * number, 200), "1.png": small.picture(2 * number + 1, 60)}
            names["txt"] = b"x" * (1 + number)
            if number == 5:
                del names["1.png"]
            for name, content in names.items():
                info = tarfile.TarInfo(f"{number:04}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    stream = source(path)
    batches = [stream(step) for step in range(4)]
    assert sum(batch.counted[BROKEN] for batch in batches) == 1
    assert stream.first_broken is not None
    assert "needs two images or more, best first, got one." in str(stream.first_broken)


def test_nothing_but_broken_images_is_refused(tmp_path):
    path = write(tmp_path / "broken", image=lambda number, brightness: b"")
    with pytest.raises(DataError, match="none of 24 rows can be read; .* got 0 bytes"):
        source(path)(0)


def test_what_has_nothing_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "train.parquet"
    row = {"caption": "x", "jpg_0": b"", "jpg_1": b"", "label_0": 1.0}
    pq.write_table(pa.Table.from_pylist([row] * 400), path, row_group_size=4)
    stream, num_read = source(path, max_broken=0.05, shuffle_buffer=16, ahead=0), []
    real = stream.stream.read
    monkeypatch.setattr(
        stream.stream, "read", lambda pieces: (num_read.append(row) or row for row in real(pieces))
    )
    with pytest.raises(DataError, match=r"none of 24 rows can be read; "):
        stream(0)
    assert len(num_read) == 24  # windows of 4 rows, until there are more than a twentieth of 400
    assert all(found.broken.__traceback__ is None for found in stream.reader._barren.values())


def test_too_many_broken_rows_stop_the_run_and_fewer_are_told_at_its_end(data, caplog):
    def record(broken):
        return Record(step=1, metrics={BROKEN: broken, SMALL: 0})

    stream = source(data)
    stream.first_broken = DataError("row 3: no image.")
    guard = BrokenRows(stream, share=0.25, at_least=8)
    guard.guard(record(2))
    with caplog.at_level(logging.WARNING):
        guard.report()
    assert caplog.messages == [
        f"{data}: 2 of 4 rows could not be read; others took their places. One of them: row 3: no image."
    ]
    with pytest.raises(TrainingStopped) as caught:
        guard.guard(record(2))
    assert str(caught.value) == (
        "data.max_broken: 4 of 8 rows could not be read, more than a share of 0.25. One of them: "
        "row 3: no image. Repair or remove them, or raise max_broken."
    )


def test_fewer_rows_than_a_batch_are_refused(data):
    with pytest.raises(DataError) as caught:
        source(data, batch_size=44)
    assert str(caught.value) == (
        f"training.batch_size: {data} has 40 rows, fewer than one batch of 44. Give more data or a smaller "
        "batch_size."
    )


def test_the_embeddings_of_recent_prompts_are_kept():
    family = Tiny()
    prompts = RecentPrompts(family, limit=8)  # two embeddings of four bytes
    for wanted in (["a", "bb"], ["a"], ["ccc"], ["a"], ["bb"]):
        found = prompts.encode_prompts(wanted)["prompt"].flatten().tolist()
        assert found == [len(prompt) for prompt in wanted]
    assert family.prompts == ["a", "bb", "ccc", "bb"]


def test_held_out_groups_are_the_first_ones_and_no_more(tmp_path, caplog):
    path = write(tmp_path / "broken", image=broken_picture)
    with caplog.at_level(logging.WARNING):
        groups = first_groups(open_stream(path), Shape.PAIR, DEFAULT_RULES, 5)
    assert [len(group.prompt) for group in groups] == [1, 2, 4, 5, 6]
    assert len(caplog.messages) == 1
    ties = write(tmp_path / "ties", label=lambda number: 0.5)
    with pytest.raises(DataError, match="no usable group of shape pair in split 'train'"):
        first_groups(open_stream(ties, split="train"), Shape.PAIR, DEFAULT_RULES, 5)


def test_the_hash_changes_with_the_files(tmp_path, data):
    assert open_stream(data).content_hash == open_stream(data).content_hash
    longer = write(tmp_path / "other", image=lambda number, brightness: small.picture(number, 7))
    assert open_stream(longer).content_hash != open_stream(data).content_hash


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    """The large version of this is benchmarks/stream_memory.py."""
    image = small.picture(1, 99) + bytes(20_000)  # a decoder stops at the end of the picture
    peaks = []
    for num_rows in (128, 768):
        columns = {
            "caption": [str(number) for number in range(num_rows)],
            "jpg_0": [image] * num_rows,
            "jpg_1": [image] * num_rows,
            "label_0": [1.0] * num_rows,
        }
        path = tmp_path / f"{num_rows}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=16)
        stream = source(path, split=None, shuffle_buffer=64, ahead=0)
        tracemalloc.start()
        for step in range(
            0, stream.reader.steps_per_epoch, 16
        ):  # every window of each of the four lanes is read
            stream(step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 64 * len(image), "the window is in memory"
    assert peaks[1] < 1.1 * peaks[0]


def test_lanes_are_equal_and_whole_blocks_make_windows(data):
    stream = open_stream(data)
    lanes = stream.lanes(Randomness(run=1), 3, 4)
    taken = [
        [(p.part, p.block, at) for w in lane.windows for p in w for at in range(p.start, p.stop)]
        for lane in lanes
    ]
    assert [len(lane) for lane in taken] == [13, 13, 13]
    assert len({row for lane in taken for row in lane}) == 39
    assert all(len(lane.cuts) == 13 for lane in lanes)
    sizes = [sum(p.stop - p.start for p in window) for lane in lanes for window in lane.windows[:-1]]
    assert min(sizes) >= 4 and max(sizes) <= 4 + GROUP
