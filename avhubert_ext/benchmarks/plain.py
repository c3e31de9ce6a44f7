"""The encoders computed exactly as their formulas read, to compare the library's own with.

This is what a research implementation does, and what this library must not be slower than: 3D
convolution, normalization and pooling in the stem, attention with an explicit softmax, time first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.benchmarks.timing import Features
from avhubert_ext.checkpoints.description import EncoderNetwork
from avhubert_ext.models.attention import RelativeAttention
from avhubert_ext.models.blocks import (
    ConformerConvolution,
    RelativeConformerBlock,
    ReluFeedForward,
    TransformerBlock,
    interleaved_positions,
)
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.frontends import ResNet18


def plain_forward(encoder: EncoderNetwork, clip: Features) -> Tensor:
    """The output of an encoder with a ResNet-18, without padding.

    Args:
        encoder: an AV-HuBERT encoder with transformer blocks, or paper B's encoder of video.
        clip: its input.

    Returns:
        The last hidden state [B, T, D].
    """
    if isinstance(encoder, ConformerEncoder):
        return _plain_conformer(encoder, clip.video)
    return encoder.encoder.layer_norm(plain_hidden_states(encoder, clip.audio, clip.video)[-1])


def plain_hidden_states(encoder: AVHubertEncoder, audio: Tensor, video: Tensor) -> list[Tensor]:
    """The same as `AVHubertEncoder.hidden_states`, without padding.

    Args:
        encoder: an encoder with a ResNet-18 and transformer blocks.
        audio: [B, 104, T].
        video: [B, 1, T, 88, 88].

    Returns:
        The input of the first block and the output of every block, each [B, T, D].
    """
    frontend = encoder.feature_extractor_video
    x = _plain_resnet(frontend.resnet, video)
    streams = [encoder.feature_extractor_audio(audio), frontend.proj(x)]
    states = [encoder.post_extract_proj(encoder.layer_norm(torch.cat(streams, dim=-1)))]
    x = (states[0] + encoder.encoder.pos_conv(states[0])).transpose(0, 1)  # [T, B, D]
    for block in encoder.encoder.layers:
        x = _plain_block(block, x)
        states.append(x.transpose(0, 1))
    return states


def _plain_resnet(resnet: ResNet18, video: Tensor) -> Tensor:
    """[B, 1, T, 88, 88] -> [B, T, C]."""
    convolution, norm, activation, _ = resnet.frontend3D
    x = F.conv3d(video, convolution.weight, stride=(1, 2, 2), padding=(2, 3, 3))
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    x = F.max_pool3d(activation(x), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    batch, channels, frames, height, width = x.shape
    x = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
    return resnet.trunk(x).mean(dim=(2, 3)).view(batch, frames, -1)


def _plain_block(block: TransformerBlock, x: Tensor) -> Tensor:
    attention = block.self_attn
    y = block.self_attn_layer_norm(x)
    time, batch, dim = y.shape
    width = dim // attention.heads

    def heads(z: Tensor) -> Tensor:
        return z.contiguous().view(time, batch * attention.heads, width).transpose(0, 1)

    queries = heads(attention.q_proj(y) / math.sqrt(width))
    keys, values = heads(attention.k_proj(y)), heads(attention.v_proj(y))
    weights = torch.bmm(queries, keys.transpose(1, 2)).softmax(dim=-1)
    y = torch.bmm(weights, values).transpose(0, 1).reshape(time, batch, dim)
    x = x + attention.out_proj(y)
    return x + block.fc2(F.gelu(block.fc1(block.final_layer_norm(x))))


def _plain_conformer(encoder: ConformerEncoder, video: Tensor) -> Tensor:
    conformer, dim = encoder.video, encoder.config.dim
    x = conformer.projection(_plain_resnet(conformer.frontend, video)) * math.sqrt(dim)
    time = x.shape[1]
    positions = interleaved_positions(torch.arange(time - 1, -time, -1), dim).to(x.dtype)
    for block in conformer.layers:
        x = _plain_conformer_block(block, x, positions[None])
    return conformer.layer_norm(x)


def _plain_conformer_block(block: RelativeConformerBlock, x: Tensor, positions: Tensor) -> Tensor:
    x = x + 0.5 * _plain_feed_forward(block.ffn1, x)
    y = block.self_attn_layer_norm(x)
    x = x + _plain_relative_attention(block.self_attn, y, positions)
    x = x + _plain_convolution(block.conv, x)
    x = x + 0.5 * _plain_feed_forward(block.ffn2, x)
    return block.final_layer_norm(x)


def _plain_feed_forward(module: ReluFeedForward, x: Tensor) -> Tensor:
    return module.fc2(F.relu(module.fc1(module.layer_norm(x))))


def _plain_relative_attention(a: RelativeAttention, x: Tensor, positions: Tensor) -> Tensor:
    """[B, T, D] -> [B, T, D]; positions: [1, 2T-1, D]."""
    batch, time, dim = x.shape
    width = dim // a.heads

    def heads(z: Tensor) -> Tensor:
        return z.view(z.shape[0], -1, a.heads, width)

    queries, distances = heads(a.q_proj(x)), heads(a.pos_proj(positions)).transpose(1, 2)
    keys, values = (heads(project(x)).transpose(1, 2) for project in (a.k_proj, a.v_proj))
    by_content = (queries + a.pos_bias_u).transpose(1, 2) @ keys.transpose(2, 3)
    by_distance = (queries + a.pos_bias_v).transpose(1, 2) @ distances.transpose(2, 3)
    # A column of zeros in front, and rows of T instead of 2T: Dai et al. 2019, appendix B.
    padded = F.pad(by_distance, (1, 0)).view(batch, a.heads, 2 * time, time)
    by_distance = padded[:, :, 1:].reshape(batch, a.heads, time, 2 * time - 1)[..., :time]
    weights = ((by_content + by_distance) / math.sqrt(width)).softmax(dim=-1)
    return a.out_proj((weights @ values).transpose(1, 2).reshape(batch, time, dim))


def _plain_convolution(module: ConformerConvolution, x: Tensor) -> Tensor:
    y = F.glu(module.pointwise1(module.layer_norm(x).transpose(1, 2)), dim=1)
    y = F.silu(module.batch_norm(module.depthwise(y)))
    return module.pointwise2(y).transpose(1, 2)
