"""`--task vsr`: lip reading with CTC and attention (paper B). Audio and both streams work, too."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task

from avhubert_ext.checkpoints.fairseq_file import FAIRSEQ_VSR
from avhubert_ext.data.dataset import DataConfig
from avhubert_ext.decoding.joint import JointConfig
from avhubert_ext.errors import InputError

from ..dictionary import CTCDictionary
from ..joint_generator import JointGenerator
from .av_asr import AVASRConfig, AVASRTask


@dataclass
class VSRTaskConfig(AVASRConfig):
    """The options of lip reading."""

    modalities: str = field(
        default="video", metadata={"help": "The input: `video`, `audio` or `both`."}
    )
    ctc_weight: float = field(
        default=0.1,
        metadata={
            "help": "The weight of CTC in the loss and in the beam search, from 0 to 1. The "
            "attention decoder gets the rest."
        },
    )


@register_task("vsr", dataclass=VSRTaskConfig)
class VSRTask(AVASRTask):
    """As `av_asr`, but with the outputs and the beam search of a CTC/attention recognizer."""

    @classmethod
    def setup_task(cls, cfg: VSRTaskConfig, **kwargs: Any) -> "VSRTask":
        return cls(cfg, CTCDictionary(Path(cfg.data) / "dict.wrd.txt"))

    @property
    def outputs(self) -> list[str]:
        return self.dictionary.outputs

    def data_config(self, split: str) -> DataConfig:
        return replace(super().data_config(split), waveform=True)

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        name = getattr(cfg, "_name", None)
        if name != FAIRSEQ_VSR:
            raise InputError(
                f"--task vsr is for models of --arch {FAIRSEQ_VSR}, this is one of {name}: "
                f"set --arch {FAIRSEQ_VSR} or --task av_asr"
            )
        return super().build_model(cfg, from_checkpoint)

    def search_conditions(self, args: Any) -> list[str]:
        return [f"beam {args.beam}", f"CTC weight {self.cfg.ctc_weight:g}", "no length penalty"]

    def new_generator(
        self, models: list[torch.nn.Module], args: Any, *rest: Any, **kwargs: Any
    ) -> JointGenerator:
        """Make the joint beam search. It ignores fairseq's search options except `--beam`."""
        return JointGenerator(self.dictionary.eos(), JointConfig(args.beam, self.cfg.ctc_weight))
