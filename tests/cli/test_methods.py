"""The list of methods and the card of one."""

import json

import pytest
from typer.testing import CliRunner

from penchant.cli.main import app
from penchant.errors import ConfigError
from penchant.methods import catalog


def output(*arguments):
    result = CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_list_names_every_method_on_one_line():
    lines = output().splitlines()
    for name in catalog.names():
        assert len([line for line in lines if f" {name} " in line]) == 1


def test_the_card_shows_options_defaults_source_and_an_example():
    text = output("diffusion-dpo")
    for part in ("arXiv:2311.12908", "beta", "5000.0", "1/nats", "instead: hinge, squared", "winner-kept"):
        assert part in text
    assert "shared_noise   true" in text
    assert "method: diffusion-dpo\ntraining: {steps: 200}\n" in text


def test_the_card_of_a_method_without_reference_says_so():
    assert "reference  none" in output("mapo")


def test_json_holds_the_same():
    assert [found["name"] for found in json.loads(output("--json"))] == catalog.names()
    card = json.loads(output("rank-dpo", "--json"))
    assert card["slots"][1]["options"][0] == {
        "name": "beta",
        "default": 5000.0,
        "meaning": "Pull towards the reference, in 1/nats; > 0.",
    }


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown method 'difusion-dpo'\. Did you mean 'diffusion-dpo'\?"):
        CliRunner().invoke(app, ["methods", "difusion-dpo"], catch_exceptions=False)
