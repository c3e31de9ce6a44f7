"""What an encoder costs."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.video import CROP
from avhubert_ext.models.encoder import AVHubertEncoder

FRAMES = 100  # length of the clip that is counted
ATTENTION = "scaled_dot_product"  # operators that are left out, as paper A's count leaves them


@torch.no_grad()
def flops_per_frame(encoder: AVHubertEncoder) -> float:
    """2 x MACs of convolutions and linear layers for one video frame, counted on 100 frames.

    Pruned weights count as any other: unstructured sparsity does not change what is computed.
    """
    audio = torch.zeros(1, FEATURES, FRAMES)
    video = torch.zeros(1, 1, FRAMES, CROP, CROP)
    with FlopCounterMode(display=False) as counter:
        encoder.eval()(audio, video)
    operators = counter.get_flop_counts()["Global"]
    total = sum(count for op, count in operators.items() if ATTENTION not in str(op))
    return total / FRAMES
