"""Official AV-HuBERT checkpoints: names, counts, exact weights, errors, and no code executed."""

import argparse
import importlib
import json
import math
import os
import struct
import subprocess
import sys
import types
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

import avhubert_ext
from avhubert_ext import load_avhubert, load_avhubert_asr
from avhubert_ext.checkpoints import avhubert
from avhubert_ext.checkpoints.conversion import convert
from avhubert_ext.checkpoints.description import build, describe
from avhubert_ext.checkpoints.model_file import load_model, read_masks, read_origin
from avhubert_ext.checkpoints.torch_file import FOREIGN_PACKAGES, FOREIGN_TYPES, read_torch_file
from avhubert_ext.cli import main
from avhubert_ext.data.text import Subwords
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig

BASE, BASE_DECODER = EncoderConfig(), DecoderConfig()
LARGE = EncoderConfig(layers=24, dim=1024, ffn=4096, heads=16)
LARGE_DECODER = DecoderConfig(layers=9, dim=1024, ffn=4096, heads=8)
TINY = EncoderConfig(
    layers=2, dim=16, ffn=24, heads=2, conv_pos=8, conv_pos_groups=4, layerdrop=0.05
)
TINY_DECODER = DecoderConfig(vocabulary=11, layers=2, dim=16, ffn=24, heads=4)

Shapes = dict[str, list[int]]


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def batch_norm(name: str, width: int) -> Shapes:
    running = {f"{name}.running_mean": [width], f"{name}.running_var": [width]}
    return norm(name, width) | running | {f"{name}.num_batches_tracked": []}


def affine(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def attention(name: str, width: int) -> Shapes:
    shapes = norm(f"{name}_layer_norm", width)
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        shapes |= affine(f"{name}.{part}", width, width)
    return shapes


def feed_forward(name: str, width: int, hidden: int) -> Shapes:
    return (
        affine(f"{name}.fc1", hidden, width)
        | affine(f"{name}.fc2", width, hidden)
        | norm(f"{name}.final_layer_norm", width)
    )


def official_encoder(c: EncoderConfig) -> Shapes:
    """Names and shapes of AV-HuBERT's encoder, from its documented layout."""
    video = "feature_extractor_video"
    shapes = affine("feature_extractor_audio.proj", c.dim, 104)
    shapes[f"{video}.resnet.frontend3D.0.weight"] = [64, 1, 5, 7, 7]
    shapes |= batch_norm(f"{video}.resnet.frontend3D.1", 64)
    shapes[f"{video}.resnet.frontend3D.2.weight"] = [64]
    inputs = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            base = f"{video}.resnet.trunk.layer{layer}.{block}"
            shapes[f"{base}.conv1.weight"] = [width, inputs, 3, 3]
            shapes[f"{base}.conv2.weight"] = [width, width, 3, 3]
            for n in (1, 2):
                shapes |= batch_norm(f"{base}.bn{n}", width)
                shapes[f"{base}.relu{n}.weight"] = [width]
            if block == 0 and layer > 1:
                shapes[f"{base}.downsample.0.weight"] = [width, inputs, 1, 1]
                shapes |= batch_norm(f"{base}.downsample.1", width)
            inputs = width
    shapes |= affine(f"{video}.proj", c.dim, 512)
    shapes |= norm("layer_norm", 2 * c.dim) | affine("post_extract_proj", c.dim, 2 * c.dim)
    shapes["encoder.pos_conv.0.bias"] = [c.dim]
    shapes["encoder.pos_conv.0.weight_g"] = [1, 1, c.conv_pos]
    shapes["encoder.pos_conv.0.weight_v"] = [c.dim, c.dim // c.conv_pos_groups, c.conv_pos]
    for layer in range(c.layers):
        base = f"encoder.layers.{layer}"
        shapes |= attention(f"{base}.self_attn", c.dim) | feed_forward(base, c.dim, c.ffn)
    return shapes | norm("encoder.layer_norm", c.dim)


def official_pretrained(c: EncoderConfig) -> Shapes:
    """A whole pretrained file, with 2000 clusters."""
    pretraining = {"mask_emb": [104], "label_embs_concat": [2004, 256]}
    return official_encoder(c) | pretraining | affine("final_proj", 256, c.dim)


def official_finetuned(c: EncoderConfig, d: DecoderConfig) -> Shapes:
    """A whole finetuned file."""
    nested = official_encoder(c) | {"mask_emb": [104], "label_embs_concat": [2004, 256]}
    shapes = {f"encoder.w2v_model.{name}": shape for name, shape in nested.items()}
    shapes["decoder.embed_tokens.weight"] = [d.vocabulary, d.dim]
    shapes["decoder.embed_positions._float_tensor"] = [1]
    for layer in range(d.layers):
        base = f"decoder.layers.{layer}"
        shapes |= attention(f"{base}.self_attn", d.dim) | attention(f"{base}.encoder_attn", d.dim)
        shapes |= feed_forward(base, d.dim, d.ffn)
    return shapes | norm("decoder.layer_norm", d.dim)


def our_name(kind: str, name: str) -> str:
    return name.replace("encoder.w2v_model.", "encoder.") if kind == avhubert.FINETUNED else name


def parameters(shapes: Shapes) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "_float_tensor")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(buffers))


