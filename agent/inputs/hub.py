"""The model hub, by its own client library: a revision becomes a commit with its files, and files are brought here.

The library's cache is not used: it answers whatever the token (docs/adr/0013). Nor are its other habits: a token found
in the environment, telemetry, a token written to disk, a cached answer where the hub says no. Large files come by plain
HTTP, which resumes where a former child was cut off.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from agent.inputs.failures import (
    DATASET_NOT_FOUND,
    HUB_UNAUTHORIZED,
    HUB_UNAVAILABLE,
    MODEL_NOT_FOUND,
    InputError,
    disk_full,
    is_disk_full,
)
from agent.inputs.https import trusting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ANSWER_SECONDS = 10.0
"""How long the hub may take for metadata."""
_BLOCK_BYTES = 1 << 20
_ENVIRONMENT = {
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What kind of repository is asked for, and which fields of the spec name it.

    Attributes:
        kind: the hub's word: `model`, `dataset`.
        name: the field with the repository's name.
        revision: the field with its revision.
        missing: the reason where there is none.
        use: what is wanted of it, in words.
    """

    kind: str
    name: str
    revision: str
    missing: str
    use: str = "read"


A_MODEL = Subject("model", "base_model.model_name", "base_model.revision", MODEL_NOT_FOUND)


def a_dataset(field: str) -> Subject:
    """A repository of rows, named with its revision by one field."""
    return Subject("dataset", field, field, DATASET_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit, and what proves its content: SHA-256 for large files, git's own name for others."""

    name: str
    size_bytes: int
    sha256: str = ""
    blob_id: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    def file(self, name: str) -> RemoteFile:
        """A file that is there."""
        return next(file for file in self.files if file.name == name)


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub, as one token sees it.

    Attributes:
        endpoint: its URL.
        token: None: as nobody.
        home: a directory for the library's own files; no token is ever among them.
        ca_bundle: PEM file of authorities to trust beside the system's.
        subject: what is asked for.
    """

    endpoint: str
    token: str | None
    home: Path
    ca_bundle: str | None = None
    subject: Subject = A_MODEL

    def snapshot(self, name: str, revision: str) -> Snapshot:
        """What a revision is now. Asks the hub, always.

        Raises:
            InputError: no such repository or revision, not for this token, or the hub does not answer.
        """
        library = self._library()
        with self._blaming(name, revision):
            info = library.HfApi(endpoint=self.endpoint, token=self.token or False).repo_info(
                name,
                revision=revision,
                repo_type=self.subject.kind,
                files_metadata=True,
                timeout=ANSWER_SECONDS,
            )
        files = (_remote_file(sibling) for sibling in info.siblings or ())
        return Snapshot(name, revision, str(info.sha), tuple(sorted(files, key=lambda file: file.name)))

    def authorize(self, snapshot: Snapshot, file: RemoteFile) -> None:
        """Ask whether this token may download a file: what a gated model shows to everybody proves nothing.

        Raises:
            InputError: it may not, or the hub does not answer.
        """
        library = self._library()
        url = library.hf_hub_url(
            snapshot.name,
            file.name,
            repo_type=self.subject.kind,
            revision=snapshot.commit,
            endpoint=self.endpoint,
        )
        with self._blaming(snapshot.name, snapshot.revision):
            library.get_hf_file_metadata(url, token=self.token or False, timeout=ANSWER_SECONDS)

    def download(self, snapshot: Snapshot, file: RemoteFile, directory: Path) -> None:
        """Bring a file into a directory, going on where a former download there was cut off, and prove its content.

        Raises:
            InputError: as above; HUB_UNAVAILABLE also for another content than the hub promised, which is removed.
        """
        library = self._library()
        with self._blaming(snapshot.name, snapshot.revision):
            library.hf_hub_download(
                snapshot.name,
                file.name,
                repo_type=self.subject.kind,
                revision=snapshot.commit,
                local_dir=directory,
                token=self.token or False,
                endpoint=self.endpoint,
                etag_timeout=ANSWER_SECONDS,
            )
        if not is_whole(directory / file.name, file):
            (directory / file.name).unlink()
            raise InputError(
                HUB_UNAVAILABLE,
                f"{self.subject.name}: {file.name} of {snapshot.name} arrived with another content than "
                f"{self.endpoint} says it has (size or SHA-256)",
            )

    def push(self, name: str, folder: Path, files: Sequence[str], *, message: str) -> str:
        """Commit files to a repository, which is made, and private, where there is none; the commit's name.

        Raises:
            InputError: not for this token, or the hub does not take it.
        """
        library = self._library()
        operations = [library.CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files]
        with self._blaming(name, "main"):
            api = library.HfApi(endpoint=self.endpoint, token=self.token or False)
            api.create_repo(name, repo_type=self.subject.kind, private=True, exist_ok=True)
            done = api.create_commit(name, operations, repo_type=self.subject.kind, commit_message=message)
        return str(done.oid)

    def may_write(self, name: str) -> bool | None:
        """Whether a repository takes this token's owner for a writer; None: there is none, or none that it shows.

        Raises:
            InputError: the token is none, or the hub does not say.
        """
        from huggingface_hub import errors

        library = self._library()
        with self._blaming(name, "main"), self._perhaps_not_telling():
            try:
                library.HfApi(endpoint=self.endpoint, token=self.token or False).auth_check(
                    name, repo_type=self.subject.kind, write=True
                )
            except errors.RepositoryNotFoundError:
                return None
            except errors.HfHubHTTPError as error:
                if error.response.status_code == 403:
                    return False
                raise
        return True

    def account(self, name: str) -> dict[str, Any]:
        """Whose this token is and what it may, in the hub's words (`whoami-v2`), asked for the sake of a repository.

        Raises:
            InputError: the token is none, or the hub does not say.
        """
        library = self._library()
        with self._blaming(name, "main"), self._perhaps_not_telling():
            told = library.HfApi(endpoint=self.endpoint, token=self.token or False).whoami()
        return told if isinstance(told, dict) else {}

    @contextmanager
    def _perhaps_not_telling(self) -> Iterator[None]:
        """A mirror may not know the question: that is no verdict on any repository."""
        from huggingface_hub import errors

        try:
            yield
        except errors.HfHubHTTPError as error:
            if error.response.status_code == 404:
                raise self._unavailable(error, "it does not tell who may write") from error
            raise

    def beginning(self, snapshot: Snapshot, file: RemoteFile, size_bytes: int) -> bytes:
        """A file's first bytes; nothing of it is kept.

        Raises:
            InputError: as above.
        """
        library = self._library()
        url = library.hf_hub_url(
            snapshot.name,
            file.name,
            repo_type=self.subject.kind,
            revision=snapshot.commit,
            endpoint=self.endpoint,
        )
        utils = library.utils
        wanted = min(size_bytes, file.size_bytes)
        if not wanted:
            return b""
        headers = {**utils.build_hf_headers(token=self.token or False), "range": f"bytes=0-{wanted - 1}"}
        with (
            self._blaming(snapshot.name, snapshot.revision),
            utils.get_session().stream(
                "GET", url, headers=headers, timeout=ANSWER_SECONDS, follow_redirects=True
            ) as answer,
        ):
            utils.hf_raise_for_status(answer)
            found = bytearray()
            for piece in answer.iter_bytes():
                found += piece
                if len(found) >= wanted:
                    break
            return bytes(found[:wanted])

    def sibling(self, name: str) -> str | None:
        """`<name>-hf`, where many publishers keep the same weights as safetensors; None if it has none."""
        other = f"{name}-hf"
        try:
            there = self.snapshot(other, "main")
        except InputError:
            return None
        return other if any(file.name.endswith(".safetensors") for file in there.files) else None

    def _library(self) -> Any:
        return _configured(self.home, self.ca_bundle)

    @contextmanager
    def _blaming(self, name: str, revision: str) -> Iterator[None]:
        """Puts what the library raises into the request's words; nothing of the hub's answer is repeated."""
        import httpx2
        from huggingface_hub import errors

        try:
            yield
        except errors.RevisionNotFoundError as error:
            raise InputError(
                self.subject.missing,
                f"{self.subject.revision}: {name} has no branch, tag or commit {revision} at {self.endpoint}",
            ) from error
        except errors.HFValidationError as error:
            raise InputError(
                self.subject.missing, f"{self.subject.name}: {name} is no name of a {self.subject.kind}"
            ) from error
        except errors.GatedRepoError as error:
            raise InputError(HUB_UNAUTHORIZED, self._gated(name)) from error
        except errors.LocalEntryNotFoundError as error:
            raise self._unavailable(error.__cause__ or error) from error
        except errors.HfHubHTTPError as error:
            raise self._answered(error.response.status_code, name, error) from error
        except RuntimeError as error:  # of a large file's upload, around what went wrong
            cause = error.__cause__
            if isinstance(cause, errors.HfHubHTTPError):
                raise self._answered(cause.response.status_code, name, error) from error
            raise self._unavailable(cause or error) from error
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise self._unavailable(error) from error

    def _answered(self, status: int, name: str, error: BaseException) -> InputError:
        if status == 404:
            return InputError(
                self.subject.missing,
                f"{self.subject.name}: there is no {self.subject.kind} {name} at {self.endpoint}",
            )
        if status in {401, 403}:
            return InputError(HUB_UNAUTHORIZED, self._unauthorized(name))
        return self._unavailable(error, f"it answered {status}")

    def _gated(self, name: str) -> str:
        if self.token:
            return (
                f"base_model.auth_token: the {self.subject.kind} {name} is gated and this token's owner has no access "
                f"to it; ask for access on its page at {self.endpoint}"
            )
        return (
            f"base_model.auth_token: the {self.subject.kind} {name} is gated: give a token whose owner has access to it"
        )

    def _unauthorized(self, name: str) -> str:
        if self.token:
            return (
                f"base_model.auth_token: {self.endpoint} refuses the token for {name}: it is wrong, expired, or not "
                f"allowed to {self.subject.use} this {self.subject.kind}"
            )
        return (
            f"base_model.auth_token: {self.endpoint} shows no {self.subject.kind} {name} without a token: give one "
            f"that may read it, or check {self.subject.name}"
        )

    def _unavailable(self, error: BaseException, said: str = "") -> InputError:
        if is_disk_full(error):
            return disk_full(f"{self.subject.name}: the node's disk for what the hub has")
        why = said or type(error).__name__
        return InputError(HUB_UNAVAILABLE, f"{self.subject.name}: the hub {self.endpoint} does not serve: {why}")


@cache
def _configured(home: Path, ca_bundle: str | None) -> Any:
    """The library, made to behave; once, for a new client of its closes the one that downloads use."""
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(_ENVIRONMENT, HF_HOME=str(home))
    import httpx2
    import huggingface_hub
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if ca_bundle is not None:
        context = trusting(ca_bundle)
        huggingface_hub.set_client_factory(lambda: httpx2.Client(verify=context, follow_redirects=True, timeout=None))
    return huggingface_hub


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a local file has the promised content. Reads all of it."""
    if path.stat().st_size != file.size_bytes:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.blob_id)


def _remote_file(sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    if lfs is not None:
        return RemoteFile(sibling.rfilename, int(lfs.size), sha256=str(lfs.sha256))
    return RemoteFile(sibling.rfilename, int(sibling.size or 0), blob_id=str(sibling.blob_id))
