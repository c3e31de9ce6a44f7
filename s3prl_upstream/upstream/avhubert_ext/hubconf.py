"""The upstreams' names, as functions that s3prl's hub and `torch.hub` call.

All give the same expert, for any file that `avhubert_ext.load_avhubert` reads; the two names keep
teachers and students apart in the logs of experiments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    from s3prl_upstream.upstream.avhubert_ext.expert import UpstreamExpert

__all__ = ["avhubert_local", "avhubert_student_local", "avhubert_student_url", "avhubert_url"]

SCHEMES = ("http", "https", "file")


def avhubert_local(
    ckpt: Path | str | None = None, model_config: str | None = None, refresh: bool = False
) -> UpstreamExpert:
    """The encoder in a file: `-k`, `path_or_url`.

    `model_config` must be None: the file holds the configuration. `refresh` is for URLs.
    Raises InputError if the file is not named, missing or none that `load_avhubert` reads.
    """
    if ckpt is None:
        raise InputError("ckpt is None: name a model's file with -k, path_or_url or ckpt")
    if model_config is not None:
        raise InputError(
            f"model_config {model_config}: {ckpt} holds its configuration; leave -g out"
        )
    # Here, for s3prl and torch take seconds, and importing the names must not.
    from s3prl_upstream.launch import s3prl_package

    s3prl_package()
    from s3prl_upstream.upstream.avhubert_ext.expert import UpstreamExpert

    return UpstreamExpert(ckpt)


def avhubert_url(
    ckpt: str | None = None, model_config: str | None = None, refresh: bool = False
) -> UpstreamExpert:
    """As `avhubert_local` of what s3prl downloads from a URL into its cache, anew if `refresh`."""
    if urlsplit(str(ckpt)).scheme not in SCHEMES:
        raise InputError(
            f"ckpt {ckpt}: expected a URL that starts with one of {', '.join(SCHEMES)}; the "
            "names that end in _local read files"
        )
    from s3prl_upstream.launch import s3prl_package

    s3prl_package()
    from s3prl.util.download import _urls_to_filepaths

    try:
        path = _urls_to_filepaths(ckpt, refresh=refresh)
    except (OSError, KeyError, ValueError) as error:  # what urllib, requests and s3prl raise
        raise InputError(
            f"{ckpt}: download failed ({error!r}); correct the URL or try again"
        ) from None
    try:
        return avhubert_local(path, model_config)
    except InputError as error:
        raise InputError(f"{ckpt}: {error}; or download it again with refresh=True (-r)") from None


avhubert_student_local = avhubert_local
avhubert_student_url = avhubert_url
