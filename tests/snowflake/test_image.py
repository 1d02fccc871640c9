"""Worker images: what goes into one, what is found wrong with one, where the account has them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import sys
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import cloudpickle
import pytest
from click.testing import CliRunner, Result
from cloud import IMAGE, Cloud
from grammar import check, kinds

from flowdist import __version__, flow, param_grid
from flowdist.cli import cli
from flowdist.errors import BackendError, UsageError
from flowdist.payload import dump_program
from flowdist.snowflake.client import SnowflakeError
from flowdist.snowflake.connection import register_connection
from flowdist.snowflake.images import (
    WORKER_UID,
    ImagePath,
    WorkerTag,
    find_image,
    find_repository,
    stored_images,
)
from flowdist.snowflake.names import Name
from flowdist.workers.image.build import build, choose_packages, make_recipe
from flowdist.workers.image.engines import Engine, ImageFacts, find_engine
from flowdist.workers.image.imports import distributions_of, modules_of
from flowdist.workers.image.packages import Packages, constraints, from_lock, from_names
from flowdist.workers.image.push import push
from flowdist.workers.image.recipe import Recipe
from flowdist.workers.image.validate import Finding, of_facts, of_flow, of_probe
from flowdist.workers.image.wheels import flowdist_wheel, repack

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def flowdist(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["image", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def lock(directory: Path, text: str, name: str = "requirements.txt") -> Packages:
    (directory / name).write_text(text)
    return from_lock(directory / name)


# -- the Containerfile ----------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bytes() -> None:
    one, two = (make_recipe(from_names(["scipy==1.17.0"]), apt=["libgomp1"]) for _ in "12")

    assert one.files() == two.files()
    assert one.tag == two.tag


def test_the_image_is_pinned_for_amd64_and_does_not_run_as_root() -> None:
    base = f"python:3.12-slim@sha256:{'a' * 64}"
    lines = Recipe(from_names(["scipy==1.17.0"]), base=base).containerfile().splitlines()

    assert f"FROM --platform=linux/amd64 {base}" in lines
    assert [line for line in lines if line.startswith("USER")][
        -1
    ] == f"USER {WORKER_UID}:{WORKER_UID}"
    assert 'ENTRYPOINT ["python", "-m", "flowdist.workers"]' in lines
    (installs,) = [line for line in lines if "--requirement" in line]
    (own,) = [line for line in lines if "'flowdist[" in line]
    assert installs.endswith("/opt/flowdist/requirements.txt")
    assert f"'flowdist[snowflake]=={__version__}'" in own


def test_lines_with_digests_and_lines_without_are_installed_apart() -> None:
    hashed = f"six==1.17.0 --hash=sha256:{'a' * 64}"
    recipe = Recipe(Packages("a lock", (hashed,)) + from_names(["scipy==1.17.0"]))

    files = recipe.files()

    assert files["hashed.txt"] == f"{hashed}\n".encode()
    assert files["requirements.txt"] == b"scipy==1.17.0\n"
    text = recipe.containerfile()
    first, second = (
        text.index("/hashed.txt"),
        text.index("--requirement /opt/flowdist/requirements.txt"),
    )
    assert first < second
    assert "hashed.txt" not in Recipe(from_names(["scipy==1.17.0"])).files()


def test_the_base_is_the_python_that_runs_here() -> None:
    assert f"docker.io/library/python:{HERE}-slim" in Recipe().containerfile()


def test_every_part_of_a_recipe_changes_the_tag() -> None:
    packages = from_names(["scipy==1.17.0"])
    recipes = [
        Recipe(),
        Recipe(packages),
        Recipe(packages, apt=("git",)),
        Recipe(packages, base="debian:13"),
        Recipe(packages, constraints=("numpy==2.0.0",)),
        Recipe(packages, wheel=flowdist_wheel()),
    ]

    assert len({recipe.tag for recipe in recipes}) == len(recipes)


def test_the_tag_says_what_is_in_the_image() -> None:
    found = WorkerTag.parse(Recipe().tag)

    assert found is not None
    assert (found.flowdist, found.python, found.differences()) == (__version__, HERE, [])
    other = WorkerTag("0.0.9", "3.9", found.digest)
    assert other.differences() == [
        f"Python 3.9 in the image, {HERE} here",
        f"flowdist 0.0.9 in the image, {__version__} here",
    ]
    assert WorkerTag.parse("latest") is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"base": "python:3.12 AS x"}, "not the name of an image"),
        ({"apt": ("curl; rm -rf /",)}, "not a package of Debian"),
    ],
)
def test_what_would_be_a_line_of_its_own_is_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Recipe(**options)  # type: ignore[arg-type]


def test_print_shows_the_containerfile_with_what_it_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.txt").write_text("scipy==1.17.0\n")

    result = flowdist("build", "--print", "--keep", str(tmp_path / "kept"))

    assert result.stdout.startswith((tmp_path / "kept" / "Containerfile").read_text())
    assert "\n# scipy==1.17.0\n" in result.stdout
    assert "1 package from requirements.txt" in result.stderr
    said = json.loads(flowdist("build", "--print", "--json").stdout)
    assert said["labels"]["flowdist.version"] == __version__
    assert said["packages"] == ["scipy==1.17.0"]


# -- packages -------------------------------------------------------------------------------------


def test_of_a_lock_file_versions_markers_and_digests_are_kept(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six==1.17.0\n")
    found = lock(
        tmp_path,
        "# made by a tool\n"
        "-r more.txt\n"
        "numpy==2.4.6 ; python_version < '4' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "    # via scipy\n"
        "scipy[extra]==1.17.0  # a remark\n"
        "flowdist[snowflake]==0.0.1\n"
        "--only-binary :all:\n",
    )

    assert found.requirements == (
        "--only-binary :all:",
        "numpy==2.4.6 ; python_version < '4' --hash=sha256:aa --hash=sha256:bb",
        "scipy[extra]==1.17.0",
        "six==1.17.0",
    )
    assert [str(pin) for pin in found.pins] == [
        "numpy==2.4.6 ; python_version < '4'",
        "scipy==1.17.0",
        "six==1.17.0",
    ]


def test_what_has_no_exact_version_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"without an exact version: numpy>=2, scipy, six==1\.\*"):
        lock(tmp_path, "numpy>=2\nscipy\nsix==1.*\nclick==8.1.0\n")
    with pytest.raises(UsageError, match=f"as in click=={re.escape(version('click'))}, which is"):
        from_names(["click"])


def test_a_password_of_an_index_reaches_no_file(tmp_path: Path) -> None:
    found = lock(tmp_path, "--index-url https://me:hidden@host/simple\nsix==1.17.0\n")

    assert found.requirements == ("six==1.17.0",)
    assert "--index-url is left out; --pip-config FILE" in found.remarks[0]
    assert "hidden" not in "".join(found.remarks)
    for address in ("https://me:hidden@host/thing.whl", "git+https://hidden@host/thing@0123abc"):
        with pytest.raises(UsageError, match="has a password in its address") as refused:
            lock(tmp_path, f"thing @ {address}\n")
        assert "hidden" not in str(refused.value)


def test_another_cloudpickle_than_the_one_that_pickles_is_remarked(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("cloudpickle==2.0.0\n")

    (remark,) = choose_packages(directory=tmp_path).remarks

    assert remark.startswith(
        f"cloudpickle is 2.0.0 in requirements.txt and {cloudpickle.__version__} here"
    )


def test_a_pip_configuration_is_shown_and_not_kept(tmp_path: Path) -> None:
    recipe = Recipe(from_names(["six==1.17.0"]), pip_config=True)

    assert recipe.containerfile().count("RUN --mount=type=secret,id=pip,target=/etc/pip.conf ") == 2
    assert "pip.conf" not in recipe.files()


def test_ones_own_code_is_left_out_and_a_wheel_is_taken_along(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0-py3-none-any.whl").write_bytes(b"wheel")
    found = lock(tmp_path, "-e .\n./thing-1.0-py3-none-any.whl\n")

    assert found.requirements == ("thing @ file:///opt/flowdist/thing-1.0-py3-none-any.whl",)
    assert Recipe(found).files()["thing-1.0-py3-none-any.whl"] == b"wheel"
    assert found.remarks == (
        "requirements.txt: '-e .' is left out: your own code travels in the run",
    )
    with pytest.raises(UsageError, match=r"\./folder .*and no wheel; pip wheel --no-deps"):
        lock(tmp_path, "./folder\n")


def test_what_pip_fetches_with_git_needs_git_in_the_image(tmp_path: Path) -> None:
    found = lock(tmp_path, "thing @ git+https://host/thing@0123abc\n")

    with pytest.raises(UsageError, match="--apt git adds it"):
        Recipe(found)
    lines = Recipe(found, apt=("git",)).texts["requirements.txt"]
    assert lines == "thing @ git+https://host/thing@0123abc\n"


def test_a_pylock_is_read(tmp_path: Path) -> None:
    text = """
