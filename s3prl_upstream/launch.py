"""What the launchers of s3prl's scripts have in common."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import runpy
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import torch

from avhubert_ext.errors import InputError


def s3prl_package() -> Path:
    """The folder of the installed s3prl; InputError without one."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise InputError("s3prl is not installed: pip install s3prl==0.4.18, or scripts/setup.sh")
    return Path(spec.origin).parent


def option_parser() -> argparse.ArgumentParser:
    """The options that both scripts have and the launchers look at; `parse_known_args` it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--expname")
    parser.add_argument("-p", "--expdir", type=os.path.abspath)
    parser.add_argument("-c", "--config", type=os.path.abspath)
    parser.add_argument("-e", "--past_exp", type=os.path.abspath)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def as_arguments(options: argparse.Namespace) -> list[str]:
    """The command line that gives these options; True is a flag."""
    given = {f"--{name}": value for name, value in vars(options).items() if value}
    return [
        w for name, value in given.items() for w in ([name] if value is True else [name, value])
    ]


def allow_states(optimizers: ModuleType) -> None:
    """Let torch >= 2.6 load s3prl's states: beside tensors they hold options and schedules.

    optimizers: s3prl's module, under the name that the script imports it by.
    """
    classes = [c for c in vars(optimizers).values() if isinstance(c, type)]
    schedules = [c for c in classes if issubclass(c, optimizers._LRSchedule)]
    torch.serialization.add_safe_globals([argparse.Namespace, *schedules])


def set_aside_torn_states(folder: Path) -> None:
    """Rename states whose writing was cut short, so that a resume takes the one before."""
    for state in folder.glob("states-*.ckpt"):
        if not zipfile.is_zipfile(state):
            print(f"{state} was not written to its end; renamed to {state.name}.torn")
            state.rename(state.with_name(state.name + ".torn"))


def run_script(path: Path, arguments: list[str]) -> None:
    """Run a script of s3prl's as if it had been started with these arguments."""
    sys.argv = [path.name, *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        close_event_logs()


def close_event_logs() -> None:
    """Write out what TensorBoard's writers still hold.

    A run that fails does not close its writer, whose own exit handler fails on Python 3.12.
    """
    from tensorboardX import SummaryWriter

    for writer in [o for o in gc.get_objects() if type(o) is SummaryWriter]:
        writer.close()
