"""Whether a statement has the form that Snowflake's documentation gives it.

The emulator takes some forms that are doubtful, and knows only its own mind. Here is a second one:
the grammar of each kind of statement that flowdist sends, written down as its page in the
documentation has it, and matched token by token (`grammar_matching` says how it is written). SELECT
and DML are read by sqlglot; specifications of services and bodies of tasks are looked into. `check`
says what is wrong, or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlglot
from grammar_matching import Class, Match, Token, Wrong, tokens_of
from sqlglot import exp

from flowdist.snowflake.connection import Client

__all__ = ["check", "kinds", "sent", "undocumented"]

SHOW = "[ LIKE <str> ] [ IN <scope> ] [ STARTS WITH <str> ] [ LIMIT <int> [ FROM <str> ] ]"
SHOW_ACCOUNT = "[ LIKE <str> ] [ STARTS WITH <str> ] [ LIMIT <int> [ FROM <str> ] ]"
SPEC = "FROM SPECIFICATION <block>"
SERVICE = """{* AUTO_SUSPEND_SECS = <int> | EXTERNAL_ACCESS_INTEGRATIONS = ( <names> )
    | AUTO_RESUME = <bool> | MIN_INSTANCES = <int> | MIN_READY_INSTANCES = <int>
    | MAX_INSTANCES = <int> | LOG_LEVEL = <str> | QUERY_WAREHOUSE = <name> | COMMENT = <str> *}"""
TASK = """[ { WAREHOUSE = <name> | USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE = <str> } ]
    [ SCHEDULE = <str> ] [ CONFIG = <text> ]
    [ OVERLAP_POLICY = { NO_OVERLAP | ALLOW_CHILD_OVERLAP | ALLOW_ALL_OVERLAP } ]
    [ STATEMENT_TIMEOUT_IN_SECONDS = <int> ] [ USER_TASK_TIMEOUT_MS = <int> ]
    [ SUSPEND_TASK_AFTER_NUM_FAILURES = <int> ]
    [ ERROR_INTEGRATION = <name> ] [ LOG_LEVEL = <str> ] [ COMMENT = <str> ]
    [ FINALIZE = <qname> ] [ TASK_AUTO_RETRY_ATTEMPTS = <int> ]"""
TABLE = """[ IF NOT EXISTS ] <qname> <columns> [ COMMENT = <str> ]"""

GRAMMARS = {
    # Container services. The specification comes last for jobs, and first for services.
    "EXECUTE JOB SERVICE": f"""EXECUTE JOB SERVICE IN COMPUTE POOL <name> [ NAME = <service> ]
        [ ASYNC = <bool> ] [ REPLICAS = <int> ] [ QUERY_WAREHOUSE = <name> ] [ COMMENT = <str> ]
        [ EXTERNAL_ACCESS_INTEGRATIONS = ( <names> ) ] {SPEC}""",
    "CREATE SERVICE": f"CREATE SERVICE [ IF NOT EXISTS ] <service> IN COMPUTE POOL <name> {SPEC} "
    + SERVICE,
    "ALTER SERVICE": f"ALTER SERVICE [ IF EXISTS ] <service> {{ SUSPEND | RESUME | SET {SERVICE} "
    f"| {SPEC} }}",
    "DROP SERVICE": "DROP SERVICE [ IF EXISTS ] <service> [ FORCE ]",
    "DESCRIBE SERVICE": "{ DESC | DESCRIBE } SERVICE <service>",
    "SHOW SERVICES": "SHOW [ JOB ] SERVICES [ EXCLUDE JOBS ] [ LIKE <str> ] [ IN { COMPUTE POOL "
    "<name> | <scope> } ] [ STARTS WITH <str> ] [ LIMIT <int> [ FROM <str> ] ]",
    "SHOW SERVICE": "SHOW SERVICE { INSTANCES | CONTAINERS } IN SERVICE <service>",
    "CALL": """CALL { <service> ! { SPCS_CANCEL_JOB ( ) | SPCS_WAIT_FOR ( <str> , <int> ) }
        | SYSTEM$SET_RETURN_VALUE ( { <str> | ? } ) }""",
    # Compute pools
    "CREATE COMPUTE POOL": """CREATE COMPUTE POOL [ IF NOT EXISTS ] <name> {* MIN_NODES = <int>
        | MAX_NODES = <int> | INSTANCE_FAMILY = <name> | AUTO_RESUME = <bool>
        | INITIALLY_SUSPENDED = <bool> | AUTO_SUSPEND_SECS = <int> | COMMENT = <str> *}""",
    "ALTER COMPUTE POOL": "ALTER COMPUTE POOL [ IF EXISTS ] <name> { SUSPEND | RESUME | STOP ALL "
    "| SET {* MIN_NODES = <int> | MAX_NODES = <int> | AUTO_RESUME = <bool> *} }",
    "DROP COMPUTE POOL": "DROP COMPUTE POOL [ IF EXISTS ] <name>",
    "DESCRIBE COMPUTE POOL": "{ DESC | DESCRIBE } COMPUTE POOL <name>",
    "SHOW COMPUTE POOLS": f"SHOW COMPUTE POOLS {SHOW_ACCOUNT}",
    "SHOW COMPUTE POOL": "SHOW COMPUTE POOL INSTANCE FAMILIES",
    "SHOW NODES": "SHOW NODES IN COMPUTE POOL <name>",
    # Tasks
    "CREATE TASK": f"""CREATE [ OR REPLACE ] TASK [ IF NOT EXISTS ] <qname> {TASK}
        [ AFTER <qnames> ] [ WHEN <expression> ] AS <body>""",
    "ALTER TASK": """ALTER TASK [ IF EXISTS ] <qname> { RESUME | SUSPEND | ADD AFTER <qnames>
        | REMOVE AFTER <qnames> | SET FINALIZE = <qname> | UNSET FINALIZE
        | SET {* USER_TASK_TIMEOUT_MS = <int> | TASK_AUTO_RETRY_ATTEMPTS = <int>
               | SUSPEND_TASK_AFTER_NUM_FAILURES = <int> | WAREHOUSE = <name> | COMMENT = <str>
               | CONFIG = <text> | SCHEDULE = <str> *} | MODIFY AS <body> }""",
    "EXECUTE TASK": "EXECUTE TASK <qname> [ { USING CONFIG = <text> | RETRY LAST "
    "| RETRY GRAPH RUN GROUP <str> } ]",
    "DROP TASK": "DROP TASK [ IF EXISTS ] <qname>",
    "SHOW TASKS": "SHOW [ TERSE ] TASKS [ LIKE <str> ] [ IN <scope> ] [ STARTS WITH <str> ] "
    "[ ROOT ONLY ] [ LIMIT <int> [ FROM <str> ] ]",
    "DESCRIBE TASK": "{ DESC | DESCRIBE } TASK <qname>",
    "EXECUTE IMMEDIATE": "EXECUTE IMMEDIATE <scripting>",
    # Stages and files
    "CREATE STAGE": """CREATE [ { TEMP | TEMPORARY } ] STAGE [ IF NOT EXISTS ] <qname>
        [ ENCRYPTION = ( TYPE = <str> ) ] [ DIRECTORY = ( ENABLE = <bool> ) ]
        [ COMMENT = <str> ]""",
    "ALTER STAGE": "ALTER STAGE [ IF EXISTS ] <qname> { REFRESH | SET DIRECTORY = ( ENABLE = "
    "<bool> ) }",
    "DROP STAGE": "DROP STAGE [ IF EXISTS ] <qname>",
    "DESCRIBE STAGE": "{ DESC | DESCRIBE } STAGE <qname>",
    "SHOW STAGES": f"SHOW STAGES {SHOW}",
    "PUT": """PUT <file> <place> {* PARALLEL = <int> | AUTO_COMPRESS = <bool>
        | SOURCE_COMPRESSION = <word> | OVERWRITE = <bool> *}""",
    "GET": "GET <place> <file> {* PARALLEL = <int> | PATTERN = <str> *}",
    "LIST": "{ LIST | LS } <place> [ PATTERN = <str> ]",
    "REMOVE": "{ REMOVE | RM } <place> [ PATTERN = <str> ]",
    "COPY FILES": "COPY FILES INTO <place> FROM <place> [ FILES = ( <strs> ) ] [ PATTERN = <str> ] "
    "[ DETAILED_OUTPUT = <bool> ]",
    # Images
    "CREATE IMAGE REPOSITORY": "CREATE IMAGE REPOSITORY [ IF NOT EXISTS ] <service> "
    "[ ENCRYPTION = ( TYPE = <str> ) ] [ COMMENT = <str> ]",
    "DROP IMAGE REPOSITORY": "DROP IMAGE REPOSITORY [ IF EXISTS ] <service>",
    "SHOW IMAGE REPOSITORIES": f"SHOW IMAGE REPOSITORIES {SHOW}",
    "SHOW IMAGES": "SHOW IMAGES [ LIKE <str> ] IN IMAGE REPOSITORY <qname>",
    # Tables
    "CREATE HYBRID TABLE": f"CREATE HYBRID TABLE {TABLE}",
    "CREATE TABLE": f"CREATE [ { '{ TEMP | TEMPORARY | TRANSIENT }' } ] TABLE {TABLE}",
    "ALTER TABLE": "ALTER TABLE [ IF EXISTS ] <qname> ADD COLUMN [ IF NOT EXISTS ] <name> <word>",
    "DROP TABLE": "DROP TABLE [ IF EXISTS ] <qname>",
    "DESCRIBE TABLE": "{ DESC | DESCRIBE } TABLE <qname>",
    "SHOW TABLES": f"SHOW [ TERSE ] [ HYBRID ] TABLES {SHOW}",
    "SHOW OBJECTS": f"SHOW [ TERSE ] OBJECTS {SHOW}",
    "TRUNCATE TABLE": "TRUNCATE TABLE [ IF EXISTS ] <qname>",
    # The account
    "CREATE DATABASE": "CREATE DATABASE [ IF NOT EXISTS ] <name> [ COMMENT = <str> ]",
    "CREATE SCHEMA": "CREATE SCHEMA [ IF NOT EXISTS ] <qname> [ COMMENT = <str> ]",
    "CREATE ROLE": "CREATE ROLE [ IF NOT EXISTS ] <name> [ COMMENT = <str> ]",
    "CREATE WAREHOUSE": """CREATE WAREHOUSE [ IF NOT EXISTS ] <name> {* WAREHOUSE_SIZE = <text>
        | AUTO_SUSPEND = <int> | AUTO_RESUME = <bool> | INITIALLY_SUSPENDED = <bool>
        | COMMENT = <str> *}""",
    "DROP": "DROP { DATABASE | SCHEMA | ROLE | WAREHOUSE } [ IF EXISTS ] <qname>",
    "SHOW DATABASES": f"SHOW DATABASES {SHOW_ACCOUNT}",
    "SHOW SCHEMAS": "SHOW SCHEMAS [ LIKE <str> ] [ IN { ACCOUNT | DATABASE <name> } ]",
    "SHOW ROLES": f"SHOW ROLES {SHOW_ACCOUNT}",
    "SHOW WAREHOUSES": "SHOW WAREHOUSES [ LIKE <str> ]",
    "SHOW INTEGRATIONS": "SHOW [ EXTERNAL ACCESS ] INTEGRATIONS [ LIKE <str> ]",
    "CREATE SECRET": """CREATE SECRET [ IF NOT EXISTS ] <qname> TYPE = { GENERIC_STRING
        SECRET_STRING = <str> | PASSWORD USERNAME = <str> PASSWORD = <str> } [ COMMENT = <str> ]""",
    "SHOW SECRETS": f"SHOW SECRETS {SHOW}",
    "SHOW PARAMETERS": "SHOW PARAMETERS [ LIKE <str> ] [ { IN | FOR } { ACCOUNT | SESSION "
    "| TASK <qname> } ]",
    "DESCRIBE": "{ DESC | DESCRIBE } { SECRET | WAREHOUSE | SCHEMA | DATABASE | INTEGRATION "
    "| EXTERNAL ACCESS INTEGRATION } <qname>",
    "GRANT ROLE": "GRANT ROLE <name> TO { ROLE | USER } <name>",
    "REVOKE ROLE": "REVOKE ROLE <name> FROM { ROLE | USER } <name>",
    "GRANT": "GRANT <privileges> ON <object> TO [ ROLE ] <name>",
    "REVOKE": "REVOKE <privileges> ON <object> FROM [ ROLE ] <name>",
    "SHOW GRANTS": "SHOW GRANTS { TO ROLE <name> | TO USER <name> | OF ROLE <name> | ON <object> }",
    "ALTER SESSION": "ALTER SESSION SET <word> = { <str> | <int> | <bool> | ? }",
    "BEGIN": "BEGIN [ { TRANSACTION | WORK } ] [ NAME <name> ]",
    "COMMIT": "COMMIT [ WORK ]",
    "ROLLBACK": "ROLLBACK [ WORK ]",
    "USE SECONDARY ROLES": "USE SECONDARY ROLES { ALL | NONE | <names> }",
    "USE": "USE { ROLE | WAREHOUSE | DATABASE | SCHEMA } <qname>",
}  # fmt: skip

# Functions that sqlglot has no class for, and what their named arguments are called.
_FUNCTIONS: dict[str, set[str]] = {
    "BITAND": set(), "COUNT_IF": set(), "CURRENT_ACCOUNT": set(), "CURRENT_REGION": set(),
    "CURRENT_AVAILABLE_ROLES": set(), "CURRENT_ROLE": set(), "CURRENT_SECONDARY_ROLES": set(),
    "CURRENT_SESSION": set(), "CURRENT_USER": set(), "CURRENT_WAREHOUSE": set(),
    "IS_ROLE_IN_SESSION": set(), "LAST_QUERY_ID": set(), "RANDSTR": set(), "RESULT_SCAN": set(),
    "SEQ4": set(), "SEQ8": set(), "SPCS_CANCEL_JOB": set(), "SYSDATE": set(), "UNIFORM": set(),
    "UUID_STRING": set(), "SYSTEM$CANCEL_QUERY": set(),
    "SYSTEM$GET_COMPUTE_POOL_PENDING_MAINTENANCE": set(), "SYSTEM$GET_SERVICE_LOGS": set(),
    "SYSTEM$GET_PREDECESSOR_RETURN_VALUE": set(), "SYSTEM$GET_TASK_GRAPH_CONFIG": set(),
    "SYSTEM$SET_RETURN_VALUE": set(), "SYSTEM$TASK_DEPENDENTS_ENABLE": set(),
    "SYSTEM$TASK_RUNTIME_INFO": set(), "SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS": set(),
    "SYSTEM$WAIT_FOR_SERVICES": set(),
    "TASK_HISTORY": {"SCHEDULED_TIME_RANGE_START", "SCHEDULED_TIME_RANGE_END", "RESULT_LIMIT",
                     "TASK_NAME", "ERROR_ONLY", "ROOT_TASK_ID"},
    "TASK_DEPENDENTS": {"TASK_NAME", "RECURSIVE"},
    "CURRENT_TASK_GRAPHS": {"RESULT_LIMIT", "ROOT_TASK_NAME"},
    "COMPLETE_TASK_GRAPHS": {"RESULT_LIMIT", "ROOT_TASK_NAME", "ERROR_ONLY"},
    "GET_JOB_HISTORY": {"CREATED_TIME_START", "CREATED_TIME_END", "RESULT_LIMIT"},
    "QUERY_HISTORY": {"RESULT_LIMIT", "END_TIME_RANGE_START", "END_TIME_RANGE_END"},
    "SPCS_GET_LOGS": {"START_TIME", "END_TIME"},
    "SPCS_GET_EVENTS": {"START_TIME", "END_TIME"},
    "GENERATOR": {"ROWCOUNT", "TIMELIMIT"},
}  # fmt: skip


def check(sql: str) -> str:
    """What is wrong with a statement; empty where nothing is."""
    try:
        tokens = tokens_of(sql)
        kind = _kind(tokens)
        if kind is None:
            return f"no grammar for: {' '.join(t.text for t in tokens[:5])} ..."
        if kind == "QUERY":
            _check_query(sql)
        elif kind == "BLOCK":
            _check_block(tokens)
        else:
            Match(tokens, GRAMMARS[kind], _CLASSES, kind).run()
    except Wrong as wrong:
        return str(wrong)
    return ""


def sent(client: Client) -> list[str]:
    """All statements that flowdist has sent to an emulator, also those from containers."""
    rows = client.rows(
        "SELECT DISTINCT query_text FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY("
        "RESULT_LIMIT => 10000)) WHERE query_tag LIKE ?",
        ('%"app": "flowdist"%',),
    )
    return [str(row["query_text"]) for row in rows]


def undocumented(statements: Sequence[str]) -> dict[str, str]:
    """Those that have not the form that they should have, and why."""
    return {sql: wrong for sql in statements if (wrong := check(sql))}


def kinds(statements: Sequence[str]) -> set[str]:
    """The kinds of statements that were checked, to see that a test has met those it is about."""
    return {kind for sql in statements if (kind := _kind(tokens_of(sql))) is not None}


_QUERIES = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE")
_BLOCKS = ("BEGIN", "DECLARE")
_SAME = {"DESC": "DESCRIBE", "LS": "LIST", "RM": "REMOVE"}
_SKIPPED = {"OR", "REPLACE", "TEMP", "TEMPORARY", "TRANSIENT", "TERSE", "JOB", "EXTERNAL", "ACCESS"}


def _kind(tokens: Sequence[Token]) -> str | None:
    words = [_SAME.get(t.upper, t.upper) for t in tokens[:7] if t.kind in ("word", "other")]
    if not words:
        return None
    if words[0] in _QUERIES:
        return "QUERY"
    if words[0] in _BLOCKS and words[1:2] not in ([], ["TRANSACTION"], ["WORK"]):
        return "BLOCK"
    plain = [words[0], *(w for w in words[1:] if w not in _SKIPPED)]
    for candidate in (words, plain):
        for length in (3, 2, 1):
            if (name := " ".join(candidate[:length])) in GRAMMARS:
                return name
    return None


# -- classes of tokens -----------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def _one(test: Callable[[Token], bool]) -> Class:
    def match(tokens: Sequence[Token], at: int) -> Iterator[int]:
        if at < len(tokens) and test(tokens[at]):
            yield at + 1

    return match


_name = _one(lambda t: t.kind in ("word", "quoted"))
_str = _one(lambda t: t.kind == "str")
_text = _one(lambda t: t.kind in ("str", "block", "word"))


def _qname(tokens: Sequence[Token], at: int) -> Iterator[int]:
    for parts in range(3):
        end = at + 1 + 2 * parts
        if end > len(tokens):
            return
        names, dots = tokens[at:end:2], tokens[at + 1 : end : 2]
        if all(n.kind in ("word", "quoted") for n in names) and all(d.text == "." for d in dots):
            yield end


def _service(tokens: Sequence[Token], at: int) -> Iterator[int]:
    """The name of a service: a label in DNS, so plain, and no longer than 63."""
    for end in _qname(tokens, at):
        if not all(_PLAIN.fullmatch(t.text) for t in tokens[at:end:2]):
            raise Wrong(f"`{tokens[end - 1].text}` is no name for a service")
        yield end


def _list_of(one: Class) -> Class:
    def match(tokens: Sequence[Token], at: int) -> Iterator[int]:
        for end in one(tokens, at):
            yield end
            if end < len(tokens) and tokens[end].text == ",":
                yield from match(tokens, end + 1)

    return match


def _scope(tokens: Sequence[Token], at: int) -> Iterator[int]:
    word = tokens[at].upper if at < len(tokens) else ""
    if word == "ACCOUNT":
        yield at + 1
    elif word in ("DATABASE", "SCHEMA"):
        yield at + 1
        yield from _qname(tokens, at + 1)
    else:
        yield from _qname(tokens, at)


def _place(tokens: Sequence[Token], at: int) -> Iterator[int]:
    """A place on a stage, in quotes or without."""
    if at < len(tokens) and tokens[at].text.lstrip("'").startswith("@"):
        yield at + 1


def _file(tokens: Sequence[Token], at: int) -> Iterator[int]:
    if at < len(tokens) and tokens[at].text.startswith("'file:///"):
        yield at + 1


def _block(tokens: Sequence[Token], at: int) -> Iterator[int]:
    if at >= len(tokens) or tokens[at].kind != "block":
        return
    try:
        spec = json.loads(tokens[at].text[2:-2])
    except json.JSONDecodeError as error:
        raise Wrong(f"the specification is no JSON: {error}") from None
    _check_spec(spec)
    yield at + 1


def _columns(tokens: Sequence[Token], at: int) -> Iterator[int]:
    """The definitions of columns, in brackets; their words are DuckDB's and Snowflake's to know."""
    if at < len(tokens) and tokens[at].text == "(":
        depth = 0
        for end in range(at, len(tokens)):
            depth += {"(": 1, ")": -1}.get(tokens[end].text, 0)
            if depth == 0:
                _check_columns(tokens[at + 1 : end], hybrid=tokens[1].upper == "HYBRID")
                yield end + 1
                return


_OBJECTS = ("ACCOUNT", "DATABASE", "SCHEMA", "WAREHOUSE", "STAGE", "TABLE", "COMPUTE POOL",
            "IMAGE REPOSITORY", "INTEGRATION", "SECRET", "SERVICE", "TASK")  # fmt: skip


def _object(tokens: Sequence[Token], at: int) -> Iterator[int]:
    for kind in _OBJECTS:
        length = len(kind.split())
        if " ".join(t.upper for t in tokens[at : at + length]) == kind:
            if kind == "ACCOUNT":
                yield at + 1
            else:
                yield from _qname(tokens, at + length)


_PRIVILEGES = {
    "USAGE", "MONITOR", "OPERATE", "READ", "WRITE", "SELECT", "INSERT", "UPDATE", "DELETE",
    "EXECUTE TASK", "EXECUTE MANAGED TASK", "CREATE DATABASE", "CREATE SCHEMA", "CREATE STAGE",
    "CREATE TABLE", "CREATE HYBRID TABLE", "CREATE SERVICE", "CREATE TASK", "CREATE ROLE",
    "CREATE IMAGE REPOSITORY", "CREATE COMPUTE POOL", "CREATE WAREHOUSE", "OWNERSHIP", "MODIFY",
    "BIND SERVICE ENDPOINT", "MONITOR EXECUTION",
}  # fmt: skip


def _privileges(tokens: Sequence[Token], at: int) -> Iterator[int]:
    end = next((i for i in range(at, len(tokens)) if tokens[i].upper == "ON"), at)
    for name in " ".join(t.upper for t in tokens[at:end]).split(" , "):
        if name not in _PRIVILEGES:
            raise Wrong(f"`{name}` is no privilege")
    yield end


def _body(tokens: Sequence[Token], at: int) -> Iterator[int]:
    """The body of a task: one statement, or a block of scripting."""
    rest = list(tokens[at:])
    if rest:
        wrong = check(_joined(rest))
        if wrong:
            raise Wrong(f"in the task: {wrong}")
        if rest[0].upper == "EXECUTE" and any(t.upper == "ASYNC" for t in rest):
            raise Wrong("a task whose job is ASYNC has ended before its job has")
    yield len(tokens)


def _scripting(tokens: Sequence[Token], at: int) -> Iterator[int]:
    if at < len(tokens) and tokens[at].kind == "block":
        _check_block(tokens_of(tokens[at].text[2:-2]))
        yield at + 1


def _check_block(tokens: Sequence[Token]) -> None:
    """A block of scripting: the statements in it, whatever decides whether they run."""
    if tokens[-1].upper != "END":
        raise Wrong("a block ends with END")
    statement: list[Token] = []
    for token in tokens:
        if token.text == ";" or token.upper in ("BEGIN", "DECLARE", "THEN", "ELSE", "DO"):
            _check_piece(statement)
            statement = []
        else:
            statement.append(token)


_STATEMENTS = {name.split()[0] for name in GRAMMARS} - {"CALL", "EXECUTE IMMEDIATE"} | {*_QUERIES}


def _check_piece(tokens: Sequence[Token]) -> None:
    if not tokens or tokens[0].upper not in _STATEMENTS:
        return
    text = _joined(tokens)
    if [t.upper for t in tokens[:2]] == ["EXECUTE", "IMMEDIATE"]:
        if tokens[2].kind != "str":
            return  # it is made when it runs; the history has that as a statement of its own
        text = re.sub(r"\\(.)", r"\1", tokens[2].text[1:-1].replace("''", "'"))
    wrong = check(text)
    if wrong:
        raise Wrong(f"in the block: {wrong}")


def _joined(tokens: Sequence[Token]) -> str:
    text = " ".join(t.text for t in tokens)
    return re.sub(r"\s*([.!])\s*", r"\1", text) if "$$" not in text else text


def _expression(tokens: Sequence[Token], at: int) -> Iterator[int]:
    yield from range(at + 1, len(tokens))


_CLASSES: dict[str, Class] = {
    "<name>": _name, "<word>": _one(lambda t: t.kind == "word"), "<qname>": _qname,
    "<service>": _service, "<names>": _list_of(_qname), "<qnames>": _list_of(_qname),
    "<str>": _str, "<strs>": _list_of(_str), "<text>": _text, "<scope>": _scope,
    "<int>": _one(lambda t: t.kind == "number" and t.text.isdigit()),
    "<bool>": _one(lambda t: t.upper in ("TRUE", "FALSE")),
    "<block>": _block, "<place>": _place, "<file>": _file, "<columns>": _columns,
    "<object>": _object, "<privileges>": _privileges, "<body>": _body, "<scripting>": _scripting,
    "<expression>": _expression,
}  # fmt: skip


# -- what is inside --------------------------------------------------------------------------------

_AMOUNT = re.compile(r"\d+(\.\d+)?(M|Mi|G|Gi)")
_CONTAINER = {"name", "image", "command", "args", "env", "readinessProbe", "livenessProbe",
              "volumeMounts", "resources", "secrets", "mountSessionToken",
              "sessionTokenConfig"}  # fmt: skip
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def _check_spec(spec: Any) -> None:
    """A specification, by its reference."""
    _keys(spec, {"spec", "serviceRoles", "capabilities"}, "the specification")
    inner = spec["spec"]
    _keys(inner, {"containers", "endpoints", "volumes", "logExporters", "platformMonitor"}, "spec")
    for container in inner["containers"]:
        _keys(container, _CONTAINER, "containers")
        if not _LABEL.fullmatch(container["name"]) or not container["image"]:
            raise Wrong(f"container {container['name']!r} needs a plain name and an image")
        if not all(isinstance(v, str) for v in container.get("env", {}).values()):
            raise Wrong("values of env are texts")
        _check_resources(container.get("resources", {}))
        volumes = {volume["name"] for volume in inner.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes or not mount["mountPath"].startswith("/"):
                raise Wrong(f"volumeMounts: {mount} names no volume, or no path")
    for volume in inner.get("volumes", ()):
        if str(volume["source"]).startswith("@"):
            raise Wrong("volumes: stages are mounted by source: stage and stageConfig")
        if volume["source"] == "stage" and not volume["stageConfig"]["name"].startswith("@"):
            raise Wrong(f"volumes: {volume['stageConfig']['name']} is no stage")


def _check_resources(resources: Any) -> None:
    _keys(resources, {"requests", "limits"}, "resources")
    for which in resources.values():
        _keys(which, {"cpu", "memory", "nvidia.com/gpu"}, "resources")
        if "memory" in which and not _AMOUNT.fullmatch(str(which["memory"])):
            raise Wrong(f"memory {which['memory']!r} has no unit: M, Mi, G or Gi")
    gpus = {which.get("nvidia.com/gpu") for which in resources.values()}
    if len(gpus) > 1:
        raise Wrong("GPUs: requests and limits are the same")


def _keys(value: Any, known: set[str], where: str) -> None:
    unknown = set(value) - known
    if unknown:
        raise Wrong(f"{where} has no {', '.join(sorted(unknown))}")


_TYPES = {"VARCHAR", "STRING", "TEXT", "INTEGER", "INT", "BIGINT", "NUMBER", "FLOAT", "DOUBLE",
          "BOOLEAN", "DATE", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ", "TIME", "BINARY",
          "VARIANT", "OBJECT", "ARRAY"}  # fmt: skip


def _check_columns(tokens: Sequence[Token], *, hybrid: bool) -> None:
    keyed, depth, first = False, 0, True
    for i, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        keyed = keyed or [t.upper for t in tokens[i : i + 2]] == ["PRIMARY", "KEY"]
        if first and token.upper not in ("INDEX", "PRIMARY", "UNIQUE", "CONSTRAINT"):
            if tokens[i + 1].upper not in _TYPES:
                raise Wrong(f"column {token.text}: `{tokens[i + 1].text}` is no type")
        elif first and token.upper == "INDEX" and not hybrid:
            raise Wrong("only hybrid tables have indexes")
        first = depth == 0 and token.text == ","
    if hybrid and not keyed:
        raise Wrong("a hybrid table has a primary key")


def _check_query(sql: str) -> None:
    """SELECT and DML: sqlglot reads them, and functions are known by name and arguments."""
    readable = re.sub(r"[\w.\"$]+!(\w+)\(", r"\1(", sql)
    try:
        tree = sqlglot.parse_one(readable, dialect="snowflake")
    except sqlglot.errors.ParseError as error:
        raise Wrong(f"not to be read: {str(error).splitlines()[0]}") from None
    for call in tree.find_all(exp.Anonymous):
        name = str(call.name).upper().rpartition(".")[2]
        if name not in _FUNCTIONS:
            raise Wrong(f"{name} is no function of Snowflake, as far as is known here")
        for argument in call.expressions:
            if isinstance(argument, exp.Kwarg) and argument.name.upper() not in _FUNCTIONS[name]:
                raise Wrong(f"{name} has no argument {argument.name}")
