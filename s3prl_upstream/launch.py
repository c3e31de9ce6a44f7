"""What the launchers of s3prl's scripts have in common."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import runpy
import sys
import traceback
import zipfile
from pathlib import Path
from types import ModuleType

import torch
import yaml

from avhubert_ext.checkpoints.s3prl_file import newest_state
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.errors import InputError

CHECKOUT = "S3PRL"  # environment variable that names a git checkout of s3prl
# Files of s3prl that read options and configurations: an exception in one of them is about those.
READERS = (
    "run_pretrain.py",
    "run_downstream.py",
    "pretrain/runner.py",
    "downstream/runner.py",
    "utility/helper.py",
    "optimizers.py",
    "schedulers.py",
)
READERS_ERRORS = (AssertionError, AttributeError, KeyError, NameError, TypeError, ValueError)


def s3prl_package() -> Path:
    """The folder of the installed s3prl; InputError without one."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise InputError(
            "s3prl is not installed: pip install s3prl==0.4.18, run scripts/setup.sh, or name a "
            f"checkout in the environment variable {CHECKOUT}"
        )
    return Path(spec.origin).parent


def package_to_run() -> Path:
    """The `s3prl` folder whose scripts to run: of the checkout in $S3PRL, else the installed one.

    A checkout goes first on `sys.path`, so that `import s3prl` finds it and not an installed one.
    Raises InputError where $S3PRL is no checkout, or s3prl is not installed.
    """
    named = os.environ.get(CHECKOUT)
    if not named:
        return s3prl_package()
    package = checkout_package(Path(named))
    sys.path.insert(0, str(package.parent))
    return package


def checkout_package(folder: Path) -> Path:
    """The folder `s3prl` of a checkout, given the checkout or that folder itself."""
    for package in (folder.resolve() / "s3prl", folder.resolve()):
        if package.name == "s3prl" and (package / "run_pretrain.py").is_file():
            return package
    raise InputError(
        f"{CHECKOUT}={folder}: no s3prl/run_pretrain.py in it: name a git checkout of s3prl, or "
        f"unset {CHECKOUT} to use the installed package"
    )


def option_parser() -> argparse.ArgumentParser:
    """The options that both scripts have and the launchers look at; `parse_known_args` it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--expname")
    parser.add_argument("-p", "--expdir", type=os.path.abspath)
    parser.add_argument("-c", "--config", type=os.path.abspath)
    parser.add_argument("-e", "--past_exp", type=os.path.abspath)
    parser.add_argument("-a", "--auto_resume", action="store_true")
    parser.add_argument("-u", "--upstream")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise an InputError for what s3prl's scripts would answer with a traceback."""
    check_device(options.device)
    if options.config:
        read_yaml(Path(options.config))
    past = Path(options.past_exp) if options.past_exp else None
    if past is not None and past.is_dir():
        set_aside_torn_states(past)
        newest_state(past)  # an error where there is none
    elif past is not None:
        check_state(past)


def check_device(name: str) -> None:
    """Raise an InputError where PyTorch has no such device."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # the former without CUDA support
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use --device cpu") from None


def read_yaml(path: Path) -> dict:
    """The configuration in a YAML file; InputError where it is missing or something else."""
    if not path.is_file():
        raise InputError(f"{path} not found: name a configuration in YAML")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def check_state(path: Path) -> None:
    """Raise an InputError where a state is missing or was not written to its end."""
    if not path.is_file():
        raise InputError(f"{path} not found: -e names a state, or a folder with states-*.ckpt")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: truncated, or not a state of s3prl; name another states-*.ckpt")


def check_resumed(options: argparse.Namespace) -> None:
    """Raise an InputError where the state that a run resumes from is damaged, or could run code.

    Call it when torn states are set aside. PyTorch refuses most of them too, with a traceback.
    """
    folder = options.expdir if options.auto_resume else None
    if folder is None or not any(Path(folder).glob("states-*.ckpt")):
        folder = options.past_exp
    if folder:
        path = Path(folder)
        read_torch_file(newest_state(path) if path.is_dir() else path)


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
    except READERS_ERRORS as error:
        explain(error, path.parent)
        raise
    finally:
        close_event_logs()


def explain(error: Exception, package: Path) -> None:
    """Raise an InputError with the statement of s3prl that failed, where it reads options."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if not frame.filename.startswith("<")][-1]
    if last.filename in {str(package / name) for name in READERS}:
        where = f"{Path(last.filename).relative_to(package)}, line {last.lineno}"
        what = type(error).__name__ + (f": {error}" if str(error) else "")
        raise InputError(
            f"s3prl stops at `{last.line}` ({where}; {what}): check the options and the run "
            "configuration"
        ) from error


def close_event_logs() -> None:
    """Write out what TensorBoard's writers still hold.

    A run that fails does not close its writer, whose own exit handler fails on Python 3.12.
    """
    from tensorboardX import SummaryWriter

    for writer in [o for o in gc.get_objects() if type(o) is SummaryWriter]:
        writer.close()
