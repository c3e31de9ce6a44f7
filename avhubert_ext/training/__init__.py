"""Losses and the distillation step."""
