"""s3prl's own `run_downstream.py`, unchanged, with the upstreams of this folder in its hub.

    python s3prl_upstream/run_downstream.py -m train -u avhubert_student_local \
        -k student.safetensors -d example -p runs/example \
        -c s3prl_upstream/upstream/avhubert_ext/example.yaml

`S3PRL=DIR` before it runs the script and the tasks of the git checkout in DIR, instead of the
installed s3prl. Add `-a` to resume from the last state in the experiment folder. `-c` is s3prl's
configuration of the downstream task, of a checkout by default `s3prl/downstream/TASK/config.yaml`;
the installed s3prl has none.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from avhubert_ext.errors import InputError, one_line_errors
from s3prl_upstream.launch import (
    allow_states,
    as_arguments,
    check_options,
    check_resumed,
    option_parser,
    package_to_run,
    run_script,
    set_aside_torn_states,
)

REMOVED = ("HfFolder", "Repository")  # by huggingface_hub 1.0


def main(arguments: list[str]) -> None:
    package = package_to_run()
    options, others = parse(arguments, package)
    check_options(options)
    if not (options.expdir or options.past_exp or {"-h", "--help"} & {*others}):
        raise InputError("the experiment's folder is missing: name it with -p")
    fill_in_removed_names(options)
    if options.expdir:
        set_aside_torn_states(Path(options.expdir))
    check_resumed(options)
    allow_states(importlib.import_module("s3prl.optimizers"))
    run_script(package / "run_downstream.py", [*as_arguments(options), *others])


def parse(arguments: list[str], package: Path) -> tuple[argparse.Namespace, list[str]]:
    """The options that this launcher looks at or completes, and all others as they are.

    Raises InputError if the configuration is missing.
    """
    parser = option_parser()
    parser.add_argument("-d", "--downstream")
    parser.add_argument("--hub")
    parser.add_argument("--push_to_hf_hub")
    options, others = parser.parse_known_args(arguments)
    if options.expname and not options.expdir:
        options.expdir = f"result/downstream/{options.expname}"  # s3prl's default
    states = Path(options.expdir).glob("states-*.ckpt") if options.expdir else ()
    goes_on = options.past_exp or (options.auto_resume and any(states))
    if options.downstream and not options.config and not goes_on:
        options.config = str(package / "downstream" / options.downstream / "config.yaml")
    task = package / "downstream" / str(options.downstream).replace(".", "/")
    if options.downstream and not task.is_dir():
        raise InputError(f"-d {options.downstream}: s3prl has no such task: {task} not found")
    if options.config and not Path(options.config).is_file():
        raise InputError(
            f"{options.config} not found: name the task's configuration with -c; the installed "
            "s3prl has none, its repository has s3prl/downstream/TASK/config.yaml"
        )
    return options, others


def fill_in_removed_names(options: argparse.Namespace) -> None:
    """Let the script import what newer versions of huggingface_hub lack and only pushing uses.

    Raises InputError if it is to push, or to fetch a model from there.
    """
    import huggingface_hub

    missing = [name for name in REMOVED if not hasattr(huggingface_hub, name)]
    if missing and (options.hub == "huggingface" or options.push_to_hf_hub):
        raise InputError(
            f"--hub huggingface and --push_to_hf_hub: s3prl needs {' and '.join(missing)}, which "
            f"huggingface_hub {huggingface_hub.__version__} lacks: "
            "pip install 'huggingface_hub<1' 'transformers<5'"
        )
    for name in missing:
        setattr(huggingface_hub, name, None)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
