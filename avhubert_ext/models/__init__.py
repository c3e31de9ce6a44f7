"""Plain PyTorch models: audio-visual encoders, the decoder, distillation heads and presets."""
