"""s3prl's own `run_pretrain.py`, unchanged, with the upstreams of this folder in view.

    python s3prl_upstream/run_pretrain.py -u distiller_av -p runs/distill -g model.yaml -c run.yaml

Paths, also those inside the configurations, are relative to where you start it. Add `-a` to go on
from the last state in the experiment folder.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import runpy
import sys
import zipfile
from pathlib import Path

import torch

from avhubert_ext.errors import InputError, show_input_errors_plainly
from avhubert_ext.models.torch_file import read_torch_file

HERE = Path(__file__).resolve().parent
START_FOLDER = "S3PRL_START_FOLDER"  # environment variable that the expert resolves paths against


def main(arguments: list[str]) -> None:
    show_input_errors_plainly()
    options, others = parse(arguments)
    for path in (options.config, options.upstream_config):
        if path and not Path(path).is_file():
            raise InputError(f"{path} not found: name a configuration in YAML")
    if options.expdir:
        set_aside_torn_states(Path(options.expdir))
        rename_finished_states(Path(options.expdir))
    package = s3prl_package()
    sys.path.insert(0, str(package))  # s3prl's scripts import their neighbours by bare names
    import pretrain

    pretrain.__path__.append(str(HERE / "pretrain"))
    os.environ[START_FOLDER] = os.getcwd()
    os.chdir(HERE)  # the script lists `pretrain/` of the current folder
    sys.argv = ["run_pretrain.py", *as_arguments(options), *others]
    try:
        runpy.run_path(str(package / "run_pretrain.py"), run_name="__main__")
    finally:
        close_event_logs()


def close_event_logs() -> None:
    """Write out what TensorBoard's writers still hold.

    A run that fails does not close its writer, whose own exit handler fails on Python 3.12.
    """
    from tensorboardX import SummaryWriter

    for writer in [o for o in gc.get_objects() if type(o) is SummaryWriter]:
        writer.close()


def s3prl_package() -> Path:
    """The folder of the installed s3prl."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise InputError("s3prl is not installed: pip install s3prl==0.4.18, or scripts/setup.sh")
    return Path(spec.origin).parent


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that this launcher completes, and all others as they are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--expname")
    parser.add_argument("-p", "--expdir", type=os.path.abspath)
    parser.add_argument("-c", "--config", type=os.path.abspath)
    parser.add_argument("-g", "--upstream_config", type=os.path.abspath)
    parser.add_argument("-e", "--past_exp", type=os.path.abspath)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options, others = parser.parse_known_args(arguments)
    if options.expname and not options.expdir:
        options.expdir = os.path.abspath(f"result/pretrain/{options.expname}")  # s3prl's default
    if options.expdir and not options.expname:
        options.expname = Path(options.expdir).name  # the script asks for a name as well
    return options, others


def as_arguments(options: argparse.Namespace) -> list[str]:
    return [word for name, value in vars(options).items() if value for word in (f"--{name}", value)]


def set_aside_torn_states(folder: Path) -> None:
    """Rename states whose writing was cut short, so that a resume takes the one before."""
    for state in folder.glob("states-*.ckpt"):
        if not zipfile.is_zipfile(state):
            print(f"{state} was not written to its end; renamed to {state.name}.torn")
            state.rename(state.with_name(state.name + ".torn"))


def rename_finished_states(folder: Path) -> None:
    """Name the last state of a finished run by its step, like the others.

    s3prl names it by the epoch, then takes that for a step and resumes from an older state.
    """
    for state in folder.glob("states-epoch-*.ckpt"):
        state.rename(folder / f"states-{read_torch_file(state)['Step']}.ckpt")


if __name__ == "__main__":
    main(sys.argv[1:])
