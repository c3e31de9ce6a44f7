"""Batches of similar length in a reproducible order that can go on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from avhubert_ext.data.noise import hashed_generator

PassIndex = tuple[int, int]  # epoch and utterance: the draws of augmentation belong to both


def bucket_by_length(frames: np.ndarray, batch_size: int) -> list[list[int]]:
    """Indices of utterances, sorted by length and cut into batches of `batch_size`."""
    order = np.argsort(frames, kind="stable")
    return [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]


class ResumableBatchSampler(Sampler[list[PassIndex]]):
    """One epoch of shuffled batches per iteration.

    The order follows from (seed, epoch) alone; the first iteration starts after the first
    `consumed` batches, counted over all epochs.
    """

    def __init__(self, batches: list[list[int]], seed: int, consumed: int = 0) -> None:
        self.batches = batches
        self.seed = seed
        self.epoch, self.start = divmod(consumed, len(batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[PassIndex]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        order = hashed_generator("batches", self.seed, epoch).permutation(len(self.batches))
        for number in order[start:]:
            yield [(epoch, index) for index in self.batches[number]]
