"""Small, fast, noise-robust audio-visual speech recognition in plain PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avhubert_ext.checkpoints.files import load_auto_avsr, load_avhubert, load_avhubert_asr
    from avhubert_ext.data.audio import audio_features
    from avhubert_ext.data.noise import mix
    from avhubert_ext.data.video import load_video
    from avhubert_ext.models.encoder import AVHubertEncoder
    from avhubert_ext.models.presets import build_vsr
    from avhubert_ext.models.student import build_student
    from avhubert_ext.transcription.transcribe import transcribe

__version__ = "0.2.0"

__all__ = [
    "AVHubertEncoder",
    "audio_features",
    "build_student",
    "build_vsr",
    "load_auto_avsr",
    "load_avhubert",
    "load_avhubert_asr",
    "load_video",
    "mix",
    "transcribe",
]

# Imported when first asked for: importing the package is instant, torch takes seconds.
_MODULES = {
    "AVHubertEncoder": "avhubert_ext.models.encoder",
    "audio_features": "avhubert_ext.data.audio",
    "build_student": "avhubert_ext.models.student",
    "build_vsr": "avhubert_ext.models.presets",
    "load_auto_avsr": "avhubert_ext.checkpoints.files",
    "load_avhubert": "avhubert_ext.checkpoints.files",
    "load_avhubert_asr": "avhubert_ext.checkpoints.files",
    "load_video": "avhubert_ext.data.video",
    "mix": "avhubert_ext.data.noise",
    "transcribe": "avhubert_ext.transcription.transcribe",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
