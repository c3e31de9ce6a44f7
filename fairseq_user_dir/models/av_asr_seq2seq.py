"""`--arch av_asr_seq2seq`: an encoder of the library and its transformer decoder."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.models import (
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    FairseqIncrementalDecoder,
    register_model,
)
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from avhubert_ext.checkpoints.description import build, describe
from avhubert_ext.checkpoints.model_file import load_avhubert
from avhubert_ext.data.text import check_dictionary
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderCache, TransformerDecoder
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import check_fields, decoder_preset, encoder_preset

from ..base import RecognizerConfig
from ..options import parse_json
from ..precision import Float32Weights, Precision

CACHE = "avhubert_ext.decoder_cache"
FROZEN_MODES = ("train", "eval")


@dataclass
class AVASRSeq2SeqConfig(RecognizerConfig):
    """The options of the network and of its training."""

    encoder: str = field(
        default="student-7",
        metadata={"help": "The preset of a new encoder, for example teacher-base or student-7."},
    )
    encoder_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "Start from the trained encoder in this file instead of a preset."},
    )
    decoder: str = field(
        default="base",
        metadata={
            "help": "The preset of the decoder: decoder-base or decoder-tiny; `decoder-` may be "
            "left out."
        },
    )
    encoder_changes: Optional[str] = field(
        default=None,
        metadata={
            "help": "Changes to the configuration of the encoder as JSON, for example "
            '{"dropout": 0.0, "activation_dropout": 0.1, "layerdrop": 0.1}.'
        },
    )
    freeze_encoder_updates: int = field(
        default=0, metadata={"help": "Freeze the encoder for this many updates."}
    )
    frozen_encoder: str = field(
        default="train",
        metadata={
            "help": "The mode of a frozen encoder: `train`, with dropout and changing statistics "
            "of batch norm as in AV-HuBERT, or `eval`, with neither."
        },
    )
    modality_dropout: float = field(
        default=0.0, metadata={"help": "The probability that one stream of a batch is dropped."}
    )


class Encoder(FairseqEncoder):
    """The library's encoder, and a projection to the width of the decoder.

    The projection, `bridge`, is trained while the encoder is frozen.
    """

    def __init__(
        self,
        encoder: AVHubertEncoder,
        bridge: nn.Module,
        freeze_updates: int,
        frozen_mode: str,
        precision: Precision,
    ) -> None:
        super().__init__(None)
        if frozen_mode not in FROZEN_MODES:
            raise InputError(
                f"frozen_encoder '{frozen_mode}': expected one of {', '.join(FROZEN_MODES)}"
            )
        self.w2v_model = encoder  # its name in AV-HuBERT's finetuned checkpoints
        self.bridge = bridge
        self.freeze_updates = freeze_updates
        self.frozen_mode = frozen_mode
        self.precision = precision
        self.num_updates = 0

    def set_num_updates(self, num_updates: int) -> None:
        self.num_updates = num_updates

    @property
    def frozen(self) -> bool:
        """Whether the current update must not change the encoder."""
        return self.num_updates < self.freeze_updates

    def forward(
        self,
        source: Tensor,
        audio: Tensor | None,
        video: Tensor | None,
        padding_mask: Tensor,
    ) -> dict[str, Tensor]:
        """Encode a batch. Shapes are as in `AVHubertEncoder.forward`.

        Args:
            source: Ignored. fairseq's beam search needs it.
            audio: The audio features, or None.
            video: The frames, or None.
            padding_mask: True at padding.

        Returns:
            `memory` for the decoder, and the padding mask.
        """
        frozen = self.frozen
        self.w2v_model.train(self.training and not (frozen and self.frozen_mode == "eval"))
        with self.precision.autocast(padding_mask.device):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                output = self.w2v_model(audio, video, padding_mask)
            return {"memory": self.bridge(output.last_hidden_state), "padding_mask": padding_mask}

    def reorder_encoder_out(
        self, encoder_out: dict[str, Tensor], new_order: Tensor
    ) -> dict[str, Tensor]:
        return {name: t.index_select(0, new_order) for name, t in encoder_out.items()}


class Decoder(FairseqIncrementalDecoder):
    """The library's decoder. Its cache is in fairseq's incremental state."""

    def __init__(
        self, dictionary: Dictionary, decoder: TransformerDecoder, precision: Precision
    ) -> None:
        super().__init__(dictionary)
        self.network = decoder
        self.precision = precision

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
        with self.precision.autocast(memory.device):
            return self.network(prev_output_tokens, memory, padding_mask, cache), None

    def reorder_incremental_state(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        if CACHE in incremental_state:
            incremental_state[CACHE].reorder(new_order)


@register_model("av_asr_seq2seq", dataclass=AVASRSeq2SeqConfig)
class AVASRSeq2Seq(Float32Weights, FairseqEncoderDecoderModel):
    """The library's AVRecognizer as a fairseq model."""

    def __init__(
        self,
        recognizer: AVRecognizer,
        dictionary: Dictionary,
        freeze_updates: int = 0,
        frozen_mode: str = "train",
    ) -> None:
        precision = Precision()
        super().__init__(
            Encoder(recognizer.encoder, recognizer.bridge, freeze_updates, frozen_mode, precision),
            Decoder(dictionary, recognizer.decoder, precision),
        )
        self.precision = precision
        self.description = json.dumps(describe(recognizer))

    @classmethod
    def build_model(cls, cfg: AVASRSeq2SeqConfig, task: FairseqTask) -> "AVASRSeq2Seq":
        dictionary = task.target_dictionary
        if cfg.description:
            recognizer = build(json.loads(cfg.description))
        else:
            recognizer = new_recognizer(cfg, len(dictionary))
        check_dictionary(
            Path(task.cfg.data) / "dict.wrd.txt",
            dictionary.symbols,
            recognizer.decoder.config.vocabulary,
            cfg.dictionary,
        )
        return cls(recognizer, dictionary, cfg.freeze_encoder_updates, cfg.frozen_encoder)

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

    def frozen_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.w2v_model.parameters()) if self.encoder.frozen else []

    def max_positions(self) -> None:
        return None