@pytest.mark.parametrize(
    ("config", "decoder", "count"),
    [
        (BASE, None, 103_330_280),
        (LARGE, None, 325_398_504),
        (BASE, BASE_DECODER, 160_613_608),
        (LARGE, LARGE_DECODER, 477_332_200),
    ],
)
def test_names_shapes_and_counts_of_the_official_files(config, decoder, count):
    """The library's tensors and the unused ones are exactly those of an official file."""
    kind = avhubert.FINETUNED if decoder else avhubert.PRETRAINED
    official = official_finetuned(config, decoder) if decoder else official_pretrained(config)
    assert parameters(official) == count
    with torch.device("meta"):
        model = AVRecognizer(config, decoder) if decoder else AVHubertEncoder(config)
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    unused = avhubert.UNUSED[kind]
    assert ours == {our_name(kind, n): s for n, s in official.items() if n not in unused}
    # Finetuning takes final_proj away before it saves.
    assert {n.rpartition(".")[0] for n in unused - official.keys()} == (
        {"encoder.w2v_model.final_proj"} if decoder else set()
    )


def pretrained_config(c: EncoderConfig) -> dict[str, Any]:
    """cfg.model of a pretrained file: what AV-HuBERT's yaml files set, without defaults."""
    sizes = {
        "encoder_layers": c.layers,
        "encoder_embed_dim": c.dim,
        "encoder_ffn_embed_dim": c.ffn,
        "encoder_attention_heads": c.heads,
        "conv_pos": c.conv_pos,
        "conv_pos_groups": c.conv_pos_groups,
    }
    defaults = {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "conv_pos": 128,
        "conv_pos_groups": 16,
    }
    return {name: size for name, size in sizes.items() if size != defaults[name]} | {
        "_name": "av_hubert",
        "label_rate": 25,
        "modality_dropout": 0.5,
        "audio_dropout": 0.5,
        "modality_fuse": "concat",
        "masking_type": "input",
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.1,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "wav_input": False,
        "layer_norm_first": True,
        "audio_feat_dim": 104,
    }


def finetuned_config(c: EncoderConfig, d: DecoderConfig) -> dict[str, Any]:
    """cfg.model of a finetuned file, after misc/fix_state.py."""
    return {
        "_name": "av_hubert_seq2seq",
        "w2v_path": "/nowhere/pretrained.pt",
        "w2v_args": {"_name": None, "common": {"seed": 1}, "model": pretrained_config(c)},
        "dropout": 0.0,
        "layerdrop": 0.1,
        "decoder_layers": d.layers,
        "decoder_embed_dim": d.dim,
        "decoder_ffn_embed_dim": d.ffn,
        "decoder_attention_heads": d.heads,
        "decoder_dropout": 0.1,
        "decoder_attention_dropout": 0.0,
        "decoder_activation_dropout": 0.1,
        "share_decoder_input_output_embed": True,
        "decoder_normalize_before": True,
    }


