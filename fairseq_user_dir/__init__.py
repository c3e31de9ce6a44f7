"""fairseq plugin: `fairseq-train --user-dir fairseq_user_dir ...`.

Importing it registers the tasks, models and criterions below; fairseq imports `tasks/` and
`models/` itself.
"""

import argparse
import logging
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from fairseq import options
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.file_io import PathManager
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import show_input_errors_plainly

from . import loading, scoring, trainer
from .criterions import (  # noqa: F401 (fairseq does not look there)
    av_distillation,
    ctc_attention,
    ctc_attention_distillation,
    pruning,
    quantization,
)
from .errors import show_fairseq_checks_plainly

loading.install()
scoring.install()
trainer.install()
show_input_errors_plainly()
show_fairseq_checks_plainly()
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else hydra shows a traceback of its own

# torch >= 2.6 loads tensors and plain containers only. fairseq also stores its arguments, and sends
# its configuration from the first process to the others when they load a checkpoint.
torch.serialization.add_safe_globals(
    [
        argparse.Namespace,
        AnyNode,
        ContainerMetadata,
        DictConfig,
        ListConfig,
        Metadata,
        _TensorPlaceholder,
        Any,
        defaultdict,
        dict,
        int,
        list,
    ]
)

# torchaudio reports at DEBUG every FFmpeg version it did not find.
logging.getLogger("torio").setLevel(logging.WARNING)


def _copy_whole(source: str, target: str, overwrite: bool = False, **kwargs: Any) -> bool:
    with whole_file(Path(target)) as temporary:
        shutil.copyfile(source, temporary)
    return True


# fairseq copies checkpoint_last.pt and checkpoint_best.pt in place: killed meanwhile, it would
# leave a torn file that no rerun gets past.
PathManager.copy = staticmethod(_copy_whole)

_parse_args_and_arch = options.parse_args_and_arch


def _parse_bf16_for_any_device(*args: Any, **kwargs: Any) -> Any:
    parsed = _parse_args_and_arch(*args, **kwargs)
    found = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(found, "bf16", False) and "--tpu" not in sys.argv:
        found.tpu = False
    return parsed


# fairseq's command lines take --bf16 for the wish for a TPU, and end with an error where there is
# none; its trainer can do it on GPUs and CPUs.
options.parse_args_and_arch = _parse_bf16_for_any_device
