"""Timings and sizes, measured side by side on the CPU."""