lock-version = "1.0"
[[packages]]
name = "six"
version = "1.17.0"
marker = "python_version < '4'"
wheels = [{name = "six.whl", url = "https://host/six.whl", hashes = {sha256 = "aa"}}]
sdist = {name = "six.tar.gz", url = "https://host/six.tar.gz", hashes = {sha256 = "bb"}}
[[packages]]
name = "mine"
directory = {path = "."}
"""
    found = lock(tmp_path, text, "pylock.toml")

    expected = "six==1.17.0 ; python_version < '4' --hash=sha256:aa --hash=sha256:bb"
    assert found.requirements == (expected,)
    assert found.remarks == ("pylock.toml: mine is left out: your own code travels in the run",)
    with pytest.raises(UsageError, match="depends on extras or groups"):
        lock(tmp_path, text.replace("python_version < '4'", "'x' in extras"), "pylock.toml")


def test_a_lock_of_uv_is_exported_by_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="is read by uv, which is not here"):
        lock(tmp_path, "", "uv.lock")
    program(tmp_path, "uv", 'echo "$*" >&2; echo "six==1.17.0"; [ -f uv.lock ]')

    assert from_lock(tmp_path / "uv.lock").requirements == ("six==1.17.0",)

    program(tmp_path, "uv", "echo it is out of date >&2; exit 2")
    with pytest.raises(UsageError, match=r"uv export --frozen .*failed: it is out of date"):
        from_lock(tmp_path / "uv.lock")


def program(directory: Path, name: str, script: str) -> None:
    """A program of that name, for what is said to one that may not be here."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_this_environment_is_taken_in_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "here", editable=False)
    installed(tmp_path, "mine", editable=True)
    monkeypatch.syspath_prepend(str(tmp_path))

    found = choose_packages(environment=True, exclude=["pytest"], names=["click==7.0"])

    assert f"numpy=={version('numpy')}" in found.requirements
    assert "click==7.0" in found.requirements
    names = {pin.name for pin in found.pins}
    assert not {"flowdist", "pip", "pytest", "mine"} & names
    assert "here @ file:///opt/flowdist/here-1.0-py3-none-any.whl" in found.requirements
    assert found.remarks == ("mine is left out: it is editable, and travels in the run",)
    (wheel,) = found.wheels
    content = zipfile.ZipFile(io.BytesIO(wheel.data)).namelist()
    assert content == ["here-1.0.dist-info/METADATA", "here-1.0.dist-info/WHEEL", "here.py",
                       "here-1.0.dist-info/RECORD"]  # fmt: skip


