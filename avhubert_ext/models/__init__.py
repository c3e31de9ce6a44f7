"""The networks in plain PyTorch, and their presets."""
