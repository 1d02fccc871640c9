"""A set-up from a file: TOML or YAML, with flowdist's names, or as the lab of the many-model
document has it (``parallel_lab:``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowdist.backends.snowflake.setup_plan import Setup
from flowdist.errors import UsageError, nearest

__all__ = ["read_config"]

# Tables in which a file may have it; a file may also have it without one.
_TABLES = ("setup", "parallel_lab")
# The lab's words, and ours. Its stage holds models, its queue is configuration.
_LAB = {
    "image_uri": "image",
    "dosnowflake_stage_name": "stage",
    "queue_table": "queue",
    "demo_queue_n_workers": "replicas",
}
# Of the lab's words, those that size its demonstration: they change nothing of an account.
_DEMO = ("create_synthetic_series_table", "clean_room")
_LAB_SCHEMAS = {"stage": "models", "queue": "config", "schema": "models"}
_NUMBERS = ("nodes", "replicas", "containers_per_node")


def read_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of :class:`Setup` that a file gives, and what there is to say of the rest of it.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    whole = _loaded(path)
    table = next((name for name in _TABLES if name in whole), None)
    content = whole if table is None else whole[table]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: {table} is no table of settings, but {content!r}")
    context = whole.get("context")
    other = [key for key in whole if table is not None and key not in (table, "context")]
    remarks = [f"{path}: '{key}' is not read: only {table} is" for key in other]
    if isinstance(context, Mapping) and "warehouse" not in content and "warehouse" in context:
        content = {**content, "warehouse": context["warehouse"]}
    found = _fields(content, path, remarks)
    return found, remarks


def _loaded(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is no TOML: {error}") from None
    try:
        import yaml
    except ImportError:
        raise UsageError(
            f"{path}: reading YAML needs pyyaml: pip install 'flowdist[snowflake]' (or write it "
            "as TOML)"
        ) from None
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no table of settings")
    return loaded


def _fields(content: Mapping[str, Any], path: Path, remarks: list[str]) -> dict[str, Any]:
    known = {field.name for field in fields(Setup)}
    found: dict[str, Any] = {}
    schemas: dict[str, str] = {}
    unused: list[str] = []
    for key, value in content.items():
        name = _LAB.get(key, key)
        if value is None:
            continue
        if key == "schemas" and isinstance(value, Mapping):
            schemas = {str(k): str(v) for k, v in value.items()}
        elif name in known:
            found[name] = _value(name, value, path)
        elif key in _DEMO or key.startswith("demo_"):
            unused.append(key)
        else:
            remarks.append(f"{path}: '{key}' means nothing to flowdist{nearest(key, known)}")
    if unused:
        remarks.append(f"{path}: not of use here: {', '.join(unused)}")
    if schemas:
        _place(found, schemas)
    if "image" in found:
        _image(found, path, remarks)
    return found


def _value(name: str, value: Any, path: Path) -> Any:
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{path}: {name}: {value!r} is no number of them")
        return value
    if name == "hybrid":
        if not isinstance(value, bool):
            raise UsageError(f"{path}: hybrid: {value!r} is neither true nor false")
        return value
    if name == "schemas":
        return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    if not isinstance(value, str):
        raise UsageError(f"{path}: {name}: {value!r} is no text")
    return value


def _place(found: dict[str, Any], schemas: Mapping[str, str]) -> None:
    """The lab's schemas: all are made, and what is in which is as there."""
    first = next(iter(schemas.values()))
    for what, which in _LAB_SCHEMAS.items():
        schema = schemas.get(which, first)
        if what == "schema":
            found.setdefault("schema", schema)
        elif what in found and "." not in found[what]:
            found[what] = f"{found.get('database', 'FLOWDIST')}.{schema}.{found[what]}"
    found["schemas"] = tuple(schemas.values())


def _image(found: dict[str, Any], path: Path, remarks: list[str]) -> None:
    """An image's path, as the lab writes it: database.schema.repository/image:tag."""
    image = str(found["image"])
    repository, _, name = image.rpartition("/")
    if not image.startswith("/") and repository.count(".") == 2 and "/" not in repository:
        found.setdefault("repository", repository)
        found["image"] = f"/{repository.replace('.', '/').lower()}/{name}"
    if "dosnowflake" in name:
        remarks.append(
            f"{path}: image {image} is the worker of doSnowflake, for R; flowdist image build and "
            "push make one for flowdist"
        )
        del found["image"]
