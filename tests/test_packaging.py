"""What is in the wheel, and that both ways of installing it turn rollspan on."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollspan import autostart, native

from .needs import need

ROOT = Path(__file__).parents[1]
CODE = (
    "import json, os, sys\n"
    "print(json.dumps(['rollspan' in sys.modules, 'ROLLSPAN_RUN_ID' in os.environ,"
    " __import__('rollspan').__file__]))"
)


def pip(*arguments: str, fails: bool = False, **environ: str) -> str:
    """This environment's pip, offline, building with what is installed here; gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        timeout=300,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def make_wheel(folder: Path, source: Path = ROOT, *, fails: bool = False, **environ: str) -> str:
    """Build a wheel of this checkout, or of `source`, into `folder`; gives what was printed."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder))
    return pip("wheel", *options, str(source), fails=fails, **environ)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    make_wheel(folder)
    (built,) = folder.glob("rollspan-*.whl")
    return built


def editable(folder: Path) -> Path:
    """The wheel that `pip install -e` makes for itself (PEP 660) and installs."""
    code = f"from hatchling.build import build_editable; build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("rollspan-*.whl")
    return built


@pytest.fixture(params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path: Path, wheel: Path) -> Iterator[Path]:
    """The interpreter of a new environment into which rollspan was installed by wheel or by `-e`."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    interpreter = tmp_path / "env" / "bin" / "python"
    built = wheel if request.param == "wheel" else editable(tmp_path)
    pip("--python", str(interpreter), "install", "--no-deps", "--no-index", "-q", str(built))
    # What rollspan depends on comes from this environment: its folder alone, without its start-up files.
    (site(interpreter) / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield interpreter


def site(interpreter: Path) -> Path:
    """The site-packages folder of a virtual environment."""
    (folder,) = (interpreter.parents[1] / "lib").glob("python*/site-packages")
    return folder


def ask(interpreter: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code` there, away from the checkout, with nothing of ours in the environment but `environ`."""
    drop = ("OTEL_", "ROLLSPAN_", "PYTHONPATH", "SLURM_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(drop)}
    return subprocess.run(
        [str(interpreter), "-c", code],
        capture_output=True,
        text=True,
        env=inherited | environ,
        cwd=interpreter.parents[1],
        timeout=120,
        check=True,
    )


def test_the_wheel_holds_what_start_up_needs(wheel: Path) -> None:
    """Both start-up files lie at the root of the wheel, and the typing marker in the package."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        entries = archive.read(points).decode()
    assert {"rollspan.pth", "rollspan.start", "rollspan/py.typed", "rollspan/autostart.py"} <= names
    ours = ("tests/", "docs/", "packaging/", "native/", "src/")
    assert not [name for name in names if name.startswith(ours)]
    assert "[opentelemetry_instrumentor]\nrollspan = rollspan.instrumentor:RolloutInstrumentor" in entries
    assert "[console_scripts]\nrollspan = rollspan.cli.main:main" in entries


def test_a_wheel_says_for_which_python_its_parts_in_c_are(wheel: Path) -> None:
    """Where they are built the wheel is for this Python and machine alone."""
    need(native.is_built(), "the parts in C were not built: there is no C compiler")
    with zipfile.ZipFile(wheel) as archive:
        built = [name for name in archive.namelist() if name.startswith("rollspan/_native.")]
    assert [name.endswith(sysconfig.get_config_var("EXT_SUFFIX")) for name in built] == [True]
    assert "-none-any" not in wheel.name


def test_a_source_distribution_builds_its_parts_in_c(tmp_path: Path) -> None:
    """Their sources are in it, all of them."""
    need(native.is_built(), "the parts in C were not built: there is no C compiler")
    code = f"from hatchling.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (packed,) = tmp_path.glob("rollspan-*.tar.gz")
    with tarfile.open(packed) as archive:
        names = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert {path.relative_to(ROOT) for path in (ROOT / "native").glob("*.[ch]")} <= names
    make_wheel(tmp_path, packed, ROLLSPAN_BUILD_NATIVE="1")


def test_without_a_compiler_a_wheel_is_pure_python(tmp_path: Path) -> None:
    """And a build that must have the parts in C says why it has not."""
    make_wheel(tmp_path, CC="/bin/false", ROLLSPAN_BUILD_NATIVE="")
    (built,) = tmp_path.glob("rollspan-*.whl")
    assert built.name.endswith("-py3-none-any.whl")
    assert "/bin/false" in make_wheel(tmp_path, CC="/bin/false", ROLLSPAN_BUILD_NATIVE="1", fails=True)


def test_the_wheel_carries_its_version_and_licence(wheel: Path) -> None:
    """The version is the package's own, and the licence travels along."""
    import rollspan

    assert wheel.name.startswith(f"rollspan-{rollspan.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]


def test_an_installed_rollspan_turns_on_by_the_environment(python: Path) -> None:
    """After an ordinary and after an editable install, ROLLSPAN_ENABLED=1 alone starts the run."""
    loaded, named, where = json.loads(ask(python, CODE, ROLLSPAN_ENABLED="1").stdout)
    assert loaded
    assert named
    assert Path(where).is_relative_to(ROOT / "src") or Path(where).is_relative_to(site(python))


def test_an_installed_rollspan_is_off_by_itself(python: Path) -> None:
    """Without the variable, start-up leaves rollspan alone."""
    loaded, named, _ = json.loads(ask(python, CODE).stdout)
    assert not loaded
    assert not named


def test_a_half_removed_rollspan_is_silent(python: Path) -> None:
    """Start-up files left behind by a broken removal neither fail nor print."""
    for left in site(python).glob("*rollspan*"):
        if left.name == "rollspan" or left.name.startswith("_editable"):
            left.rename(left.with_name("gone"))
    done = ask(python, "print(1)", ROLLSPAN_ENABLED="1")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_uninstalling_takes_the_start_up_files_along(python: Path) -> None:
    """`pip uninstall` leaves nothing of ours behind."""
    (site(python) / "zz_dependencies.pth").unlink()
    pip("--python", str(python), "uninstall", "-q", "-y", "rollspan")
    assert list(python.parents[1].rglob("*rollspan*")) == []


def test_the_start_file_names_what_the_pth_calls() -> None:
    """Python 3.15 and later read rollspan.start (PEP 829) instead of the import line, to the same end."""
    lines = (ROOT / "packaging" / "rollspan.start").read_text().splitlines()
    assert [pkgutil.resolve_name(line) for line in lines] == [autostart.start]
    pth = (ROOT / "packaging" / "rollspan.pth").read_text()
    assert pth.startswith("import ")
    assert pth.count("\n") == 1
    assert "rollspan.autostart" in pth
