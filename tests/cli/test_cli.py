"""What all commands have in common: help, names, devices, and file names that are not UTF-8."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from avhubert_ext import __version__
from avhubert_ext.cli import build_parser, main, parse
from avhubert_ext.cli.moved import MOVED
from avhubert_ext.cli.parsing import EXAMPLES, members
from avhubert_ext.data.files import write_text
from avhubert_ext.device import choose_device
from avhubert_ext.errors import InputError

TEACHER = ROOT / "scripts/models/tiny-teacher"
GROUPS = {name: below for name, p in members(build_parser()).items() if (below := members(p))}
COMMANDS = {
    name: parser for name, parser in members(build_parser()).items() if name not in GROUPS
} | {f"{name} {last}": parser for name, below in GROUPS.items() for last, parser in below.items()}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every parser with a help text by what is typed to get it."""
    groups = {name: members(build_parser())[name] for name in GROUPS}
    return {"": build_parser()} | groups | COMMANDS


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """The command lines in the epilog of a parser, one string each."""
    heading, *lines = parser.epilog.replace("\\\n", " ").splitlines()
    assert heading == EXAMPLES
    return lines


def test_the_commands_are_the_documented_ones():
    assert {name: set(below) for name, below in GROUPS.items()} == {
        "data": {"synth", "prepare", "noise", "noise-preview", "subwords", "video"},
        "model": {"convert", "average", "init", "prune", "compress", "complexity"},
        "report": {"decoded", "seeds", "pruning", "frontier", "sparsity"},
        "benchmark": {
            "encoder", "distillation", "data", "sparsity", "runtime", "transcription"
        },
    }  # fmt: skip
    assert COMMANDS.keys() >= {"transcribe", "serve", "evaluate", "export"}


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


@pytest.mark.slow
@pytest.mark.parametrize("name", parsers())
def test_every_help_text_ends_with_examples_that_parse(name):
    found = examples(parsers()[name])
    assert found
    for line in found:
        program, *words = shlex.split(line)
        assert program == "avhubert-ext"
        assert " ".join(words).startswith(name), f"{line} is no example of {name}"
        if "--help" not in words:
            assert callable(parse(words).function)
    assert all(len(line) <= 100 for line in parsers()[name].epilog.splitlines())


def test_examples_use_the_present_names():
    for parser in parsers().values():
        for line in examples(parser):
            words = shlex.split(line)[1:]
            assert words[0] not in MOVED, line


def test_help_names_only_commands_that_exist():
    """Whatever stands in backticks as a command can be typed."""
    known = {*COMMANDS, *GROUPS}
    for name, parser in COMMANDS.items():
        for quoted in re.findall(r"`([^`]+)`", " ".join(parser.format_help().split())):
            assert quoted.split(" --")[0] in known or quoted.startswith("."), f"{name}: {quoted}"


