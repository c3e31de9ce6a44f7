"""Commands that make and prepare data: corpora, manifests, noise, subwords."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands."""
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
        commands,
        "synth",
        _synth,
        "Synthesize a small corpus of speech, lip videos and noise",
        "avhubert-ext data synth --out corpus",
        "avhubert-ext data synth --out corpus --speakers 40 --utterances 40 --seed 1",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="Folder to write the corpus to, in the layout of LRS3",
    )
    parser.add_argument(
        "--speakers",
        type=int,
        default=10,
        help="Number of speakers; every fifth goes to the test set",
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
        help="Kind of sentences: commands follows a grammar like GRID's, open draws from a list "
        "of words",
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
        "avhubert-ext data prepare --corpus corpus --out data --vocabulary 100",
        "avhubert-ext data prepare --corpus lrs3 --out data --reuse-subwords subwords",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="Corpus folder with trainval/, test/ and optionally valid/",
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
        help="Folder whose spm_*.model and dict.wrd.txt are used instead of training new subwords",
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.05,
        help="Share of the trainval speakers used for validation if the corpus has no valid/",
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
        help="Whether to keep punctuation; apostrophes in words and parts of numbers always stay",
    )
    text.add_argument(
        "--tags",
        default="[]<>",
        metavar="BRACKETS",
        help="Brackets whose content is removed, for example [laughter]: any of [] <> {} (), or "
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
        commands,
        "noise",
        _noise,
        "Write lists of babble, music, noise and competing talkers from MUSAN",
        "avhubert-ext data noise --musan corpus/musan --out noise",
        "avhubert-ext data noise --musan musan --manifests data --out noise",
    )
    parser.add_argument(
        "--musan", type=Path, required=True, help="MUSAN folder with speech/, music/ and noise/"
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the lists to")
    parser.add_argument(
        "--manifests",
        type=Path,
        help="Manifest folder written by `data prepare`; its speech becomes the competing talkers",
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
        "Draw one video frame under every type and level of visual noise",
        "avhubert-ext data noise-preview --video clip.mp4 --out noise.png",
    )
    parser.add_argument("--video", type=Path, required=True, help="Video clip of the mouth region")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument(
        "--frame",
        type=int,
        help="Number of the frame, counted from 0; by default the middle frame",
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
        "Extract the subwords of a finetuned AV-HuBERT or of Auto-AVSR",
        "avhubert-ext data subwords base_noise_pt_noise_ft_433h.pt subwords",
        "avhubert-ext data subwords unigram5000_units.txt units --sentencepiece unigram5000.model",
    )
    parser.add_argument(
        "source",
        type=Path,
        help="Finetuned AV-HuBERT checkpoint, or Auto-AVSR's unigram5000_units.txt",
    )
    parser.add_argument(
        "out", type=Path, help="Folder to write, for `data prepare --reuse-subwords`"
    )
    parser.add_argument(
        "--sentencepiece",
        type=Path,
        metavar="MODEL",
        help="Path of unigram5000.model, required with unigram5000_units.txt",
    )
