"""What stages return: declared, looked into, and made into columns.

Each name lives in the module that does the work: `schema` holds the declared fields of a stage,
`declare` reads declarations, `values` looks into what came back, `encode` makes columns and checks
them, `infer` does without a declaration, `widen` says what two parts agree on. `fields` and
`scalars` are the ground they share.
"""

from flowdist.artifacts import ARTIFACT_TYPE, ArtifactType, SaveFn, artifact
from flowdist.schema.declare import optional, table
from flowdist.schema.encode import encode_declared
from flowdist.schema.fields import MISSING, Field, kind_of
from flowdist.schema.infer import Inferred, infer_column
from flowdist.schema.schema import Schema
from flowdist.schema.values import split_output
from flowdist.schema.widen import unify_fields

__all__ = [
    "ARTIFACT_TYPE",
    "MISSING",
    "ArtifactType",
    "Field",
    "Inferred",
    "SaveFn",
    "Schema",
    "artifact",
    "encode_declared",
    "infer_column",
    "kind_of",
    "optional",
    "split_output",
    "table",
    "unify_fields",
]
