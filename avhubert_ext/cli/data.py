"""Commands that make and look at data: corpora, manifests, noise."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_synth(commands)
    _add_prepare(commands)
    _add_noise(commands)
    _add_noise_preview(commands)
    _add_subwords(commands)


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
    parser = command(
        commands, "synth", _synth, "Make the embedded corpus of speech, lips and noise"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="Folder to write the corpus to, in the layout of LRS3",
    )
    parser.add_argument(
        "--speakers", type=int, default=10, help="Number of speakers; every fifth is for the test"
    )
    parser.add_argument(
        "--utterances", type=int, default=20, help="Number of utterances of each speaker"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="Seed of the corpus; the same seed gives the same corpus",
    )
    parser.add_argument(
        "--domain",
        choices=("commands", "open"),
        default="commands",
        help="Kind of sentences: commands is a grammar like GRID's, open is an open word list",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Number of processes")


def _prepare(args: argparse.Namespace) -> None:
    from avhubert_ext.data.normalization import TextConfig
    from avhubert_ext.errors import InputError
    from avhubert_ext.preparation.manifests import prepare
    from avhubert_ext.preparation.subwords import SubwordConfig

    done = prepare(
        args.corpus,
        args.out,
        SubwordConfig(args.subwords, args.vocabulary, args.reuse_subwords),
        args.valid_fraction,
        args.workers,
        TextConfig(args.case, args.punctuation, args.tags),
        args.allow_unreadable,
    )
    print(", ".join(f"{name}: {count} utterances" for name, count in done.counts.items()))
    if done.official:
        print("valid is the corpus' own validation set; --valid-fraction was not used")
    print(done.text)
    if done.failures:
        total = sum(done.counts.values()) + len(done.failures)
        raise InputError(
            f"{len(done.failures)} of {total} clips failed, see above; the manifests in {args.out} "
            "leave them out; correct them and run the same command again"
        )


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "prepare",
        _prepare,
        "Write AV-HuBERT manifests for a corpus in the layout of LRS3",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="Corpus folder with trainval/ and test/, and perhaps valid/",
    )
    parser.add_argument("--out", type=Path, required=True, help="Manifest folder to write")
    parser.add_argument(
        "--subwords",
        choices=("unigram", "bpe"),
        default="unigram",
        help="Type of the sentencepiece model",
    )
    parser.add_argument(
        "--vocabulary", type=int, default=1000, help="Number of subwords, special ones included"
    )
    parser.add_argument(
        "--reuse-subwords",
        type=Path,
        help="Folder to take spm_*.model and dict.wrd.txt from instead of making them",
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.05,
        help="Share of the trainval speakers for validation, unless the corpus has a valid/",
    )
    text = parser.add_argument_group("normalization of the transcripts")
    text.add_argument(
        "--case",
        choices=("lower", "upper", "keep"),
        default="lower",
        help="Case of the transcripts",
    )
    text.add_argument(
        "--punctuation",
        choices=("remove", "keep"),
        default="remove",
        help="Whether punctuation stays; apostrophes in words and parts of numbers always do",
    )
    text.add_argument(
        "--tags",
        default="[]<>",
        metavar="BRACKETS",
        help="Brackets whose content is left out, for example [laughter]: pairs of [] <> {} (), or "
        "'' for none",
    )
    _add_allow_unreadable(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Number of processes")


def _add_allow_unreadable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="Write the lists even if more than 1%% of the files cannot be read",
    )


def _noise(args: argparse.Namespace) -> None:
    from avhubert_ext.errors import InputError
    from avhubert_ext.preparation.noise import prepare_noise

    files = prepare_noise(args.musan, args.out, args.seed, args.manifests, args.allow_unreadable)
    print(f"noise manifests written to {args.out}")
    if files.failures:
        raise InputError(
            f"{len(files.failures)} of {files.total} files failed, see above; the lists in "
            f"{args.out} leave them out; correct them and run the same command again"
        )


def _add_noise(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "noise", _noise, "Write lists of babble, music, noise and talkers from MUSAN"
    )
    parser.add_argument(
        "--musan", type=Path, required=True, help="Folder of MUSAN with speech/, music/ and noise/"
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the lists to")
    parser.add_argument(
        "--manifests",
        type=Path,
        help="Manifest folder made by `prepare`, whose speech becomes the noise of a second talker",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="Seed of the babble; the same seed gives the same babble",
    )
    _add_allow_unreadable(parser)


def _noise_preview(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.noise_preview import noise_preview

    noise_preview(args.video, args.out, args.frame, args.seed)
    print(f"written: {args.out}")


def _add_noise_preview(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "noise-preview",
        _noise_preview,
        "Draw a video frame in every kind of visual noise",
    )
    parser.add_argument("--video", type=Path, required=True, help="Video clip of the mouth region")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument(
        "--frame", type=int, help="Number of the frame, from 0; without it the middle one"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="Seed of the noise; the same seed gives the same noise"
    )


def _subwords(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints import auto_avsr, avhubert
    from avhubert_ext.data.text import write_subwords

    if args.source.suffix == ".txt":
        pieces, model = auto_avsr.subwords(args.source, args.sentencepiece)
    else:
        pieces, model = avhubert.subwords(args.source)
    write_subwords(pieces, model, args.out)
    print(f"{len(pieces)} subwords written to {args.out}")


def _add_subwords(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "subwords",
        _subwords,
        "Take the subwords of a finetuned AV-HuBERT or of Auto-AVSR",
    )
    parser.add_argument(
        "source",
        type=Path,
        help="Finetuned checkpoint of AV-HuBERT, or Auto-AVSR's unigram5000_units.txt",
    )
    parser.add_argument("out", type=Path, help="Folder to write, for `prepare --reuse-subwords`")
    parser.add_argument(
        "--sentencepiece",
        type=Path,
        metavar="MODEL",
        help="Path of unigram5000.model, needed with unigram5000_units.txt",
    )
