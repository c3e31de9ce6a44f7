"""What all commands have in common: help, devices, and names of files that are not UTF-8."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil

import pytest
import torch
from conftest import ROOT

from avhubert_ext.cli import build_parser, main
from avhubert_ext.data.files import write_text
from avhubert_ext.device import choose_device
from avhubert_ext.errors import InputError

TEACHER = ROOT / "scripts/models/tiny-teacher"


def subparsers() -> argparse._SubParsersAction:
    actions = build_parser()._actions
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction))


COMMANDS = subparsers().choices


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_that_stands_alone(name):
    parser = COMMANDS[name]
    shown = parser.format_help()
    assert "None" not in shown and "SUPPRESS" not in shown
    assert re.match(r"[A-Z].*\w\.$", parser.description), parser.description
    options = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    assert options
    for option in options:
        about = f"{name} {option.option_strings or option.dest}: {option.help!r}"
        assert option.help, about
        assert re.match(r"[A-Z]", option.help) and not option.help.endswith("."), about
        assert len(option.help.split()) > 2, about
        assert "recogni" + "s" not in option.help, about


def test_defaults_are_shown_as_they_are_typed():
    shown = " ".join(COMMANDS["evaluate"].format_help().split())
    assert "in dB (default: -10 -5 0 5 10)" in shown
    assert "(default: 10)" in shown and "more than 1% of the utterances" in shown
    assert "one for each kind (default" not in shown, "an empty list is no default to show"


def test_every_command_with_a_device_has_the_same_option():
    found = {}
    for name, parser in COMMANDS.items():
        for option in parser._actions:
            if "--device" in option.option_strings:
                found[name] = (option.default, option.help, option.type)
    assert {"evaluate", "transcribe", "serve"} <= found.keys()
    assert len(set(found.values())) == 1 and found["evaluate"][0] == "auto"


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "CPU", "cuda:0:1", "", "meta"])
def test_what_is_no_device_is_refused_by_the_parser(text, capsys):
    with pytest.raises(SystemExit):
        COMMANDS["transcribe"].parse_args(["a.mp4", "--model", "m", "--device", text])
    assert "expected auto, cpu, cuda, cuda:N, or mps" in capsys.readouterr().err


def test_the_device_that_is_chosen():
    there = torch.cuda.is_available()
    assert choose_device("auto") == ("cuda" if there else "cpu")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(InputError, match="device 'cuda:99': PyTorch does not have it here"):
        choose_device("cuda:99")


NAME = os.fsdecode(b"caf\xe9")  # as older systems name a file


def test_files_whose_names_are_not_utf_8(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TEACHER / "model.safetensors", tmp_path)
    shutil.copy(TEACHER / "dict.wrd.txt", tmp_path)
    for command in (
        ["convert", "model.safetensors", f"{NAME}.pt"],
        ["convert", f"{NAME}.pt", "copy.safetensors"],
        ["complexity", "--checkpoint", f"{NAME}.pt"],
        ["prune", f"{NAME}.pt", f"pruned-{NAME}.pt", "--sparsity", "0.5"],
        ["sparse-report", f"pruned-{NAME}.pt", "--out", f"{NAME}-out"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    json.loads((tmp_path / f"{NAME}-out" / "sparsity.json").read_text())
    assert main(["convert", f"{NAME}.pt", f"{NAME}.safetensors"]) == 0
    assert main(["convert", f"{NAME}.safetensors", "again.pt"]) == 1
    assert "its name is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["convert", f"{NAME}.pt", "out.safetensors"],
        ["average", f"{NAME}.pt", f"{NAME}2.pt", "out.pt"],
        ["sparse-report", f"{NAME}.safetensors"],
        ["export", f"{NAME}.pt", NAME],
        ["report", "--out", "out", "--model", NAME, f"{NAME}.pt", NAME],
        ["evaluate", "--data", NAME, "--out", "out"],
        ["evaluate", "--data", ".", "--out", NAME, "--model", NAME, "m.pt"],
        ["pruning-report", "--evaluation", NAME, "--out", "out"],
        ["frontier", "--evaluation", NAME, "--out", "out"],
        ["compare", "--out", "out", "--model", NAME, NAME],
        ["transcribe", f"{NAME}.mp4", "--model", NAME],
    ],
    ids=lambda command: command[0],
)
def test_errors_about_names_that_are_not_utf_8_are_one_line(
    tmp_path, monkeypatch, capfdbinary, command
):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    lines = capfdbinary.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(b"avhubert-ext: error: "), lines


def test_a_report_may_hold_a_name_that_is_not_utf_8(tmp_path):
    """As JSON it is escaped, so that the file can be read."""
    write_text(tmp_path / "report.json", json.dumps({"file": NAME}, ensure_ascii=False))
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == {"file": NAME}
