"""Named plans: TOML profiles, where they are looked up, and where each of their values came from.

A profile is found in the first of these that has it::

    register_profile(...)                 in this process
    ./flowdist.toml                       the project's
    the user's own flowdist.toml          in $FLOWDIST_CONFIG, else in the user's config directory
    flowdist/profiles/builtin.toml        laptop, small, slurm-lab, emulator

Its values are those of the profile that it ``extends``, overridden by its own, by
$FLOWDIST_PLAN_<FIELD>, by $FLOWDIST_PROFILE_<NAME>_<FIELD>, and by what the caller gives. Making a
plan of them is :func:`flowdist.plan.profile`.

In a file a profile is a table; see :mod:`flowdist.profiles.files`::

    [profiles.night]
    extends = "laptop"
    by = ["subject"]
    workers = 4
    resources.memory = "16GB"

Tables such as ``environment`` and ``extra`` gain what an extending profile says, value by value.
"""

from __future__ import annotations

from flowdist.profiles.files import Profile
from flowdist.profiles.lookup import (
    Listed,
    Resolved,
    add_profile,
    field_value,
    list_profiles,
    register_profile,
    resolve,
    user_file,
)

__all__ = [
    "Listed",
    "Profile",
    "Resolved",
    "add_profile",
    "field_value",
    "list_profiles",
    "register_profile",
    "resolve",
    "user_file",
]
