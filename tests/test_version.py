"""Identity of the running code."""

import hashlib
import pathlib
import shutil
import subprocess
import sys

import pytest

from sft_jax import version

PACKAGE = pathlib.Path(version.__file__).parent


@pytest.fixture
def copy(tmp_path):
    """Two files of the package in a folder of their own, and a function that reads their code."""
    (tmp_path / "sft_jax" / "part").mkdir(parents=True)
    shutil.copy(PACKAGE / "version.py", tmp_path / "sft_jax")
    (tmp_path / "sft_jax" / "part" / "a.py").write_text("a = 1\n")

    def read():
        program = "import runpy; print(runpy.run_path('sft_jax/version.py')['code']())"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return eval(done.stdout)

    return tmp_path, read


def _git(folder, *arguments):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_digest_is_of_paths_and_contents():
    digest = hashlib.sha256()
    sources = [path for path in PACKAGE.rglob("*.*") if path.suffix in version._SOURCES]
    assert any(path.suffix == ".c" for path in sources)
    for path in sorted(sources, key=lambda path: path.as_posix()):
        content = path.read_bytes()
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(str(len(content)).encode() + b"\0" + content)
    assert version.code_digest() == "sha256:" + digest.hexdigest()


@pytest.mark.process
def test_without_git_only_the_digest_is_known(copy):
    folder, read = copy
    first = read()
    assert (first["commit"], first["dirty"]) == (None, None)
    (folder / "sft_jax" / "part" / "a.py").write_text("a = 2\n")
    changed = read()["digest"]
    assert changed != first["digest"]
    (folder / "sft_jax" / "part" / "a.py").rename(folder / "sft_jax" / "part" / "b.py")
    assert read()["digest"] not in (changed, first["digest"])


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_marked_if_code_differs(copy):
    folder, read = copy
    _git(folder, "init")
    # Below a repository that does not track it, as in a virtual environment.
    assert read()["commit"] is None
    _git(folder, "add", ".")
    _git(folder, "commit", "-m", "all")
    commit = _git(folder, "rev-parse", "HEAD")
    (folder / "result.json").write_text("{}")  # No code.
    (folder / "watch.c").write_text("")  # An exported model.
    assert (read()["commit"], read()["dirty"]) == (commit, False)
    new = folder / "sft_jax" / "part" / "b.py"
    new.touch()
    assert read()["dirty"]
    new.unlink()
    assert not read()["dirty"]
    (folder / "sft_jax" / "part" / "a.py").write_text("a = 2\n")
    assert (read()["commit"], read()["dirty"]) == (commit, True)


def test_the_environment_names_code_and_versions():
    environment = version.environment()
    assert environment["code"] == version.code()
    assert environment["versions"]["sft_jax"] == version.__version__
    assert environment["versions"]["jax"]
