"""What importing the plugin changes in a process, and what it leaves alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run
from fairseq.utils import import_user_module
from test_fairseq import generate_command, train_command

from avhubert_ext.errors import InputError, as_one_line, one_line_errors

HOOK = sys.excepthook
import_user_module(argparse.Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.patches import in_one_line  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def test_importing_the_plugin_leaves_the_process_alone() -> None:
    """In a process where nothing else was imported: no hook, no environment variable."""
    code = (
        "import os, sys; before = sys.excepthook, dict(os.environ)\n"
        "import fairseq_user_dir\n"
        "after = sys.excepthook, dict(os.environ)\n"
        "assert after[0] is before[0]\n"
        "print(sorted(after[1].keys() - before[1].keys()))\n"
        "open('nowhere/at/all')\n"
    )
    result = run("python", "-c", code, PYTHONPATH=str(ROOT))
    added, *report = result.stdout.splitlines()
    assert "HYDRA_FULL_ERROR" not in added
    assert "Traceback" in report[0] and "No such file or directory" in report[-1]
    assert sys.excepthook is HOOK


def fail(error: Exception) -> None:
    raise error


def cli_main(error: Exception) -> None:
    """Has the name of fairseq's functions behind its commands."""
    in_one_line(fail)(error)


def test_only_a_command_ends_with_one_line() -> None:
    with pytest.raises(InputError, match=r"model\.pt not found"):
        in_one_line(fail)(InputError("model.pt not found"))
    with pytest.raises(SystemExit) as end:
        cli_main(InputError("model.pt not found"))
    assert end.value.code == "error: model.pt not found"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("odd"),
        ValueError("odd"),
        RuntimeError("odd"),
    ],
)
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        cli_main(error)
    assert found.value is error


def test_errors_of_other_processes_are_recognized() -> None:
    text = "\n\n-- Process 1 terminated with the following error:\nTraceback ...\n"
    name = f"{InputError.__module__}.{InputError.__qualname__}"
    spawned = torch.multiprocessing.ProcessRaisedException(f"{text}{name}: a.pt: bad\n", 1, 99)
    assert as_one_line(spawned) == "a.pt: bad"
    other = torch.multiprocessing.ProcessRaisedException(f"{text}ValueError: a.pt: bad\n", 1, 99)
    assert as_one_line(other) is None and as_one_line(ValueError()) is None
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise spawned
    assert end.value.code == "error: a.pt: bad"


# A command as fairseq starts it on a machine with two GPUs: it spawns two processes.
TWO_GPUS = """
import sys, torch
from fairseq_cli.train import cli_main
if __name__ == "__main__":
    torch.cuda.device_count = lambda: 2
    sys.exit(cli_main())
"""


def test_spawned_processes_end_with_one_line(manifests: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO_GPUS)
    options = [
        "--distributed-world-size", 2, "--distributed-init-method", f"file://{tmp_path}/store",
        "--distributed-rank", 0, "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp",
    ]  # fmt: skip
    command = train_command(manifests, tmp_path, "--noise-snr", "loud", "--noise-manifests", "n")
    result = run("python", script, *command[1:], *options, PYTHONPATH=str(ROOT), **ONE_THREAD)
    assert result.returncode == 1
    line = result.stdout.strip().splitlines()[-1]
    assert line.startswith("error: noise_snr 'loud': expected a number in dB")


def test_an_error_of_the_system_keeps_its_traceback(manifests: Path, tmp_path: Path) -> None:
    """The folder for results is a file: an OSError, but not one of the plugin's."""
    (tmp_path / "taken").write_text("")
    result = run(*generate_command(manifests, tmp_path / "gone.pt", tmp_path / "taken"))
    assert result.returncode == 1 and "Traceback" in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("FileExistsError: ")


def test_hydra_reports_input_errors_in_its_own_way(manifests: Path, tmp_path: Path) -> None:
    result = run(
        "fairseq-hydra-train", "--config-dir", ROOT / "scripts/config/lrs3", "--config-name",
        "finetune", f"task.data={tmp_path}/none", f"checkpoint.save_dir={tmp_path}",
        "common.fp16=false", "common.cpu=true", f"common.user_dir={ROOT}/fairseq_user_dir",
        cwd=tmp_path, **ONE_THREAD,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"InputError: {tmp_path}/none" in result.stdout
