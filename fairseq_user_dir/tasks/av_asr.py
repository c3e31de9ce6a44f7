"""`--task av_asr`: audio-visual speech recognition on AV-HuBERT's manifests."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import MISSING, open_dict

from avhubert_ext.data.dataset import AVDataset, DataConfig, read_transcripts
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.data.text import Subwords, find_subword_model
from avhubert_ext.errors import InputError

from ..data import AVSpeechDataset

logger = logging.getLogger(__name__)


@dataclass
class AVASRConfig(FairseqDataclass):
    data: str = field(
        default=MISSING,
        metadata={"help": "folder with {train,valid,test}.{tsv,wrd}, dict.wrd.txt, spm_*.model"},
    )
    modalities: str = field(default="both", metadata={"help": "both, audio or video"})
    subword_model: Optional[str] = field(
        default=None, metadata={"help": "sentencepiece model (default: the one in the data folder)"}
    )
    noise_manifests: Optional[str] = field(
        default=None,
        metadata={"help": "comma-separated folders with {train,valid,test}.tsv of noise wavs"},
    )
    noise_prob: float = field(
        default=0.25, metadata={"help": "probability that an utterance is noised"}
    )
    noise_snr: str = field(
        default="0", metadata={"help": "signal-to-noise ratio in dB, or a range: (-5,20)"}
    )
    noise_seed: int = field(
        default=1, metadata={"help": "with the utterance and the pass it fixes snippet and level"}
    )
    noise_pass: int = field(
        default=0, metadata={"help": "pass of an evaluation: another pass, other snippets"}
    )
    cache_dir: Optional[str] = field(
        default=None, metadata={"help": "folder for decoded frames, to decode a video once"}
    )
    reuse_dataloader: bool = field(
        default=False,
        metadata={"help": "keep worker processes over epochs; they would not see the epoch change"},
    )


@register_task("av_asr", dataclass=AVASRConfig)
class AVASRTask(FairseqTask):
    """Loads utterances and subword targets; decoding is fairseq's own beam search."""

    def __init__(self, cfg: AVASRConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary

    @classmethod
    def setup_task(cls, cfg: AVASRConfig, **kwargs: Any) -> "AVASRTask":
        path = Path(cfg.data) / "dict.wrd.txt"
        read_lines(path)  # a missing file ends in one clear line
        return cls(cfg, Dictionary.load(str(path)))

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def source_dictionary(self) -> None:
        return None

    def load_dataset(self, split: str, **kwargs: Any) -> None:
        folder = Path(self.cfg.data)
        training = split == "train"
        config = DataConfig(
            modalities=self.cfg.modalities,
            augment=training,
            noise=self._noise(),
            cache=Path(self.cfg.cache_dir) if self.cfg.cache_dir else None,
            seed=self.cfg.noise_seed,
            pass_index=self.cfg.noise_pass,
        )
        dataset = AVDataset(folder, split, config)
        subword_model = self.cfg.subword_model
        subwords = Subwords(Path(subword_model) if subword_model else find_subword_model(folder))
        targets = [
            self.dictionary.encode_line(
                " ".join(subwords.encode(text)), add_if_not_exist=False
            ).long()
            for text in read_transcripts(folder, split, dataset.utterances)
        ]
        d = self.dictionary
        self.datasets[split] = AVSpeechDataset(dataset, targets, d.pad(), d.eos(), shuffle=training)

    def _noise(self) -> NoiseConfig | None:
        if not self.cfg.noise_manifests:
            logger.info("no --noise-manifests: clean speech only")
            return None
        folders = tuple(Path(folder) for folder in self.cfg.noise_manifests.split(","))
        return NoiseConfig(folders, self.cfg.noise_prob, parse_range(self.cfg.noise_snr))

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        model = super().build_model(cfg, from_checkpoint)
        # The checkpoint must rebuild the network without the files it was started from.
        with open_dict(cfg):
            cfg.description = model.description
        return model

    def max_positions(self) -> None:
        return None


def parse_range(text: str) -> tuple[float, float]:
    """`"0"` -> (0, 0); `"-5,20"` or `"(-5,20)"` -> (-5, 20)."""
    try:
        values = [float(v) for v in text.strip("() ").split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or values[0] > values[-1]:
        raise InputError(f"noise_snr '{text}': expected a number in dB, or a range like (-5,20)")
    return values[0], values[-1]
