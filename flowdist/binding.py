"""How the parameters of a stage are filled, decided by name when the stage is added.

Pure: it looks at signatures and at what a flow has so far, never at data. The evaluation of
bindings for a row is in `flowdist.workers.evaluate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flowdist.errors import FlowError, nearest
from flowdist.schema import Schema

SourceKind = Literal["column", "const", "field", "whole", "late", "seed", "ctx", "columns", "group"]


@dataclass(frozen=True)
class Binding:
    """One parameter and where its value comes from.

    `kind` is one of: ``column`` (of the grid), ``const``, ``field`` (of an earlier stage),
    ``whole`` (a stage's whole output), ``late`` (a field of a stage in `stages` whose outputs are
    not declared: looked up per row), ``seed``, ``ctx``, ``columns`` (all other grid columns, for
    ``**kwargs``), ``group`` (the table of a reduce). `how` is how the function takes it.
    """

    parameter: str
    kind: SourceKind
    key: str = ""
    stages: tuple[str, ...] = ()
    how: Literal["positional", "keyword", "spread"] = "positional"
    optional: bool = False
    annotation: str = ""


@dataclass(frozen=True)
class Scope:
    """What a flow offers to the parameters of its next stage."""

    columns: tuple[str, ...]
    const: frozenset[str]
    stages: Mapping[str, Schema | None]
    needs: tuple[str, ...] | None = None
    seeded: bool = False
    by: tuple[str, ...] | None = None
    is_reduce: bool = False
    where: str = field(default="stage")

    @property
    def visible(self) -> tuple[str, ...]:
        """Earlier stages whose outputs may fill parameters: `needs` where given, else all."""
        return tuple(self.stages) if self.needs is None else self.needs

    @property
    def late(self) -> tuple[str, ...]:
        """Stages without declared outputs that unfilled parameters are taken from."""
        if self.needs is None:
            asked = tuple(self.stages)[-1:]
        else:
            asked = self.needs
        return tuple(s for s in asked if self.stages[s] is None)


def bind(fn: Callable[..., Any], scope: Scope) -> tuple[Binding, ...]:
    """Bindings for every parameter of `fn` that something fills, in the order of its signature.

    Raises:
        FlowError: a parameter that nothing fills or that two things could fill, naming the
            candidates.
    """
    bound: list[Binding] = []
    keyword_from_here = False
    for parameter in _signature(fn, scope.where).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            keyword_from_here = True
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.append(Binding(parameter.name, "columns", how="spread"))
            continue
        # The first parameter of a reduce that nothing else fills is the group's whole table.
        first = scope.is_reduce and not any(b.kind == "group" for b in bound)
        has_default = parameter.default is not parameter.empty
        found = resolve(parameter.name, scope, optional=has_default, takes_group=first)
        if found is None:
            keyword_from_here = True
            continue
        if has_default and found.kind in ("field", "whole") and not scope.is_reduce:
            # Its stage may be skipped for a row: then the default is used.
            found = replace(found, optional=parameter.kind is not parameter.POSITIONAL_ONLY)
        # What may be absent must be left out by name.
        keyword_from_here |= found.optional or parameter.kind is parameter.KEYWORD_ONLY
        if keyword_from_here and parameter.kind is parameter.POSITIONAL_ONLY:
            raise FlowError(
                f"{scope.where}: parameter '{parameter.name}' is positional only, so it cannot be "
                "given when an optional one is left to its default; take the '/' out of the "
                "signature"
            )
        bound.append(
            Binding(
                parameter.name,
                found.kind,
                found.key,
                found.stages,
                "keyword" if keyword_from_here else "positional",
                found.optional,
                _annotation(parameter.annotation),
            )
        )
    return tuple(bound)


def bind_names(names: tuple[str, ...], scope: Scope) -> tuple[Binding, ...]:
    """Bindings for `names`, each passed by keyword: for scripts, whose parameters are
    placeholders.
    """
    found = [resolve(name, scope, optional=False) for name in names]
    return tuple(
        Binding(b.parameter, b.kind, b.key, b.stages, "keyword") for b in found if b is not None
    )


def resolve(
    name: str, scope: Scope, *, optional: bool, takes_group: bool = False
) -> Binding | None:
    """What fills parameter `name`; None where nothing does and its default is to be used."""
    found = _candidates(name, scope)
    if len(found) > 1:
        qualified = _qualified(name, found)
        choice = f", or ask for it as {' or '.join(qualified)}" if qualified else ""
        raise FlowError(
            f"{scope.where}: parameter '{name}' could be filled by {_join(found)}; "
            f"rename one{choice}"
        )
    if found:
        return next(iter(found.values()))
    if scope.is_reduce:
        if takes_group and not optional:
            if name in scope.columns:
                raise FlowError(
                    f"{scope.where}: parameter '{name}' is a grid column that differs within a "
                    f"group; add it to by, or give the parameter that gets the group's rows a name "
                    "of its own, such as 'rows'"
                )
            return Binding(name, "group")
    elif scope.late:
        return Binding(name, "late", name, scope.late, optional=optional)
    if optional:
        return None
    if name == "seed":
        raise FlowError(
            f"{scope.where}: parameter 'seed' needs a seeded flow: write flow(grid, seed=42)"
        )
    offered = _offered(scope)
    hint = ""
    if scope.is_reduce:
        hint = "; the group's rows go to the first parameter that nothing else fills"
    raise FlowError(
        f"{scope.where}: nothing fills parameter '{name}'{nearest(name, offered)} "
        f"(there are: {', '.join(offered) or 'no columns'}{hint})"
    )


def _candidates(name: str, scope: Scope) -> dict[str, Binding]:
    """Everything that could fill `name`, keyed by a description for the error message."""
    found: dict[str, Binding] = {}
    columns = (scope.by or ()) if scope.is_reduce else scope.columns
    if name in columns:
        found[f"grid column '{name}'"] = Binding(name, "column", name)
    if name in scope.const:
        found[f"const '{name}'"] = Binding(name, "const", name)
    if name in scope.visible:
        found[f"the output of stage '{name}'"] = Binding(name, "whole", name, (name,))
    if not scope.is_reduce:
        found |= _stage_fields(name, scope)
    if name == "seed" and scope.seeded:
        found["the row's derived seed"] = Binding(name, "seed")
    if name == "ctx":
        found["the row's context"] = Binding(name, "ctx")
    return found


def _stage_fields(name: str, scope: Scope) -> dict[str, Binding]:
    found: dict[str, Binding] = {}
    for stage in scope.visible:
        schema = scope.stages[stage]
        if schema is not None and name in schema.names:
            found[f"field '{name}' of stage '{stage}'"] = Binding(name, "field", name, (stage,))
        prefix = f"{stage}__"
        if not name.startswith(prefix):
            continue
        key = name.removeprefix(prefix)
        if schema is None:
            found[f"field '{key}' of stage '{stage}'"] = Binding(name, "late", key, (stage,))
        elif key in schema.names:
            found[f"field '{key}' of stage '{stage}'"] = Binding(name, "field", key, (stage,))
    return found


def _qualified(name: str, found: Mapping[str, Binding]) -> list[str]:
    """Names that would not be ambiguous: ``stage__field`` for every stage among the candidates."""
    return [f"'{b.stages[0]}__{name}'" for b in found.values() if b.kind == "field"]


def _offered(scope: Scope) -> list[str]:
    columns = list((scope.by or ()) if scope.is_reduce else scope.columns)
    names = [*columns, *sorted(scope.const), *scope.visible]
    if not scope.is_reduce:
        for stage in scope.visible:
            schema = scope.stages[stage]
            names += schema.names if schema is not None else ()
    return list(dict.fromkeys([*names, *(["seed"] if scope.seeded else []), "ctx"]))


def _join(found: Mapping[str, Binding]) -> str:
    return " or ".join(found)


def _signature(fn: Callable[..., Any], where: str) -> inspect.Signature:
    if not callable(fn):
        raise FlowError(f"{where}: expected a function, got {type(fn).__name__} {fn!r}")
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        raise FlowError(
            f"{where}: {fn!r} does not tell its parameters' names; wrap it in a function "
            "whose parameters are named after what fills them"
        ) from None


def _annotation(annotation: Any) -> str:
    """The annotation as text: enough to choose the kind of table a reduce is given."""
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    return f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', '')}"