def installed(site: Path, name: str, *, editable: bool) -> None:
    """A package as pip installs it from a directory."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (site / f"{name}.py").write_text("")
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "direct_url.json").write_text(
        json.dumps({"url": f"file://{site}", "dir_info": {"editable": editable}})
    )
    (folder / "RECORD").write_text(
        f"{name}.py,,\n{name}-1.0.dist-info/METADATA,,\n{name}-1.0.dist-info/direct_url.json,,\n"
        f"../../../bin/{name},,\n"
    )


def test_flowdists_own_dependencies_are_held_to_what_pickles_here() -> None:
    own = constraints("snowflake", Packages(""))

    assert f"cloudpickle=={cloudpickle.__version__}" in own
    assert any(line.startswith("snowflake-connector-python==") for line in own)
    assert not any(line.startswith(("pytest==", "duckdb==")) for line in own)
    locked = constraints("snowflake", from_names(["numpy==2.0.2 ; python_version < '3'"]))
    assert [line for line in locked if line.startswith("numpy")] == [
        "numpy==2.0.2 ; python_version < '3'"
    ]


def test_the_same_files_give_the_same_wheel() -> None:
    assert repack(distribution("click")) == repack(distribution("click"))


def test_the_wheel_of_flowdist_is_whole() -> None:
    one = flowdist_wheel()

    assert one is not None
    archive = zipfile.ZipFile(io.BytesIO(one.data))
    record = f"flowdist-{__version__}.dist-info/RECORD"
    rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    assert {row[0] for row in rows} == set(archive.namelist())
    for name, digest, _ in rows:
        if name != record:
            found = hashlib.sha256(archive.read(name)).digest()
            assert digest == f"sha256={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}"
    assert {"flowdist/workers/__main__.py", "flowdist/examples/flights.py"} <= {r[0] for r in rows}
    assert b"flowdist.cli:main" in archive.read(
        f"flowdist-{__version__}.dist-info/entry_points.txt"
    )


# -- builders -------------------------------------------------------------------------------------


def test_a_build_that_fails_shows_its_last_lines_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "podman", 'echo "STEP 1"; echo "no space left" >&2; exit 125')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    lines: list[str] = []

    with pytest.raises(BackendError, match="podman build failed with code 125") as failed:
        build(Recipe(), Engine("podman"), out=lines.append)

    assert sorted(lines) == ["STEP 1", "no space left"]
    assert "no space left" in str(failed.value)
    kept = Path(str(failed.value).rpartition(" ")[2])
    assert (kept / "Containerfile").read_text() == Recipe().containerfile()


def test_a_builder_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="docker, podman or buildah is needed: there is no docker"):
        find_engine()
    program(tmp_path, "docker", "exit 1")
    program(tmp_path, "buildah", "exit 0")

    assert find_engine() == Engine("buildah")
    with pytest.raises(UsageError, match="its server does not answer"):
        find_engine("docker")
    with pytest.raises(UsageError, match="docker or podman is needed"):
        find_engine(runs=True)


# -- what is found wrong --------------------------------------------------------------------------


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_a_wrong_architecture_is_an_error_before_anything_runs() -> None:
    (found, *_) = of_facts(ImageFacts("arm64", "linux"))

    assert (found.name, found.state) == ("architecture", "error")
    assert "linux/arm64; nodes of compute pools run linux/amd64" in found.what


@pytest.mark.parametrize(
    ("user", "state"),
    [("", "warning"), ("root", "warning"), ("1000", "error"), (f"{WORKER_UID}:0", "ok")],
)
def test_a_user_who_cannot_write_to_the_mount_is_an_error(user: str, state: str) -> None:
    assert states(list(of_facts(ImageFacts("amd64", "linux", user))))["user"] == state


def test_the_labels_tell_an_image_of_other_sources() -> None:
    recipe = make_recipe()
    facts = ImageFacts("amd64", "linux", labels=recipe.labels)
    other = ImageFacts("amd64", "linux", labels={**recipe.labels, "flowdist.wheel": "0" * 64})

    assert states(list(of_facts(facts)))["labels"] == "ok"
    assert states(list(of_facts(other)))["labels"] == "warning"


SAID = {
    "python": "3.9.1",
    "versions": {"flowdist": "0.0.9", "cloudpickle": None},
    "workers": None,
    "connector": "ModuleNotFoundError: No module named 'snowflake'",
    "mount": "PermissionError: /flowdist/runs",
    "temporary": None,
    "time_zones": None,
    "certificates": None,
}


def test_what_a_container_lacks_is_an_error_with_what_to_do() -> None:
    found = list(of_probe(SAID))

    assert [f.name for f in found if f.state == "error"] == [
        "python", "flowdist", "cloudpickle", "connector", "mount",
    ]  # fmt: skip
    assert all(f.remedy for f in found if f.state == "error")
    assert f"--base python:{HERE}-slim" in found[0].remedy


def test_modules_that_a_function_imports_when_it_is_called_are_asked_for_too() -> None:
    import numpy as np

    def fit(x: int) -> float:
        import no_such_module  # type: ignore[import-not-found] # noqa: F401
        import rich.progress  # noqa: F401

        return float(np.sqrt(x))

    modules = modules_of(dump_program(flow(param_grid(x=[1])).stage("fit", fit).program))

    assert {"numpy", "rich.progress"} <= set(modules)
    assert not {"flowdist", "json", "no_such_module"} & {m.partition(".")[0] for m in modules}
    assert distributions_of(modules)["rich.progress"] == "rich"


def test_a_module_that_is_missing_is_told_with_the_package_that_has_it() -> None:
    modules = ("hypothesis", "mine", "numpy")
    known = {"hypothesis": "hypothesis", "numpy": "numpy"}
    missing = "ModuleNotFoundError: No module named 'x'"
    said = {
        "modules": {"hypothesis": missing, "mine": missing, "numpy": None},
        "versions": {"numpy": "1.0"},
        "program": missing,
    }

    found = list(of_flow(said, modules, known))

    assert [(f.state, f.what.partition(":")[0]) for f in found] == [
        ("error", "hypothesis"),
        ("error", "mine"),
        ("warning", f"it has numpy 1.0, and here is {version('numpy')}"),
    ]
    assert found[0].remedy == f"--package hypothesis=={version('hypothesis')}"
    assert "import it at the top of the file" in found[1].remedy


# -- repositories ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "/db/s/images/team/model:1",
        "db/s/images/team/model:1",
        "org-acct.registry.snowflakecomputing.com/db/s/images/team/model:1",
        "127.0.0.1:80/db/s/images/team/model:1",
    ],
)
def test_the_path_of_an_image_is_read_in_every_form(text: str) -> None:
    found = ImagePath.parse(text)

    assert (found.repository, found.name, found.tag) == (
        Name(("DB", "S", "IMAGES")),
        "team/model",
        "1",
    )
    assert found.path == "/db/s/images/team/model:1"


@pytest.mark.parametrize("text", ["model:1", "/db/s/model", "/db/s/images/", "/db/s/r/Model:1"])
def test_what_is_no_path_of_an_image_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write /database/schema/repository/name:tag"):
        ImagePath.parse(text)


def test_an_image_is_found_by_its_path(cloud: Cloud) -> None:
    client = cloud.client()
    cloud.emulator.push_image("/flowdist/public/images/flowdist-worker:0.1.0-py3.11-0123abcd")

    found = find_image(client, IMAGE)
    assert found is not None
    assert (found.path, found.worker) == (IMAGE, None)
    by_digest = find_image(client, f"{IMAGE.rpartition(':')[0]}@{found.digest}")
    assert by_digest == found
    assert find_image(client, "/flowdist/public/images/flowdist:2") is None
    stored = {image.name: image for image in stored_images(client, find_repository(client).name)}
    assert stored["flowdist-worker"].worker == WorkerTag("0.1.0", "3.11", "0123abcd")
    with pytest.raises(SnowflakeError) as refused:
        find_image(client, "/flowdist/public/none/flowdist:1")
    assert refused.value.missing


@pytest.mark.parametrize("text", ["images", "flowdist.public.IMAGES", "/flowdist/public/images"])
def test_a_repository_is_found_by_its_name(cloud: Cloud, text: str) -> None:
    found = find_repository(cloud.client(), text)

    assert found.name == Name(("FLOWDIST", "PUBLIC", "IMAGES"))
    assert found.reference("x:1") == f"{found.host}/flowdist/public/images/x:1"
    assert found.path("x:1") == "/flowdist/public/images/x:1"


def test_a_repository_that_is_not_there_is_told_with_what_makes_it(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'FLOWDIST.PUBLIC.IMAGES'.*CREATE IMAGE"):
        find_repository(cloud.client(), "image")
    with pytest.raises(UsageError, match="paths of images are in lower case"):
        find_repository(cloud.client(), '"My Images"')


def test_the_statements_about_images_conform_to_the_documentation(cloud: Cloud) -> None:
    client = cloud.client()
    find_repository(client)
    find_repository(client, "images")
    find_image(client, IMAGE)

    sent = client.rows(
        "SELECT DISTINCT query_text FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) "
        "WHERE query_text ILIKE 'SHOW IMAGE%'"
    )

    statements = [str(row["query_text"]) for row in sent]
    assert {check(text) for text in statements} == {""}
    assert kinds(statements) == {"SHOW IMAGE REPOSITORIES", "SHOW IMAGES"}


def test_list_shows_images_and_what_their_tags_say(cloud: Cloud) -> None:
    register_connection("images", cloud.connection)
    cloud.emulator.push_image("/flowdist/public/images/flowdist-worker:0.1.0-py3.11-0123abcd")

    assert IMAGE in flowdist("list", "--connection", "images").stdout
    said = json.loads(flowdist("list", "images", "--connection", "images", "--json").stdout)
    by_name = {one["name"]: one for one in said}
    assert (by_name["flowdist-worker"]["python"], by_name["flowdist"]["python"]) == ("3.11", None)


# What docker image inspect says; it notes its arguments, and the key that it is shown.
PODMAN = """
echo "$@" >> {log}
case "$1" in
image) echo '[{{"Architecture": "{arch}", "Os": "linux", "Config": {{}}}}]';;
push) cat "$3" >> {log}; echo >> {log}; stat -c %a "$3" >> {log}
    echo "$3" > {log}.place; echo sha256:0 > "$6";;
