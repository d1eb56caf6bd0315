"""What Kaldi calls an rxfilename: a path, a place in an archive, or a command whose output is audio.

No command is run. Of those that only unpack a file, the file is taken: we decode it ourselves, by its content. One that
does more, such as to pick a channel or to change the speed, would give other audio than we would, and is refused.
"""

import posixpath
import re
import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where audio is: a file, or a place in an archive."""

    path: str
    offset: int | None = None


class Unsupported(Exception):
    """Something that only Kaldi could read. `reason` is that of the row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# Options that do not change what is heard, each with the number of its arguments.
_SPH2PIPE = {"-f": 1, "-p": 0}
_FLAC = {"-c": 0, "-d": 0, "-s": 0, "--silent": 0, "--decode": 0, "--stdout": 0, "--totally-silent": 0}
_FFMPEG = {
    "-i": 1, "-f": 1, "-ar": 1, "-ac": 1, "-acodec": 1, "-c:a": 1, "-codec:a": 1, "-ab": 1, "-b:a": 1, "-loglevel": 1,
    "-v": 1, "-nostdin": 0, "-hide_banner": 0, "-vn": 0, "-y": 0, "-threads": 1, "-sample_fmt": 1,
}  # fmt: skip
_SOX = {"-t": 1, "-r": 1, "-b": 1, "-e": 1, "-c": 1, "-L": 0, "-B": 0, "-G": 0, "-R": 0, "-V": 0, "-q": 0, "-D": 0}
_CAT: dict[str, int] = {}

_STDOUT = ("-", "pipe:1", "pipe:", "/dev/stdout")


def parse(text: str) -> Place:
    """Where the audio of an entry of `wav.scp` is.

    Raises:
        Unsupported: only a command could give it, or the entry is empty.
    """
    text = text.strip()
    if not text:
        raise Unsupported("malformed_row", "the line says no path; expected RECORDING PATH")
    if text.endswith("|"):
        return Place(_input_of(text[:-1].strip()))
    if text.startswith("|") or text == "-":
        raise Unsupported("unsupported_pipe", f"not an input: {text}")
    in_archive = re.fullmatch(r"(.+):(\d+)", text)
    return Place(in_archive[1], int(in_archive[2])) if in_archive else Place(text)


def _input_of(command: str) -> str:
    """The only file that a command reads, if all that it does is to unpack it."""
    try:
        # As a shell does: what is quoted is a word, and `|`, `;`, `>` and their like are words of their own.
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.commenters, lexer.whitespace_split = "", True
        program, *arguments = list(lexer)
    except ValueError:
        raise _unsupported(command) from None
    if "`" in command or "$" in command or any(set(word) <= set("|&;<>()") for word in arguments if word):
        raise _unsupported(command)
    options, find_file = _PROGRAMS.get(posixpath.basename(program), (None, _only_file))
    words = None if options is None else _words(arguments, options)
    path = None if words is None else find_file(words)
    if not path:
        raise _unsupported(command)
    return path


def _words(arguments: list[str], known: dict[str, int]) -> list[tuple[str | None, str]] | None:
    """Arguments with the options they belong to, None for those of none; nothing at all if an option is unknown."""
    words: list[tuple[str | None, str]] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            words.append((None, argument))
        elif argument in known:
            values = [value for _, value in zip(range(known[argument]), rest, strict=False)]
            words.append((argument, " ".join(values)))
        elif set(argument[1:]) <= {option[1:] for option in known if len(option) == 2} and all(
            known[f"-{letter}"] == 0 for letter in argument[1:]
        ):
            words.append((argument, ""))  # `-cds` for `-c -d -s`
        else:
            return None
    return words


def _only_file(words: list[tuple[str | None, str]]) -> str | None:
    """The only argument that is no output."""
    found = [word for option, word in words if option is None and word not in _STDOUT]
    return found[0] if len(found) == 1 else None


def _flac_file(words: list[tuple[str | None, str]]) -> str | None:
    said = "".join(option or "" for option, _ in words)
    return _only_file(words) if ("d" in said.replace("--stdout", "")) else None


def _sox_file(words: list[tuple[str | None, str]]) -> str | None:
    """Of `sox INPUT OUTPUT`, without effects behind. Fewer channels than the file's are the average of them."""
    found = [word for option, word in words if option is None]
    return found[0] if len(found) == 2 and found[1] in _STDOUT and found[0] not in _STDOUT else None


def _ffmpeg_file(words: list[tuple[str | None, str]]) -> str | None:
    inputs = [word for option, word in words if option == "-i"]
    outputs = [word for option, word in words if option is None]
    return inputs[0] if len(inputs) == 1 and len(outputs) == 1 and outputs[0] in _STDOUT else None


_PROGRAMS = {
    "sph2pipe": (_SPH2PIPE, _only_file),
    "flac": (_FLAC, _flac_file),
    "ffmpeg": (_FFMPEG, _ffmpeg_file),
    "sox": (_SOX, _sox_file),
    "cat": (_CAT, _only_file),
}


def _unsupported(command: str) -> Unsupported:
    return Unsupported(
        "unsupported_pipe",
        f"commands are not run, and this one does more than to unpack a file: {command}; write its output to files",
    )
