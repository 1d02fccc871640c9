"""Network rules and external access integrations: they exist, are granted and shown.

Containers reach the network as the machine does: the emulator keeps no rule from them.
"""

from __future__ import annotations

import json
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import (
    SqlError,
    compilation_error,
    insufficient_privileges,
    invalid_value,
)
from flowdist.emulator.names import FullName
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import (
    DONE,
    changes,
    created,
    drop,
    free_name,
    owner_role_type,
    read_unset,
    replacing,
    visible,
)
from flowdist.emulator.statements.showing import moment, read_filter, read_name_filter
from flowdist.emulator.types import FIXED, LTZ

__all__: list[str] = []

RULE, INTEGRATION = "network rule", "external access integration"
RULE_TYPES = (
    "IPV4",
    "IPV6",
    "AWSVPCEID",
    "AZURELINKID",
    "GCPPSCID",
    "HOST_PORT",
    "PRIVATE_HOST_PORT",
    "COMPUTE_POOL",
)
RULE_MODES = ("INGRESS", "INTERNAL_STAGE", "SNOWFLAKE_MANAGED_STORAGE_VOLUME", "EGRESS")
EGRESS_TYPES = ("HOST_PORT", "PRIVATE_HOST_PORT", "IPV4")


# -- network rules


def _choice(name: str, choices: tuple[str, ...]) -> Reader:
    def read(parse: Parser) -> str:
        written = parse.text_or_word().upper()
        if written not in choices:
            raise invalid_value(written, name)
        return written

    return read


def _texts(parse: Parser) -> list[str]:
    return list(parse.parenthesised(Parser.text))


RULE_PROPERTIES: dict[str, Reader] = {
    "TYPE": _choice("TYPE", RULE_TYPES),
    "MODE": _choice("MODE", RULE_MODES),
    "VALUE_LIST": _texts,
    "COMMENT": Parser.text,
}


