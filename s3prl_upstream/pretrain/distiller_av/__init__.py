"""Distillation of an audio-visual student from an AV-HuBERT teacher (paper A)."""
