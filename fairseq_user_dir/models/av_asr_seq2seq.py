"""`--arch av_asr_seq2seq`: any encoder of the library with its transformer decoder."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.models import (
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    FairseqIncrementalDecoder,
    register_model,
)
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.models.checkpoint import build, describe, load_avhubert
from avhubert_ext.models.decoder import AVRecognizer, DecoderCache, TransformerDecoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import DECODERS, encoder_preset, preset

CACHE = "avhubert_ext.decoder_cache"


@dataclass
class AVASRSeq2SeqConfig(FairseqDataclass):
    encoder: str = field(
        default="student-7",
        metadata={"help": "preset of a new encoder: teacher-NAME or student-NAME"},
    )
    encoder_checkpoint: Optional[str] = field(
        default=None, metadata={"help": "start from this trained encoder instead of a preset"}
    )
    decoder: str = field(default="base", metadata={"help": "preset of the decoder"})
    freeze_encoder_updates: int = field(
        default=0, metadata={"help": "updates during which the encoder's weights stay as they are"}
    )
    modality_dropout: float = field(
        default=0.0, metadata={"help": "probability that a batch loses its audio or its video"}
    )
    description: Optional[str] = field(
        default=None, metadata={"help": "set by the task: the network in full, for checkpoints"}
    )


class Encoder(FairseqEncoder):
    """The library's encoder and the bridge to the decoder's width."""

    def __init__(self, encoder: AVHubertEncoder, bridge: nn.Module, freeze_updates: int) -> None:
        super().__init__(None)
        self.w2v_model = encoder  # the name of the encoder in AV-HuBERT's finetuned checkpoints
        self.bridge = bridge
        self.freeze_updates = freeze_updates
        self.num_updates = 0

    def set_num_updates(self, num_updates: int) -> None:
        self.num_updates = num_updates

    def forward(
        self,
        source: Tensor,
        audio: Tensor | None,
        video: Tensor | None,
        padding_mask: Tensor,
    ) -> dict[str, Tensor]:
        """Shapes as in AVHubertEncoder.forward; `source` is there for fairseq's beam search."""
        # As in AV-HuBERT a frozen encoder stays in training mode: dropout is on and the running
        # statistics of batch norm move. The bridge always learns.
        learning = self.num_updates >= self.freeze_updates and torch.is_grad_enabled()
        with torch.set_grad_enabled(learning):
            output = self.w2v_model(audio, video, padding_mask)
        return {"memory": self.bridge(output.last_hidden_state), "padding_mask": padding_mask}

    def reorder_encoder_out(
        self, encoder_out: dict[str, Tensor], new_order: Tensor
    ) -> dict[str, Tensor]:
        return {name: t.index_select(0, new_order) for name, t in encoder_out.items()}


class Decoder(FairseqIncrementalDecoder):
    """The library's decoder; its cache travels in fairseq's incremental state."""

    def __init__(self, dictionary: Dictionary, decoder: TransformerDecoder) -> None:
        super().__init__(dictionary)
        self.network = decoder

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, Tensor],
        incremental_state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        cache = None
        if incremental_state is not None:
            cache = incremental_state.setdefault(CACHE, DecoderCache())
            prev_output_tokens = prev_output_tokens[:, cache.length :]
        memory, padding_mask = encoder_out["memory"], encoder_out["padding_mask"]
        return self.network(prev_output_tokens, memory, padding_mask, cache), None

    def reorder_incremental_state(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        if CACHE in incremental_state:
            incremental_state[CACHE].reorder(new_order)


@register_model("av_asr_seq2seq", dataclass=AVASRSeq2SeqConfig)
class AVASRSeq2Seq(FairseqEncoderDecoderModel):
    """An AVRecognizer in fairseq's clothes."""

    def __init__(
        self, recognizer: AVRecognizer, dictionary: Dictionary, freeze_updates: int
    ) -> None:
        super().__init__(
            Encoder(recognizer.encoder, recognizer.bridge, freeze_updates),
            Decoder(dictionary, recognizer.decoder),
        )
        self.description = json.dumps(describe(recognizer))

    @classmethod
    def build_model(cls, cfg: AVASRSeq2SeqConfig, task: FairseqTask) -> "AVASRSeq2Seq":
        if cfg.description:
            recognizer = build(json.loads(cfg.description))
        else:
            recognizer = new_recognizer(cfg, len(task.target_dictionary))
        return cls(recognizer, task.target_dictionary, cfg.freeze_encoder_updates)

    def forward(
        self,
        source: Tensor,
        audio: Tensor | None,
        video: Tensor | None,
        padding_mask: Tensor,
        prev_output_tokens: Tensor,
    ) -> tuple[Tensor, None]:
        encoder_out = self.encoder(source, audio, video, padding_mask)
        return self.decoder(prev_output_tokens, encoder_out)

    def max_positions(self) -> None:
        return None


def new_recognizer(cfg: AVASRSeq2SeqConfig, vocabulary: int) -> AVRecognizer:
    """A recogniser with a fresh decoder, its encoder fresh or from a checkpoint."""
    trained = load_avhubert(Path(cfg.encoder_checkpoint)) if cfg.encoder_checkpoint else None
    encoder = trained.config if trained is not None else encoder_preset(cfg.encoder)
    recognizer = AVRecognizer(
        replace(encoder, modality_dropout=cfg.modality_dropout),
        replace(preset(DECODERS, cfg.decoder, "decoder"), vocabulary=vocabulary),
    )
    if trained is not None:
        recognizer.encoder.load_state_dict(trained.state_dict())
    return recognizer
