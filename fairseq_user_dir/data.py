"""The library's data set as fairseq wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils
from torch import Tensor

from avhubert_ext.data.dataset import AVDataset, collate


class AVUtterances(FairseqDataset):
    """Utterances whose sizes are video frames; in training in random order (`shuffle`)."""

    def __init__(self, dataset: AVDataset, shuffle: bool) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.sizes = dataset.frames()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index, "sample": self.dataset[index]}

    def __len__(self) -> int:
        return len(self.dataset)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Longest first; equal lengths in random order when shuffling."""
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return np.lexsort((order, -self.sizes))

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        # Not the multiple: where it does not divide the last batch fairseq drops that batch, and
        # its utterances would vanish from the score.
        return super().batch_by_size(indices, max_tokens, max_sentences)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return False  # the augmentation's draws belong to the epoch

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.dataset.set_pass(epoch)


class AVSpeechDataset(AVUtterances):
    """Utterances with subword targets."""

    def __init__(
        self, dataset: AVDataset, targets: list[Tensor], pad: int, eos: int, shuffle: bool
    ) -> None:
        """targets: per utterance int64 [L], ending in eos."""
        super().__init__(dataset, shuffle)
        self.targets = targets
        self.pad = pad
        self.eos = eos

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "target": self.targets[index]}

    def collater(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not items:
            return {}
        batch = collate([item["sample"] for item in items])
        targets = [item["target"] for item in items]

        def pad(move_eos: bool) -> Tensor:
            return data_utils.collate_tokens(
                targets, self.pad, self.eos, move_eos_to_beginning=move_eos
            )

        return {
            "id": torch.tensor([item["id"] for item in items]),
            "nsentences": len(items),
            "ntokens": sum(len(t) for t in targets),
            "net_input": {
                # fairseq's beam search reads batch size and length from `source`.
                "source": ~batch.padding_mask,
                "audio": batch.audio,
                "video": batch.video,
                "padding_mask": batch.padding_mask,
                "prev_output_tokens": pad(move_eos=True),
            },
            "target": pad(move_eos=False),
        }


class DistillationUtterances(AVUtterances):
    """Utterances without targets, in the library's own batches."""

    def __init__(self, dataset: AVDataset, split: str, shuffle: bool) -> None:
        super().__init__(dataset, shuffle)
        self.split = split

    def collater(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not items:
            return {}
        batch = collate([item["sample"] for item in items])
        return {
            "id": [item["id"] for item in items],
            "split": self.split,
            "nsentences": len(items),
            "ntokens": int((~batch.padding_mask).sum()),
            # Not a container that fairseq knows: it leaves the inputs in float32, for the teacher.
            "batch": batch,
        }
