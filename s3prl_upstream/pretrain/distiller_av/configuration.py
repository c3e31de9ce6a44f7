"""Translate the two YAML files of a distillation to the library's settings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from avhubert_ext.data.dataset import DataConfig
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.errors import InputError
from avhubert_ext.training.distillation import RECEIVERS, DistillationConfig

HERE = Path(__file__).parent
DATARC = "pretrain_expert.datarc of the run configuration"
DATA_KEYS = ("data", "train_batch_size", "max_frames", "num_workers", "seed")
OPTIONAL_DATA_KEYS = ("cache_dir", "noise", "valid_step")
WHOLE_NUMBERS = {  # setting -> lowest valid value
    "train_batch_size": 1,
    "max_frames": 1,
    "num_workers": 0,
    "seed": 0,
    "valid_step": 1,
}
NOISE_KEYS = ("manifests", "probability", "snr_db")
OPTIONAL_NOISE_KEYS = ("for", "mixed", "start")


def read_model_config(upstream_config: str | dict[str, Any]) -> DistillationConfig:
    """Read the model configuration.

    Args:
        upstream_config: The path of a YAML file, or its content.

    Returns:
        The settings of the distillation, with absolute paths.

    Raises:
        InputError: The file is not YAML, or a setting is missing, unknown or invalid.
    """
    where = upstream_config if isinstance(upstream_config, str) else "the model configuration"
    values = upstream_config
    if isinstance(upstream_config, str):
        try:
            values = yaml.safe_load(Path(upstream_config).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    config = DistillationConfig.from_mapping(values, where)
    imagenet = resolve(config.imagenet) if config.imagenet else None
    return replace(config, teacher=resolve(config.teacher), imagenet=imagenet)


def check_data_keys(datarc: object) -> None:
    """Check the section `datarc` of the run configuration.

    Raises:
        InputError: A setting is missing, unknown or invalid.
    """
    check_keys(datarc, DATA_KEYS, OPTIONAL_DATA_KEYS, DATARC)
    for key in ("data", "cache_dir"):
        value = datarc.get(key)
        if not isinstance(value, str) and (key == "data" or value is not None):
            raise InputError(f"{DATARC}: {key} {value!r}: expected a folder's path")
    for key in (key for key, lowest in WHOLE_NUMBERS.items() if datarc.get(key) is not None):
        value, lowest = datarc[key], WHOLE_NUMBERS[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise InputError(
                f"{DATARC}: {key} {value!r}: expected a whole number, at least {lowest}"
            )


def data_config(datarc: dict[str, Any], augment: bool) -> DataConfig:
    """How utterances are read.

    Args:
        datarc: The section `datarc` of the run configuration, checked by `check_data_keys`.
        augment: Whether to augment, as for training.

    Returns:
        The library's settings.

    Raises:
        InputError: A setting of the noise is missing, unknown or invalid.
    """
    cache = datarc.get("cache_dir")
    noise = datarc.get("noise")
    return DataConfig(
        augment=augment,
        noise=noise_config(noise) if noise else None,
        cache=Path(resolve(cache)) if cache else None,
        max_frames=datarc["max_frames"],
        keep_clean=bool(noise) and noise.get("for") == "student",
        corrupt="replace",
        seed=datarc["seed"],
    )


def noise_config(noise: dict[str, Any]) -> NoiseConfig:
    """Read the section `noise` of `datarc`; raises InputError for settings that are invalid."""
    where = f"noise in {DATARC}"
    check_keys(noise, NOISE_KEYS, OPTIONAL_NOISE_KEYS, where)
    if noise.get("for", "both") not in RECEIVERS:
        raise InputError(f"{where}: for: {noise['for']!r}: expected one of {', '.join(RECEIVERS)}")
    try:
        low, high = noise["snr_db"]
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: snr_db {noise['snr_db']!r}: expected [lowest, highest]"
        ) from None
    if not isinstance(noise["manifests"], list):
        raise InputError(f"{where}: manifests {noise['manifests']!r}: expected a list of folders")
    folders = tuple(Path(resolve(folder)) for folder in noise["manifests"])
    rest = {key: noise[key] for key in ("mixed", "start") if key in noise}
    return NoiseConfig(folders, noise["probability"], (low, high), **rest)


def check_keys(
    section: object, keys: tuple[str, ...], optional: tuple[str, ...], where: str
) -> None:
    """Check the keys of a section.

    Args:
        section: The section.
        keys: The keys that it must have.
        optional: The keys that it may have.
        where: What the section is, for messages.

    Raises:
        InputError: Keys are missing or unknown; the message names all of them.
    """
    found = section if isinstance(section, dict) else {}
    missing = [key for key in keys if key not in found]
    unknown = [str(key) for key in found if key not in (*keys, *optional)]
    if missing or unknown:
        wrong = [f"{key} missing" for key in missing] + [f"{key} unknown" for key in unknown]
        raise InputError(f"{where}: {', '.join(wrong)}; see the configurations in {HERE}")


def resolve(path: str | Path) -> str:
    """Make a path absolute. Relative ones start at the folder where the launcher was started."""
    return os.path.abspath(os.path.join(os.environ.get("S3PRL_START_FOLDER", "."), path))
