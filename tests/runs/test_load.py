"""Every sentence that a wrong run file can cause, and the values of a right one."""

import pytest

from penchant.errors import ConfigError
from penchant.runs.load import dump, load

RIGHT = """\
model: emoji
data: {path: emoji-pairs}
method: diffusion-dpo
training: {steps: 200}
output: runs/mine
"""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """Write a run file and return its path, relative so that messages are short."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path.relative_to(tmp_path)

    return write


def message(path, *assignments):
    with pytest.raises(ConfigError) as caught:
        load(path, assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_five_lines_are_a_run_and_the_rest_has_defaults(run_file):
    run = load(run_file(RIGHT))
    assert run.training.steps == 200
    assert run.training.lora.rank == 16
    assert run.evaluation.prompts == "held-out"
    assert run.terms is None
    assert not run.wants_auto_beta


def test_what_dump_writes_is_read_back_as_the_same_run(run_file):
    text = RIGHT + "objective: {beta: auto}\nterms: [{kind: winner-kept, coefficient: 2.0}]\n"
    run = load(run_file(text), ["training.learning_rate=2e-5", "training.lora.targets=[to_q, to_k]"])
    assert run.training.learning_rate == 2e-5
    assert load(run_file(dump(run))) == run


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("training.steps=7", ("training", "steps"), 7),
        ("training.learning_rate=1e-3", ("training", "learning_rate"), 1e-3),
        ("training.max_grad_norm=null", ("training", "max_grad_norm"), None),
        ("training.max_grad_norm=", ("training", "max_grad_norm"), None),
        ("training.betas=[0.8, 0.9]", ("training", "betas"), (0.8, 0.9)),
        ("data.path=a=b.parquet", ("data", "path"), "a=b.parquet"),
        ("evaluation={num_steps: 5}", ("evaluation", "num_steps"), 5),
        ("objective.beta=auto", ("wants_auto_beta",), True),
    ],
)
def test_set_puts_a_value_on_top(run_file, assignment, place, value):
    found = load(run_file(RIGHT), [assignment])
    for name in place:
        found = getattr(found, name)
    assert found == value


def test_set_reaches_into_a_list(run_file):
    text = RIGHT + "terms: [{kind: winner-kept, coefficient: 2.0}]\n"
    assert load(run_file(text), ["terms.0.coefficient=5"]).terms == [
        {"kind": "winner-kept", "coefficient": 5}
    ]


WRONG_FILES = {
    "unknown option": (
        RIGHT.replace("steps: 200", "steps: 200, lerning_rate: 1.0"),
        "run.yaml: training: unknown option 'lerning_rate'. Did you mean 'learning_rate'? Known: "
        "batch_size, ",
    ),
    "unknown option at the top": (
        RIGHT + "optput: x\n",
        "run.yaml: unknown option 'optput'. Did you mean 'output'? Known: auto_beta, data, ",
    ),
    "a misspelt required option is called misspelt, not missing": (
        RIGHT.replace("steps", "stesp"),
        "run.yaml: training: unknown option 'stesp'. Did you mean 'steps'? Known: ",
    ),
    "option missing": (
        RIGHT.replace("steps: 200", "batch_size: 8"),
        "run.yaml: training: option 'steps' is missing. Optimizer steps.",
    ),
    "option missing at the top": (
        RIGHT.replace("output: runs/mine\n", ""),
        "run.yaml: option 'output' is missing. Folder that the run is written to.",
    ),
    "section missing": (
        RIGHT.replace("training: {steps: 200}\n", ""),
        "run.yaml: option 'training' is missing. How the model learns.",
    ),
    "below its range": (
        RIGHT.replace("200", "0"),
        "run.yaml: training.steps: must be >= 1, got 0.",
    ),
    "not above its range": (
        RIGHT + "health: {spike_factor: 1}\n",
        "run.yaml: health.spike_factor: must be > 1, got 1.",
    ),
    "above its range": (
        RIGHT.replace("emoji-pairs", "emoji-pairs, prompt_dropout: 1.5"),
        "run.yaml: data.prompt_dropout: must be <= 1, got 1.5.",
    ),
    "not below its range": (
        RIGHT + "auto_beta: {gradient_factor: 0.5}\n",
        "run.yaml: auto_beta.gradient_factor: must be < 0.5, got 0.5.",
    ),
    "inside a list": (
        RIGHT.replace("200", "200, betas: [0.9, 1.0]"),
        "run.yaml: training.betas.1: must be < 1, got 1.0.",
    ),
    "too long a list": (
        RIGHT.replace("200", "200, betas: [0.9, 0.9, 0.9]"),
        "run.yaml: training.betas: must be a list of at most 2, got [0.9, 0.9, 0.9].",
    ),
    "too short a list": (
        RIGHT.replace("200", "200, lora: {targets: []}"),
        "run.yaml: training.lora.targets: must be a list of at least 1, got [].",
    ),
    "text for a whole number": (
        RIGHT.replace("200", "many"),
        "run.yaml: training.steps: must be a whole number, got 'many'.",
    ),
    "truth value for a whole number": (
        RIGHT.replace("200", "true"),
        "run.yaml: training.steps: must be a whole number, got true.",
    ),
    "part for a whole number": (
        RIGHT.replace("200", "2.5"),
        "run.yaml: training.steps: must be a whole number, got 2.5.",
    ),
    "text for a number": (
        RIGHT.replace("200", "200, learning_rate: fast"),
        "run.yaml: training.learning_rate: must be a number, got 'fast'.",
    ),
    "not a finite number": (
        RIGHT.replace("200", "200, learning_rate: .nan"),
        "run.yaml: training.learning_rate: must be a finite number, got nan.",
    ),
    "number for a text": (
        RIGHT.replace("runs/mine", "5"),
        "run.yaml: output: must be a text, got 5.",
    ),
    "empty text": (
        RIGHT.replace("runs/mine", "''"),
        "run.yaml: output: must be a text of at least 1 letter, got ''.",
    ),
    "null for a text": (
        RIGHT.replace("runs/mine", ""),
        "run.yaml: output: must be a text, got null.",
    ),
    "text for a truth value": (
        RIGHT + "experimental: perhaps\n",
        "run.yaml: experimental: must be true or false, got 'perhaps'.",
    ),
    "unknown choice": (
        RIGHT.replace("200", "200, mode: lroa"),
        "run.yaml: training.mode: must be one of lora, full, got 'lroa'. Did you mean 'lora'?",
    ),
    "value for a section": (
        RIGHT.replace("{steps: 200}", "200"),
        "run.yaml: training: must be a mapping of options, got 200.",
    ),
    "value for a mapping of options": (
        RIGHT + "objective: hinge\n",
        "run.yaml: objective: must be a mapping of options, got 'hinge'.",
    ),
    "mapping for a list": (
        RIGHT + "terms: {kind: winner-kept}\n",
        "run.yaml: terms: must be a list, got {'kind': 'winner-kept'}.",
    ),
    "unknown method": (
        RIGHT.replace("diffusion-dpo", "difusion-dpo"),
        "run.yaml: method: unknown method 'difusion-dpo'. Did you mean 'diffusion-dpo'? Known: ",
    ),
    "unknown score": (
        RIGHT + "evaluation: {scores: [styl]}\n",
        "run.yaml: evaluation.scores.0: unknown reward 'styl'. Did you mean 'style'? Known: ",
    ),
    "a score that is no name": (
        RIGHT + "evaluation: {scores: [3]}\n",
        "run.yaml: evaluation.scores.0: must be a name or a mapping with `kind`, got 3.",
    ),
    "a score without a kind": (
        RIGHT + "evaluation: {scores: [{style: noto}]}\n",
        "run.yaml: evaluation.scores.0: must be a name or a mapping with `kind`, got {'style': 'noto'}.",
    ),
    "unknown reward": (
        RIGHT + "online: {reward: beauty}\n",
        "run.yaml: online.reward: unknown reward 'beauty'. Known: ",
    ),
    "adapter options without an adapter": (
        RIGHT.replace("200", "200, mode: full, lora: {rank: 4}"),
        "run.yaml: training.lora: is only read with mode 'lora', got mode 'full'. "
        "Remove lora or change the mode.",
    ),
    "micro-batch larger than the batch": (
        RIGHT.replace("200", "200, batch_size: 4, micro_batch_size: 8"),
        "run.yaml: training.micro_batch_size: must be <= batch_size 4, got 8. Lower it or leave it out.",
    ),
    "warm-up longer than the run": (
        RIGHT.replace("200", "200, warmup_steps: 300"),
        "run.yaml: training.warmup_steps: must be <= steps 200, got 300.",
    ),
    "option of another optimizer": (
        RIGHT.replace("200", "200, optimizer: adafactor, epsilon: 1.0e-6"),
        "run.yaml: training.epsilon: is only read by optimizer 'adamw', got optimizer 'adafactor'. "
        "Remove epsilon.",
    ),
    "probe options without a probe": (
        RIGHT + "auto_beta: {probe_steps: 30}\n",
        "run.yaml: auto_beta: is only read with objective: {beta: auto}, got beta of the method. "
        "Remove auto_beta or set that.",
    ),
    "split of a prompt file": (
        RIGHT + "evaluation: {prompts: p.txt, split: validation}\n",
        "run.yaml: evaluation.split: is only read with prompts 'held-out', got prompts 'p.txt'. "
        "Remove split.",
    ),
    "interpolation": (
        RIGHT.replace("runs/mine", "'${oc.env:HOME}/x'"),
        "run.yaml: output: values with '${' are not supported, got '${oc.env:HOME}/x'. "
        "Write the value itself.",
    ),
    "interpolation in a list": (
        RIGHT + "terms: [{kind: '${method}'}]\n",
        "run.yaml: terms.0.kind: values with '${' are not supported, got '${method}'. "
        "Write the value itself.",
    ),
    "broken interpolation": (
        RIGHT.replace("runs/mine", "'${x'"),
        "run.yaml: values with '${' are not supported. Write the value itself.",
    ),
    "option set twice": (
        RIGHT + "method: mapo\n",
        "run.yaml: line 6: option 'method' is set twice. Remove one.",
    ),
    "broken bracket": (
        RIGHT.replace("{steps: 200}", "{steps: 200"),
        "run.yaml: line 5: not valid YAML: did not find expected ',' or '}'. "
        "Check indentation, quotes and brackets.",
    ),
    "python object": (
        RIGHT.replace("runs/mine", "!!python/object/apply:os.getcwd []"),
        "run.yaml: line 5: not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'. Check indentation, quotes and brackets.",
    ),
    "control character": (
        RIGHT + "x: \x07\n",
        "run.yaml: not valid YAML: ",
    ),
    "empty": ("  \n", "run.yaml: is empty. Needed: model, data, method, training, output."),
    "only a comment": ("# nothing\n", "run.yaml: option 'model' is missing. Name of a model "),
    "a list": (
        "- model: emoji\n",
        "run.yaml: must be a mapping of options, got a list. Write lines such as `model: emoji`.",
    ),
    "a number": (
        "5\n",
        "run.yaml: must be a mapping of options, got a single value. Write lines such as `model: emoji`.",
    ),
    "a ratio in another form": (
        RIGHT.replace("emoji-pairs", "emoji-pairs, buckets: {ratios: [1x1, '4:3']}"),
        "run.yaml: data.buckets.ratios.1: must be a width and a height such as 4x3, got '4:3'.",
    ),
    "no ratio": (
        RIGHT.replace("emoji-pairs", "emoji-pairs, buckets: {ratios: []}"),
        "run.yaml: data.buckets.ratios: must be a list of at least 1, got [].",
    ),
    "not text": (
        b"\xff\xfe\x00\x01",
        "run.yaml: is not text in UTF-8. Give the path of a run file (YAML).",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_run_file_is_refused_in_one_line(run_file, name):
    """An expectation without a full stop is the beginning of the sentence."""
    text, expected = WRONG_FILES[name]
    found = message(run_file(text))
    assert found == expected if expected.endswith((".", "?")) else found.startswith(expected)


def test_a_file_that_is_not_there(run_file, tmp_path):
    run_file(RIGHT)
    assert message(tmp_path / "no.yaml").endswith(
        "no.yaml: no such file. Give the path of a run file (YAML)."
    )
    assert message(tmp_path).endswith(": is a folder. Give the path of a run file (YAML) in it.")


def test_a_file_that_cannot_be_read(run_file, monkeypatch):
    path = run_file(RIGHT)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert message(path) == "run.yaml: cannot be read (Permission denied). Check the path and its rights."


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.steps=0", "--set: training.steps: must be >= 1, got 0."),
        ("training.stesp=3", "--set: training: unknown option 'stesp'. Did you mean 'steps'? Known: "),
        ("online={}", "--set: online: option 'reward' is missing. Reward that ranks the samples"),
        (
            "training.steps",
            "--set training.steps: is not an option and its value. Write it as --set training.steps=100.",
        ),
        ("a..b=1", "--set a..b=1: is not an option and its value. "),
        ("=1", "--set =1: is not an option and its value. "),
        ("seed=[1", "--set seed=[1: not valid YAML: "),
        ("output=${x", "--set output=${x: values with '${' are not supported. Write the value itself."),
        ("seed=1\nb: 2", "--set seed=1 b: 2: not valid YAML. Put the value in quotes."),
    ],
)
def test_a_wrong_set_option_is_said_to_stand_there(run_file, assignment, expected):
    assert message(run_file(RIGHT), assignment).startswith(expected)


def test_set_into_a_list_position_that_is_not_there(run_file):
    text = RIGHT + "terms: [{kind: winner-kept, coefficient: 2.0}]\n"
    found = message(run_file(text), "terms.3.coefficient=1")
    assert found.startswith("--set terms.3.coefficient=1: cannot be set (list index out of range).")


@pytest.mark.parametrize("value", ["!!int x", "!!bool x", "!!timestamp x", "!!float x"])
def test_a_tag_that_its_value_does_not_fit_is_one_line(run_file, value):
    expected = "a tag such as `!!int` stands before a value that it does not fit. Remove the tag."
    assert message(run_file(RIGHT + f"seed: {value}\n")) == f"run.yaml: {expected}"


def test_a_list_that_is_too_short_is_one_line(run_file):
    text = message(run_file(RIGHT), "training.betas=[0.9]")
    assert text == "--set: training.betas: must have more values, got [0.9]. Add them."
