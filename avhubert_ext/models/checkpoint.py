"""One file a model: safetensors with the configuration in its metadata; no pickles.

Also reads what training leaves behind: fairseq checkpoints and s3prl states.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.student import HeadsConfig, Student

METADATA_KEY = "avhubert_ext"
SPARSE_TASK = "SparseMaskTask"  # the key under which fairseq stores that task's masks

# fairseq's model nests the parts of a recogniser in its own encoder and decoder classes.
FAIRSEQ_PREFIXES = {
    "encoder.w2v_model.": "encoder.",
    "encoder.bridge.": "bridge.",
    "decoder.network.": "decoder.",
}


def describe(model: nn.Module) -> dict[str, Any]:
    """The configuration that rebuilds an AVHubertEncoder or AVRecognizer."""
    if isinstance(model, AVRecognizer):
        return {
            "kind": "recognizer",
            "encoder": asdict(model.encoder.config),
            "decoder": asdict(model.decoder.config),
        }
    if isinstance(model, AVHubertEncoder):
        return {"kind": "encoder", "encoder": asdict(model.config)}
    raise TypeError(f"cannot describe a {type(model).__name__}")


def build(description: dict[str, Any]) -> nn.Module:
    """The inverse of `describe`, with fresh weights."""
    encoder = EncoderConfig(**description["encoder"])
    if description["kind"] == "encoder":
        return AVHubertEncoder(encoder)
    return AVRecognizer(encoder, DecoderConfig(**description["decoder"]))


def save_model(path: Path, model: nn.Module, half: bool = False) -> None:
    """Write an encoder or recogniser as `.safetensors`; `half` stores weights as float16."""
    from safetensors.torch import save

    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).contiguous()
        for name, t in model.state_dict().items()
    }
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, {METADATA_KEY: json.dumps(describe(model))}))


def load_model(path: Path | str) -> nn.Module:
    """The AVHubertEncoder or AVRecognizer of a `.safetensors`, fairseq `.pt` or s3prl `.ckpt` file.

    Weights come back as float32 on the CPU, the model in eval mode. Raises InputError if the file
    is missing, truncated, or not one of these.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found: train or convert a model first, or mend the path")
    if path.suffix == ".safetensors":
        model, state = _read_safetensors(path)
    else:
        model, state = _read_torch(path)
    _load_exactly(path, model, state)
    return model.float().eval()


def load_encoder(path: Path | str) -> AVHubertEncoder:
    """As `load_model`, but the encoder alone."""
    model = load_model(path)
    return model.encoder if isinstance(model, AVRecognizer) else model


def _read_safetensors(path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: truncated or not safetensors ({error}); copy it again") from None
    if metadata is None:
        raise InputError(f"{path}: no avhubert-ext configuration inside; convert the model first")
    return _build_from_json(path, metadata), state


def _build_from_json(path: Path, text: str) -> nn.Module:
    try:
        return build(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its configuration does not fit this version ({error!r}); convert it again"
        ) from None


class _Inert:
    """Stands in for a foreign object inside a checkpoint; holds nothing, does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Packages whose objects training leaves in checkpoints beside the tensors.
FOREIGN_PACKAGES = ("argparse.", "fairseq.", "omegaconf.", "optimizers.")


def read_torch_file(path: Path) -> dict[str, Any]:
    """A checkpoint of fairseq or s3prl, without executing anything in it.

    Objects of theirs become inert placeholders; any other class or function in the file makes it
    an InputError, and so does a truncated file.
    """
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        strange = [name for name in foreign if not name.startswith(FOREIGN_PACKAGES)]
        if strange:
            raise InputError(
                f"{path}: refused, for it would run {', '.join(strange)}; get it from a source you "
                "trust, as tensors"
            )
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything, also without a message
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: truncated or not a checkpoint ({reason}); copy it again"
        ) from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a checkpoint (holds a {type(stored).__name__})")
    return stored


def _read_torch(path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    stored = read_torch_file(path)
    if "Student" in stored:
        configuration = {"kind": "encoder", "encoder": stored.get("Student_Encoder")}
        model = _build_from_json(path, json.dumps(configuration))
        return model, strip_prefix(stored["Student"], "encoder.")
    description = (stored.get("cfg") or {}).get("model") or {}
    if not description.get("description"):
        raise InputError(f"{path}: neither a checkpoint of av_asr_seq2seq nor of distiller_av")
    model = _build_from_json(path, description["description"])
    return model, from_fairseq_names(stored["model"])


def read_masks(path: Path) -> dict[str, Tensor]:
    """The pruning masks in a checkpoint of fairseq's sparse-mask task; empty for a dense model.

    Names are the recogniser's own; bool, True = kept.
    """
    if path.suffix != ".pt":
        return {}
    return from_fairseq_names(read_torch_file(path)["extra_state"].get(SPARSE_TASK, {}))


def strip_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def from_fairseq_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A fairseq model's tensors under the recogniser's own names."""
    return {_renamed(name, FAIRSEQ_PREFIXES): tensor for name, tensor in state.items()}


def to_fairseq_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_fairseq_names`."""
    inverse = {ours: theirs for theirs, ours in FAIRSEQ_PREFIXES.items()}
    return {_renamed(name, inverse): tensor for name, tensor in state.items()}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _load_exactly(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        raise InputError(
            f"{path}: missing tensors {sorted(missing)}, unknown tensors {sorted(unknown)}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {list(tensor.shape)}, "
                f"expected {list(expected[name].shape)}"
            )
    model.load_state_dict(state)


def save_fairseq(path: Path, model: AVRecognizer) -> None:
    """Write a recogniser as a fairseq checkpoint that `fairseq-generate --path` reads."""
    state = {
        "args": None,
        "cfg": {
            "model": {"_name": "av_asr_seq2seq", "description": json.dumps(describe(model))},
            "task": {"_name": "av_asr"},
        },
        "model": to_fairseq_names(model.state_dict()),
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    # By way of memory: torch.save would write the temporary file's name into the file.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def convert(source: Path, target: Path, half: bool = False) -> str:
    """Rewrite a model file in the form that `target`'s ending names; returns a line about it."""
    model = load_model(newest_state(source) if source.is_dir() else source)
    if target.suffix == ".safetensors":
        save_model(target, model, half)
    elif target.suffix == ".pt" and isinstance(model, AVRecognizer) and not half:
        save_fairseq(target, model)
    else:
        raise InputError(
            f"{target}: expected .safetensors, or .pt for a whole recogniser in float32"
        )
    parameters = sum(p.numel() for p in model.parameters())
    return f"{target}: {type(model).__name__}, {parameters / 1e6:.2f}M parameters"


def newest_state(folder: Path) -> Path:
    """The s3prl state written last in an experiment folder."""
    states = sorted(folder.glob("states-*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise InputError(f"{folder}: no states-*.ckpt in it; distil first, or name a file")
    return states[-1]


def student_states(student: Student) -> dict[str, Any]:
    """What an s3prl state holds of a student: weights, and the configurations to rebuild it."""
    return {
        "Student": student.state_dict(),
        "Student_Encoder": asdict(student.encoder.config),
        "Student_Heads": asdict(student.heads.config),
    }


def student_from_states(states: dict[str, Any]) -> Student:
    """The inverse of `student_states`."""
    heads = states["Student_Heads"]
    student = Student(
        EncoderConfig(**states["Student_Encoder"]),
        HeadsConfig(tuple(heads["targets"]), heads["teacher_dim"]),
    )
    student.load_state_dict(states["Student"])
    return student
