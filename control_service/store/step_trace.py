"""Step traces: the decode steps of live engines in a file, written by `turbospec record`, read by replay.

JSON lines (`.jsonl`, or `.jsonl.gz`), one object a line:

    {"format": "turbospec.steps", "version": 1}    the first line
    {"engine": {...}}                              an engine's profile, before its first step
    {"dropped_steps": 12}                          steps lost so far between service and file
    {"engine_id": ..., "epoch": ..., ...}          one step: `STEP_FIELDS` of its `StepObservation`

Parquet (`.parquet`): the steps as rows under the same names; format, version, profiles and lost steps
are in the file's metadata as JSON under `turbospec`. It can be read only once it was closed.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast, get_args, get_origin, get_type_hints

from control_service.core.types import STEP_FIELDS, EngineProfile, StepObservation
from control_service.core.validation import InvalidFieldError, check_profile, rejection_cause

FORMAT = "turbospec.steps"
VERSION = 1
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ROWS_PER_GROUP = 4_096
METADATA_KEY = b"turbospec"


def _kinds(hints: dict[str, Any]) -> dict[str, type]:
    """The type of every field as JSON has it: tuples are lists."""
    return {name: list if get_origin(hint) is tuple else hint for name, hint in hints.items()}


def _items(hints: dict[str, Any]) -> dict[str, type]:
    """The type of what is in every tuple."""
    return {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is tuple}


_STEP_HINTS = {name: get_type_hints(StepObservation)[name] for name in STEP_FIELDS}
_STEP_KINDS = {"engine_id": str, "epoch": int, **_kinds(_STEP_HINTS)}
_STEP_ITEMS = _items(_STEP_HINTS)
_PROFILE_KINDS = _kinds(get_type_hints(EngineProfile))
_PROFILE_ITEMS = _items(get_type_hints(EngineProfile))


class StepTraceError(ValueError):
    """A file that is no step trace; the text names the place, the field and what is allowed."""


class TracedStep(NamedTuple):
    """One observed step, and whose it is."""

    engine_id: str
    epoch: int
    step: StepObservation


class StepTrace(NamedTuple):
    """A whole file. Steps are in the order in which the service learned them.

    engines: one profile an engine epoch; every step's is among them. dropped_steps: lost between
    service and file.
    """

    engines: tuple[EngineProfile, ...]
    steps: tuple[TracedStep, ...]
    dropped_steps: int

    def profile_of(self, step: TracedStep) -> EngineProfile:
        """The profile of the engine epoch that ran a step."""
        return next(p for p in self.engines if (p.engine_id, p.epoch) == (step.engine_id, step.epoch))


class StepTraceWriter(Protocol):
    """Takes a recording as it comes. Every call may raise OSError."""

    def add_engine(self, profile: EngineProfile) -> None:
        """Introduce an engine epoch, before its first step."""

    def add(self, step: TracedStep) -> None:
        """One step."""

    def set_dropped(self, dropped_steps: int) -> None:
        """Steps lost so far."""

    def flush(self) -> None:
        """Let others see what was added, where the format allows it."""

    def close(self) -> None:
        """Complete the file."""


def create_step_trace(path: Path) -> StepTraceWriter:
    """A writer for a new file; the suffix says the format.

    Raises StepTraceError for another suffix or a format that is not installed, FileExistsError, OSError.
    """
    if suffix_of(path) == ".parquet":
        return _ParquetWriter(path)
    return _JsonLinesWriter(path)


def read_step_trace(path: Path) -> StepTrace:
    """The whole file, checked field by field. Raises StepTraceError or OSError."""
    items = _parquet_items(path) if suffix_of(path) == ".parquet" else _json_lines_items(path)
    engines: dict[tuple[str, int], EngineProfile] = {}
    steps: list[TracedStep] = []
    dropped = 0
    for place, item in items:
        if "engine" in item:
            profile = _profile(place, item["engine"])
            engines[profile.engine_id, profile.epoch] = profile
        elif "dropped_steps" in item:
            dropped = _checked(place, "dropped_steps", item["dropped_steps"], int)
        else:
            steps.append(_step(place, item, engines))
    return StepTrace(tuple(engines.values()), tuple(steps), dropped)


def suffix_of(path: Path) -> str:
    """The suffix that says the format. Raises StepTraceError."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise StepTraceError(f"{path.name!r} has no known suffix; allowed: {', '.join(SUFFIXES)}")


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = _open_text(path, "x")
        self._write({"format": FORMAT, "version": VERSION})

    def add_engine(self, profile: EngineProfile) -> None:
        self._write({"engine": asdict(profile)})

    def add(self, step: TracedStep) -> None:
        self._write(_row(step))

    def set_dropped(self, dropped_steps: int) -> None:
        self._write({"dropped_steps": dropped_steps})

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, item: dict[str, Any]) -> None:
        self._file.write(json.dumps(item, separators=(",", ":"), allow_nan=False) + "\n")


