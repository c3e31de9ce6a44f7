"""`scripts/demo.sh --quick`: the whole method with stock commands, killed several times."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, is_running, run_well

from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression.pruning import mask_sparsity

KEYS = [
    "model",
    "parameters",
    "flops_per_frame",
    "wer_clean",
    "wer_babble_0db",
    "wer_babble_0db_no_video",
]


def kill_when(path: Path, work: Path) -> None:
    """Start the demo and kill it, with all its processes, as soon as `path` exists."""
    process = subprocess.Popen(
        ["scripts/demo.sh", "--quick"],
        cwd=ROOT,
        env=os.environ | {"WORK": str(work)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(12_000):  # a limit in case it hangs, like all such numbers here
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "the demo ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def frontier(demo: Path) -> None:
    """`scripts/frontier.sh --quick`: the student and one round of pruning, also with 8 bits."""
    work = demo / "frontier"
    printed = run_well("scripts/frontier.sh", "--quick", DEMO=str(demo), WORK=str(work))
    names = ["teacher", "student", "lrr-iterative-10"]
    sizes = {n: (work / f"models/{n}.safetensors").stat().st_size for n in names}
    bytes8 = {n: (work / f"models/{n}-8bit.safetensors").stat().st_size for n in names}
    assert all(bytes8[name] < 0.5 * sizes[name] for name in names)
    for name in ("lrr-iterative-10", "lrr-iterative-10-8bit"):
        masks = read_masks(work / f"models/{name}.safetensors")
        assert abs(mask_sparsity(masks) - 0.1) < 1e-5
    assert all(f"{name}-8bit" in printed for name in names)
    for folder in ("report", "report/babble"):
        assert (work / folder / "frontier.png").stat().st_size > 0


def test_demo_survives_kills_and_writes_its_results(tmp_path: Path) -> None:
    work = tmp_path / "the demo"  # a path with a blank
    kill_when(work / "corpus/trainval/spk0000/00001.txt", work)
    kill_when(work / "distill/states-2.ckpt", work)
    kill_when(work / "student/checkpoint_last.pt", work)
    printed = run_well("scripts/demo.sh", "--quick", WORK=str(work))

    rows = json.loads((work / "results.json").read_text())
    assert [row["model"] for row in rows] == ["teacher", "student", "student-sparse-50"]
    assert all(list(row) == KEYS for row in rows)
    teacher, student, sparse = rows
    assert (teacher["parameters"], student["parameters"]) == (2_744_000, 680_080)
    assert teacher["parameters"] > student["parameters"] > sparse["parameters"]
    assert 0.2 < sparse["parameters"] / student["parameters"] < 0.8
    assert teacher["wer_clean"] < 25, "the shipped teacher recognizes unseen speakers"
    assert student["flops_per_frame"] == sparse["flops_per_frame"] < teacher["flops_per_frame"]
    assert "student-sparse-50" in printed and "results.png" in printed
    # Every rate is printed with the conditions that it was measured under.
    conditions = (
        f"noise babble at 0 dB in 100% from {work}/noise/babble, visual noise none, noise seed 1, "
        "pass 0, trained with"
    )
    for model, batch in (
        ("teacher", "unknown"),
        ("student", "800 frames x 1 batches x 1 processes"),
    ):
        line = next(x for x in printed.splitlines() if x.startswith(f"{model}, babble_0db: "))
        assert "beam 5, length penalty 1" in line and f"{conditions} {batch}" in line
    assert (work / "results.png").read_bytes().startswith(b"\x89PNG")

    frontier(work)

    made = list(work.glob("student*/*.pt"))
    done = {path: path.stat().st_mtime_ns for path in made}
    assert done
    again = run_well("scripts/demo.sh", "--quick", WORK=str(work))
    steps = [line for line in again.splitlines() if re.match(r"\S+: (done before|\d+ s)$", line)]
    assert len(steps) > 3 and all("done before" in line for line in steps)
    assert {path: path.stat().st_mtime_ns for path in made} == done
    assert json.loads((work / "results.json").read_text()) == rows


def step(folder: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "scripts/step.py", str(folder), "nap", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_step_runs_once_at_a_time_and_leaves_no_orphan(tmp_path: Path) -> None:
    nap = ("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 3600")
    first = step(tmp_path, *nap)
    for _ in range(6000):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            break
        time.sleep(0.1)
    child = int((tmp_path / "pid").read_text())
    second = step(tmp_path, *nap)
    assert "is running already" in second.communicate()[0] and second.returncode != 0
    first.kill()
    first.communicate()
    for _ in range(6000):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child), "the command must end with step.py"


def test_a_step_with_changed_inputs_is_refused(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("a")
    command = ("cat", str(settings))
    assert "nap: " in step(tmp_path / "run", *command).communicate()[0]
    assert "done before" in step(tmp_path / "run", *command).communicate()[0]
    settings.write_text("b")
    refused = step(tmp_path / "run", *command)
    assert "have changed since" in refused.communicate()[0] and refused.returncode != 0
