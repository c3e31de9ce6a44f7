"""s3prl's own `run_pretrain.py`, unchanged, with the upstreams of this folder in view.

    python s3prl_upstream/run_pretrain.py -u distiller_av -p runs/distill -g model.yaml -c run.yaml

Paths, also those inside the configurations, are relative to where you start it. Add `-a` to go on
from the last state in the experiment folder. To start the stock script of an s3prl checkout
instead, see `pretrain/distiller_av/__init__.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from avhubert_ext.errors import InputError, show_input_errors_plainly
from avhubert_ext.models.checkpoint import newest_state
from avhubert_ext.models.torch_file import read_torch_file
from s3prl_upstream.launch import (
    as_arguments,
    option_parser,
    run_script,
    s3prl_package,
    set_aside_torn_states,
)

HERE = Path(__file__).resolve().parent
START_FOLDER = "S3PRL_START_FOLDER"  # environment variable that the expert resolves paths against


def main(arguments: list[str]) -> None:
    show_input_errors_plainly()
    options, others = parse(arguments)
    for path in (options.config, options.upstream_config):
        if path and not Path(path).is_file():
            raise InputError(f"{path} not found: name a configuration in YAML")
    for folder in {Path(f) for f in (options.expdir, options.past_exp) if f and Path(f).is_dir()}:
        set_aside_torn_states(folder)
        rename_finished_states(folder)
    if options.past_exp and Path(options.past_exp).is_dir():
        newest_state(Path(options.past_exp))  # an error where there is none
    package = s3prl_package()
    sys.path.insert(0, str(package))  # s3prl's scripts import their neighbours by bare names
    import pretrain

    pretrain.__path__.append(str(HERE / "pretrain"))
    os.environ[START_FOLDER] = os.getcwd()
    os.chdir(HERE)  # the script lists `pretrain/` of the current folder
    run_script(package / "run_pretrain.py", [*as_arguments(options), *others])


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that this launcher completes, and all others as they are."""
    parser = option_parser()
    parser.add_argument("-g", "--upstream_config", type=os.path.abspath)
    options, others = parser.parse_known_args(arguments)
    if options.expname and not options.expdir:
        options.expdir = os.path.abspath(f"result/pretrain/{options.expname}")  # s3prl's default
    if options.expdir and not options.expname:
        options.expname = Path(options.expdir).name  # the script asks for a name as well
    return options, others


def rename_finished_states(folder: Path) -> None:
    """Name the last state of a finished run by its step, like the others.

    s3prl names it by the epoch, then takes that for a step and resumes from an older state.
    """
    for state in folder.glob("states-epoch-*.ckpt"):
        state.rename(folder / f"states-{read_torch_file(state)['Step']}.ckpt")


if __name__ == "__main__":
    main(sys.argv[1:])
