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
    parser = command(commands, "synth", _synth, "make the embedded corpus: speech, lips and noise")
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
    from avhubert_ext.data.normalization import TextConfig
    from avhubert_ext.data.prepare import prepare
    from avhubert_ext.data.text import SubwordConfig
    from avhubert_ext.errors import InputError

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
    parser = command(commands, "prepare", _prepare, "LRS3-layout corpus -> AV-HuBERT manifests")
    parser.add_argument(
        "--corpus", type=Path, required=True, help="with trainval/ and test/, or also valid/"
    )
    parser.add_argument("--out", type=Path, required=True, help="manifest folder to write")
    parser.add_argument(
        "--subwords", choices=("unigram", "bpe"), default="unigram", help="sentencepiece model type"
    )
    parser.add_argument("--vocabulary", type=int, default=1000, help="subwords, specials included")
    parser.add_argument(
        "--reuse-subwords", type=Path, help="take spm_*.model and dict.wrd.txt from this folder"
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.05,
        help="of trainval speakers, for validation, unless the corpus has a valid/",
    )
    text = parser.add_argument_group("normalization of the transcripts")
    text.add_argument("--case", choices=("lower", "upper", "keep"), default="lower")
    text.add_argument(
        "--punctuation",
        choices=("remove", "keep"),
        default="remove",
        help="apostrophes of words and what belongs to numbers stay in any case",
    )
    text.add_argument(
        "--tags",
        default="[]<>",
        metavar="BRACKETS",
        help="what these enclose is left out, for example [laughter]: pairs of [] <> {} (); '' "
        "for none",
    )
    _add_allow_unreadable(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def _add_allow_unreadable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="write the lists even if more than 1%% of the files cannot be read; they leave those "
        "out",
    )


def _noise(args: argparse.Namespace) -> None:
    from avhubert_ext.data.prepare_noise import prepare_noise
    from avhubert_ext.errors import InputError

    files = prepare_noise(args.musan, args.out, args.seed, args.manifests, args.allow_unreadable)
    print(f"noise manifests written to {args.out}")
    if files.failures:
        raise InputError(
            f"{len(files.failures)} of {files.total} files failed, see above; the lists in "
            f"{args.out} leave them out; correct them and run the same command again"
        )


def _add_noise(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "noise", _noise, "MUSAN -> babble, music, noise, talker lists")
    parser.add_argument("--musan", type=Path, required=True, help="with speech/ music/ noise/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--manifests", type=Path, help="a corpus from `prepare`, for a second talker as noise"
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same babble")
    _add_allow_unreadable(parser)


def _noise_preview(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.noise_preview import noise_preview

    noise_preview(args.video, args.out, args.frame, args.seed)
    print(f"written: {args.out}")


def _add_noise_preview(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "noise-preview", _noise_preview, "picture of a frame in all visual noise"
    )
    parser.add_argument("--video", type=Path, required=True, help="a clip of the mouth region")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--frame", type=int, help="from 0; without it the middle one")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same noise")


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
    parser = command(
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
