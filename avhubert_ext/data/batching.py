"""Batches of utterances of similar length, in a reproducible order that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from avhubert_ext.data.noise import hashed_generator
from avhubert_ext.errors import InputError

PassIndex = tuple[int, int]  # epoch and utterance: augmentation depends on both

# Lengths are jittered by up to this fraction before sorting. Otherwise, the same utterances would
# share a batch in every epoch.
LENGTH_JITTER = 0.1


def batches_by_frames(frames: np.ndarray, max_frames: int) -> list[list[int]]:
    """Group utterances of similar length, the longest first.

    Args:
        frames: [N], the length of each utterance.
        max_frames: The largest batch in frames, padding included. A longer utterance forms a
            batch by itself.

    Returns:
        The utterance numbers of each batch.
    """
    batches: list[list[int]] = []
    for index in np.argsort(-frames, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * frames[batches[-1][0]] > max_frames:
            batches.append([])
        batches[-1].append(index)
    return batches


class BucketBatchSampler(Sampler[list[PassIndex]]):
    """Yields one epoch of batches per iteration, each of utterances of similar length.

    With `shuffle`, batches and their order depend on (seed, epoch) only. Without it, every
    iteration is the same: pass 0, the shortest utterances first.

    Args:
        frames: [N], the length of each utterance.
        batch_size: Utterances per batch.
        seed: Seed of the order.
        consumed: Batches to skip, counted over all epochs, to resume a run.
        shuffle: Whether to shuffle (training).

    Raises:
        InputError: If `batch_size` is not positive.
    """

    def __init__(
        self,
        frames: np.ndarray,
        batch_size: int,
        seed: int,
        consumed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batches of {batch_size} utterances: expected at least 1")
        self.frames = frames
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch, self.start = divmod(consumed, len(self))

    def __len__(self) -> int:
        return -(-len(self.frames) // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """Return all batches of an epoch in order. One may be smaller than the others."""
        rng = hashed_generator("batches", self.seed, epoch)
        lengths = self.frames.astype(float)
        if self.shuffle:
            lengths *= rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(lengths))
        order = np.argsort(lengths, kind="stable")
        cuts = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        numbers = rng.permutation(len(cuts)) if self.shuffle else range(len(cuts))
        return [cuts[number].tolist() for number in numbers]

    def __iter__(self) -> Iterator[list[PassIndex]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + int(self.shuffle), 0
        for batch in self.batches(epoch)[start:]:
            yield [(epoch, index) for index in batch]
