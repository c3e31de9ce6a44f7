"""`--arch vsr_ctc_attention`: SparseVSR's recognizers (paper B) of lips, audio or both."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq.models import BaseFairseqModel, register_model
from fairseq.tasks import FairseqTask
from torch import Tensor

from avhubert_ext.checkpoints.auto_avsr import load_frontend
from avhubert_ext.checkpoints.description import build, describe
from avhubert_ext.checkpoints.fairseq_file import FAIRSEQ_VSR
from avhubert_ext.data.text import check_dictionary
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.presets import build_vsr

from ..base import RecognizerConfig
from ..dictionary import CTCDictionary
from ..precision import Float32Weights, Precision


@dataclass
class VSRModelConfig(RecognizerConfig):
    """The options of the network."""

    network: str = field(
        default="base-s",
        metadata={
            "help": "The preset of the network: vsr-base-s, vsr-base-l, vsr-tiny or vsr-tiny-s; "
            "`vsr-` may be left out."
        },
    )
    frontend_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "Start the visual frontend from this LRW or Auto-AVSR checkpoint."},
    )
    unmasked_padding: bool = field(
        default=False,
        metadata={"help": "Let padding affect the other clips of a batch, as in Auto-AVSR's code."},
    )


@register_model(FAIRSEQ_VSR, dataclass=VSRModelConfig)
class VSRCTCAttention(Float32Weights, BaseFairseqModel):
    """The library's CTCAttentionRecognizer as a fairseq model."""

    def __init__(self, recognizer: CTCAttentionRecognizer) -> None:
        super().__init__()
        self.recognizer = recognizer
        self.description = json.dumps(describe(recognizer))
        self.precision = Precision()

    @classmethod
    def build_model(cls, cfg: VSRModelConfig, task: FairseqTask) -> "VSRCTCAttention":
        if not isinstance(task.target_dictionary, CTCDictionary):
            raise InputError(f"--arch {FAIRSEQ_VSR} has the outputs of --task vsr: set --task vsr")
        outputs = task.outputs
        recognizer = new_recognizer(cfg, task.cfg.modalities, len(outputs))
        check_dictionary(
            Path(task.cfg.data) / "dict.wrd.txt",
            outputs,
            recognizer.decoder.config.vocabulary,
            cfg.dictionary,
        )
        return cls(recognizer)

    def forward(
        self,
        source: Tensor,
        audio: Tensor | None,
        video: Tensor | None,
        padding_mask: Tensor,
        prev_output_tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `CTCAttentionRecognizer.forward`. fairseq passes `source`, which is ignored."""
        end = self.recognizer.eos
        # Padding is no output. The end of a sentence stands in; its predictions are ignored.
        tokens = prev_output_tokens.clamp(max=end)
        with self.precision.autocast(padding_mask.device):
            return self.recognizer(video, padding_mask, tokens, audio)

    def get_normalized_probs(self, *args: Any, **kwargs: Any) -> Tensor:
        raise InputError(
            f"--arch {FAIRSEQ_VSR} is trained with another loss: set --criterion ctc_attention"
        )

    def max_positions(self) -> None:
        return None


def new_recognizer(cfg: VSRModelConfig, modality: str, vocabulary: int) -> CTCAttentionRecognizer:
    """Build a recognizer.

    Args:
        cfg: The options. With a `description`, from a checkpoint, only this counts.
        modality: The input: `video`, `audio` or `both`.
        vocabulary: The number of outputs.

    Returns:
        The recognizer with random weights, except those of `frontend_checkpoint`.

    Raises:
        InputError: The preset is unknown, or the frontend's file cannot be used.
    """
    if cfg.description:
        return build(json.loads(cfg.description))
    recognizer = build_vsr(cfg.network, modality, vocabulary, not cfg.unmasked_padding)
    if cfg.frontend_checkpoint:
        load_frontend(recognizer, cfg.frontend_checkpoint)
    return recognizer
