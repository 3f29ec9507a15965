"""From `output/` to its place, in two halves between which the control plane grants the commit.

    output/ ──stage──► <output_uri>/.attempts/N/ ──(grant)──publish──► <output_uri>/

Both halves may be cut off anywhere and begun again: staging writes all anew, publishing rolls forward and never back.
The manifest goes last each time, after all that it lists was read back, so whoever finds one finds it all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.failpoints import failpoint
from agent.storage import check_writable
from agent.uploader import manifest
from agent.uploader.failures import (
    ARTIFACTS_LOST,
    OUTPUT_EXISTS,
    STORAGE_UNAVAILABLE,
    UploadError,
    from_os_error,
)
from agent.uploader.manifest import File, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage


@dataclass(frozen=True, slots=True)
class Output:
    """Whose output goes where. `overwrite`: another job's manifest there is no obstacle."""

    storage: Storage
    uri: str
    uid: str
    job_id: str
    attempt: int
    overwrite: bool = False

    @property
    def staging(self) -> str:
        """The attempt's own prefix below the output's."""
        return f"{manifest.STAGING}/{self.attempt}"


def stage(output: Output, directory: Path) -> str:
    """Upload `directory` to staging; the manifest's digest.

    Raises:
        UploadError: the prefix is another job's, or bytes could not be moved.
    """
    try:
        _refuse_foreign(output)
        output.storage.remove_below(output.staging)
        files = []
        for name in manifest.output_files(directory):
            with (directory / name).open("rb") as stream:
                size, digest = manifest.checksum(iter(lambda: stream.read(1 << 20), b""))
            output.storage.put(f"{output.staging}/{name}", directory / name)
            files.append(File(name, size, digest))
        made = Manifest(output.uid, output.job_id, output.attempt, tuple(files))
        output.storage.put_bytes(f"{output.staging}/{manifest.NAME}", made.to_json())
    except OSError as error:
        raise from_os_error(error, what=f"artifacts.output_uri: staging below {output.uri}") from error
    return made.digest


def check(output: Output) -> None:
    """See now what would fail after hours: another job's output, or a prefix that cannot be written.

    Raises:
        UploadError: so it would.
    """
    try:
        _refuse_foreign(output)
        check_writable(output.storage, below=output.staging)
    except OSError as error:
        raise from_os_error(error, what=f"artifacts.output_uri: writing below {output.uri}") from error


def look(output: Output) -> None:
    """The same for a job that is not there: what is written is removed, and no name is used that a job's could be.

    Raises:
        UploadError: a job's publishing would fail.
    """
    try:
        _refuse_foreign(output)
        check_writable(output.storage)
    except OSError as error:
        raise from_os_error(error, what=f"artifacts.output_uri: writing below {output.uri}") from error


def publish(output: Output, digest: str) -> dict[str, Any]:
    """Bring the staged output to its place, and prove it by reading all of it back. What `published` then reports.

    Raises:
        UploadError: ARTIFACTS_LOST where neither staging nor place holds what was granted.
    """
    try:
        published = _manifest_or_none(output, manifest.NAME)
        granted = _manifest_or_none(output, f"{output.staging}/{manifest.NAME}")
        if granted is None or granted.digest != digest:
            if published is None or published.digest != digest:
                raise UploadError(ARTIFACTS_LOST, f"nothing below {output.uri} matches the granted manifest")
            granted = published
        else:
            _refuse_foreign(output)
            _copy(output, granted)
        _verify(output, granted)
        _seal(output, granted)
        failpoint("uploader.before_unstage")
        output.storage.remove_below(output.staging)
        output.storage.remove_below(f"{manifest.CHECKPOINTS}/{output.uid}")
    except OSError as error:
        raise from_os_error(error, what=f"artifacts.output_uri: publishing to {output.uri}") from error
    return {"output_uri": output.uri, "manifest_digest": digest, "artifacts": granted.artifacts()}


def discard(output: Output) -> None:
    """Remove what was staged; it will never be published. Repeatable.

    Raises:
        UploadError: it could not be removed.
    """
    try:
        output.storage.remove_below(output.staging)
    except OSError as error:
        raise from_os_error(error, what=f"removing staging below {output.uri}") from error


def _copy(output: Output, granted: Manifest) -> None:
    for file in granted.files:
        try:
            output.storage.copy(f"{output.staging}/{file.path}", file.path)
        except FileNotFoundError as error:
            raise UploadError(ARTIFACTS_LOST, f"{file.path} vanished from staging below {output.uri}") from error
        failpoint("uploader.after_copy")


def _verify(output: Output, granted: Manifest) -> None:
    for file in granted.files:
        expected = file.size_bytes, file.sha256
        if _holds(output, file.path, expected):
            continue
        words = f"{file.path} below {output.uri} is not what was granted"
        if not _holds(output, f"{output.staging}/{file.path}", expected):
            raise UploadError(ARTIFACTS_LOST, f"{words}, nor is it in staging any more")
        raise UploadError(STORAGE_UNAVAILABLE, words)


def _holds(output: Output, name: str, expected: tuple[int, str]) -> bool:
    try:
        return manifest.checksum(output.storage.read(name)) == expected
    except FileNotFoundError:
        return False


def _seal(output: Output, granted: Manifest) -> None:
    """Write the manifest, now that all that it lists is there and was read back."""
    failpoint("uploader.before_manifest")
    output.storage.put_bytes(manifest.NAME, granted.to_json())
    failpoint("uploader.after_manifest")
    _, found = manifest.checksum(output.storage.read(manifest.NAME))
    if found != hashlib.sha256(granted.to_json()).hexdigest():
        raise UploadError(STORAGE_UNAVAILABLE, f"the manifest below {output.uri} is not what was granted")


def _refuse_foreign(output: Output) -> None:
    if output.overwrite:
        return
    try:
        found = _manifest(output, manifest.NAME)
    except ValueError:
        owner = "something else"
    else:
        if found is None or found.uid == output.uid:
            return
        owner = f"job {found.job_id}"
    raise UploadError(
        OUTPUT_EXISTS,
        f"artifacts.output_uri: {output.uri} already holds the output of {owner}; "
        "choose another, or set artifacts.overwrite",
    )


def _manifest(output: Output, name: str) -> Manifest | None:
    try:
        return Manifest.parse(b"".join(output.storage.read(name)))
    except FileNotFoundError:
        return None


def _manifest_or_none(output: Output, name: str) -> Manifest | None:
    try:
        return _manifest(output, name)
    except ValueError:
        return None