def test_the_list_of_all_commands(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in ("transcribe", "serve", "evaluate", "export", *GROUPS):
        assert re.search(rf"^  {name} ", shown, re.MULTILINE)
    for below in GROUPS.values():
        assert ", ".join(below) in " ".join(shown.split())


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_alone_shows_its_help(name, capsys):
    assert main([name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: avhubert-ext {name}")
    for last in GROUPS[name]:
        assert re.search(rf"^  {last} ", shown, re.MULTILINE)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"avhubert-ext {__version__}\n"


def test_help_is_instant():
    """Nothing slow is imported: no PyTorch, numpy, OpenCV or tqdm."""
    code = (
        "import sys; from avhubert_ext.cli import build_parser; build_parser().format_help();"
        "print(*{'torch', 'numpy', 'cv2', 'scipy', 'tqdm', 'av'} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout == "\n"


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_runs_the_command_and_shows_the_new_name(old, capsys):
    new = " ".join(MOVED[old])
    with pytest.raises(SystemExit) as end:
        main([old, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == f"avhubert-ext: '{old}' is now '{new}'\n"
    assert shown.out.startswith(f"usage: avhubert-ext {new} ")


def test_an_old_name_does_what_it_did(tmp_path, capsys):
    assert main(["sparse-report", str(tmp_path / "m.safetensors")]) == 1
    note, error = capsys.readouterr().err.splitlines()
    assert note == "avhubert-ext: 'sparse-report' is now 'report sparsity'"
    assert "m.safetensors" in error


def test_old_names_that_are_groups_now(capsys):
    old = parse(["report", "--out", "o", "--model", "m", "c.pt", "d"])
    assert old == parse(["report", "decoded", "--out", "o", "--model", "m", "c.pt", "d"])
    assert capsys.readouterr().err == "avhubert-ext: 'report' is now 'report decoded'\n"
    old = parse(["benchmark", "--preset", "7", "--rounds", "1", "encoder"])
    assert old == parse(["benchmark", "encoder", "--preset", "7", "--rounds", "1"])
    assert "'encoder'" in capsys.readouterr().err
    old = parse(["benchmark-decoding", "--preset", "tiny-7", "--decoder", "tiny", "--beam", "2"])
    assert old == parse(
        [
            "benchmark",
            "runtime",
            "--form",
            "pytorch",
            "pytorch fused",
            "--threads",
            "1",
            "--model",
            "tiny-7",
            "--decoder",
            "tiny",
            "--beam",
            "2",
        ]
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["transcibe", "a.mp4"], "did you mean 'transcribe'?"),
        (["dta"], "did you mean 'data'?"),
        (["sinth"], "did you mean 'data synth'?"),
        (["data", "prepar"], "did you mean 'data prepare'?"),
        (["data", "convert"], "did you mean 'model convert'?"),
        (["sparsity"], "did you mean 'report sparsity' or 'benchmark sparsity'?"),
        (["export-sparsee"], "did you mean 'model compress'?"),
        (["transcribe", "a.mp4", "--modl", "m"], "did you mean --model?"),
        (["data", "synth", "--out=o", "--speaker-count=3"], "unknown option --speaker-count"),
    ],
)
def test_unknown_words_suggest_the_nearest(words, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("avhubert-ext") and error.count("\n") == 1
    assert expected in error and "--help" in error


def test_a_word_like_no_command_gets_no_suggestion(capsys):
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    error = capsys.readouterr().err
    assert "unknown command 'xyzzy'" in error and "did you mean" not in error


def test_options_may_be_shortened_and_values_may_follow_two_dashes():
    assert parse(["data", "synth", "--out", "o", "--speak", "3"]).speakers == 3
    assert parse(["model", "average", "--", "--a.pt", "b.pt", "c.pt"]).function


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


@pytest.mark.slow
def test_files_whose_names_are_not_utf_8(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TEACHER / "model.safetensors", tmp_path)
    shutil.copy(TEACHER / "dict.wrd.txt", tmp_path)
    for command in (
        ["model", "convert", "model.safetensors", f"{NAME}.pt"],
        ["model", "convert", f"{NAME}.pt", "copy.safetensors"],
        ["model", "complexity", "--checkpoint", f"{NAME}.pt"],
        ["model", "prune", f"{NAME}.pt", f"pruned-{NAME}.pt", "--sparsity", "0.5"],
        ["report", "sparsity", f"pruned-{NAME}.pt", "--out", f"{NAME}-out"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    json.loads((tmp_path / f"{NAME}-out" / "sparsity.json").read_text())
    assert main(["model", "convert", f"{NAME}.pt", f"{NAME}.safetensors"]) == 0
    assert main(["model", "convert", f"{NAME}.safetensors", "again.pt"]) == 1
    assert "its name is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["model", "convert", f"{NAME}.pt", "out.safetensors"],
        ["model", "average", f"{NAME}.pt", f"{NAME}2.pt", "out.pt"],
        ["report", "sparsity", f"{NAME}.safetensors"],
        ["export", f"{NAME}.pt", NAME],
        ["report", "decoded", "--out", "out", "--model", NAME, f"{NAME}.pt", NAME],
        ["evaluate", "--data", NAME, "--out", "out"],
        ["evaluate", "--data", ".", "--out", NAME, "--model", NAME, "m.pt"],
        ["report", "pruning", "--evaluation", NAME, "--out", "out"],
        ["report", "frontier", "--evaluation", NAME, "--out", "out"],
        ["report", "seeds", "--out", "out", "--model", NAME, NAME],
        ["transcribe", f"{NAME}.mp4", "--model", NAME],
    ],
    ids=lambda command: "-".join(command[:2]) if command[0] in GROUPS else command[0],
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("model prune a.pt b.pt --sparsity half", "--sparsity: half: expected a number"),
        ("evaluate --data a --out b --passes 1.5", "--passes: 1.5: expected a whole number"),
        ("model init vsr-tiny a --data b --seed x", "--seed: x: expected a whole number"),
    ],
)
def test_an_option_that_is_not_a_number_is_an_error_with_the_expected_type(
    line: str, expected: str, capsys
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(line.split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert expected in error
    assert error.count("\n") == 1
