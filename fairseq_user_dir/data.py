"""The library's data set with the interface of fairseq's."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, data_utils
from torch import Tensor

from avhubert_ext.data.dataset import AVDataset, collate
from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)


class AVUtterances(FairseqDataset):
    """The utterances of a split. Sizes are in video frames."""

    def __init__(self, dataset: AVDataset, split: str) -> None:
        self.dataset = dataset
        self.split = split
        self.training = dataset.config.augment
        self.sizes = dataset.frames()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index, "sample": self.dataset[index]}

    def __len__(self) -> int:
        return len(self.dataset)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Indices, longest first. Training orders utterances of equal length randomly."""
        order = np.random.permutation(len(self)) if self.training else np.arange(len(self))
        return np.lexsort((order, -self.sizes))

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Split indices into batches as fairseq does, but skip neither long nor last utterances.

        Args:
            indices: The utterances, int64 [N].
            max_tokens: The largest number of video frames in a batch, padding included. A longer
                utterance is a batch by itself.
            max_sentences: The largest number of utterances in a batch.
            required_batch_size_multiple: Ignored. fairseq would drop the last batch if it is not
                divisible.

        Returns:
            The indices of each batch.
        """
        sizes = self.sizes[indices]
        if max_tokens is not None:
            if longer := int((sizes > max_tokens).sum()):
                logger.warning(f"{longer} utterances have more than {max_tokens} frames: each is a "
                               "batch by itself and needs more memory")  # fmt: skip
            sizes = np.minimum(sizes, max_tokens)
        return data_utils.batch_by_size(
            indices,
            num_tokens_fn=None,
            num_tokens_vec=sizes,
            max_tokens=max_tokens,
            max_sentences=max_sentences,
        )

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return False  # the augmentation changes with the epoch

    def set_epoch(self, epoch: int) -> None:
        if self.training:
            self.dataset.set_pass(epoch)


class AVSpeechDataset(AVUtterances):
    """Utterances with subword targets."""

    def __init__(
        self,
        dataset: AVDataset,
        split: str,
        targets: list[Tensor],
        dictionary: Dictionary,
        max_frames: int | None,
    ) -> None:
        """Set up the data set.

        Args:
            dataset: The utterances.
            split: The name of the split.
            targets: The subwords of each utterance, int64 [L], with eos at the end.
            dictionary: The subwords.
            max_frames: Leave longer utterances out; None keeps all.

        Raises:
            InputError: All utterances are longer.
        """
        super().__init__(dataset, split)
        self.targets = targets
        self.dictionary = dictionary
        self.fitting = np.ones(len(dataset), bool)
        if max_frames is not None:
            self.fitting = self.sizes <= max_frames
            logger.info(
                f"{split}: {(~self.fitting).sum()} of {len(dataset)} utterances have more than "
                f"{max_frames} frames and are left out"
            )
        if not self.fitting.any():
            raise InputError(f"max_train_frames {max_frames}: every utterance of {split} is longer")

    def ordered_indices(self) -> np.ndarray:
        order = super().ordered_indices()
        return order[self.fitting[order]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        # An unreadable utterance is replaced by another one, with the target of that one.
        return {**item, "target": self.targets[item["sample"].utterance]}

    def collater(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not items:
            return {}
        batch = collate([item["sample"] for item in items])
        targets = [item["target"] for item in items]

        def pad(move_eos: bool) -> Tensor:
            return data_utils.collate_tokens(
                targets,
                self.dictionary.pad(),
                self.dictionary.eos(),
                move_eos_to_beginning=move_eos,
            )

        return {
            "id": torch.tensor([item["id"] for item in items]),
            "numbers": [item["id"] for item in items],  # a list, which stays on the CPU
            "split": self.split,
            "noise": [item["sample"].noise for item in items],
            "visual_noise": [item["sample"].visual_noise for item in items],
            "corrupt": [item["sample"].corrupt for item in items],
            "nsentences": len(items),
            "ntokens": sum(len(t) for t in targets),
            "net_input": {
                # fairseq's beam search takes the batch size and the length from `source`.
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

    def collater(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not items:
            return {}
        batch = collate([item["sample"] for item in items])
        return {
            "id": [item["id"] for item in items],
            "numbers": [item["id"] for item in items],
            "split": self.split,
            "corrupt": [item["sample"].corrupt for item in items],
            "nsentences": len(items),
            "ntokens": int((~batch.padding_mask).sum()),
            # fairseq does not look into this object, so the teacher's inputs stay in float32.
            "batch": batch,
        }
