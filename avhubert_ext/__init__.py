"""Small, fast, noise-robust audio-visual speech recognition in plain PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    from avhubert_ext.checkpoints.encoder import load
    from avhubert_ext.checkpoints.model_file import load_auto_avsr, load_avhubert, load_avhubert_asr
    from avhubert_ext.data.audio import audio_features
    from avhubert_ext.data.noise import add_noise
    from avhubert_ext.data.video import load_video
    from avhubert_ext.decoding.beam import SearchConfig
    from avhubert_ext.models.encoder import AVHubertEncoder
    from avhubert_ext.models.presets import build_vsr, list_presets
    from avhubert_ext.mouth.clip import mouth_clips
    from avhubert_ext.recognizers.base import Recognizer
    from avhubert_ext.training.student import build_student
    from avhubert_ext.transcription.alignment import Word
    from avhubert_ext.transcription.transcribe import Transcript

__version__ = "0.2.0"

__version__ = "0.2.0"

__version__ = "0.2.0"

__all__ = [
    "AVHubertEncoder",
    "InputError",
    "Recognizer",
    "SearchConfig",
    "Transcript",
    "Word",
    "__version__",
    "add_noise",
    "audio_features",
    "build_student",
    "build_vsr",
    "list_presets",
    "load",
    "load_auto_avsr",
    "load_avhubert",
    "load_avhubert_asr",
    "load_video",
    "mouth_clips",
]

# Imported on first use: importing the package is instant, torch takes seconds and may be missing.
_MODULES = {
    "AVHubertEncoder": "avhubert_ext.models.encoder",
    "Recognizer": "avhubert_ext.recognizers.base",
    "SearchConfig": "avhubert_ext.decoding.beam",
    "Transcript": "avhubert_ext.transcription.transcribe",
    "Word": "avhubert_ext.transcription.alignment",
    "add_noise": "avhubert_ext.data.noise",
    "audio_features": "avhubert_ext.data.audio",
    "build_student": "avhubert_ext.training.student",
    "build_vsr": "avhubert_ext.models.presets",
    "list_presets": "avhubert_ext.models.presets",
    "load": "avhubert_ext.checkpoints.encoder",
    "load_auto_avsr": "avhubert_ext.checkpoints.model_file",
    "load_avhubert": "avhubert_ext.checkpoints.model_file",
    "load_avhubert_asr": "avhubert_ext.checkpoints.model_file",
    "load_video": "avhubert_ext.data.video",
    "mouth_clips": "avhubert_ext.mouth.clip",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
