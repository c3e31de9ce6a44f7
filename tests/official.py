"""A tiny finetuned checkpoint in the layout of the official AV-HuBERT."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from fairseq.data import Dictionary, encoders
from test_avhubert import checkpoint, finetuned_config, official_finetuned

from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig


def write_official(path: Path, data: Path) -> None:
    """Write the file, with random weights and the subwords of a manifest folder."""
    encoder = EncoderConfig(layers=12, dim=32, ffn=24, heads=2, conv_pos=8, conv_pos_groups=4)
    dictionary = Dictionary.load(str(data / "dict.wrd.txt"))
    decoder = DecoderConfig(vocabulary=len(dictionary), layers=1, dim=32, ffn=24, heads=4)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.tensor(7)
        if name.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator) * 0.1 + name.endswith("running_var")
        for name, shape in official_finetuned(encoder, decoder).items()
    }
    (model,) = data.glob("spm_*.model")
    bpe = encoders.build_bpe(Namespace(bpe="sentencepiece", sentencepiece_model=str(model)))
    state = {"dictionaries": [dictionary], "target_dictionary": dictionary, "s2s_tokenizer": bpe}
    torch.save(checkpoint(finetuned_config(encoder, decoder), tensors, task_state=state), path)
