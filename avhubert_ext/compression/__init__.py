"""Pruning and quantization of weights."""
