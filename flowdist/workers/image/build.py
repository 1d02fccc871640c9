"""Building an image: from what its user asks for to a recipe, and from a recipe to an image."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from flowdist.errors import BackendError, UsageError
from flowdist.workers.image.engines import Engine
from flowdist.workers.image.packages import (
    NOTHING,
    Packages,
    constraints,
    find_lock,
    from_environment,
    from_lock,
    from_names,
)
from flowdist.workers.image.recipe import CONTAINERFILE, EXTRA, PLATFORM, Recipe
from flowdist.workers.image.wheels import flowdist_wheel

__all__ = ["NAME", "build", "choose_packages", "image_name", "make_recipe", "write"]

NAME = "flowdist-worker"
"""What an image is called that is not given a name."""


def choose_packages(
    *,
    lock: Path | None = None,
    environment: bool = False,
    names: Sequence[str] = (),
    exclude: Sequence[str] = (),
    directory: Path | None = None,
) -> Packages:
    """The packages of an image: those of a lock file, or of this environment, and those by name.

    Args:
        lock: the lock file; None: the one in `directory`, where that is given and has one.
        environment: all that is installed here, in place of a lock file.
        names: further ones, as ``name==version``.
        exclude: which of those installed here are left out.
        directory: where a lock file is looked for.

    Raises:
        UsageError: both a lock file and this environment; a package without an exact version.
    """
    if environment and lock is not None:
        raise UsageError("--lock and --environment both say which packages; give one of them")
    if exclude and not environment:
        raise UsageError("--exclude leaves out what is installed here: it goes with --environment")
    if environment:
        return _remarked(from_environment(exclude) + from_names(names))
    found = lock if lock is not None or directory is None else find_lock(directory)
    return _remarked((from_lock(found) if found is not None else NOTHING) + from_names(names))


def _remarked(packages: Packages) -> Packages:
    """The packages, with a remark where they would not load what is pickled here."""
    here = version("cloudpickle")
    for pin in packages.pins:
        if pin.name == "cloudpickle" and pin.version != here:
            remark = (
                f"cloudpickle is {pin.version} in {packages.source} and {here} here: what is "
                "pickled here may not be loaded there"
            )
            return replace(packages, remarks=(*packages.remarks, remark))
    return packages


def make_recipe(
    packages: Packages = NOTHING,
    *,
    base: str = "",
    apt: Sequence[str] = (),
    pip_config: bool = False,
) -> Recipe:
    """The recipe of an image that has these packages and flowdist as it is here."""
    return Recipe(
        packages=packages,
        constraints=constraints(EXTRA, packages),
        wheel=flowdist_wheel(),
        base=base,
        apt=tuple(sorted(set(apt))),
        pip_config=pip_config,
    )


def image_name(recipe: Recipe, asked: str | None = None) -> str:
    """The name and the tag of an image: those asked for, else ours.

    Raises:
        UsageError: that is no name of an image.
    """
    name, colon, tag = (asked or NAME).rpartition(":")
    if not colon or "/" in tag:
        name, tag = asked or NAME, recipe.tag
    if not name or name != name.lower() or " " in name or not tag:
        raise UsageError(f"--tag {asked}: the name of an image is wanted, as in {NAME}:1")
    return f"{name}:{tag}"


def write(recipe: Recipe, directory: Path) -> None:
    """Write the Containerfile and what it copies into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in recipe.files().items():
        (directory / name).write_bytes(data)


def build(
    recipe: Recipe,
    engine: Engine,
    *,
    tag: str | None = None,
    pip_config: Path | None = None,
    keep: Path | None = None,
    out: Callable[[str], None],
) -> str:
    """Build the image of a recipe; its name.

    Args:
        recipe, engine: what is built, and by what.
        tag: what it is called; without a tag after ``:`` it gets the one of the recipe.
        pip_config: a configuration of pip that is shown to it while it runs.
        keep: a directory for the Containerfile and its files, which stay there.
        out: gets the lines that the engine prints.

    Raises:
        BackendError: it failed; the Containerfile is kept, and the error says where.
    """
    name = image_name(recipe, tag)
    context = keep or Path(tempfile.mkdtemp(prefix="flowdist-image-"))
    write(recipe, context)
    try:
        engine.build(
            context, context / CONTAINERFILE, name, PLATFORM, pip_config=pip_config, out=out
        )
    except BackendError as error:
        raise BackendError(f"{error}\nThe {CONTAINERFILE} and its files are in {context}") from None
    if keep is None:
        shutil.rmtree(context, ignore_errors=True)
    return name
