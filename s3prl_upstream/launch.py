"""What the launchers of both s3prl scripts share."""

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
# The files of s3prl that read options and configurations. Exceptions in them are about these.
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
    """The folder of the installed s3prl.

    Raises:
        InputError: s3prl is not installed.
    """
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise InputError(
            "s3prl is not installed: pip install s3prl==0.4.18, run scripts/setup.sh, or name a "
            f"checkout in the environment variable {CHECKOUT}"
        )
    return Path(spec.origin).parent


def package_to_run() -> Path:
    """The `s3prl` folder with the scripts to run: of the checkout $S3PRL, or the installed one.

    A checkout is put at the front of `sys.path`, so that `import s3prl` finds it first.

    Raises:
        InputError: $S3PRL is not a checkout, or it is not set and s3prl is not installed.
    """
    named = os.environ.get(CHECKOUT)
    if not named:
        return s3prl_package()
    package = checkout_package(Path(named))
    sys.path.insert(0, str(package.parent))
    return package


def checkout_package(folder: Path) -> Path:
    """The folder `s3prl` of a checkout.

    Args:
        folder: The checkout, or that folder itself.

    Raises:
        InputError: There is no s3prl/run_pretrain.py.
    """
    for package in (folder.resolve() / "s3prl", folder.resolve()):
        if package.name == "s3prl" and (package / "run_pretrain.py").is_file():
            return package
    raise InputError(
        f"{CHECKOUT}={folder}: no s3prl/run_pretrain.py in it; name a git checkout of s3prl, or "
        f"unset {CHECKOUT} to use the installed package"
    )


def option_parser() -> argparse.ArgumentParser:
    """A parser for the options of both scripts that the launchers read. Others may follow."""
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
    """Check options that would otherwise end s3prl's scripts with a traceback.

    Args:
        options: The options of `option_parser`.

    Raises:
        InputError: There is no such device, a configuration is not YAML, or the state to resume
            from is missing or truncated.
    """
    check_device(options.device)
    if options.config:
        read_yaml(Path(options.config))
    past = Path(options.past_exp) if options.past_exp else None
    if past is not None and past.is_dir():
        set_aside_truncated_states(past)
        newest_state(past)  # raises an InputError if there is none
    elif past is not None:
        check_state(past)


def check_device(name: str) -> None:
    """Raise an InputError if PyTorch has no such device."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # AssertionError: built without CUDA
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use --device cpu") from None


def read_yaml(path: Path) -> dict:
    """Read a configuration.

    Raises:
        InputError: The file is missing, not YAML, or not a mapping.
    """
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
    """Raise an InputError if a state is missing or truncated."""
    if not path.is_file():
        raise InputError(f"{path} not found: -e names a state, or a folder with states-*.ckpt")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: truncated, or not a state of s3prl; name another states-*.ckpt")


def check_resumed(options: argparse.Namespace) -> None:
    """Check the state that a run resumes from. Truncated states must be set aside before.

    Args:
        options: The options of `option_parser`.

    Raises:
        InputError: The state is damaged, or loading it could run code. PyTorch refuses most of
            these as well, but with a traceback.
    """
    folder = options.expdir if options.auto_resume else None
    if folder is None or not any(Path(folder).glob("states-*.ckpt")):
        folder = options.past_exp
    if folder:
        path = Path(folder)
        read_torch_file(newest_state(path) if path.is_dir() else path)


def as_arguments(options: argparse.Namespace) -> list[str]:
    """The command line for these options. True is a flag, options without a value are left out."""
    given = {f"--{name}": value for name, value in vars(options).items() if value}
    return [
        w for name, value in given.items() for w in ([name] if value is True else [name, value])
    ]


def allow_states(optimizers: ModuleType) -> None:
    """Let PyTorch 2.6 and newer load s3prl's states, which also contain options and schedules.

    Args:
        optimizers: s3prl's module, under the name by which the script imports it.
    """
    classes = [c for c in vars(optimizers).values() if isinstance(c, type)]
    schedules = [c for c in classes if issubclass(c, optimizers._LRSchedule)]
    torch.serialization.add_safe_globals([argparse.Namespace, *schedules])


def set_aside_truncated_states(folder: Path) -> None:
    """Rename truncated states, so that a resumed run takes the one before."""
    for state in folder.glob("states-*.ckpt"):
        if not zipfile.is_zipfile(state):
            print(f"{state} is truncated; renamed to {state.name}.truncated")
            state.rename(state.with_name(state.name + ".truncated"))


def run_script(path: Path, arguments: list[str]) -> None:
    """Run a script of s3prl with these arguments, as if it had been started by itself.

    Raises:
        InputError: The script failed where it reads options or configurations.
    """
    sys.argv = [path.name, *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except READERS_ERRORS as error:
        explain(error, path.parent)
        raise
    finally:
        close_event_logs()


def explain(error: Exception, package: Path) -> None:
    """Raise an InputError with the failed statement, if it is one that reads options."""
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
    """Write what the buffers of TensorBoard's writers still contain.

    A run that fails does not close its writer, and the writer's own exit handler fails on Python
    3.12.
    """
    from tensorboardX import SummaryWriter

    for writer in [o for o in gc.get_objects() if type(o) is SummaryWriter]:
        writer.close()
