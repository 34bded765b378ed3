"""Talk-off: how many keys the tone detector hears in human speech, where nobody pressed any.

    python benchmarks/talkoff.py [FOLDER]

Speech: Debian's asterisk-core-sounds-en-wav, -es-wav, -fr-wav, -it-wav and -ru-wav (8 kHz).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from media.dtmf import ToneDetector
from media.wav import read_wav

FOLDER = Path("/usr/share/asterisk/sounds")
PACKET = 320  # bytes, 20 ms


def main(folder: Path) -> int:
    seconds, false, files = 0.0, 0, 0
    for path in sorted(folder.rglob("*.wav")):
        wav = read_wav(path)
        if wav.sample_rate != 8000 or wav.channels != 1 or any(word in path.stem for word in ("beep", "tone", "dtmf")):
            continue
        detector, keys = ToneDetector(8000), ""
        for at in range(0, len(wav.pcm), PACKET):
            keys += "".join(detector.feed(wav.pcm[at : at + PACKET]))
        if keys:
            print(f"{path}: {keys}")
        files, false, seconds = files + 1, false + len(keys), seconds + len(wav.pcm) / 16000
    if not files:
        print(f"there is no speech in {folder}: apt-get install asterisk-core-sounds-en-wav")
        return 1
    print(f"{false} false keys in {seconds / 60:.0f} minutes of speech ({files} files)")
    return 1 if false else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="of WAV files; default %(default)s")
    sys.exit(main(parser.parse_args().folder))
