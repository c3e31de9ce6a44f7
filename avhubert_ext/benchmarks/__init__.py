"""Measurements of speed and size, side by side on the CPU."""
