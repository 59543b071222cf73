"""Sound files: WAV, FLAC and Ogg."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from lrp_tf.arrays.sample import Array, ArrayError
from lrp_tf.files.errors import optional

SUFFIXES = (".wav", ".flac", ".ogg")


def soundfile() -> ModuleType:
    """The module soundfile.

    Raises:
        ExtraError: it is not installed.
    """
    return optional("soundfile", extra="audio", what="which reads WAV, FLAC and Ogg files")


def read(path: Path, limit: int) -> Array:
    """Sound as float32, [T] of one channel, [T, C] of several. Whole numbers in the file become -1..1.

    Args:
        limit: a file of more numbers is refused before they are read.

    Raises:
        ArrayError: a damaged file, or too long. ExtraError: soundfile is missing. OSError: it cannot be opened.
    """
    sound = soundfile()
    with open(path, "rb") as file:  # its own open does not take every name
        _require_whole(file.read(12), path.stat().st_size)
        file.seek(0)
        try:
            with sound.SoundFile(file) as source:
                if source.frames * source.channels > limit:
                    raise ArrayError(f"expected one sample in each file. Received: {source.frames} samples of sound")
                values, rate, promised = source.read(dtype="float32"), source.samplerate, source.frames
        except (sound.SoundFileError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, ArrayError):
                raise
            raise ArrayError(f"no sound that can be read: {getattr(error, 'error_string', error)}") from error
    if len(values) < promised:
        raise ArrayError(f"the file is cut: it names {promised} samples of sound and holds {len(values)}")
    return Array(values, rate=float(rate))


def _require_whole(head: bytes, size: int) -> None:
    """Refuse a WAV file that is shorter than it says: libsndfile gives what is left of it without a word.

    Raises:
        ArrayError: it is.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return
    named = int.from_bytes(head[4:8], "little") + 8
    # Programs that write into a pipe do not know the length, and write 0 or the largest number.
    if 8 < named < 0xFFFF_FF00 and named > size + 1:  # the padding of the last chunk may be missing
        raise ArrayError(f"the file is cut: it names {named} bytes and holds {size}")
