"""Recognizers as files for a device: graphs that `avhubert_ext.runtime` runs."""
