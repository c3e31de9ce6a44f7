"""Print a model configuration of the distillation with other values.

    python scripts/model_config.py FILE.yaml KEY=VALUE... > OTHER.yaml

Every KEY must be in FILE, so that a typing error does not pass for a setting.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from avhubert_ext.errors import InputError, one_line_errors


def with_values(path: Path, changes: list[str]) -> str:
    """Read a configuration and change values.

    Args:
        path: A YAML file with a mapping.
        changes: `KEY=VALUE`, each for a key of the mapping. Values are text.

    Returns:
        The new configuration as YAML, with the keys in the same order.

    Raises:
        InputError: A key is not in the file.
    """
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for change in changes:
        key, _, value = change.partition("=")
        if key not in config:
            raise InputError(f"{path}: no setting '{key}'; expected one of {', '.join(config)}")
        config[key] = value
    return yaml.safe_dump(config, sort_keys=False, width=1000)


if __name__ == "__main__":
    with one_line_errors():
        print(with_values(Path(sys.argv[1]), sys.argv[2:]), end="")