def checkpoint(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], **others: Any
) -> dict[str, Any]:
    """The whole dict of an official file."""
    return {
        "args": None,
        "cfg": {"_name": None, "model": config, "task": {"_name": "av_hubert_pretraining"}},
        "model": tensors,
        "criterion": None,
        "optimizer_history": [{"num_updates": 1}],
        "task_state": {},
        "extra_state": {"val_loss": 1.5},
        "last_optimizer_state": None,
        **others,
    }


def zeros(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Zeros that take no memory and no space in the file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def pretrained(**changes: Any) -> dict[str, Any]:
    """A tiny pretrained file of zeros, with changes to its configuration."""
    config = pretrained_config(TINY) | changes
    return checkpoint(config, zeros(official_pretrained(TINY)))


def finetuned(**changes: Any) -> dict[str, Any]:
    """A tiny finetuned file of zeros, with changes to its configuration."""
    config = finetuned_config(TINY, TINY_DECODER) | changes
    return checkpoint(config, zeros(official_finetuned(TINY, TINY_DECODER)))


@pytest.mark.parametrize(
    ("config", "decoder"), [(BASE, None), (LARGE, None), (BASE, BASE_DECODER), (TINY, TINY_DECODER)]
)
def test_configuration_of_the_released_files(config, decoder):
    expected: dict[str, Any] = {"kind": "encoder", "encoder": asdict(config) | {"layerdrop": 0.05}}
    if decoder is None:
        found = avhubert.description(Path("x.pt"), pretrained_config(config), {})
    else:
        expected |= {"kind": "recognizer", "decoder": asdict(decoder)}
        state = zeros(official_finetuned(config, decoder))
        found = avhubert.description(Path("x.pt"), finetuned_config(config, decoder), state)
    with torch.device("meta"):
        assert describe(build(found)) == expected


def test_missing_fields_take_the_official_defaults_and_unknown_ones_are_ignored():
    """The defaults of AVHubertConfig and AVHubertSeq2SeqConfig, which are not all the library's."""
    given = {"_name": "av_hubert", "layer_norm_first": True, "color": "blue", "wav_input": False}
    found = avhubert.description(Path("x.pt"), given, {})
    assert EncoderConfig(**found["encoder"]) == EncoderConfig(dropout_input=0.0)
    given = {
        "_name": "av_hubert_seq2seq",
        "w2v_args": {"model": given},
        "max_target_positions": 2048,
    }
    found = avhubert.description(Path("x.pt"), given, {})
    assert EncoderConfig(**found["encoder"]) == EncoderConfig(dropout_input=0.0)
    assert DecoderConfig(**found["decoder"]) == DecoderConfig(dropout=0.0, activation_dropout=0.0)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """Tiny official files with the content of real ones: kind -> path, float16 tensors."""
    import sentencepiece
    from fairseq.data import Dictionary, encoders
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("official")
    (folder / "text").write_text("\n".join(f"one two three {n} four five six" for n in range(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spm"),
        vocab_size=30,
        minloglevel=2,
    )
    arguments = argparse.Namespace(bpe="sentencepiece", sentencepiece_model=f"{folder}/spm.model")
    dictionary = Dictionary()
    dictionary.add_symbol("one")
    others = {
        "args": arguments,
        "task_state": {
            "dictionaries": [dictionary],
            "target_dictionary": dictionary,
            "s2s_tokenizer": encoders.build_bpe(arguments),
        },
        "extra_state": {
            "best": np.float64(0.5),
            "epoch": np.int64(3),
            "history": np.arange(3.0),
            "conf": OmegaConf.create({"a": {"b": [1, 2.0, "x", None, True]}}),
        },
    }
    generator = torch.Generator().manual_seed(0)
    files = {}
    for kind, config, shapes in (
        (avhubert.PRETRAINED, pretrained_config(TINY), official_pretrained(TINY)),
        (
            avhubert.FINETUNED,
            finetuned_config(TINY, TINY_DECODER),
            official_finetuned(TINY, TINY_DECODER),
        ),
    ):
        tensors = {n: torch.randn(s, generator=generator).half() for n, s in shapes.items()}
        for name in tensors:
            if name.endswith("num_batches_tracked"):
                tensors[name] = torch.tensor(7)
        files[kind] = (folder / f"{kind}.pt", tensors)
        torch.save(checkpoint(config, tensors, **others), files[kind][0])
    return files


def assert_exact(
    found: dict[str, torch.Tensor], kind: str, official: dict[str, torch.Tensor]
) -> None:
    """All official tensors except the unused ones, by the library's names, in float32."""
    kept = {our_name(kind, n): t for n, t in official.items() if n not in avhubert.UNUSED[kind]}
    assert found.keys() == kept.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (torch.int64 if "tracked" in name else torch.float32)
        assert torch.equal(tensor, kept[name].to(tensor.dtype)), name


WITHOUT_TOOLKITS = """
import sys
for name in ("av_hubert", "avhubert", "fairseq", "hydra", "omegaconf", "s3prl", "sentencepiece"):
    sys.modules[name] = None
from pathlib import Path
from avhubert_ext import load_avhubert, load_avhubert_asr
from avhubert_ext.cli import main
from avhubert_ext.data.text import Subwords
from avhubert_ext.checkpoints.model_file import save_model
pretrained, finetuned, out = map(Path, sys.argv[1:])
save_model(out / "pretrained.safetensors", load_avhubert(pretrained))
save_model(out / "nested.safetensors", load_avhubert(str(finetuned)))
save_model(out / "finetuned.safetensors", load_avhubert_asr(str(finetuned)))
"""


@pytest.mark.slow
def test_exact_weights_in_a_process_without_fairseq(real, tmp_path):
    paths = [real[kind][0] for kind in (avhubert.PRETRAINED, avhubert.FINETUNED)]
    command = [sys.executable, "-c", WITHOUT_TOOLKITS, *paths, tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for kind, name in ((avhubert.PRETRAINED, "pretrained"), (avhubert.FINETUNED, "finetuned")):
        assert_exact(load_file(tmp_path / f"{name}.safetensors"), kind, real[kind][1])
    whole = load_file(tmp_path / "finetuned.safetensors")
    nested = load_file(tmp_path / "nested.safetensors")
    encoder = {n.removeprefix("encoder."): t for n, t in whole.items() if n.startswith("encoder.")}
    assert nested.keys() == encoder.keys()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in nested.items())


def test_what_comes_back(real):
    encoder = load_avhubert(real[avhubert.PRETRAINED][0])
    assert encoder.config == TINY and not encoder.training
    model = load_avhubert_asr(real[avhubert.FINETUNED][0])
    assert isinstance(model, AVRecognizer) and not model.training
    assert model.encoder.config == TINY and model.decoder.config == TINY_DECODER
    assert describe(load_avhubert(real[avhubert.FINETUNED][0])) == describe(encoder)
    tokens = torch.tensor([[2, 5, 6]])
    with torch.no_grad():
        assert model(torch.randn(1, 104, 3), None, None, tokens).shape == (1, 3, 11)


def test_map_location(real):
    path = real[avhubert.FINETUNED][0]
    for where in ("meta", torch.device("meta")):
        for load in (load_avhubert, load_avhubert_asr):
            assert {t.device.type for t in load(path, where).state_dict().values()} == {"meta"}
    assert {t.device.type for t in load_avhubert(path).state_dict().values()} == {"cpu"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (avhubert.PRETRAINED, ["a.safetensors"]),
        (avhubert.FINETUNED, ["a.safetensors", "b.pt", "c.safetensors"]),
    ],
)
def test_convert(real, tmp_path, kind, names):
    source, tensors = real[kind]
    for name in names:
        convert(source, tmp_path / name)
        source = tmp_path / name
        assert_exact(load_model(source).state_dict(), kind, tensors)
        assert describe(load_model(source)) == describe(load_model(real[kind][0]))


def test_an_official_file_has_no_masks(real):
    assert read_masks(real[avhubert.FINETUNED][0]) == {}


def test_the_subwords_of_a_finetuned_file(real, tmp_path):
    """They are written as files: a text has the same pieces, and the dictionary the same order."""
    import sentencepiece

    path = real[avhubert.FINETUNED][0]
    assert main(["data", "subwords", str(path), str(tmp_path)]) == 0
    assert (tmp_path / "dict.wrd.txt").read_text() == "one 1\n"
    expected = sentencepiece.SentencePieceProcessor(model_file=str(path.parent / "spm.model"))
    found = Subwords(tmp_path / "spm_unigram5.model")
    text = "one three 17 six"
    assert found.encode(text) == expected.encode(text, out_type=str) != []
    assert read_origin(path)["subwords"].split("\n") == ["<s>", "<pad>", "</s>", "<unk>", "one"]


def test_no_subwords_in_a_file(tmp_path, capsys):
    path = saved(finetuned(), tmp_path)
    assert main(["data", "subwords", str(path), str(tmp_path / "out")]) == 1
    assert f"{path}: no subwords in it" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_truncated(real, tmp_path, kept):
    content = real[avhubert.FINETUNED][0].read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: int(kept * len(content))])
    refused(tmp_path / "x.pt", "truncated")


