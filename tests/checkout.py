"""Make a folder like a git checkout of s3prl from the installed package."""

from __future__ import annotations

import shutil
from pathlib import Path

from s3prl_upstream.launch import s3prl_package

NOT_IMPORTED = 'raise ImportError("the installed s3prl was imported")\n'


def make_checkout(folder: Path) -> Path:
    """Fill `folder`, and return its package, the folder with `run_pretrain.py`.

    The repository has files that the wheel lacks: `hubconf.py`, configurations of the tasks, and
    the pretraining `distiller`, a prefix of the name `distiller_av`.
    """
    package = folder / "s3prl"
    shutil.copytree(s3prl_package(), package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")
    (folder / "hubconf.py").write_text("from s3prl.hub import *\n")
    distiller = package / "pretrain/distiller"
    distiller.mkdir()
    (distiller / "pretrain_expert.py").write_text("class UpstreamPretrainExpert:\n    pass\n")
    for name in ("config_model.yaml", "config_runner.yaml"):
        (distiller / name).write_text("{}\n")
    return package


def spoil_installed(folder: Path) -> str:
    """Return a PYTHONPATH with an `s3prl` that fails instead of the installed one."""
    (folder / "s3prl").mkdir(parents=True)
    (folder / "s3prl/__init__.py").write_text(NOT_IMPORTED)
    return str(folder)
