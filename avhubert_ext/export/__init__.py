"""Export of recognizers to graphs that `avhubert_ext.runtime` runs without PyTorch."""
