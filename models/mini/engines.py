"""Speech synthesisers as libraries: samples with the times of phones and words.

A process per sentence would cost a hundred times the synthesis, so espeak-ng and flite are called through ctypes. Their
libraries come from the system's packages (`make mini` installs them). Both keep global state: one instance per process.
pico comes as a Python package with its voices.
"""

import ctypes as c
import ctypes.util
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile


@dataclass
class Speech:
    """One sentence: samples float32 in [-1, 1]; `phones` and `words` are (start in seconds, name) in order."""

    samples: np.ndarray
    rate_hz: int
    phones: list[tuple[float, str]] = field(default_factory=list)
    words: list[tuple[float, str]] = field(default_factory=list)


def _library(name: str) -> c.CDLL:
    path = ctypes.util.find_library(name)
    if path is None:
        raise RuntimeError(f"lib{name} is not installed. `make mini` installs espeak-ng, flite and festival.")
    return c.CDLL(path, c.RTLD_GLOBAL)


class _Event(c.Structure):
    # espeak_EVENT of speak_lib.h; `name` is the union's string form, filled for phoneme events.
    _fields_ = (
        ("type", c.c_int),
        ("unique", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_ms", c.c_int),
        ("sample", c.c_int),
        ("user", c.c_void_p),
        ("name", c.c_char * 8),
    )


class Espeak:
    """espeak-ng through speak_lib.h, 22.05 kHz. Phone names are its mnemonics."""

    _SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
    _RATE, _PITCH, _RANGE = 1, 3, 4
    _PHONE_EVENT = 7

    def __init__(self) -> None:
        self._lib = _library("espeak-ng")
        self._rate_hz = self._lib.espeak_Initialize(self._SYNCHRONOUS, 0, None, self._PHONEME_EVENTS)
        if self._rate_hz <= 0:
            raise RuntimeError("espeak-ng did not start: its data files (package espeak-ng-data) are missing.")
        self._blocks: list[np.ndarray] = []
        self._phones: list[tuple[float, str]] = []
        callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))
        # Kept as a field: ctypes does not keep callbacks alive.
        self._callback = callback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lib.espeak_Synth.argtypes = [
            c.c_char_p,
            c.c_size_t,
            c.c_uint,
            c.c_int,
            c.c_uint,
            c.c_uint,
            *[c.c_void_p] * 2,
        ]
        self._voice = ""

    def _receive(self, samples, count, events) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events and events[index].type != 0:
            if events[index].type == self._PHONE_EVENT:
                self._phones.append((events[index].audio_ms / 1000, events[index].name.decode("latin1")))
            index += 1
        return 0

    def say(self, text: str, voice: str, words_per_minute: int = 175, pitch: int = 50, pitch_range: int = 50) -> Speech:
        """Speaks with a voice such as `gmw/en-US+f3`. Raises `ValueError` for an unknown voice."""
        if voice != self._voice:
            if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            self._voice = voice
        for parameter, value in ((self._RATE, words_per_minute), (self._PITCH, pitch), (self._RANGE, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._phones = [], []
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        self._lib.espeak_Synchronize()
        joined = np.concatenate(self._blocks) if self._blocks else np.zeros(1, np.int16)
        return Speech(joined.astype(np.float32) / 32768, self._rate_hz, list(self._phones))


class _Wave(c.Structure):
    _fields_ = (
        ("type", c.c_char_p),
        ("rate_hz", c.c_int),
        ("count", c.c_int),
        ("channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    )


class _VoiceHead(c.Structure):
    _fields_ = (("name", c.c_char_p), ("features", c.c_void_p))


class Flite:
    """CMU flite, 16 kHz. Voices slt, awb, rms (statistical) and kal16 (diphones)."""

    VOICES = ("slt", "awb", "rms", "kal16")
    _FIRST_START = b"R:SylStructure.daughter1.daughter1.R:Segment.p.end"

    def __init__(self) -> None:
        for part in ("flite", "flite_usenglish", "flite_cmulex"):
            self._lib = _library(part)
        self._lib = _library("flite")
        self._lib.flite_init()
        for name, result, arguments in (
            ("flite_synth_text", c.c_void_p, [c.c_char_p, c.c_void_p]),
            ("flite_feat_set_float", None, [c.c_void_p, c.c_char_p, c.c_float]),
            ("utt_relation", c.c_void_p, [c.c_void_p, c.c_char_p]),
            ("utt_wave", c.POINTER(_Wave), [c.c_void_p]),
            ("relation_head", c.c_void_p, [c.c_void_p]),
            ("item_next", c.c_void_p, [c.c_void_p]),
            ("ffeature_float", c.c_float, [c.c_void_p, c.c_char_p]),
            ("ffeature_string", c.c_char_p, [c.c_void_p, c.c_char_p]),
            ("delete_utterance", None, [c.c_void_p]),
        ):
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._voices = {}
        for name in self.VOICES:
            register = getattr(_library(f"flite_cmu_us_{name}"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = c.c_void_p, [c.c_void_p]
            self._voices[name] = register(None)

    def say(self, text: str, voice: str, stretch: float = 1.0, pitch: float = 1.0) -> Speech:
        """Speaks with `voice`; `stretch` multiplies durations, `pitch` the fundamental frequency."""
        handle = self._voices[voice]
        features = c.cast(handle, c.POINTER(_VoiceHead)).contents.features
        self._lib.flite_feat_set_float(features, b"duration_stretch", stretch)
        self._lib.flite_feat_set_float(features, b"f0_shift", pitch)
        utterance = self._lib.flite_synth_text(text.encode(), handle)
        wave = self._lib.utt_wave(utterance).contents
        samples = np.ctypeslib.as_array(wave.samples, (wave.count,)).astype(np.float32) / 32768
        rate = wave.rate_hz
        phones, start = [], 0.0
        for item in self._items(utterance, b"Segment"):
            phones.append((start, self._lib.ffeature_string(item, b"name").decode()))
            start = self._lib.ffeature_float(item, b"end")
        words = [
            (self._lib.ffeature_float(item, self._FIRST_START), self._lib.ffeature_string(item, b"name").decode())
            for item in self._items(utterance, b"Word")
        ]
        self._lib.delete_utterance(utterance)
        return Speech(samples, rate, phones, words)

    def _items(self, utterance, relation: bytes):
        item = self._lib.relation_head(self._lib.utt_relation(utterance, relation))
        while item:
            yield item
            item = self._lib.item_next(item)


class Pico:
    """SVOX pico (package ttspico), 16 kHz: two women, recorded and close to natural. No times of phones or words."""

    VOICES = ("en-GB", "en-US")
    # Of 100; above half of that its loudest samples clip.
    _VOLUME = 40

    def __init__(self) -> None:
        try:
            from ttspico import TtsEngine
        except ImportError:
            raise RuntimeError("the Python package ttspico is not installed. `make mini` installs it.") from None
        self._engines = {voice: TtsEngine(voice) for voice in self.VOICES}
        for engine in self._engines.values():
            engine.volume = self._VOLUME

    def say(self, text: str, voice: str, stretch: float = 1.0, pitch: float = 1.0) -> Speech:
        """Speaks with `voice`; `stretch` multiplies durations (0.2 to 5), `pitch` the fundamental frequency (0.5 to
        2)."""
        engine = self._engines[voice]
        engine.rate, engine.pitch = round(100 / stretch), round(100 * pitch)
        return Speech(np.frombuffer(engine.speak(text), np.int16).astype(np.float32) / 32768, 16000)


def festival(text: str, voice: str = "ked_diphone") -> Speech:
    """Speaks with festival's text2wave, one process per call (0.2 s): for test voices only. No phone times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["text2wave", "-o", str(path), "-eval", f"(voice_{voice})"]
        subprocess.run(command, input=text.encode(), check=True, env={**os.environ, "TMPDIR": folder})
        samples, rate = soundfile.read(path, dtype="float32")
    return Speech(samples, rate)
