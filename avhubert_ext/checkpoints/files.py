"""One file a model: safetensors with the configuration in its metadata; no pickles.

Also reads what training leaves behind, fairseq checkpoints and s3prl states, and the checkpoints
of the official AV-HuBERT and of Auto-AVSR.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from avhubert_ext.checkpoints import auto_avsr, avhubert, sparse_file
from avhubert_ext.checkpoints.torch_file import (
    SHOWN,
    bare_names,
    check_finite,
    read_torch_file,
    section,
    summary,
    unwrapped,
)
from avhubert_ext.compression.pruning import Masks, pack, unpack
from avhubert_ext.compression.quantization import Codebooks
from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.student import HeadsConfig, Student

METADATA_KEY = "avhubert_ext"
Recognizer = AVRecognizer | CTCAttentionRecognizer

# What else is known of a recognizer, in safetensors' metadata and in fairseq's cfg.model:
# `effective_batch` of its training, `dictionary_digest` of its outputs' symbols, and these
# themselves as `join_symbols` writes them.
ORIGIN = ("trained_with", "dictionary", "subwords")
NOTHING: Mapping[str, str] = MappingProxyType({})

# The names of fairseq's models.
FAIRSEQ_ASR = "av_asr_seq2seq"
FAIRSEQ_STUDENT = "av_student"
FAIRSEQ_VSR = "vsr_ctc_attention"
# The class of each one's sparse-mask task, under whose name a checkpoint stores the masks.
SPARSE_TASKS = {
    FAIRSEQ_ASR: "SparseASRTask",
    FAIRSEQ_STUDENT: "SparseDistillationTask",
    FAIRSEQ_VSR: "SparseVSRTask",
}
# Their prefixes of names -> ours. The first nests the parts of a recognizer in fairseq's encoder
# and decoder classes, the others hold the library's model whole.
FAIRSEQ_PREFIXES = {
    FAIRSEQ_ASR: {
        "encoder.w2v_model.": "encoder.",
        "encoder.bridge.": "bridge.",
        "decoder.network.": "decoder.",
    },
    FAIRSEQ_STUDENT: {"student.": ""},
    FAIRSEQ_VSR: {"recognizer.": ""},
}


def describe(model: nn.Module) -> dict[str, Any]:
    """The configuration that rebuilds an encoder, recognizer or student."""
    if isinstance(model, Recognizer):
        return {
            "kind": "recognizer" if isinstance(model, AVRecognizer) else "ctc_attention",
            "encoder": asdict(model.encoder.config),
            "decoder": asdict(model.decoder.config),
        }
    if isinstance(model, AVHubertEncoder):
        return {"kind": "encoder", "encoder": asdict(model.config)}
    if isinstance(model, Student):
        return {
            "kind": "student",
            "encoder": asdict(model.encoder.config),
            "heads": asdict(model.heads.config),
        }
    raise InputError(f"a {type(model).__name__} is not a model that can be stored")


def build(description: dict[str, Any]) -> nn.Module:
    """The inverse of `describe`, with fresh weights."""
    if description["kind"] == "ctc_attention":
        return CTCAttentionRecognizer(
            ConformerConfig(**description["encoder"]), DecoderConfig(**description["decoder"])
        )
    encoder = EncoderConfig(**description["encoder"])
    if description["kind"] == "encoder":
        return AVHubertEncoder(encoder)
    if description["kind"] == "student":
        heads = description["heads"]
        return Student(encoder, HeadsConfig(tuple(heads["targets"]), heads["teacher_dim"]))
    return AVRecognizer(encoder, DecoderConfig(**description["decoder"]))


def save_model(
    path: Path,
    model: nn.Module,
    half: bool = False,
    origin: Mapping[str, str] = NOTHING,
    masks: Masks = NOTHING,
    codebooks: Codebooks = NOTHING,
) -> None:
    """Write an encoder or recognizer as `.safetensors`; `half` stores weights as float16.

    origin: as `read_origin` gives it. masks: of a pruned model, which is stored without its zeros
    (`checkpoints/sparse_file.py`). codebooks: of a model that is on them (`quantize`), which is
    stored in a byte a weight. Raises InputError if its tensors are not those of its
    configuration, as after `fuse`.
    """
    if isinstance(model, Student):
        raise InputError(f"{path}: a student is not stored whole: store its encoder")
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).contiguous()
        for name, t in model.state_dict().items()
    }
    description = describe(model)
    with torch.device("meta"):
        expected = build(description).state_dict()
    if tensors.keys() != expected.keys():
        raise InputError(
            f"{path}: a changed model, fused or other, cannot be saved; save the original"
        )
    tensors, metadata = sparse_file.to_sparse(tensors, masks, codebooks)
    metadata |= {METADATA_KEY: json.dumps(description), **origin}
    metadata[sparse_file.SEAL] = sparse_file.seal(tensors, metadata)
    sparse_file.write_tensors(path, tensors, metadata)


def load_model(path: Path | str) -> nn.Module:
    """The AVHubertEncoder, AVRecognizer or CTCAttentionRecognizer in a file of any kind.

    `.safetensors` of this project; fairseq `.pt` of this project or of the official AV-HuBERT,
    pretrained or finetuned; s3prl `.ckpt`; `.pth` of Auto-AVSR. A student's prediction heads are
    dropped. Weights come back as float32 on the CPU, the model in eval mode. Raises InputError if
    the file is missing, truncated, none of these, or does not hold exactly the network's tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found: train or convert a model first, or correct the path")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    description, state, prefixes = read(path)
    model = build_for(path, description, len(state))
    _load_exactly(path, model, state, prefixes)
    return (model.encoder if isinstance(model, Student) else model).eval()


