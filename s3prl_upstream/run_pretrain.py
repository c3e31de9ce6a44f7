"""s3prl's own `run_pretrain.py`, unchanged, with the upstreams of this folder in view.

    python s3prl_upstream/run_pretrain.py -u distiller_av -p runs/distill -g model.yaml -c run.yaml

Paths, also those inside the configurations, are relative to where you start it. Add `-a` to go on
from the last state in the experiment folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import torch

from avhubert_ext.errors import InputError, show_input_errors_plainly

HERE = Path(__file__).resolve().parent
PATH_OPTIONS = ("-p", "--expdir", "-c", "--config", "-g", "--upstream_config", "-e", "--past_exp")
START_FOLDER = "S3PRL_START_FOLDER"  # environment variable that the expert resolves paths against


def main(arguments: list[str]) -> None:
    show_input_errors_plainly()
    arguments = absolute_paths(arguments)
    if "--device" not in arguments and not torch.cuda.is_available():
        arguments += ["--device", "cpu"]
    for folder in option_values(arguments, ("-p", "--expdir")):
        set_aside_torn_states(folder)
    package = s3prl_package()
    sys.path.insert(0, str(package))  # s3prl's scripts import their neighbours by bare names
    import optimizers
    import pretrain

    pretrain.__path__.append(str(HERE / "pretrain"))
    classes = [c for c in vars(optimizers).values() if isinstance(c, type)]
    schedules = [c for c in classes if issubclass(c, optimizers._LRSchedule)]
    # torch >= 2.6 refuses to load other classes; these two kinds are what a state holds.
    torch.serialization.add_safe_globals([argparse.Namespace, *schedules])
    os.environ[START_FOLDER] = os.getcwd()
    os.chdir(HERE)  # the script lists `pretrain/` of the current folder
    sys.argv = ["run_pretrain.py", *arguments]
    runpy.run_path(str(package / "run_pretrain.py"), run_name="__main__")


def s3prl_package() -> Path:
    """The folder of the installed s3prl."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise InputError("s3prl is not installed: pip install s3prl==0.4.18, or scripts/setup.sh")
    return Path(spec.origin).parent


def absolute_paths(arguments: list[str]) -> list[str]:
    """Paths made absolute; `-n NAME` becomes the folder that s3prl would choose, made absolute."""
    resolved = list(arguments)
    for i, option in enumerate(arguments[:-1]):
        if option in PATH_OPTIONS:
            resolved[i + 1] = os.path.abspath(arguments[i + 1])
    names = list(option_values(arguments, ("-n", "--expname")))
    folders = list(option_values(arguments, ("-p", "--expdir")))
    if names and not folders:
        resolved += ["-p", os.path.abspath(f"result/pretrain/{names[0]}")]
    if folders and not names:
        resolved += ["-n", Path(folders[0]).name]  # the script asks for a name as well
    return resolved


def option_values(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    return [value for option, value in pairwise(arguments) if option in options]


def set_aside_torn_states(folder: str) -> None:
    """Rename states whose writing was cut short, so that a resume takes the one before."""
    for state in Path(folder).glob("states-*.ckpt"):
        if not zipfile.is_zipfile(state):
            print(f"{state} was not written to its end; renamed to {state.name}.torn")
            state.rename(state.with_name(state.name + ".torn"))


if __name__ == "__main__":
    main(sys.argv[1:])
