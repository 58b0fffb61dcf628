"""What a user sees of the command line: one line for an error, its exit code, and a quick --help."""

import runpy
import subprocess
import sys

import pytest

from penchant import __version__
from penchant.cli import main
from penchant.errors import TrainingStopped


@pytest.fixture
def penchant(monkeypatch, capsys):
    """Run the command line in this process; exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penchant", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.run()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def failing(monkeypatch):
    """Let a command raise an error."""

    def install(error):
        def fail(*args, **options):
            raise error

        monkeypatch.setattr("penchant.runs.load.load", fail)

    return install


def test_help_lists_every_command(penchant):
    code, out, _ = penchant("--help")
    assert code == 0
    for command in (
        "train",
        "sample",
        "evaluate",
        "report",
        "export",
        "push",
        "explain",
        "methods",
        "demo",
        "data",
    ):
        assert f" {command} " in out


def test_version(penchant):
    assert penchant("--version")[:2] == (0, f"penchant {__version__}\n")


def test_help_does_not_import_the_heavy_packages():
    code = (
        "import sys; sys.argv = ['penchant', '--help']\n"
        "from penchant.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pydantic', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_file_is_checked_without_the_heavy_packages():
    """A misspelt option is reported at once."""
    code = (
        "import sys, pathlib\n"
        "from penchant.errors import ConfigError\n"
        "from penchant.runs.load import load\n"
        "try: load(pathlib.Path('no.yaml'))\n"
        "except ConfigError: pass\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_file_in_its_own_output_folder_is_not_replaced(penchant, tmp_path):
    path = tmp_path / "run.yaml"
    text = f"model: emoji\ndata: {{path: emoji-pairs}}\nmethod: diffusion-dpo\noutput: {tmp_path}\n"
    path.write_text(f"{text}training: {{steps: 1}}  # third try\n")
    code, _, said = penchant("train", str(path), "--overwrite")
    assert code == 2 and said.startswith(f"{path}: lies in the output folder")
    assert "third try" in path.read_text()


def test_packages_that_are_merely_installed_are_not_heard():
    code = (
        "import penchant.cli.main\n"
        "from importlib import import_module\n"
        "for name in ('bitsandbytes', 'torchao.optim', 'diffusers.quantizers.torchao.torchao_quantizer'):\n"
        "    import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_user_error_is_one_line_and_exit_code_2(penchant, tmp_path):
    path = tmp_path / "no.yaml"
    for command in ("train", "explain"):
        code, out, err = penchant(command, str(path))
        assert (code, out) == (2, "")
        assert err == f"{path}: no such file. Give the path of a run file (YAML).\n"


def test_a_training_that_stops_itself_is_exit_code_3(penchant, failing):
    failing(TrainingStopped("step 7: the loss is nan."))
    assert penchant("explain", "run.yaml")[::2] == (3, "step 7: the loss is nan.\n")


@pytest.mark.parametrize("arguments", [("--debug", "train", "no.yaml"), ("train", "no.yaml", "--debug")])
def test_debug_shows_the_traceback(penchant, arguments):
    code, _, err = penchant(*arguments)
    assert code == 2
    assert err.startswith("Traceback")
    assert "ConfigError: no.yaml: no such file." in err


def test_ctrl_c_is_a_sentence_and_exit_code_130(penchant, failing):
    failing(KeyboardInterrupt())
    code, _, err = penchant("explain", "run.yaml")
    assert code == 130
    assert (
        err
        == "\nStopped by Ctrl-C. If training had begun, `penchant train RUN.yaml --resume` goes on with it.\n"
    )


def test_ctrl_c_before_a_command_runs(penchant, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupt)
    assert penchant("train")[0] == 130


def test_an_error_of_the_library_itself_keeps_its_traceback(failing, monkeypatch):
    failing(ZeroDivisionError())
    monkeypatch.setattr(sys, "argv", ["penchant", "explain", "run.yaml"])
    with pytest.raises(ZeroDivisionError):
        main.run()


def test_resume_and_overwrite_exclude_each_other(penchant):
    code, _, err = penchant("train", "run.yaml", "--resume", "--overwrite")
    assert code == 2
    assert "--resume continues a run, --overwrite replaces it. Take one." in " ".join(
        err.replace("│", "").split()
    )


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_run_folder_that_is_not_there(penchant, tmp_path, command):
    path = tmp_path / "no"
    code, _, err = penchant(command, str(path))
    assert code == 2
    assert err.startswith(f"{path}: no such run folder. ")


def test_data_has_its_own_commands(penchant):
    code, out, _ = penchant("data", "--help")
    assert code == 0
    assert "check" in out


def test_launchers_start_the_module_that_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["-m", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("penchant", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("penchant ")


def test_an_error_that_another_process_says_is_not_said_here(penchant, failing):
    end = SystemExit(130)
    end.__cause__ = TrainingStopped("said elsewhere")
    failing(end)
    assert penchant("train", "run.yaml") == (130, "", "")
