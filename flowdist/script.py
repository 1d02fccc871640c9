"""External programs as stages: what they are given, what is read back, and what their failure says.

A `Script` is a callable like any other stage function; `flowdist.flow.Flow.script` makes it and the
executor calls it. The executor ends its process tree, so nothing here watches the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.artifacts import ARTIFACT_TYPE, loads
from flowdist.errors import FlowError, ScriptFailed
from flowdist.schema import Field, Schema

if TYPE_CHECKING:
    from flowdist.workers.context import Context

# What runs a script that is not executable by itself.
INTERPRETERS: Mapping[str, tuple[str, ...]] = {
    ".py": (sys.executable or "python3",),
    ".R": ("Rscript", "--vanilla"),
    ".r": ("Rscript", "--vanilla"),
    ".sh": ("sh",),
    ".bash": ("bash",),
    ".jl": ("julia",),
    ".pl": ("perl",),
    ".rb": ("ruby",),
    ".js": ("node",),
}
# Enough of standard error to see a traceback, not enough to fill a part with a progress bar.
STDERR_CHARACTERS = 4000
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR")
# Stands for the copy of a script that travels with the run; no column has a name like this.
_COPY = "_script"


# How a file that a program wrote is loaded again; anything else is bytes.
_CODECS = {".parquet": "parquet", ".npy": "npy", ".txt": "text"}


@dataclass(frozen=True)
class FileOutput:
    """A file that a program wrote: what later stages get, and what the store keeps as it is."""

    suffix: str
    data: bytes

    @property
    def codec(self) -> str:
        return _CODECS.get(self.suffix, "bytes")

    def load(self) -> Any:
        """The content: a table for .parquet, an array for .npy, text for .txt, else bytes."""
        return loads(self.codec, self.data)


@dataclass(frozen=True)
class Script:
    """A program, the words it is called with, and the outputs it declares.

    `source` is the text of a script that travels with the run; None runs `words` as they are.
    """

    where: str
    words: tuple[str, ...]
    source: bytes | None
    suffix: str
    files: Mapping[str, str]
    schema: Schema | None
    env: Mapping[str, str]
    inherit_env: bool
    cwd: str | None
    parameters: tuple[str, ...]

    @classmethod
    def of(
        cls,
        where: str,
        command: str | Sequence[str],
        *,
        args: Sequence[str] | None,
        files: Mapping[str, str] | None,
        returns: Schema | None,
        env: Mapping[str, str] | None,
        inherit_env: bool,
        cwd: str | None,
        snapshot: bool,
        columns: tuple[str, ...],
    ) -> Script:
        """Check the pieces of `flowdist.flow.Flow.script` and put them together.

        Raises:
            FlowError: the script does not exist, has no known interpreter, or a placeholder is
                malformed.
        """
        source, suffix = None, ""
        if isinstance(args, str):
            raise FlowError(f"{where}: args={args!r}; expected a list of words")
        more = None if args is None else tuple(str(word) for word in args)
        env = {name: str(value) for name, value in (env or {}).items()}
        if isinstance(command, str):
            path = Path(command).expanduser()
            if not path.is_file():
                raise FlowError(
                    f"{where}: there is no script '{command}' here ({Path.cwd()}); "
                    "a command with arguments is given as a list of words"
                )
            # A path is taken as it is: its braces are no placeholders.
            words = tuple(w.replace("{", "{{").replace("}", "}}") for w in _called(where, path))
            if snapshot:
                source, suffix = path.read_bytes(), path.suffix
                words = (*words[:-1], f"{{{_COPY}}}")
            default = tuple(f"--{column}={{{column}}}" for column in columns)
            words += default if more is None else more
        else:
            words = (*(str(w) for w in command), *(more or ()))
            if not words:
                raise FlowError(f"{where}: an empty command")
        templates = (*words, *(files or {}).values(), *env.values())
        names = dict.fromkeys(n for t in templates for n in _placeholders(where, t))
        if source is not None:
            names.pop(_COPY)
        return cls(
            where=where,
            words=words,
            source=source,
            suffix=suffix,
            files=dict(files or {}),
            schema=_with_files(returns, files or {}),
            env=env,
            inherit_env=inherit_env,
            cwd=None if cwd is None else str(Path(cwd).expanduser().resolve()),
            parameters=tuple(names),
        )

    def __call__(self, *, ctx: Context, **values: Any) -> dict[str, Any]:
        """Run the program for one row; raises `ScriptFailed` where it fails or its outputs are not
        there.
        """
        own = ctx.scratch / f"{ctx.stage}-{ctx.attempt}"
        own.mkdir()
        directory = Path(self.cwd) if self.cwd is not None else own
        if not directory.is_dir():
            raise ScriptFailed(
                f"{self.where}: the working directory {directory} does not exist here"
            )
        texts = {name: _text(value) for name, value in values.items()}
        if self.source is not None:
            copy = own.with_suffix(self.suffix or ".script")
            copy.write_bytes(self.source)
            copy.chmod(0o700)
            texts[_COPY] = str(copy)
        words = [word.format_map(texts) for word in self.words]
        for template in self.files.values():
            # In a shared directory the file of another row must not pass for this one's.
            (directory / template.format_map(texts)).unlink(missing_ok=True)
        try:
            done = subprocess.run(
                words,
                cwd=directory,
                env=self._environment(texts, ctx),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise ScriptFailed(
                f"{self.where}: cannot start '{words[0]}': {error.strerror}"
            ) from None
        if done.returncode != 0:
            ended, said = _ended(done.returncode), _tail(done.stderr)
            raise ScriptFailed(f"{self.where}: '{words[0]}' {ended}\n{said}".rstrip())
        return self._outputs(done, directory, texts)

    def _environment(self, texts: Mapping[str, str], ctx: Context) -> dict[str, str]:
        base = dict(os.environ)
        if not self.inherit_env:
            base = {k: base[k] for k in _KEPT_ENVIRONMENT if k in base}
        base |= {name: value.format_map(texts) for name, value in self.env.items()}
        base |= {
            "FLOWDIST_ROW": str(ctx.row),
            "FLOWDIST_STAGE": ctx.stage,
            "FLOWDIST_ATTEMPT": str(ctx.attempt),
        }
        if "seed" in texts:
            base["FLOWDIST_SEED"] = texts["seed"]
        return base

    def _outputs(
        self, done: subprocess.CompletedProcess[bytes], directory: Path, texts: Mapping[str, str]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if any(name not in self.files for name in (self.schema.names if self.schema else ())):
            found |= self._last_line(done)
        for name, template in self.files.items():
            path = directory / template.format_map(texts)
            if not path.is_file():
                raise ScriptFailed(
                    f"{self.where}: declared file '{name}' is not there: {path.name}\n"
                    f"{_tail(done.stderr)}".rstrip()
                )
            found[name] = FileOutput(path.suffix, path.read_bytes())
        return found

    def _last_line(self, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
        # Not splitlines(): JSON may hold other characters that it takes for the end of a line.
        last = done.stdout.decode(errors="replace").rstrip().rpartition("\n")[2]
        try:
            value = json.loads(last)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ScriptFailed(
                f"{self.where}: the last line of standard output must be a JSON object with the "
                "declared "
                f"fields, got {last[:200]!r}\n{_tail(done.stderr)}".rstrip()
            )
        declared = self.schema.names if self.schema is not None else ()
        return {name: value[name] for name in declared if name in value}


def _called(where: str, path: Path) -> tuple[str, ...]:
    """The words that run the script at `path`, which comes last."""
    interpreter = INTERPRETERS.get(path.suffix)
    if interpreter is not None:
        if shutil.which(interpreter[0]) is None:
            raise FlowError(
                f"{where}: '{path.name}' needs '{interpreter[0]}', which is not on PATH; "
                "give the command as a list of words"
            )
        return (*interpreter, str(path.resolve()))
    if os.access(path, os.X_OK):
        return (str(path.resolve()),)
    raise FlowError(
        f"{where}: no interpreter known for '{path.name}' and it is not executable; "
        f"known suffixes: {', '.join(INTERPRETERS)}"
    )


def _placeholders(where: str, template: str) -> list[str]:
    try:
        found = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise FlowError(
            f"{where}: '{template}': {error}; a literal brace is written twice"
        ) from None
    names = []
    for _, name, form, conversion in found:
        if name is None or not name.isidentifier():
            raise FlowError(
                f"{where}: '{template}': placeholder '{{{name}}}' is no parameter's name; "
                "a literal brace is written twice"
            )
        if form or conversion:
            raise FlowError(
                f"{where}: '{template}': a placeholder is a name alone, as in '{{{name}}}'; "
                "make the text in a stage before"
            )
        if name == "ctx":
            raise FlowError(
                f"{where}: '{template}': 'ctx' is no text; a program finds its row, stage and "
                "attempt in FLOWDIST_ROW, FLOWDIST_STAGE and FLOWDIST_ATTEMPT"
            )
        names.append(name)
    return names


def _with_files(returns: Schema | None, files: Mapping[str, str]) -> Schema | None:
    """The declaration, with an artifact field for every file that it does not mention."""
    declared = returns.fields if returns is not None else ()
    names = {f.name for f in declared}
    extra = tuple(
        Field(name=name, type=ARTIFACT_TYPE, nullable=False, codec=None, kind="artifact")
        for name in files
        if name not in names
    )
    return Schema((*declared, *extra)) if declared or extra else Schema(())


def _text(value: Any) -> str:
    """A parameter as a word: text as it is, lists and dicts as JSON."""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str)
    return "" if value is None else str(value)


def _ended(code: int) -> str:
    if code < 0:
        # Real-time signals have a number only.
        names = {s.value: s.name for s in signal.Signals}
        return f"was ended by {names.get(-code, f'signal {-code}')}"
    return f"ended with exit code {code}"


def _tail(stderr: bytes) -> str:
    return stderr.decode(errors="replace")[-STDERR_CHARACTERS:].strip()
