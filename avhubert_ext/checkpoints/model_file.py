"""Reads and writes model files of every kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avhubert_ext.checkpoints import auto_avsr, avhubert, sparse_file
from avhubert_ext.checkpoints.description import (
    DESCRIPTION_KEY,
    RecognizerNetwork,
    build,
    build_for,
    describe,
)
from avhubert_ext.checkpoints.fairseq_file import (
    FAIRSEQ_STUDENT,
    NOTHING,
    SPARSE_TASKS,
    _fairseq_prefixes,
    _inverse,
    _renamed,
    effective_batch,
    from_fairseq_names,
)
from avhubert_ext.checkpoints.torch_file import (
    SHOWN,
    bare_names,
    check_finite,
    read_checkpoint,
    section,
    summary,
)
from avhubert_ext.compression.pruning import Masks, strip_prefix, unpack
from avhubert_ext.compression.quantization import Codebooks
from avhubert_ext.errors import InputError
from avhubert_ext.models.conformer import CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.student import Student

# What else is known of a recognizer, in safetensors' metadata and in fairseq's cfg.model:
# `effective_batch` of its training, `dictionary_digest` of its outputs' symbols, and these
# themselves as `join_symbols` writes them.
ORIGIN = ("trained_with", "dictionary", "subwords")


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
    metadata |= {DESCRIPTION_KEY: json.dumps(description), **origin}
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


def load_recognizer(
    path: Path | str, map_location: torch.device | str = "cpu"
) -> RecognizerNetwork:
    """The recognizer in a file that `load_model` reads, of either family."""
    model = load_model(path)
    if isinstance(model, AVHubertEncoder):
        raise InputError(f"{path} holds an encoder only: finetune it, or name a finetuned model")
    return model.to(map_location)


# What a reader returns: what `describe` gives or its JSON, the tensors under the file's own names
# (Auto-AVSR's already under ours), and the file's prefixes of names -> the model's.
Contents = tuple[dict[str, Any] | str, dict[str, Tensor], dict[str, str]]


def _read_safetensors(path: Path) -> Contents:
    tensors, metadata = sparse_file.read_tensors(path)
    if DESCRIPTION_KEY not in metadata:
        raise InputError(f"{path}: no avhubert-ext configuration inside; convert the model first")
    return metadata[DESCRIPTION_KEY], sparse_file.to_dense(tensors, metadata, path), {}


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


def read_origin(path: Path) -> dict[str, str]:
    """`trained_with`, `dictionary` and `subwords` of a model file, as far as it tells them.

    `find_subwords` also looks elsewhere.
    """
    if path.suffix == ".safetensors":
        _, found = sparse_file.read_tensors(path, DESCRIPTION_KEY)  # no tensor ends so
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
        _, metadata = sparse_file.read_tensors(path, DESCRIPTION_KEY)  # no tensor ends so
        found = metadata.get(DESCRIPTION_KEY, "{}")
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