def load_avhubert(path: Path | str, map_location: torch.device | str = "cpu") -> AVHubertEncoder:
    """The encoder in a file that `load_model` reads, without the decoder if it has one.

    InputError for one of Auto-AVSR's family, whose encoder takes other inputs.
    """
    model = load_model(path)
    if isinstance(model, CTCAttentionRecognizer):
        raise InputError(f"{path} holds a CTC/attention recognizer: load it with load_auto_avsr")
    encoder = model.encoder if isinstance(model, AVRecognizer) else model
    return encoder.to(map_location)


def load_avhubert_asr(path: Path | str, map_location: torch.device | str = "cpu") -> AVRecognizer:
    """The encoder and decoder in a file that `load_model` reads; InputError without a decoder."""
    model = load_recognizer(path, map_location)
    if isinstance(model, CTCAttentionRecognizer):
        raise InputError(f"{path} holds a CTC/attention recognizer: load it with load_auto_avsr")
    return model


def load_auto_avsr(
    path: Path | str, map_location: torch.device | str = "cpu", mask_padding: bool | None = None
) -> CTCAttentionRecognizer:
    """A CTC/attention recognizer in a file that `load_model` reads, Auto-AVSR's own for one.

    mask_padding: False lets padding leak into the clips of a batch, as in Auto-AVSR's own code;
        None is what the file says, True for Auto-AVSR's own.
    """
    model = load_model(path)
    if not isinstance(model, CTCAttentionRecognizer):
        raise InputError(f"{path} holds no CTC/attention recognizer: name another file")
    if mask_padding is not None:
        model.set_mask_padding(mask_padding)
    return model.to(map_location)


def load_recognizer(path: Path | str, map_location: torch.device | str = "cpu") -> Recognizer:
    """The recognizer in a file that `load_model` reads, of either family."""
    model = load_model(path)
    if isinstance(model, AVHubertEncoder):
        raise InputError(f"{path} holds an encoder only: finetune it, or name a finetuned model")
    return model.to(map_location)


