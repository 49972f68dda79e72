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
    """Two files of the package in a folder of their own, and a function to ask for their code."""
    (tmp_path / "sft_jax" / "part").mkdir(parents=True)
    shutil.copy(PACKAGE / "version.py", tmp_path / "sft_jax")
    (tmp_path / "sft_jax" / "part" / "a.py").write_text("a = 1\n")

    def ask():
        program = "import runpy; print(runpy.run_path('sft_jax/version.py')['code']())"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return eval(done.stdout)

    return tmp_path, ask


def _git(folder, *arguments):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_digest_is_of_paths_and_contents():
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.as_posix()):
        content = path.read_bytes()
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(str(len(content)).encode() + b"\0" + content)
    assert version.code_digest() == "sha256:" + digest.hexdigest()


@pytest.mark.process
def test_installed_without_git_there_is_no_commit_and_the_digest_stands(copy):
    folder, ask = copy
    first = ask()
    assert (first["commit"], first["dirty"]) == (None, None)
    (folder / "sft_jax" / "part" / "a.py").write_text("a = 2\n")
    changed = ask()["digest"]
    assert changed != first["digest"]
    (folder / "sft_jax" / "part" / "a.py").rename(folder / "sft_jax" / "part" / "b.py")
    assert ask()["digest"] not in (changed, first["digest"])


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_the_package_and_says_if_code_differs(copy):
    folder, ask = copy
    _git(folder, "init")
    # Below a repository that it is not part of, as in a virtual environment.
    assert ask()["commit"] is None
    _git(folder, "add", ".")
    _git(folder, "commit", "-m", "all")
    commit = _git(folder, "rev-parse", "HEAD")
    (folder / "result.json").write_text("{}")  # No code.
    assert (ask()["commit"], ask()["dirty"]) == (commit, False)
    (folder / "sft_jax" / "part" / "a.py").write_text("a = 2\n")
    assert (ask()["commit"], ask()["dirty"]) == (commit, True)


def test_the_environment_names_code_and_versions():
    found = version.environment()
    assert found["code"] == version.code()
    assert found["versions"]["sft_jax"] == version.__version__
    assert found["versions"]["jax"]