@statement("CREATE", "NETWORK", "RULE")
def create_rule(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] NETWORK RULE."""
    account, session = context.account, context.session
    replace = replacing(parse)
    name = session.resolve(parse.name())
    given = parse.properties(RULE_PROPERTIES)
    parse.end()
    for needed in ("TYPE", "VALUE_LIST"):
        if needed not in given:
            raise compilation_error(f"Missing option(s): [{needed}].", 2029, "42601")
    mode = given.get("MODE", "INGRESS")
    outgoing = given["TYPE"] in ("HOST_PORT", "PRIVATE_HOST_PORT")
    if outgoing != (mode == "EGRESS") and given["TYPE"] not in EGRESS_TYPES[2:]:
        raise invalid_value(mode, "MODE")
    account.access.require_create(session, "NETWORK RULE", name)
    free_name(context, RULE, name, replace, False, account.catalog.drop)
    account.catalog.create(
        RULE,
        name,
        owner=account.access.owner_role(session),
        comment=given.get("COMMENT", ""),
        type=given["TYPE"],
        mode=mode,
        values=given["VALUE_LIST"],
    )
    return created("Network rule", name.name)


@statement("ALTER", "NETWORK", "RULE")
def alter_rule(context: Context, parse: Parser) -> Result:
    """ALTER NETWORK RULE [IF EXISTS]: SET and UNSET of VALUE_LIST and COMMENT."""
    if_exists = parse.if_exists()
    target = _found(context, RULE, context.session.resolve(parse.name()), if_exists)
    if target is None:
        return message(DONE)
    context.account.access.require_owner(context.session, target)
    known = {name: RULE_PROPERTIES[name] for name in ("VALUE_LIST", "COMMENT")}
    if parse.accept("SET"):
        given = changes(parse, known, RULE)
        parse.end()
        values = given.get("VALUE_LIST", target.data["values"])
        context.account.catalog.update(target, comment=given.get("COMMENT"), values=values)
    elif parse.accept("UNSET"):
        names = read_unset(parse, known, RULE)
        values = [] if "VALUE_LIST" in names else target.data["values"]
        comment = "" if "COMMENT" in names else None
        context.account.catalog.update(target, comment=comment, values=values)
    else:
        raise parse.unsupported()
    return message(DONE)


def _found(
    context: Context, kind: str, name: FullName | tuple[str, ...], if_exists: bool
) -> Object | None:
    try:
        return context.account.access.find(context.session, kind, name)
    except SqlError:
        if not if_exists:
            raise
        return None


@statement("DROP", "NETWORK", "RULE")
def drop_rule(context: Context, parse: Parser) -> Result:
    """DROP NETWORK RULE [IF EXISTS]: not one that an integration names."""
    catalog = context.account.catalog

    def remove(rule: Object) -> None:
        for integration in catalog.all(INTEGRATION):
            if str(rule) in integration.data["rules"]:
                raise SqlError(
                    1493,
                    "2BP01",
                    f"SQL compilation error:\nCannot drop network rule '{rule}' as it is "
                    f"associated with external access integration '{integration}'.",
                )
        catalog.drop(rule)

    return drop(context, parse, RULE, context.session.resolve, remove)


@statement("SHOW", "NETWORK", "RULES")
def show_rules(context: Context, parse: Parser) -> Result:
    """SHOW NETWORK RULES [LIKE] [IN] [STARTS WITH] [LIMIT]."""
    wanted = read_filter(parse, context.session)
    parse.end()
    found = wanted.apply(visible(context, context.account.catalog.all(RULE)))
    return rows(
        (
            ("created_on", LTZ),
            "name",
            "database_name",
            "schema_name",
            "owner",
            "comment",
            "type",
            "mode",
            ("entries_in_valuelist", FIXED),
            "owner_role_type",
        ),
        [
            (
                moment(o.created_on),
                o.name,
                o.database,
                o.schema,
                o.owner,
                o.comment,
                o.data["type"],
                o.data["mode"],
                len(o.data["values"]),
                owner_role_type(o),
            )
            for o in found
        ],
    )


@statement("DESCRIBE", "NETWORK", "RULE")
def describe_rule(context: Context, parse: Parser) -> Result:
    """DESCRIBE NETWORK RULE, for its owner."""
    name = context.session.resolve(parse.name())
    parse.end()
    o = context.account.access.find(context.session, RULE, name)
    context.account.access.require_owner(context.session, o)
    return rows(
        (
            ("created_on", LTZ),
            "name",
            "database_name",
            "schema_name",
            "owner",
            "comment",
            "type",
            "mode",
            "value_list",
        ),
        [
            (
                moment(o.created_on),
                o.name,
                o.database,
                o.schema,
                o.owner,
                o.comment,
                o.data["type"],
                o.data["mode"],
                ",".join(o.data["values"]),
            )
        ],
    )


# -- external access integrations


def _name_list(parse: Parser) -> list[tuple[str, ...]]:
    return list(parse.parenthesised(Parser.name))


def _secrets(parse: Parser) -> Any:
    chosen = parse.accept_any("ALL", "NONE")
    return chosen.lower() if chosen else _name_list(parse)


def _no_api_integrations(parse: Parser) -> str:
    if not parse.accept("NONE"):
        raise parse.unsupported()
    return "none"


PROPERTIES: dict[str, Reader] = {
    "ALLOWED_NETWORK_RULES": _name_list,
    "ALLOWED_API_AUTHENTICATION_INTEGRATIONS": _no_api_integrations,
    "ALLOWED_AUTHENTICATION_SECRETS": _secrets,
    "ENABLED": Parser.boolean,
    "COMMENT": Parser.text,
}


def _data(context: Context, given: dict[str, Any]) -> dict[str, Any]:
    """What the properties of a statement make of an integration's data; what they name exists."""
    access, session = context.account.access, context.session
    data: dict[str, Any] = {}
    if "ALLOWED_NETWORK_RULES" in given:
        rules = [
            access.find(session, RULE, session.resolve(parts))
            for parts in given["ALLOWED_NETWORK_RULES"]
        ]
        for rule in rules:
            if rule.data["mode"] != "EGRESS":
                raise compilation_error(
                    f"Network rule '{rule}' is not an egress rule.", 98, "22023"
                )
        data["rules"] = [str(rule) for rule in rules]
    if "ALLOWED_AUTHENTICATION_SECRETS" in given:
        chosen = given["ALLOWED_AUTHENTICATION_SECRETS"]
        if not isinstance(chosen, str):
            secrets = [access.find(session, "secret", session.resolve(p)) for p in chosen]
            for secret in secrets:
                access.require_any(session, ("USAGE", "READ"), secret)
            chosen = [str(secret) for secret in secrets]
        data["secrets"] = chosen
    if "ENABLED" in given:
        data["enabled"] = given["ENABLED"]
    return data


