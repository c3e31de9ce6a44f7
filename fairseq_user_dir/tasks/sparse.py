"""`--task av_asr_sparse`, `vsr_sparse`, `av_distillation_sparse`: those tasks on a pruned model.

Checkpoints know the masks by the names of these classes: `SPARSE_TASKS` of the library.
"""

from dataclasses import dataclass

from fairseq.tasks import register_task

from ..sparse import SparseMask, SparseMaskConfig
from .av_asr import AVASRConfig, AVASRTask
from .av_distillation import AVDistillationConfig, AVDistillationTask
from .vsr import VSRTask, VSRTaskConfig


@dataclass
class SparseASRConfig(SparseMaskConfig, AVASRConfig):
    pass


@register_task("av_asr_sparse", dataclass=SparseASRConfig)
class SparseASRTask(SparseMask, AVASRTask):
    """Recognition with a pruned model; start it with `--finetune-from-model`."""


@dataclass
class SparseVSRConfig(SparseMaskConfig, VSRTaskConfig):
    pass


@register_task("vsr_sparse", dataclass=SparseVSRConfig)
class SparseVSRTask(SparseMask, VSRTask):
    """Lip reading with a pruned model (paper B)."""


@dataclass
class SparseDistillationConfig(SparseMaskConfig, AVDistillationConfig):
    pass


@register_task("av_distillation_sparse", dataclass=SparseDistillationConfig)
class SparseDistillationTask(SparseMask, AVDistillationTask):
    """Distillation of a pruned student (paper A)."""
