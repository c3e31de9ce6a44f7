"""Print the settings of .args files as a configuration for fairseq-hydra-train.

    python scripts/hydra_config.py FILE.args... [OPTION...] > DIR/NAME.yaml
    fairseq-hydra-train --config-dir DIR --config-name NAME task.data=data checkpoint.save_dir=model

The OPTIONs are those of fairseq-train that a recipe adds to its files, for example
`--task av_asr --arch av_asr_seq2seq`. Where a setting is given twice, the last one counts.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf

from avhubert_ext.data.manifest import read_lines

PLUGIN = "fairseq_user_dir"
# The groups of which one choice is made, by its `_name`.
CHOICES = ("task", "model", "criterion", "optimizer", "lr_scheduler")
# What the plugin stores in checkpoints is no setting.
STORED = ("description", "dictionary", "subwords", "trained_with")
# Hydra writes its own log and record to the folder of the checkpoints, and does not leave the
# folder where it was started, so that relative paths stay valid.
HYDRA = {"run": {"dir": "${checkpoint.save_dir}"}, "job": {"chdir": False}}


def read_args(path: Path) -> list[str]:
    """Read an .args file.

    Args:
        path: A file with one option and its value per line, and comments that start with #.

    Returns:
        The words of a command line.

    Raises:
        InputError: The file is missing.
    """
    lines = [line for line in read_lines(path) if line and not line.startswith("#")]
    return [word for line in lines for word in line.split(maxsplit=1)]


def command_line(words: list[str]) -> DictConfig:
    """The configuration of fairseq-train for these options, without the data folder."""
    parser = options.get_training_parser()
    plugin = Path(__file__).resolve().parent.parent / PLUGIN
    arguments = options.parse_args_and_arch(parser, ["data", "--user-dir", str(plugin), *words])
    return convert_namespace_to_omegaconf(arguments)


def hydra_config(cfg: DictConfig, words: list[str]) -> dict[str, Any]:
    """Make a configuration for fairseq-hydra-train from that of fairseq-train.

    Args:
        cfg: The configuration of `command_line`.
        words: The options and their values that it was made from.

    Returns:
        The configuration by groups. The groups in `CHOICES` are complete, because Hydra's command
        line can change only what a configuration has; the others have what the options name.
    """
    named = [word[2:].replace("-", "_") for word in words if word.startswith("--")]
    groups = [f.name for f in fields(FairseqConfig) if isinstance(cfg.get(f.name), DictConfig)]
    found: dict[str, Any] = {"common": {"user_dir": PLUGIN}}
    found |= {group: {"_name": cfg[group]._name} for group in CHOICES}
    found["task"]["data"] = "???"
    own = {group: own_settings(group, cfg[group].get("_name")) for group in groups}
    named += [name for group in CHOICES for name in own[group]]
    for name in named:
        having = [group for group in groups if name in cfg[group]]
        for group in [group for group in having if name in own[group]] or having:
            value = cfg[group][name]
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            found.setdefault(group, {}).setdefault(name, plain)
    return found | {"hydra": HYDRA}


def own_settings(group: str, name: str | None) -> list[str]:
    """The settings of a group, without those that by default refer to another group's."""
    if group == "task":
        config = TASK_DATACLASS_REGISTRY[name]
    elif group == "model":
        config = MODEL_DATACLASS_REGISTRY[name]
    elif group in REGISTRIES:
        config = REGISTRIES[group]["dataclass_registry"].get(name)
    else:
        config = next(f.type for f in fields(FairseqConfig) if f.name == group)
    values = {} if config is None else vars(config())
    named = {n: v for n, v in values.items() if n != "_name" and n not in STORED}
    return [n for n, v in named.items() if not (isinstance(v, str) and v.startswith("${"))]


def as_yaml(config: dict[str, Any]) -> str:
    """The configuration as YAML; values that are not plain, for example choices, become text."""
    plain = OmegaConf.to_container(OmegaConf.create(config), enum_to_str=True)
    return yaml.safe_dump(plain, sort_keys=False)


def main(arguments: list[str]) -> None:
    """Print the configuration for .args files and options."""
    words = [
        word
        for argument in arguments
        for word in (read_args(Path(argument)) if argument.endswith(".args") else [argument])
    ]
    print(as_yaml(hydra_config(command_line(words), words)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
