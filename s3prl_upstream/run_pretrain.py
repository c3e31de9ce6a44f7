"""Run s3prl's own, unchanged `run_pretrain.py` so that it finds `distiller_av` of this folder.

    python s3prl_upstream/run_pretrain.py -u distiller_av -p runs/distill -g model.yaml -c run.yaml
    S3PRL=DIR python s3prl_upstream/run_pretrain.py -u distiller_av ...

The first command runs the script of the installed s3prl, the second that of the git checkout in
DIR. Paths, including those in the configurations, start at the folder where you run the command.
Add `-a` to resume from the last state in the experiment folder. `pretrain/distiller_av/__init__.py`
shows how to start the script of a checkout without this launcher.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.errors import InputError, one_line_errors
from s3prl_upstream.launch import (
    as_arguments,
    check_options,
    check_resumed,
    option_parser,
    package_to_run,
    run_script,
    set_aside_truncated_states,
)

HERE = Path(__file__).resolve().parent
UPSTREAM = "distiller_av"
START_FOLDER = "S3PRL_START_FOLDER"  # environment variable: where relative paths start


def main(arguments: list[str]) -> None:
    """Check the options, then run the script.

    Raises:
        InputError: An option, a configuration or a state is missing or invalid.
    """
    package = package_to_run()
    options, others = parse(arguments)
    check_options(options)
    for folder in {Path(f) for f in (options.expdir, options.past_exp) if f and Path(f).is_dir()}:
        set_aside_truncated_states(folder)
        rename_finished_states(folder)
    check_resumed(options)
    sys.path.insert(0, str(package))  # s3prl's scripts import each other without the package name
    import pretrain

    pretrain.__path__.insert(0, str(HERE / "pretrain"))  # before a link or a copy in a checkout
    os.environ[START_FOLDER] = os.getcwd()
    # The script searches `pretrain/` of the current folder. In that of a checkout it cannot choose
    # between `distiller_av` and its own `distiller`.
    os.chdir(HERE)
    run_script(package / "run_pretrain.py", [*as_arguments(options), *others])


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read and complete the options.

    Args:
        arguments: The command line.

    Returns:
        The options that this launcher reads, and the words of all others, unchanged.

    Raises:
        InputError: An option is missing, or names another upstream or no file.
    """
    parser = option_parser()
    parser.add_argument("-g", "--upstream_config", type=os.path.abspath)
    options, others = parser.parse_known_args(arguments)
    if options.expname and not options.expdir:
        options.expdir = os.path.abspath(f"result/pretrain/{options.expname}")  # s3prl's default
    if options.past_exp and not options.expdir:
        past = Path(options.past_exp)
        options.expdir = str(past if past.is_dir() else past.parent)
    if options.expdir and not options.expname:
        options.expname = Path(options.expdir).name  # the script needs a name as well
    if "-h" in others or "--help" in others:
        return options, others
    if options.upstream != UPSTREAM:
        found = "missing" if options.upstream is None else options.upstream
        raise InputError(f"-u {found}: this launcher runs only -u {UPSTREAM}")
    if not options.expdir:
        raise InputError("the experiment's folder is missing: name it with -p")
    if options.upstream_config and not Path(options.upstream_config).is_file():
        raise InputError(f"{options.upstream_config} not found: name a configuration in YAML")
    return options, others


def rename_finished_states(folder: Path) -> None:
    """Name the last state of a finished run after its step, like the others.

    s3prl names it after the epoch, takes this for a step, and resumes from an older state.
    """
    for state in folder.glob("states-epoch-*.ckpt"):
        state.rename(folder / f"states-{read_torch_file(state)['Step']}.ckpt")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
