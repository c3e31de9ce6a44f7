"""The names of the upstreams: functions that s3prl's hub and `torch.hub` call.

All of them return the same kind of expert, for any file that `avhubert_ext.load_avhubert` reads.
The different names distinguish teachers and students in the logs of experiments.
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
    """Load the encoder in a file.

    Args:
        ckpt: The file: `-k` of s3prl's scripts, or `path_or_url`.
        model_config: Must be None, because the file contains the configuration.
        refresh: Ignored; it is for URLs.

    Returns:
        The upstream.

    Raises:
        InputError: The file is not given, missing, damaged, or has no encoder.
    """
    if ckpt is None:
        raise InputError("ckpt is None: name a model's file with -k, path_or_url or ckpt")
    if model_config is not None:
        raise InputError(
            f"model_config {model_config}: {ckpt} holds its configuration; leave -g out"
        )
    # Imported here, because importing this module must not take the seconds that s3prl needs.
    from s3prl_upstream.launch import s3prl_package

    s3prl_package()
    from s3prl_upstream.upstream.avhubert_ext.expert import UpstreamExpert

    return UpstreamExpert(ckpt)


def avhubert_url(
    ckpt: str | None = None, model_config: str | None = None, refresh: bool = False
) -> UpstreamExpert:
    """Load the encoder in a file that s3prl downloads to its cache.

    Args:
        ckpt: The URL.
        model_config: Must be None, because the file contains the configuration.
        refresh: Download the file again, even if it is in the cache.

    Returns:
        The upstream.

    Raises:
        InputError: This is not a URL, the download failed, or the file has no encoder.
    """
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
