"""fairseq plugin: `fairseq-train --user-dir fairseq_user_dir ...`.

Importing it applies the patches to fairseq and registers the criterions and the schedule. fairseq
itself then imports `tasks/` and `models/`.
"""

from . import patches, schedule
from .criterions import (
    av_distillation,
    ctc_attention,
    ctc_attention_distillation,
    pruning,
    quantization,
)

__all__ = [
    "av_distillation",
    "ctc_attention",
    "ctc_attention_distillation",
    "patches",
    "pruning",
    "quantization",
    "schedule",
]

patches.apply()