def refused(path: Path, *words: str, named: Path | None = None) -> None:
    """Loading raises an InputError of one line that starts with the file's name."""
    with pytest.raises(InputError) as error:
        load_avhubert(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(named or path))
    for word in words:
        assert word in message


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "x.pt")
    return folder / "x.pt"


@pytest.mark.parametrize("content", [pretrained, finetuned])
def test_the_tiny_files_of_zeros_load(tmp_path, content):
    """The file that the tests below damage is valid."""
    load_avhubert(saved(content(), tmp_path))


def test_asr_of_an_encoder_only(tmp_path):
    with pytest.raises(InputError, match=r"x\.pt holds an encoder only: finetune it"):
        load_avhubert_asr(saved(pretrained(), tmp_path))


@pytest.mark.parametrize("prefix", ["", "encoder.w2v_model."])
def test_every_tensor_is_accounted_for(tmp_path, prefix):
    """The message lists all of them, by their names in the file."""
    content = finetuned() if prefix else pretrained()
    given = dict(content["model"])
    for name in ("zebra", "final_proj.scale", "encoder.layers.2.fc1.bias"):
        content["model"][prefix + name] = torch.zeros(3)
    names = [f"{prefix}{n}" for n in ("encoder.layers.2.fc1.bias", "final_proj.scale", "zebra")]
    refused(saved(content, tmp_path), f"missing tensors [], unknown tensors {names}")

    gone = [f"{prefix}{n}" for n in ("encoder.layers.0.fc1.bias", "layer_norm.weight")]
    content["model"] = {name: tensor for name, tensor in given.items() if name not in gone}
    refused(saved(content, tmp_path), f"missing tensors {gone}, unknown tensors []")

    content["model"] = given | {f"{prefix}post_extract_proj.bias": torch.zeros(17)}
    refused(
        saved(content, tmp_path), f"{prefix}post_extract_proj.bias has shape [17], expected [16]"
    )


