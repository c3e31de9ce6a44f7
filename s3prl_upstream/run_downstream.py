"""Run s3prl's own, unchanged `run_downstream.py` with the upstreams of this folder in its hub.

    python s3prl_upstream/run_downstream.py -m train -u avhubert_student_local \
        -k student.safetensors -d example -p runs/example \
        -c s3prl_upstream/upstream/avhubert_ext/example.yaml

With `S3PRL=DIR` in the environment it runs the script and the tasks of the git checkout in DIR
instead of the installed s3prl. Add `-a` to resume from the last state in the experiment folder.
`-c` names s3prl's configuration of the downstream task. The default is
`s3prl/downstream/TASK/config.yaml` of a checkout; the installed s3prl has none.
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
    set_aside_truncated_states,
)

REMOVED = ("HfFolder", "Repository")  # in huggingface_hub 1.0


def main(arguments: list[str]) -> None:
    """Check the options, then run the script.

    Raises:
        InputError: An option, a configuration or a state is missing or invalid.
    """
    package = package_to_run()
    options, others = parse(arguments, package)
    check_options(options)
    if not (options.expdir or options.past_exp or {"-h", "--help"} & {*others}):
        raise InputError("the experiment's folder is missing: name it with -p")
    fill_in_removed_names(options)
    if options.expdir:
        set_aside_truncated_states(Path(options.expdir))
    check_resumed(options)
    allow_states(importlib.import_module("s3prl.optimizers"))
    run_script(package / "run_downstream.py", [*as_arguments(options), *others])


def parse(arguments: list[str], package: Path) -> tuple[argparse.Namespace, list[str]]:
    """Read and complete the options.

    Args:
        arguments: The command line.
        package: The `s3prl` folder with the script.

    Returns:
        The options that this launcher reads, and the words of all others, unchanged.

    Raises:
        InputError: The task or its configuration is missing.
    """
    parser = option_parser()
    parser.add_argument("-d", "--downstream")
    parser.add_argument("--hub")
    parser.add_argument("--push_to_hf_hub")
    options, others = parser.parse_known_args(arguments)
    if options.expname and not options.expdir:
        options.expdir = f"result/downstream/{options.expname}"  # s3prl's default
    states = Path(options.expdir).glob("states-*.ckpt") if options.expdir else ()
    resumes = options.past_exp or (options.auto_resume and any(states))
    if options.downstream and not options.config and not resumes:
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
    """Let the script import names that newer versions of huggingface_hub do not have.

    The script uses them only to push models.

    Raises:
        InputError: The script is to push a model, or to fetch one from there.
    """
    import huggingface_hub

    missing = [name for name in REMOVED if not hasattr(huggingface_hub, name)]
    if missing and (options.hub == "huggingface" or options.push_to_hf_hub):
        raise InputError(
            f"--hub huggingface and --push_to_hf_hub: s3prl needs {' and '.join(missing)}, which "
            f"huggingface_hub {huggingface_hub.__version__} does not have: "
            "pip install 'huggingface_hub<1' 'transformers<5'"
        )
    for name in missing:
        setattr(huggingface_hub, name, None)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