def choose_device(device: str) -> str:
    """The device itself, or for `auto` the first CUDA GPU, or the CPU if there is none.

    Raises InputError for a device that PyTorch does not have here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device '{device}': PyTorch does not have it here; use auto, cpu, cuda, cuda:N, or mps"
        ) from None
    return device


# What a reader returns: what `describe` gives or its JSON, the tensors under the file's own names
# (Auto-AVSR's already under ours), and the file's prefixes of names -> the model's.
Contents = tuple[dict[str, Any] | str, dict[str, Tensor], dict[str, str]]


def _read_safetensors(path: Path) -> Contents:
    tensors, metadata = sparse_file.read_tensors(path)
    if METADATA_KEY not in metadata:
        raise InputError(f"{path}: no avhubert-ext configuration inside; convert the model first")
    return metadata[METADATA_KEY], sparse_file.to_dense(tensors, metadata, path), {}


def _read_torch(path: Path) -> Contents:
    stored = read_checkpoint(path)
    if "Student" in stored:
        return stored.get("Student_Description"), _tensors(path, stored["Student"]), {}
    config = section(stored, "cfg", "model")
    if config.get("_name") in (avhubert.PRETRAINED, avhubert.FINETUNED):
        state = _tensors(path, stored.get("model"))
        unused, prefixes = avhubert.UNUSED[config["_name"]], avhubert.PREFIXES[config["_name"]]
        used = {n: t for n, t in state.items() if n not in unused}
        return avhubert.description(path, config, state), used, prefixes
    if (peer := auto_avsr.tensors_of(stored)) is not None:
        state = auto_avsr.renamed(_tensors(path, peer))
        return auto_avsr.description(path, state), state, {}
    if config.get("description"):
        state = _tensors(path, stored.get("model"))
        return config["description"], state, _fairseq_prefixes(str(config.get("_name")))
    raise InputError(
        f"{path}: not a checkpoint of av_hubert, av_hubert_seq2seq, av_asr_seq2seq, av_student, "
        "vsr_ctc_attention, distiller_av or Auto-AVSR, with the configuration of its network; it "
        f"holds {summary(stored)}; name the file that training wrote"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """As `read_torch_file`, without known wrappers."""
    return unwrapped(read_torch_file(path))


def build_for(path: Path, description: dict[str, Any] | str, tensors: int) -> nn.Module:
    """`build`, without weights, of a description found in a file that holds so many tensors."""
    try:
        found = json.loads(description) if isinstance(description, str) else description
        for part in ("encoder", "decoder"):
            layers = found.get(part, {}).get("layers", 0)
            if layers > tensors:  # building them might never end
                raise InputError(f"{layers} {part} layers, but {tensors} tensors")
        with torch.device("meta"):
            return build(found)
    except Exception as error:  # a configuration can be wrong in any way
        reason = error if isinstance(error, InputError) else repr(error)
        raise InputError(
            f"{path}: its configuration does not fit this version ({reason}); convert it again, "
            "or copy it again"
        ) from None


def _tensors(path: Path, state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise InputError(f"{path}: its weights are not a dict of plain tensors; copy it again")
    return bare_names(state)


def _is_plain(tensor: object) -> bool:
    """Whether it is a tensor with real numbers in memory, not sparse, nested, quantized or meta."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex())
    )


def effective_batch(config: Mapping[str, Any]) -> str:
    """On how much an update of a fairseq training rested, from the `cfg` in its checkpoint.

    As `800 frames x 2 batches x 8 processes = 12800 frames`; unknown for files without it.
    """
    model, dataset, optimization, distributed = (
        part if isinstance(part := config.get(name), Mapping) else {}
        for name in ("model", "dataset", "optimization", "distributed_training")
    )
    update_freq = optimization.get("update_freq")
    unit = "frames" if dataset.get("max_tokens") else "utterances"
    size = dataset.get("max_tokens") or dataset.get("batch_size")
    if not size or not update_freq:
        return model.get("trained_with") or "unknown"
    try:
        batches, processes = int(update_freq[0]), int(distributed.get("distributed_world_size", 1))
        total = int(size) * batches * processes
    except (TypeError, ValueError, IndexError):
        return "unknown"
    return f"{size} {unit} x {batches} batches x {processes} processes = {total} {unit}"


def read_origin(path: Path) -> dict[str, str]:
    """`trained_with`, `dictionary` and `subwords` of a model file, as far as it tells them.

    `find_subwords` also looks elsewhere.
    """
    if path.suffix == ".safetensors":
        _, found = sparse_file.read_tensors(path, METADATA_KEY)  # no tensor ends so
    else:
        stored = read_checkpoint(path)
        config = section(stored, "cfg")
        found = section(config, "model") | {"trained_with": effective_batch(config)}
        if found.get("_name") == avhubert.FINETUNED:
            found |= avhubert.dictionary(section(stored, "task_state"))
    return {key: str(found[key]) for key in ORIGIN if found.get(key) not in (None, "unknown")}


def read_description(path: Path) -> dict[str, Any]:
    """What `describe` gives of the model in a file that `load_model` reads."""
    if path.suffix == ".safetensors":
        _, metadata = sparse_file.read_tensors(path, METADATA_KEY)  # no tensor ends so
        found = metadata.get(METADATA_KEY, "{}")
    else:
        found, _, _ = _read_torch(path)
    try:
        found = json.loads(found) if isinstance(found, str) else dict(found)
        return found | {}  # TypeError for JSON that is no object
    except (ValueError, TypeError):
        raise InputError(f"{path}: its configuration is damaged; copy it again") from None


def read_masks(path: Path, whole_student: bool = False) -> Masks:
    """The pruning masks in a mask file, a pruned model, or a checkpoint of a sparse-mask task.

    Names are those of the model that `load_model` gives; bool, True = kept. Empty for a dense
    model, and for one whose pruned weights may grow again (PARP before its end). whole_student:
    those of a student in training, with the heads that `load_model` drops. Raises InputError if
    the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: correct the path")
    if path.suffix == ".safetensors":
        return sparse_file.read_masks(path)
    if path.suffix != ".pt":
        return {}
    stored = read_checkpoint(path)
    name = str(section(stored, "cfg", "model").get("_name"))
    found = section(stored, "extra_state", SPARSE_TASKS.get(name, ""))
    if not found.get("frozen"):
        return {}
    masks = from_fairseq_names(unpack(section(found, "masks"), path), name)
    if name == FAIRSEQ_STUDENT and not whole_student:
        return strip_prefix(masks, "encoder.")
    return masks


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _fairseq_prefixes(model: str | None) -> dict[str, str]:
    """Of one of fairseq's models; without its name, of the first."""
    return FAIRSEQ_PREFIXES.get(model, FAIRSEQ_PREFIXES[FAIRSEQ_ASR])