def test_our_own_names_are_unknown_in_a_finetuned_file(tmp_path):
    """Otherwise a tensor could be in a file twice, and one of the two would be lost."""
    content = finetuned()
    bias = content["model"]["encoder.w2v_model.layer_norm.bias"]
    content["model"]["encoder.layer_norm.bias"] = bias
    refused(saved(content, tmp_path), "unknown tensors ['encoder.layer_norm.bias']")


def test_the_decoder_is_accounted_for(tmp_path):
    content = finetuned()
    content["model"]["decoder.embed_out"] = torch.zeros(11, 16)
    refused(saved(content, tmp_path), "unknown tensors ['decoder.embed_out']")
    content = finetuned()
    del content["model"]["decoder.embed_tokens.weight"]
    refused(saved(content, tmp_path), "missing tensors ['decoder.embed_tokens.weight']")
    content["model"]["decoder.embed_tokens.weight"] = torch.zeros(())
    refused(saved(content, tmp_path), "decoder.embed_tokens.weight has shape []")
    content = finetuned()
    del content["model"]["decoder.embed_positions._float_tensor"]  # fairseq 0.12 has none
    load_avhubert_asr(saved(content, tmp_path))


ENCODERS_WE_DO_NOT_HAVE = {
    "layer_norm_first": False,
    "activation_fn": "relu",
    "resnet_relu_type": "relu",
    "modality_fuse": "add",
    "sub_encoder_layers": 1,
    "audio_feat_dim": 26,
}
DECODERS_WE_DO_NOT_HAVE = {
    "no_scale_embedding": False,
    "decoder_learned_pos": True,
    "no_token_positional_embeddings": True,
}


