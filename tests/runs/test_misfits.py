"""Options that a run would not read are refused, each with its place and the way out."""

from penchant.runs.schema import Reference, Training


def test_what_differs_from_the_defaults():
    training = Training(steps=1, ema=0.5, batch_size=32, reference=Reference(kind="copy"))
    assert training.changed("ema", "batch_size", "lora", "reference") == ["ema", "reference"]
    assert training.changed("steps") == ["steps"], "what has no default"