@statement("CREATE", "EXTERNAL", "ACCESS", "INTEGRATION")
def create_integration(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] EXTERNAL ACCESS INTEGRATION."""
    account, session = context.account, context.session
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    given = parse.properties(PROPERTIES)
    parse.end()
    for needed in ("ALLOWED_NETWORK_RULES", "ENABLED"):
        if needed not in given:
            raise compilation_error(f"Missing option(s): [{needed}].", 2029, "42601")
    access = account.access
    if not access.can_account(session, "CREATE EXTERNAL ACCESS INTEGRATION"):
        access.require_account(session, "CREATE INTEGRATION")
    there = free_name(context, INTEGRATION, (name,), replace, if_not_exists, account.catalog.drop)
    if there is not None:
        return there
    account.catalog.create(
        INTEGRATION,
        (name,),
        owner=access.owner_role(session),
        comment=given.get("COMMENT", ""),
        **{"rules": [], "secrets": "none", "enabled": True, **_data(context, given)},
    )
    return created("Integration", name)


@statement("ALTER", "EXTERNAL", "ACCESS", "INTEGRATION")
def alter_integration(context: Context, parse: Parser) -> Result:
    """ALTER EXTERNAL ACCESS INTEGRATION [IF EXISTS]: SET and UNSET."""
    if_exists = parse.if_exists()
    target = _found(context, INTEGRATION, (parse.identifier(),), if_exists)
    if target is None:
        return message(DONE)
    context.account.access.require_owner(context.session, target)
    if parse.accept("SET"):
        given = changes(parse, PROPERTIES, INTEGRATION)
        parse.end()
        data = _data(context, given)
        context.account.catalog.update(target, comment=given.get("COMMENT"), **data)
    elif parse.accept("UNSET"):
        names = read_unset(
            parse, {k: v for k, v in PROPERTIES.items() if k != "ENABLED"}, INTEGRATION
        )
        fresh = {
            "ALLOWED_NETWORK_RULES": ("rules", []),
            "ALLOWED_AUTHENTICATION_SECRETS": ("secrets", "none"),
        }
        data = dict(fresh[name] for name in names if name in fresh)
        comment = "" if "COMMENT" in names else None
        context.account.catalog.update(target, comment=comment, **data)
    else:
        raise parse.unsupported()
    return message(DONE)


@statement("DROP", "EXTERNAL", "ACCESS", "INTEGRATION")
@statement("DROP", "INTEGRATION")
def drop_integration(context: Context, parse: Parser) -> Result:
    """DROP [EXTERNAL ACCESS] INTEGRATION [IF EXISTS]."""
    return drop(context, parse, INTEGRATION, lambda parts: parts, context.account.catalog.drop)


@statement("SHOW", "EXTERNAL", "ACCESS", "INTEGRATIONS")
@statement("SHOW", "INTEGRATIONS")
def show_integrations(context: Context, parse: Parser) -> Result:
    """SHOW [EXTERNAL ACCESS] INTEGRATIONS [LIKE]."""
    wanted = read_name_filter(parse)
    parse.end()
    found = wanted.apply(visible(context, context.account.catalog.all(INTEGRATION)))
    return rows(
        ("name", "type", "category", "enabled", "comment", ("created_on", LTZ)),
        [
            (
                o.name,
                "EXTERNAL_ACCESS",
                "EXTERNAL_ACCESS",
                str(o.data["enabled"]).lower(),
                o.comment,
                moment(o.created_on),
            )
            for o in found
        ],
    )


@statement("DESCRIBE", "EXTERNAL", "ACCESS", "INTEGRATION")
@statement("DESCRIBE", "INTEGRATION")
def describe_integration(context: Context, parse: Parser) -> Result:
    """DESCRIBE [EXTERNAL ACCESS] INTEGRATION: its properties, one to a row."""
    name = parse.identifier()
    parse.end()
    access = context.account.access
    o = access.find(context.session, INTEGRATION, (name,))
    if not (access.can(context.session, "USAGE", o) or access.can(context.session, "OWNERSHIP", o)):
        raise insufficient_privileges("integration", name)
    secrets = o.data["secrets"]
    shown = secrets if isinstance(secrets, str) else json.dumps(secrets)
    return rows(
        ("property", "property_type", "property_value", "property_default"),
        [
            ("ENABLED", "Boolean", str(o.data["enabled"]).lower(), "false"),
            ("ALLOWED_NETWORK_RULES", "List", f"[{', '.join(o.data['rules'])}]", "[]"),
            ("ALLOWED_API_AUTHENTICATION_INTEGRATIONS", "List", "[]", "[]"),
            ("ALLOWED_AUTHENTICATION_SECRETS", "List", shown, "[]"),
            ("COMMENT", "String", o.comment, ""),
        ],
    )