@pytest.mark.parametrize(("field", "value"), ENCODERS_WE_DO_NOT_HAVE.items())
def test_encoder_parts_we_do_not_have(tmp_path, field, value):
    words = (f"{field} is {value!r}", "use a checkpoint")
    refused(saved(pretrained(**{field: value}), tmp_path), *words)
    inside = {"model": pretrained_config(TINY) | {field: value}}
    refused(saved(finetuned(w2v_args=inside), tmp_path), *words)


@pytest.mark.parametrize(("field", "value"), DECODERS_WE_DO_NOT_HAVE.items())
def test_decoder_parts_we_do_not_have(tmp_path, field, value):
    path = saved(finetuned(**{field: value}), tmp_path)
    refused(path, f"{field} is {value!r}", "use a checkpoint")


def test_every_part_is_tested():
    assert avhubert.ENCODER_PARTS.keys() == {"_name", *ENCODERS_WE_DO_NOT_HAVE}
    assert avhubert.DECODER_PARTS.keys() == DECODERS_WE_DO_NOT_HAVE.keys()


def test_official_defaults_that_we_do_not_have_are_refused(tmp_path):
    content = pretrained()
    del content["cfg"]["model"]["layer_norm_first"]
    refused(saved(content, tmp_path), "layer_norm_first is False")


@pytest.mark.parametrize("value", ["12", None, 12.5, [12], argparse.Namespace()])
def test_fields_that_are_no_numbers(tmp_path, value):
    refused(saved(pretrained(encoder_layers=value), tmp_path), "encoder_layers is", "a number")


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_attention_heads": 3},
        {"encoder_attention_heads": 0},
        {"encoder_embed_dim": -16},
        {"conv_pos_groups": 0},
        {"dropout": 1.5},
        {"encoder_layerdrop": 7.0},
        {"attention_dropout": math.nan},
        {"conv_pos": 0},
        {"encoder_layers": 10**9},  # building them would never end
    ],
)
def test_numbers_that_build_no_network(tmp_path, changes):
    refused(saved(pretrained(**changes), tmp_path), "its configuration does not fit")


def test_a_decoder_of_another_width(tmp_path):
    refused(saved(finetuned(decoder_embed_dim=32), tmp_path), "'bridge.weight'")


