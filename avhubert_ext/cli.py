"""`avhubert-ext`: the command line of the library.

Every command is a function that imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avhubert_ext.errors import InputError


def _synth(args: argparse.Namespace) -> None:
    from avhubert_ext.synth.corpus import synthesize

    synthesize(
        args.out,
        speakers=args.speakers,
        utterances=args.utterances,
        seed=args.seed,
        domain=args.domain,
        workers=args.workers,
    )


def _add_synth(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "synth", _synth, "make the embedded corpus: speech, lips and noise")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, LRS3 layout")
    parser.add_argument("--speakers", type=int, default=10, help="every fifth is a test speaker")
    parser.add_argument("--utterances", type=int, default=20, help="utterances per speaker")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same corpus")
    parser.add_argument(
        "--domain",
        choices=("commands", "open"),
        default="commands",
        help="commands: a GRID-like grammar; open: sentences from an open word list",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def _prepare(args: argparse.Namespace) -> None:
    from avhubert_ext.data.prepare import prepare
    from avhubert_ext.data.text import SubwordConfig

    counts = prepare(
        args.corpus,
        args.out,
        SubwordConfig(args.subwords, args.vocabulary, args.reuse_subwords),
        args.valid_fraction,
        args.workers,
    )
    print(", ".join(f"{name}: {count} utterances" for name, count in counts.items()))


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "prepare", _prepare, "LRS3-layout corpus -> AV-HuBERT manifests")
    parser.add_argument("--corpus", type=Path, required=True, help="with trainval/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="manifest folder to write")
    parser.add_argument(
        "--subwords", choices=("unigram", "bpe"), default="unigram", help="sentencepiece model type"
    )
    parser.add_argument("--vocabulary", type=int, default=1000, help="subwords, specials included")
    parser.add_argument(
        "--reuse-subwords", type=Path, help="take spm_*.model and dict.wrd.txt from this folder"
    )
    parser.add_argument(
        "--valid-fraction", type=float, default=0.05, help="of trainval speakers, for validation"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def _noise(args: argparse.Namespace) -> None:
    from avhubert_ext.data.prepare_noise import prepare_noise

    prepare_noise(args.musan, args.out, args.seed, args.manifests)
    print(f"noise manifests written to {args.out}")


def _add_noise(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "noise", _noise, "MUSAN -> babble, music, noise, talker lists")
    parser.add_argument("--musan", type=Path, required=True, help="with speech/ music/ noise/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--manifests", type=Path, help="a corpus from `prepare`, for a second talker as noise"
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same babble")


def _noise_preview(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.noise_preview import noise_preview

    noise_preview(args.video, args.out, args.frame, args.seed)
    print(f"written: {args.out}")


def _add_noise_preview(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "noise-preview", _noise_preview, "picture of a frame in all visual noise"
    )
    parser.add_argument("--video", type=Path, required=True, help="a clip of the mouth region")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--frame", type=int, help="from 0; without it the middle one")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same noise")


def _convert(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import convert

    print(convert(args.input, args.output, half=args.half))


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "convert", _convert, "convert models between safetensors, fairseq and s3prl files"
    )
    parser.add_argument(
        "input", type=Path, help=".pt, .safetensors, s3prl .ckpt or folder, Auto-AVSR .pth"
    )
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")


def _subwords(args: argparse.Namespace) -> None:
    from avhubert_ext.data.text import write_subwords
    from avhubert_ext.models import auto_avsr, avhubert

    if args.source.suffix == ".txt":
        pieces, model = auto_avsr.subwords(args.source, args.sentencepiece)
    else:
        pieces, model = avhubert.subwords(args.source)
    write_subwords(pieces, model, args.out)
    print(f"{len(pieces)} subwords written to {args.out}")


def _add_subwords(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "subwords", _subwords, "take the subwords of a finetuned AV-HuBERT or Auto-AVSR"
    )
    parser.add_argument(
        "source",
        type=Path,
        help="finetuned checkpoint of AV-HuBERT, or Auto-AVSR's unigram5000_units.txt",
    )
    parser.add_argument("out", type=Path, help="folder to write, for `prepare --reuse-subwords`")
    parser.add_argument(
        "--sentencepiece", type=Path, metavar="MODEL", help="beside units: unigram5000.model"
    )


def _average(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import average

    print(average(args.inputs, args.output))


def _add_average(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "average", _average, "mean of the weights of several checkpoints")
    parser.add_argument("inputs", type=Path, nargs="+", help="checkpoints of one run, two or more")
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")


def _init(args: argparse.Namespace) -> None:
    from avhubert_ext.models.start import start_file

    print(
        start_file(
            args.network,
            args.output,
            args.data,
            args.modality,
            args.frontend_checkpoint,
            args.recognizer_checkpoint,
            args.seed,
        )
    )


def _add_init(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "init", _init, "the file that a lip reader's training starts from")
    parser.add_argument("network", help="base-s, base-l, tiny, tiny-s")
    parser.add_argument("output", type=Path, help=".safetensors")
    parser.add_argument("--data", type=Path, required=True, help="manifest folder: its subwords")
    parser.add_argument("--modality", choices=("video", "audio", "both"), default="video")
    parser.add_argument("--frontend-checkpoint", type=Path, help="of an LRW recogniser, Auto-AVSR")
    parser.add_argument(
        "--recognizer-checkpoint", type=Path, help="all but what belongs to its subwords"
    )
    parser.add_argument("--seed", type=int, default=1)


def _prune(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import prune

    print(prune(args.input, args.output, args.sparsity, args.weights))


def _add_prune(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "prune", _prune, "prune a model, the smallest weights of all")
    parser.add_argument(
        "input", type=Path, help="model whose weights are ranked; what it lacks stays pruned"
    )
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")
    parser.add_argument(
        "--sparsity", type=float, required=True, help="of the prunable weights, in [0, 1)"
    )
    parser.add_argument(
        "--weights", type=Path, help="checkpoint that the kept weights are rewound to"
    )


def _export_sparse(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import export_sparse

    print(export_sparse(args.input, args.output, args.codebook))


def _add_export_sparse(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "export-sparse", _export_sparse, "store a pruned model small, or one in 8 bits"
    )
    parser.add_argument("input", type=Path, help="a pruned model; a dense one with --codebook")
    parser.add_argument("output", type=Path, help=".safetensors")
    parser.add_argument(
        "--codebook",
        action="store_true",
        help="a byte a weight: codebooks of 256 values a tensor, by k-means",
    )


def _sparse_report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.sparse_report import sparse_report

    print(sparse_report(args.model, args.out))
    if args.out:
        print(f"\nwritten: {args.out}/sparsity.csv, .json, .png")


def _add_sparse_report(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "sparse-report", _sparse_report, "where the pruned weights of a model are"
    )
    parser.add_argument("model", type=Path, help="a pruned model of any kind, or a mask")
    parser.add_argument("--out", type=Path, help="folder for CSV, JSON and a heat map")


def _complexity(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from avhubert_ext.evaluation.complexity import checkpoint_cost, preset_cost, text_table
    from avhubert_ext.models.presets import TABLE_1

    if args.checkpoint:
        costs = [checkpoint_cost(path) for path in args.checkpoint]
    else:
        costs = [preset_cost(name) for name in args.preset or TABLE_1]
    print(
        json.dumps([asdict(cost) for cost in costs], indent=2) if args.json else text_table(costs)
    )


def _add_complexity(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "complexity", _complexity, "parameters and FLOPs/frame beside the paper's"
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="teacher, 1 ... 7, base-s, base-l, teacher-tiny, tiny-7, vsr-tiny; without any: "
        "all of paper A's Table 1",
    )
    models.add_argument("--checkpoint", nargs="+", type=Path, metavar="FILE", help="model files")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _show(text: str, report: dict[str, Any], out: Path) -> None:
    """What every benchmark ends with: its table on the terminal, all of it in a JSON file."""
    import json

    from avhubert_ext.data.files import write_text

    print(text)
    write_text(out, json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {out}")


def _benchmark(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.evaluation.benchmark import BACKENDS, benchmark, text_table
    from avhubert_ext.models.presets import TABLE_1

    single = args.dtype == "float32"
    report = benchmark(
        args.preset or list(TABLE_1),
        args.backend or [backend for backend in BACKENDS if single or backend != "onnx"],
        args.threads,
        args.frames,
        getattr(torch, args.dtype),
        args.rounds,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "benchmark", _benchmark, "time the encoders side by side on the CPU"
    )
    parser.add_argument("what", choices=("encoder",), help="what is timed")
    parser.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="as for `complexity`; without any: all of paper A's Table 1",
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=("eager", "fused", "compile", "onnx"),
        help="fused: batch norm and more folded by `.fuse()`; without any: all",
    )
    parser.add_argument("--threads", type=positive, default=1, help="for each model")
    parser.add_argument("--frames", type=positive, default=100, help="of the clip, 25 a second")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=positive, default=9, help="each times everything once")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="JSON to write")


def _benchmark_distillation(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.benchmark_distillation import benchmark_distillation, text_table

    report = benchmark_distillation(
        args.student,
        args.teacher,
        args.batch_size,
        args.frames,
        args.threads,
        args.rounds,
        args.teacher_precision,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_distillation(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "benchmark-distillation",
        _benchmark_distillation,
        "time an update of a distillation beside a plain training loop on the CPU",
    )
    parser.add_argument("--student", default="7", help="preset: 1 ... 7, tiny-7")
    parser.add_argument("--teacher", default="teacher", help="preset: teacher, teacher-tiny")
    parser.add_argument("--batch-size", type=positive, default=4, help="utterances an update")
    parser.add_argument("--frames", type=positive, default=100, help="of each utterance")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=5, help="each times both once")
    parser.add_argument(
        "--teacher-precision",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="auto: bfloat16 where the hardware has it",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="JSON to write")


def _benchmark_data(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.benchmark_data import benchmark_data, text_table

    noise = tuple(map(Path, args.noise_manifests.split(","))) if args.noise_manifests else ()
    report = benchmark_data(args.data, args.split, noise, args.rounds)
    _show(text_table(report), report, args.out)


def _add_benchmark_data(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "benchmark-data",
        _benchmark_data,
        "time the reading of training data beside a plain data set on one CPU core",
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder of `prepare`")
    parser.add_argument("--split", default="train", help="manifest to read")
    parser.add_argument(
        "--noise-manifests",
        metavar="DIRS",
        help="folders of `noise` separated by commas, for noise with probability 0.25",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="epochs that are timed")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="JSON to write")


def _benchmark_decoding(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.benchmark_decoding import benchmark_decoding, text_table

    report = benchmark_decoding(
        args.preset,
        args.beam,
        args.seconds,
        args.tokens,
        args.threads,
        args.rounds,
        args.decoder,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_decoding(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "benchmark-decoding",
        _benchmark_decoding,
        "time whole recognisers, encoder and beam search, side by side on the CPU",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        default=["teacher", "7"],
        metavar="NAME",
        help="encoders: as for `complexity`",
    )
    parser.add_argument("--decoder", default="base", help="preset of all decoders: base, tiny")
    parser.add_argument("--beam", type=positive, default=10, help="hypotheses")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip")
    parser.add_argument(
        "--tokens", type=positive, help="decoded; without it 3.5 a second, as LRS3 has subwords"
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5, help="each times everything once")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="JSON to write")


def _benchmark_sparse(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.benchmark_sparse import benchmark_sparse, text_table

    report = benchmark_sparse(args.preset, args.sparsity, args.threads, args.frames, args.rounds)
    _show(text_table(report), report, args.out)


def _add_benchmark_sparse(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "benchmark-sparse",
        _benchmark_sparse,
        "time pruned layers and encoders, sparse beside dense, on the CPU",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        default=["base-s", "base-l", "7"],
        metavar="NAME",
        help="encoders: as for `complexity`",
    )
    parser.add_argument(
        "--sparsity",
        nargs="+",
        type=float,
        default=[0.5, 0.8, 0.9, 0.95],
        metavar="S",
        help="of each linear layer, in [0, 1)",
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--frames", type=positive, default=100, help="of the clip, 25 a second")
    parser.add_argument(
        "--rounds", type=positive, default=5, help="of the encoders; ten times as many of layers"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="JSON to write")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def _evaluate(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.data.visual_noise import PAPER_TYPES
    from avhubert_ext.decoding import BeamConfig
    from avhubert_ext.evaluation import noise_report
    from avhubert_ext.evaluation.evaluate import EvaluationConfig, evaluate

    torch.set_num_threads(args.threads)
    visual_noise = PAPER_TYPES if args.visual_noise == [] else tuple(args.visual_noise or ())
    config = EvaluationConfig(
        data=args.data,
        split=args.split,
        noise=tuple(args.noise),
        snr_db=tuple(args.snr),
        visual_noise=visual_noise,
        levels=tuple(args.levels),
        passes=args.passes,
        seed=args.noise_seed,
        modalities=args.modalities,
        beam=BeamConfig(args.beam, args.length_penalty, args.max_len_a, args.max_len_b),
        ctc_weight=args.ctc_weight,
        max_frames=args.max_frames,
        cache=args.cache_dir,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        subword_model=args.subword_model,
    )
    evaluate([(name, Path(file)) for name, file in args.model], config, args.out)
    print(noise_report.report(args.out))
    print(f"\nwritten: {args.out}/table_1.md, .html, results.json, .csv, *.png")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "word error rates in noise: kinds x levels x passes"
    )
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="a recogniser of any kind that `convert` reads; repeat; without any: only the report",
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--noise", nargs="*", type=Path, default=[], metavar="DIR", help="one folder a kind"
    )
    parser.add_argument(
        "--snr", nargs="+", type=float, default=[-10, -5, 0, 5, 10], metavar="DB", help="of --noise"
    )
    parser.add_argument(
        "--visual-noise", nargs="*", metavar="TYPE", help="types; no name: the paper's seven"
    )
    parser.add_argument(
        "--levels",
        nargs="+",
        type=int,
        default=[*range(1, 11)],
        metavar="LEVEL",
        help="of --visual-noise",
    )
    parser.add_argument(
        "--passes",
        type=positive,
        default=10,
        help="decodings under each noise that is drawn at random",
    )
    parser.add_argument("--noise-seed", type=int, default=1)
    parser.add_argument("--beam", type=positive, default=10)
    parser.add_argument(
        "--ctc-weight", type=float, default=0.1, help="in the search of CTC/attention recognisers"
    )
    own = parser.add_argument_group("AV-HuBERT's family only")
    own.add_argument("--modalities", choices=("both", "audio", "video"), default="both")
    own.add_argument("--length-penalty", type=float, default=1.0)
    own.add_argument("--max-len-a", type=float, default=1.0, help="tokens a frame, at most")
    own.add_argument("--max-len-b", type=int, default=0, help="tokens more")
    parser.add_argument("--max-frames", type=positive, default=2000, help="in a batch")
    parser.add_argument("--cache-dir", type=Path, help="folder for decoded frames and features")
    parser.add_argument(
        "--subword-model", type=Path, help="sentencepiece model, if not the one in the data folder"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; without it a GPU where there is one")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")


def _report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.report import report

    models = [(name, Path(checkpoint), Path(decoded)) for name, checkpoint, decoded in args.model]
    print(report(models, args.out))
    print(f"\nwritten: {args.out / 'results.json'}, {args.out / 'results.png'}")


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "report", _report, "table, JSON and picture of decoded models")
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CHECKPOINT", "DECODED"),
        help="DECODED holds a folder with fairseq-generate's results for each condition; repeat",
    )


def _compare(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.compare import compare

    decoded = [(name, Path(folder)) for name, folder in args.model]
    print(compare(decoded, args.distillation, args.out))
    print(f"\nwritten: {args.out / 'compare.json'}, {args.out / 'compare.png'}")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "compare", _compare, "mean and spread of models trained with several seeds"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "DECODED"),
        help="DECODED as for `report`; the same NAME again is another run of that model",
    )
    parser.add_argument(
        "--distillation",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="experiment folders of s3prl, to draw their curves",
    )


def _pruning_report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.pruning_report import report

    print(report(args.evaluation, args.out, args.last))
    print(f"\nwritten: {args.out}/pruning.md, .csv, pruning_*.png")


def _add_pruning_report(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "pruning-report",
        _pruning_report,
        "tables and pictures of a pruning sweep, also of one that is under way",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        required=True,
        metavar="DIR",
        help="of `evaluate`, with models named dense, METHOD-SPARSITY as lrr-iterative-50, "
        "rewind-T-SPARSITY",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--last",
        type=int,
        metavar="T",
        help="last checkpoint of the dense model, which one-shot LRR starts from",
    )


def _frontier(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.frontier import frontier

    print(frontier(args.evaluation, args.out, args.condition))
    print(f"\nwritten: {args.out}/frontier.md, .csv, .png")


def _add_frontier(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "frontier", _frontier, "accuracy against file size of evaluated models"
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="of `evaluate`, of the same test set; only models in .safetensors have a size",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--condition", default="clean", help="of the word error rates, as block_level3"
    )


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avhubert-ext",
        description="Small, fast, noise-robust audio-visual speech recognition.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_synth(commands)
    _add_prepare(commands)
    _add_noise(commands)
    _add_noise_preview(commands)
    _add_convert(commands)
    _add_average(commands)
    _add_init(commands)
    _add_prune(commands)
    _add_export_sparse(commands)
    _add_subwords(commands)
    _add_sparse_report(commands)
    _add_complexity(commands)
    _add_benchmark(commands)
    _add_benchmark_distillation(commands)
    _add_benchmark_decoding(commands)
    _add_benchmark_data(commands)
    _add_benchmark_sparse(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_pruning_report(commands)
    _add_frontier(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"avhubert-ext: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"avhubert-ext: error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("avhubert-ext: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
