"""Small, fast, noise-robust audio-visual speech recognition in plain PyTorch."""