@pytest.mark.parametrize("name", ["av_hubert_ctc", "hubert", None, ["av_hubert"]])
def test_other_models(tmp_path, name):
    refused(saved(pretrained(_name=name), tmp_path), "not a checkpoint of av_hubert,")


ODD_TENSORS = {
    "sparse": torch.zeros(16).to_sparse(),
    "meta": torch.zeros(16, device="meta"),
    "complex": torch.zeros(16, dtype=torch.complex64),
    "quantized": torch.quantize_per_tensor(torch.zeros(16), 1.0, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_tensors_that_are_not_plain(tmp_path, kind):
    content = pretrained()
    content["model"]["encoder.layer_norm.bias"] = ODD_TENSORS[kind]
    with pytest.raises(InputError, match=r"x\.pt: "):
        load_avhubert(saved(content, tmp_path))


def test_fields_that_are_tensors_or_too_long(tmp_path):
    refused(saved(pretrained(layer_norm_first=torch.zeros(3)), tmp_path), "layer_norm_first is")
    content = finetuned(w2v_args=None, w2v_path="a" * 5000)
    refused(saved(content, tmp_path), "encoder's configuration (w2v_args) is missing")


def test_loading_does_not_move_the_callers_random_numbers(tmp_path):
    path = saved(finetuned(), tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_avhubert_asr(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weights", [None, [], {"x": 1}, {1: torch.zeros(1)}])
def test_weights_that_are_none(tmp_path, weights):
    refused(
        saved(checkpoint(pretrained_config(TINY), weights), tmp_path), "not a dict of plain tensors"
    )


@pytest.mark.parametrize("cfg", [None, {}, {"model": None}, argparse.Namespace(model={})])
def test_configurations_that_are_none(tmp_path, cfg):
    refused(saved(checkpoint({}, {}, cfg=cfg), tmp_path), "not a checkpoint of av_hubert,")


@pytest.mark.parametrize("given", [None, {}, {"model": {}}, argparse.Namespace(model=1)])
def test_without_w2v_args_the_pretrained_file_is_read(tmp_path, given):
    path = tmp_path / "pretrained.pt"
    content = finetuned(w2v_args=given, w2v_path=str(path))
    refused(saved(content, tmp_path), "misc/fix_state.py", f"checkpoint at {path}")
    torch.save(pretrained(), path)
    assert load_avhubert_asr(saved(content, tmp_path)).encoder.config == TINY
    torch.save(pretrained(modality_fuse="add"), path)
    refused(tmp_path / "x.pt", "modality_fuse is 'add'", named=path)
    torch.save(finetuned(), path)
    refused(tmp_path / "x.pt", "_name is 'av_hubert_seq2seq'", named=path)
    path.write_bytes(b"")
    refused(tmp_path / "x.pt", "truncated", named=path)


@pytest.mark.parametrize("given", [None, 3, "???"])
def test_neither_w2v_args_nor_a_path(tmp_path, given):
    content = finetuned(w2v_path=given)
    del content["cfg"]["model"]["w2v_args"]
    refused(saved(content, tmp_path), "misc/fix_state.py")


def with_call(path: Path, module: str, name: str, argument: str) -> Path:
    """A pretrained file whose pickle calls module.name(argument)."""
    mark = "the call goes here"
    torch.save(pretrained() | {"extra_state": {"x": mark}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {item: archive.read(item) for item in archive.namelist()}
    pickled = next(item for item in records if item.endswith("data.pkl"))

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    call = b"c" + f"{module}\n{name}\n".encode() + text(argument) + b"\x85R"  # tuple of 1, reduce
    assert records[pickled].count(text(mark)) == 1
    records[pickled] = records[pickled].replace(text(mark), call)
    with zipfile.ZipFile(path, "w") as archive:
        for item, content in records.items():
            archive.writestr(item, content)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", ".deep"])
@pytest.mark.parametrize("package", sorted(FOREIGN_PACKAGES))
def test_a_call_below_an_allowed_package_does_not_run(tmp_path, monkeypatch, package, inside):
    """There is neither a call nor an import; plain unpickling of the same file does both."""
    module = sys.modules.get(package) or types.ModuleType(package)
    monkeypatch.setitem(sys.modules, package, module)
    if inside:
        module = types.ModuleType(package + inside)
        monkeypatch.setitem(sys.modules, package + inside, module)
    monkeypatch.setattr(module, "detonate", os.system, raising=False)
    marker = tmp_path / "marker"
    path = with_call(tmp_path / "x.pt", package + inside, "detonate", f"touch {marker}")
    load_avhubert(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_what_the_process_allows_for_others_does_not_run_either(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    monkeypatch.setattr(argparse, "detonate", os.system, raising=False)
    path = with_call(tmp_path / "x.pt", "argparse", "detonate", f"touch {marker}")
    permission = (os.system, "argparse.detonate")
    with torch.serialization.safe_globals([permission]):
        before = set(torch.serialization.get_safe_globals())
        load_avhubert(path)
        assert not marker.exists()
        with pytest.raises(InputError):
            read_torch_file(with_call(tmp_path / "y.pt", "os", "getcwd", ""))
        assert set(torch.serialization.get_safe_globals()) == before
        torch.load(path, weights_only=True)
        assert marker.exists()


def test_allowed_types_are_types_without_side_effects():
    for name in FOREIGN_TYPES:
        module, _, short = name.partition(".")
        assert isinstance(getattr(importlib.import_module(module), short), type) or "Any" in name


@pytest.mark.parametrize(
    ("module", "name", "shown"),
    [
        ("os", "system", "os.system"),
        ("posix", "system", "posix.system"),
        ("subprocess", "getoutput", "subprocess.getoutput"),
        ("builtins", "eval", "builtins.eval"),
        ("__builtin__", "eval", "builtins.eval"),  # as Python 2 wrote it
        ("builtins", "getattr", "builtins.getattr"),
        ("builtins", "__import__", "builtins.__import__"),
        ("builtins", "int.__new__", "builtins.int.__new__"),
        ("operator", "attrgetter", "operator.attrgetter"),
        ("functools", "partial", "functools.partial"),
        ("typing", "get_type_hints", "typing.get_type_hints"),
        ("torch", "load", "torch.load"),
        ("fairseq_other", "x", "fairseq_other.x"),
        ("avhubert_ext.errors", "InputError", "avhubert_ext.errors.InputError"),
        ("", "fairseq", ".fairseq"),
    ],
)
def test_any_other_call_is_refused_by_name(tmp_path, module, name, shown):
    marker = tmp_path / "marker"
    path = with_call(tmp_path / "x.pt", module, name, f"touch {marker}")
    refused(path, f"it names {shown},")
    assert not marker.exists()


@pytest.mark.slow
def test_the_package_is_instant_and_shows_its_names():
    code = (
        "import json, sys, avhubert_ext\n"
        "shown = [dir(avhubert_ext), 'torch' in sys.modules]\n"
        "from avhubert_ext import load_avhubert\n"
        "print(json.dumps([*shown, load_avhubert.__name__, 'torch' in sys.modules]))\n"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names, early, name, late = json.loads(output)
    assert set(avhubert_ext.__all__) <= set(names)
    assert (early, name, late) == (False, "load_avhubert", True)


def test_public_names():
    assert avhubert_ext.AVHubertEncoder is AVHubertEncoder
    assert set(avhubert_ext.__all__) == {*avhubert_ext._MODULES, "InputError", "__version__"}
    with pytest.raises(
        AttributeError, match="module 'avhubert_ext' has no attribute 'load_hubert'"
    ):
        avhubert_ext.load_hubert  # noqa: B018
    with pytest.raises(ImportError):
        from avhubert_ext import load_hubert  # noqa: F401
