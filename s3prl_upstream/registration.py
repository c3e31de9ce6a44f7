"""Add the upstreams to `s3prl.hub`, where s3prl looks for them by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from s3prl_upstream.upstream.avhubert_ext import hubconf

HUB = "s3prl.hub"


def register_upstreams() -> None:
    """Add the upstreams to s3prl's hub, now or when it is loaded.

    The hub is not imported here: this takes seconds, and fails without s3prl and torchaudio.
    """
    if HUB in sys.modules:
        add_upstreams(sys.modules[HUB])
    elif HubFinder not in sys.meta_path:
        sys.meta_path.insert(0, HubFinder)


def add_upstreams(hub: ModuleType) -> None:
    """Add the upstreams to the loaded hub."""
    for name in hubconf.__all__:
        setattr(hub, name, getattr(hubconf, name))


class HubFinder:
    """Finds `s3prl.hub` as Python does, and adds the upstreams after its code has run."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == HUB else None
        if spec is None or spec.loader is None:
            return None
        run_code = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run_code(module)
            add_upstreams(module)

        spec.loader.exec_module = exec_module
        return spec
