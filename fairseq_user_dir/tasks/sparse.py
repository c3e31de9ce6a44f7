"""`--task av_asr_sparse`, `vsr_sparse`, `av_distillation_sparse`: the same for a pruned model.

Checkpoints store the masks under the names of these classes (`SPARSE_TASKS` of the library).
"""

from dataclasses import dataclass

from fairseq.tasks import register_task

from ..sparse import SparseMask, SparseMaskConfig
from .av_asr import AVASRConfig, AVASRTask
from .av_distillation import AVDistillationConfig, AVDistillationTask
from .vsr import VSRTask, VSRTaskConfig


@dataclass
class SparseASRConfig(SparseMaskConfig, AVASRConfig):
    """The options of `av_asr` and of pruning."""


@register_task("av_asr_sparse", dataclass=SparseASRConfig)
class SparseASRTask(SparseMask, AVASRTask):
    """Speech recognition with a pruned model; `--finetune-from-model` names the model to prune."""


@dataclass
class SparseVSRConfig(SparseMaskConfig, VSRTaskConfig):
    """The options of `vsr` and of pruning."""


@register_task("vsr_sparse", dataclass=SparseVSRConfig)
class SparseVSRTask(SparseMask, VSRTask):
    """Lip reading with a pruned model (paper B)."""


@dataclass
class SparseDistillationConfig(SparseMaskConfig, AVDistillationConfig):
    """The options of `av_distillation` and of pruning."""


@register_task("av_distillation_sparse", dataclass=SparseDistillationConfig)
class SparseDistillationTask(SparseMask, AVDistillationTask):
    """Distillation of a pruned student (paper A)."""