def from_fairseq_names(
    state: dict[str, Tensor], model: str | None = FAIRSEQ_ASR
) -> dict[str, Tensor]:
    """The tensors of one of fairseq's models under the library's own names."""
    return {_renamed(name, _fairseq_prefixes(model)): tensor for name, tensor in state.items()}


def to_fairseq_names(state: dict[str, Tensor], model: str = FAIRSEQ_ASR) -> dict[str, Tensor]:
    """The inverse of `from_fairseq_names`."""
    prefixes = _inverse(_fairseq_prefixes(model))
    return {_renamed(name, prefixes): tensor for name, tensor in state.items()}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _inverse(prefixes: dict[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in prefixes.items()}


def _load_exactly(
    path: Path, model: nn.Module, state: dict[str, Tensor], prefixes: dict[str, str]
) -> None:
    """Give a model on the meta device its weights, float32 on the CPU, from tensors under the
    file's names; InputError lists what is missing or too many."""
    own = model.state_dict()
    names = {_renamed(name, _inverse(prefixes)): name for name in own}  # the file's -> the model's
    missing, unknown = names.keys() - state.keys(), state.keys() - names.keys()
    if missing or unknown:
        raise InputError(
            f"{path}: missing tensors {_some(missing)}, unknown tensors {_some(unknown)}; "
            "copy it again, or name another file"
        )
    for name, tensor in state.items():
        expected = own[names[name]]
        if tensor.shape != expected.shape:
            raise InputError(
                f"{path}: {name} has shape {list(tensor.shape)}, expected {list(expected.shape)}; "
                "copy it again, or name another file"
            )
    check_finite(path, state)
    model.to_empty(device="cpu").load_state_dict({names[n]: t for n, t in state.items()})


def _some(names: set[str]) -> str:
    """The first names, and how many more there are."""
    shown = sorted(names)[:SHOWN]
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else f"{shown}"


def fairseq_state(
    model: Recognizer, origin: Mapping[str, str] = NOTHING, masks: Masks = NOTHING
) -> dict[str, Any]:
    """A recognizer, perhaps pruned, as the content of a fairseq checkpoint."""
    lip_reader = isinstance(model, CTCAttentionRecognizer)
    name, task = (FAIRSEQ_VSR, "vsr") if lip_reader else (FAIRSEQ_ASR, "av_asr")
    sparse = {}
    if masks:
        packed = pack(to_fairseq_names(masks, name))
        sparse = {SPARSE_TASKS[name]: {"masks": packed, "frozen": True}}
    return {
        "args": None,
        "cfg": {
            "model": {"_name": name, "description": json.dumps(describe(model)), **origin},
            "task": {"_name": task},
        },
        "model": to_fairseq_names(model.state_dict(), name),
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
        ],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, **sparse},
    }


def save_fairseq(
    path: Path, model: Recognizer, origin: Mapping[str, str] = NOTHING, masks: Masks = NOTHING
) -> None:
    """Write a recognizer as a fairseq checkpoint that `fairseq-generate --path` reads."""
    # By way of memory: torch.save would write the temporary file's name into the file.
    buffer = io.BytesIO()
    torch.save(fairseq_state(model, origin, masks), buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def newest_state(folder: Path) -> Path:
    """The s3prl state of the last step in an experiment folder.

    By name, `states-STEP.ckpt`, for copies keep no times; `states-epoch-EPOCH.ckpt` ends a run.
    """

    def step(path: Path) -> tuple[bool, int]:
        number = path.stem.rpartition("-")[2]
        return "-epoch-" in path.name, int(number) if number.isdigit() else -1

    states = sorted(folder.glob("states-*.ckpt"), key=step)
    if not states:
        raise InputError(f"{folder}: no states-*.ckpt in it; distill first, or name a file")
    return states[-1]


def student_states(student: Student) -> dict[str, Any]:
    """What an s3prl state holds of a student: weights, and the configuration to rebuild it."""
    return {
        "Student": student.state_dict(),
        "Student_Description": json.dumps(describe(student)),
    }
