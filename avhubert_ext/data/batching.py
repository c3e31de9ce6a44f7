"""Batches of similar length in a reproducible order that can go on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from avhubert_ext.data.noise import hashed_generator
from avhubert_ext.errors import InputError

PassIndex = tuple[int, int]  # epoch and utterance: the draws of augmentation belong to both

# Lengths are taken for up to this much longer or shorter than they are: otherwise the same
# utterances would meet in a batch in every epoch.
LENGTH_JITTER = 0.1


def batches_by_frames(frames: np.ndarray, max_frames: int) -> list[list[int]]:
    """Utterances of similar length in batches of at most `max_frames` frames, padding included.

    frames: [N]; the longest come first. One that is longer is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in np.argsort(-frames, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * frames[batches[-1][0]] > max_frames:
            batches.append([])
        batches[-1].append(index)
    return batches


class BucketBatchSampler(Sampler[list[PassIndex]]):
    """One epoch of batches per iteration, each of utterances of similar length.

    frames: [N], the utterances' lengths. In training (`shuffle`) batches and their order follow
    from (seed, epoch) alone, and the first iteration starts after the first `consumed` batches,
    counted over all epochs. Otherwise every iteration is the same one, of pass 0, shortest first.
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
        """All batches of an epoch in their order; one may be smaller than the others."""
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