def new_recognizer(cfg: AVASRSeq2SeqConfig, vocabulary: int) -> AVRecognizer:
    """Build a recognizer with a new decoder.

    Args:
        cfg: The options.
        vocabulary: The number of outputs.

    Returns:
        The recognizer with random weights, or with the trained encoder of `encoder_checkpoint`.

    Raises:
        InputError: A preset or a change is unknown, or the checkpoint cannot be used.
    """
    trained = load_avhubert(Path(cfg.encoder_checkpoint)) if cfg.encoder_checkpoint else None
    encoder = trained.config if trained is not None else encoder_preset(cfg.encoder)
    changes = parse_json(cfg.encoder_changes, "encoder_changes") if cfg.encoder_changes else {}
    check_fields(EncoderConfig, changes, "encoder_changes")
    recognizer = AVRecognizer(
        replace(encoder, **{"modality_dropout": cfg.modality_dropout} | changes),
        replace(decoder_preset(cfg.decoder), vocabulary=vocabulary),
    )
    if trained is not None:
        load_trained(recognizer.encoder, trained, cfg.encoder_checkpoint)
    return recognizer


def load_trained(encoder: AVHubertEncoder, trained: AVHubertEncoder, source: str) -> None:
    """Copy the weights of a trained encoder.

    Args:
        encoder: The encoder to fill.
        trained: The trained one.
        source: The file of the trained one, for messages.

    Raises:
        InputError: The encoders have different weights.
    """
    shapes = [{n: t.shape for n, t in e.state_dict().items()} for e in (encoder, trained)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"encoder_changes: another network than that in {source}; with --encoder-checkpoint "
            "change only dropouts"
        )
    encoder.load_state_dict(trained.state_dict())