esac
"""


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> Path:
    log = tmp_path / "log"
    program(tmp_path, "podman", PODMAN.format(log=log, arch=arch))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return log


def test_the_token_that_signs_in_is_in_no_argument_and_does_not_stay(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_connection("images", cloud.connection)
    log = stand_in(tmp_path, monkeypatch, "amd64")

    with pytest.raises(BackendError, match="SHOW IMAGES does not have it"):
        push("model:1", Engine("podman"), connection="images", out=lambda line: None)

    _, pushed, shown, mode = log.read_text().splitlines()
    (known,) = json.loads(shown)["auths"].values()
    user, _, password = base64.b64decode(known["auth"]).decode().partition(":")
    assert user == "0sessiontoken"
    assert json.loads(password)["token"] not in pushed
    assert pushed.endswith(f"docker://{find_repository(cloud.client()).url}/model:1")
    assert mode == "600"
    assert not Path(Path(f"{log}.place").read_text().strip()).exists()


def test_an_older_image_under_the_same_tag_is_not_taken_for_the_one_pushed(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_connection("images", cloud.connection)
    stand_in(tmp_path, monkeypatch, "amd64")
    cloud.emulator.push_image("/flowdist/public/images/older:1")

    with pytest.raises(BackendError, match="still has the one from before"):
        push("older:1", Engine("podman"), connection="images", out=lambda line: None)


def test_an_image_for_other_machines_is_not_pushed(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stand_in(tmp_path, monkeypatch, "arm64")

    with pytest.raises(UsageError, match="built for linux/arm64"):
        push("model:1", Engine("podman"), connection="images", out=lambda line: None)

    assert "push" not in log.read_text()
