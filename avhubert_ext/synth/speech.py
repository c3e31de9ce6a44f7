"""Synthesize speech with phoneme and word times by espeak-ng, called through ctypes.

espeak-ng keeps state between utterances (for example the phase of a voice's flutter), which even
espeak_Terminate does not clear, so the same text spoken twice differs. To make an utterance depend
on its arguments only, `speak` loads the library every time and unloads it afterwards (3 ms).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from avhubert_ext.errors import InputError

ESPEAK_RATE = 22_050  # returned by espeak_Initialize; the only rate of the wheel's data

# The event of a voiceless stop marks its release; its closure is the silence before.
CLOSURE_SECONDS = 0.04
VOICELESS_STOPS = frozenset({"p", "t", "k", "tS"})

# Values from espeak-ng's public header, speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_BRACKETED_PHONEMES = 0x100  # text inside [[ ]] is phoneme names
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}


@dataclass(frozen=True)
class Voice:
    """How a speaker sounds, in the units of espeak-ng."""

    name: str  # accent and variant, e.g. "en-us+m3"
    pitch: int = 50  # 0..99
    pitch_range: int = 50  # 0 monotone .. 99
    rate: int = 165  # words per minute
    volume: int = 80  # 100 is full scale


@dataclass(frozen=True, eq=False)
class Speech:
    """One spoken utterance. Times are in seconds from the first sample."""

    samples: np.ndarray  # int16 [N] at SAMPLE_RATE
    phonemes: tuple[tuple[str, float, float], ...]  # (espeak name, start, end), pauses included
    words: tuple[tuple[str, float, float], ...]  # (word as given to speak, start, end)


class _EventId(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_ubyte * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def speak(words: Sequence[str], voice: Voice) -> Speech:
    """Synthesize words, and record the times of words and phonemes.

    The same arguments give the same samples, regardless of earlier calls.

    Args:
        words: The words as espeak-ng should read them.
        voice: The voice.

    Raises:
        InputError: If espeak-ng is missing, or does not know the voice or the words.
    """
    text = " ".join(words)
    chunks: list[bytes] = []
    word_marks: list[tuple[int, float]] = []  # (character the word begins at, from 0; seconds)
    phoneme_marks: list[tuple[str, float]] = []

    def receive(wave: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        if wave and count > 0:
            chunks.append(ctypes.string_at(wave, count * 2))
        for event in _until_terminated(events):
            seconds = event.sample / ESPEAK_RATE
            if event.type == _EVENT_WORD:
                word_marks.append((event.text_position - 1, seconds))
            elif event.type == _EVENT_PHONEME:
                phoneme_marks.append((_short_string(event.id.string), seconds))
        return 0

    callback = _SynthCallback(receive)  # must outlive the call below
    with _fresh_espeak() as espeak:
        _set_voice(espeak, voice)
        espeak.espeak_SetSynthCallback(callback)
        espeak.espeak_ng_SetRandSeed(
            ctypes.c_long(1)
        )  # of breath noise; otherwise seeded by the clock
        encoded = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _BRACKETED_PHONEMES
        espeak.espeak_Synth(encoded, len(encoded), 0, 1, 0, flags, None, None)
        espeak.espeak_Synchronize()

    wave = np.frombuffer(b"".join(chunks), np.int16)
    if not len(wave) or not phoneme_marks:
        raise InputError(f"espeak-ng has no sound for {text!r}; use words in English letters")
    phonemes = _spans(phoneme_marks, len(wave) / ESPEAK_RATE)
    return Speech(_to_16khz(wave), phonemes, _word_times(words, word_marks, phonemes))


def _until_terminated(events: ctypes._Pointer) -> Iterator[_Event]:
    index = 0
    while events[index].type != _EVENT_LIST_TERMINATED:
        yield events[index]
        index += 1


def _short_string(raw: ctypes.Array) -> str:
    """Return the text of espeak's 8-byte field, which has no terminator if it is full."""
    return bytes(raw).split(b"\0")[0].decode(errors="replace")


@contextmanager
def _fresh_espeak() -> Iterator[ctypes.CDLL]:
    """Load and initialize espeak-ng, and unload it at the end."""
    import _ctypes

    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError("speech needs espeak-ng: pip install 'avhubert-ext[synth]'") from error

    data_path = espeakng_loader.get_data_path()
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
        rate = espeak.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(data_path).encode(), options)
        if rate != ESPEAK_RATE:
            raise InputError(
                f"{data_path}: espeak-ng cannot start from here (it returned {rate}); "
                "pip install --force-reinstall espeakng-loader in a folder with a short path"
            )
        yield espeak
        espeak.espeak_Terminate()
    finally:
        _ctypes.dlclose(espeak._handle)


def _set_voice(espeak: ctypes.CDLL, voice: Voice) -> None:
    if espeak.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise InputError(f"espeak-ng has no voice {voice.name!r}; use one such as 'en-us+m3'")
    for field, number in _PARAMETERS.items():
        espeak.espeak_SetParameter(number, getattr(voice, field), 0)


def _to_16khz(wave: np.ndarray) -> np.ndarray:
    """Resample int16 [N] at 22.05 kHz to int16 [M] at 16 kHz."""
    from scipy.signal import resample_poly

    resampled = resample_poly(wave.astype(np.float32), 320, 441)
    return np.clip(np.round(resampled), -32768, 32767).astype(np.int16)


def _spans(marks: Sequence[tuple[str, float]], end: float) -> tuple[tuple[str, float, float], ...]:
    """Turn (name, start) into (name, start, end), where each ends at the start of the next.

    Voiceless stops are moved back to include their closure.
    """
    starts = [start for _, start in marks]
    for index, (name, start) in enumerate(marks):
        if name in VOICELESS_STOPS:
            previous = starts[index - 1] if index else 0.0
            starts[index] = max(start - CLOSURE_SECONDS, (previous + start) / 2)
    ends = [*starts[1:], end]
    return tuple((name, s, e) for (name, _), s, e in zip(marks, starts, ends, strict=True))


def _word_times(
    words: Sequence[str],
    marks: Sequence[tuple[int, float]],
    phonemes: Sequence[tuple[str, float, float]],
) -> tuple[tuple[str, float, float], ...]:
    """Return the times of words: from their mark to the next word's mark or the end of the speech.

    espeak-ng reads some word pairs ("of the") as one, and marks only the first one. Words without a
    mark share its time evenly.
    """
    offsets = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    marked: dict[int, float] = {}
    for position, seconds in marks:
        index = int(np.searchsorted(offsets, position, side="right")) - 1
        marked.setdefault(max(index, 0), seconds)
    sounding = [end for name, _, end in phonemes if not name.startswith("_")]
    knots = [*sorted(marked.items()), (len(words), sounding[-1] if sounding else phonemes[-1][2])]
    if knots[0][0] > 0:
        knots.insert(0, (0, 0.0))
    edges = np.interp(range(len(words) + 1), *zip(*knots, strict=True))
    return tuple(
        (word, float(start), float(end))
        for word, start, end in zip(words, edges[:-1], edges[1:], strict=True)
    )
