"""`--task av_asr`: audio-visual speech recognition on AV-HuBERT's manifests."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from fairseq.data import Dictionary
from fairseq.tasks import register_task
from omegaconf import MISSING

from avhubert_ext.data.dataset import AVDataset, read_transcripts
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.text import Subwords, find_subword_model

from ..base import AVTask, AVTaskConfig
from ..data import AVSpeechDataset


@dataclass
class AVASRConfig(AVTaskConfig):
    data: str = field(
        default=MISSING,
        metadata={"help": "folder with {train,valid,test}.{tsv,wrd}, dict.wrd.txt, spm_*.model"},
    )
    subword_model: Optional[str] = field(
        default=None, metadata={"help": "sentencepiece model (default: the one in the data folder)"}
    )
    noise_pass: int = field(
        default=0, metadata={"help": "pass of an evaluation: another pass, other snippets"}
    )


@register_task("av_asr", dataclass=AVASRConfig)
class AVASRTask(AVTask):
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

    def load_dataset(self, split: str, **kwargs: Any) -> None:
        folder = Path(self.cfg.data)
        config = replace(self.data_config(split), pass_index=self.cfg.noise_pass)
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
        self.datasets[split] = AVSpeechDataset(
            dataset, targets, d.pad(), d.eos(), shuffle=config.augment
        )
