"""A virtual environment of a backend's own: its distribution really installed, and beside it what it asks for, no more.

Nothing is downloaded: the requirements' packages are links to this environment's, so that what is not asked for
(transformers, PEFT, this project) is not there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

BARE = Path(__file__).parents[2] / "backends" / "bare"


def made(directory: Path, project: Path, *, extra: str) -> Path:
    """Makes it; answers its Python.

    Args:
        directory: where to.
        project: of the distribution: the folder with its pyproject.toml.
        extra: of the distribution, that is installed too.
    """
    venv.create(directory, with_pip=False, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    _install(site, project)
    (info,) = site.glob("*.dist-info")
    asked = [Requirement(line) for line in metadata.PathDistribution(info).requires or ()]
    for name in _closure(
        {each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": extra})}
    ):
        _link(metadata.distribution(name), site)
    return directory / "bin" / "python"


def half(python: Path, directory: Path) -> Path:
    """What a control plane and an agent install, the distribution alone: a directory to be put on `sys.path`."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    directory.mkdir()
    for top in (path for path in site.iterdir() if not path.is_symlink()):
        (directory / top.name).symlink_to(top)
    return directory


def _install(site: Path, project: Path) -> None:
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    copy = site.parent / "source"
    shutil.copytree(project, copy)  # a build writes beside the source
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(copy)]
    subprocess.run(command, check=True, timeout=120)


def _closure(names: set[str]) -> set[str]:
    """These distributions and all that they require on this machine."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        wanted = [Requirement(line) for line in metadata.distribution(name).requires or ()]
        names |= {each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})} - found
    return found


def _link(distribution: metadata.Distribution, site: Path) -> None:
    for top in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))
