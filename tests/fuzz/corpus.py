"""Between a corpus as it is committed (one escaped input a line) and as libFuzzer has it (a folder of files).

Usage: corpus.py unpack FILE FOLDER | corpus.py pack FOLDER FILE
"""

import hashlib
import pathlib
import sys

# A committed corpus is read by people: the shortest inputs, and not too many of them.
INPUT_BYTES_MAX = 400
INPUTS_MAX = 60

ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x22: '\\"', 0x27: "\\'", 0x5C: "\\\\"}


def escape(data: bytes) -> str:
    return "".join(ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in data)


def unescape(line: str) -> bytes:
    return line.encode("ascii").decode("unicode_escape").encode("latin-1")


def unpack(file: pathlib.Path, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in file.read_text().splitlines():
        data = unescape(line)
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def pack(folder: pathlib.Path, file: pathlib.Path) -> None:
    inputs = sorted({path.read_bytes() for path in folder.iterdir()}, key=lambda data: (len(data), data))
    kept = [data for data in inputs if 0 < len(data) <= INPUT_BYTES_MAX]
    # Evenly over all lengths: the long ones go deepest.
    step = max(1, len(kept) / INPUTS_MAX)
    chosen = [kept[int(at * step)] for at in range(min(len(kept), INPUTS_MAX))]
    old = file.read_text().splitlines() if file.exists() else []
    lines = dict.fromkeys(old + [escape(data) for data in chosen])
    file.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["unpack", file, folder]:
            unpack(pathlib.Path(file), pathlib.Path(folder))
        case ["pack", folder, file]:
            pack(pathlib.Path(folder), pathlib.Path(file))
        case _:
            sys.exit(__doc__)