class _ParquetWriter:
    def __init__(self, path: Path) -> None:
        arrow, parquet = _pyarrow()
        self._arrow = arrow
        self._schema = _parquet_schema(arrow)
        # Opened here, so that a file that exists is refused.
        self._file = path.open("xb")
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._engines: list[dict[str, Any]] = []
        self._dropped_steps = 0

    def add_engine(self, profile: EngineProfile) -> None:
        self._engines.append(asdict(profile))

    def add(self, step: TracedStep) -> None:
        self._rows.append(_row(step))
        if len(self._rows) == ROWS_PER_GROUP:
            self._write_group()

    def set_dropped(self, dropped_steps: int) -> None:
        self._dropped_steps = dropped_steps

    def flush(self) -> None:
        """Nothing: a row group is written when it is full."""

    def close(self) -> None:
        self._write_group()
        about = {
            "format": FORMAT,
            "version": VERSION,
            "engines": self._engines,
            "dropped_steps": self._dropped_steps,
        }
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(about).encode()})
        self._writer.close()
        self._file.close()

    def _write_group(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))


def _row(step: TracedStep) -> dict[str, Any]:
    values = {name: getattr(step.step, name) for name in STEP_FIELDS}
    return {"engine_id": step.engine_id, "epoch": step.epoch, **values}


def _json_lines_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open_text(path, "r") as lines:
        try:
            _check_format(f"{path.name}: line 1", _json_object(f"{path.name}: line 1", lines.readline()))
            for number, line in enumerate(lines, start=2):
                place = f"{path.name}: line {number}"
                yield place, _json_object(place, line)
        except (EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
            raise StepTraceError(f"{path.name}: damaged or cut off: {error}") from error


def _parquet_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    arrow, parquet = _pyarrow()
    try:
        source = parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise StepTraceError(f"{path.name}: no Parquet file: {error}") from error
    with source:
        about = _json_object(path.name, (source.metadata.metadata or {}).get(METADATA_KEY, b"{}"))
        _check_format(path.name, about)
        yield from ((path.name, {"engine": engine}) for engine in about.get("engines", ()))
        yield path.name, {"dropped_steps": about.get("dropped_steps", 0)}
        batches = source.iter_batches(ROWS_PER_GROUP)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, row in enumerate(rows, start=1):
            yield f"{path.name}: row {number}", row


def _open_text(path: Path, mode: str) -> IO[str]:
    if path.name.endswith(".gz"):
        return cast(IO[str], gzip.open(path, f"{mode}t", encoding="utf-8"))
    return path.open(mode, encoding="utf-8")


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise StepTraceError(
            "Parquet needs pyarrow, which is not installed: pip install 'turbospec[parquet]',"
            " or use a file that ends in .jsonl or .jsonl.gz"
        ) from error


def _parquet_schema(arrow: Any) -> Any:
    plain = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    return arrow.schema(
        [
            (name, arrow.list_(plain[_STEP_ITEMS[name]]) if kind is list else plain[kind])
            for name, kind in _STEP_KINDS.items()
        ]
    )


def _json_object(place: str, text: str | bytes) -> dict[str, Any]:
    try:
        item = json.loads(text)
    except ValueError as error:
        raise StepTraceError(f"{place}: not JSON: {error}") from error
    if not isinstance(item, dict):
        raise StepTraceError(f"{place}: {item!r:.40} is not a JSON object")
    return item


def _check_format(place: str, about: dict[str, Any]) -> None:
    found = (about.get("format"), about.get("version"))
    if found != (FORMAT, VERSION):
        raise StepTraceError(f"{place}: format and version are {found}; allowed: {(FORMAT, VERSION)}")


def _step(place: str, item: dict[str, Any], engines: dict[tuple[str, int], EngineProfile]) -> TracedStep:
    values = _fields(place, item, _STEP_KINDS, _STEP_ITEMS)
    engine_id, epoch = values.pop("engine_id"), values.pop("epoch")
    profile = engines.get((engine_id, epoch))
    if profile is None:
        raise StepTraceError(f"{place}: engine_id {engine_id!r} of epoch {epoch} was not introduced")
    step = StepObservation(**values)
    cause = rejection_cause(step, profile)
    if cause is not None:
        raise StepTraceError(f"{place}: {cause} is not what an engine reports")
    return TracedStep(engine_id, epoch, step)


def _profile(place: str, item: Any) -> EngineProfile:
    if not isinstance(item, dict):
        raise StepTraceError(f"{place}: engine: {item!r:.40} is not a JSON object")
    profile = EngineProfile(**_fields(place, item, _PROFILE_KINDS, _PROFILE_ITEMS))
    try:
        check_profile(profile)
    except InvalidFieldError as error:
        raise StepTraceError(f"{place}: {error}") from error
    return profile


def _fields(
    place: str, item: dict[str, Any], kinds: dict[str, type], items: dict[str, type]
) -> dict[str, Any]:
    if item.keys() != kinds.keys():
        wrong = sorted(item.keys() ^ kinds.keys())
        raise StepTraceError(f"{place}: fields missing or unknown: {', '.join(wrong)}")
    values = {name: _checked(place, name, item[name], kind) for name, kind in kinds.items()}
    for name, kind in items.items():
        values[name] = tuple(_checked(place, name, part, kind) for part in values[name])
    return values


def _checked(place: str, name: str, value: Any, kind: type) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise StepTraceError(f"{place}: {name} is {value!r:.40}; allowed: {kind.__name__}")
