"""Exported recognizers: speech to text with numpy and a runtime, without PyTorch or a toolkit.

`avhubert_ext.export` writes the folders; ONNX Runtime or OpenVINO runs the graphs in them, and is
imported when one is opened.
"""

from __future__ import annotations

from avhubert_ext.runtime.recognizer import ExportedRecognizer, load_exported

__all__ = ["ExportedRecognizer", "load_exported"]
