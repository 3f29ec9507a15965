"""`python -m agent.uploader`: one job from stdin (a JSON line), one answer to stdout (another).

The job names the attempt's directory; a lock in it lets a child of a restarted agent wait for one that the former agent
left behind. Credentials come with the job: never as an argument or in the environment.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from agent.checkpoint import stored_below
from agent.inputs.failures import InputError
from agent.storage import UnsupportedURIError, check_writable, open_storage
from agent.storage.access import Access, adopt_ambient
from agent.uploader import checkpoints, manifest, publishing, segments
from agent.uploader.audit_file import AuditShipper
from agent.uploader.event_files import EventFileShipper
from agent.uploader.failures import CONFIG_INVALID, UploadError, from_os_error

#: One child of a kind at a time for an attempt; whoever comes later waits.
_LOCKS = {
    "ship": "segments",
    "fetch": "inputs",
    "probe": "probe",
    "preflight": "probe",
    "store": "checkpoints",
    "restore": "checkpoints",
}
#: Looks of different jobs, each bounded in time: none waits for another.
_UNLOCKED = {"probe", "preflight"}


def main() -> int:
    """Do the job; 0 even where it failed, for then the answer says so."""
    # Ctrl-C goes to the whole foreground group; the agent decides what becomes of an upload.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    directory = Path(job["directory"])
    with (directory / f".{_LOCKS.get(job['command'], 'output')}.lock").open("w") as held:
        if job["command"] not in _UNLOCKED:
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            answer = {"ok": True, **_carry_out(job, directory)}
        except (UploadError, InputError) as error:
            answer = {"ok": False, "reason": error.reason, "message": str(error)}
        except UnsupportedURIError as error:
            answer = {"ok": False, "reason": CONFIG_INVALID, "message": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if job["command"] in {"fetch", "probe", "preflight"}:
        # Downloads that one failure made pointless, and looks that took too long, are not waited for.
        os._exit(0)
    return 0


def _carry_out(job: dict[str, Any], directory: Path) -> dict[str, Any]:
    adopt_ambient(job["ambient"])
    if job["command"] in {"fetch", "probe", "preflight", "push"}:
        return _input(job, directory)
    storage = open_storage(job["uri"], Access.parse(job["access"]))
    if job["command"] == "ship":
        segments.ship_until_end_of_input(
            segments.SegmentShipper(storage, directory, job["attempt"]),
            EventFileShipper(storage, directory),
            AuditShipper(storage, directory, job["attempt"]),
        )
        return {}
    output = publishing.Output(
        storage, job["uri"], job["uid"], job["job_id"], job["attempt"], overwrite=job["overwrite"]
    )
    match job["command"]:
        case "check":
            _check(output, job)
        case "stage":
            return {"digest": publishing.stage(output, directory / "output")}
        case "publish":
            return {"publication": publishing.publish(output, job["digest"])}
        case "discard":
            publishing.discard(output)
        case "store" | "restore":
            return _checkpoint(job, directory)
        case other:
            raise UploadError(CONFIG_INVALID, f"no such command: {other!r}")
    return {}


def _checkpoint(job: dict[str, Any], directory: Path) -> dict[str, Any]:
    storage = open_storage(stored_below(job["uri"], job["uid"]), Access.parse(job["access"]))
    if job["command"] == "restore":
        return checkpoints.fetch(storage, directory)
    return checkpoints.upload(storage, directory, job["attempt"], keep=job["keep"])


def _check(output: publishing.Output, job: dict[str, Any]) -> None:
    """Told to end in the midst of it, the check still removes what it wrote."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    publishing.check(output)
    if job["log"] is not None:
        storage = open_storage(job["log"]["uri"], Access.parse(job["log"]["access"]))
        try:
            check_writable(storage)
        except OSError as error:
            raise from_os_error(error, what="writing below artifacts.log_uri") from error


def _input(job: dict[str, Any], directory: Path) -> dict[str, Any]:
    from agent.inputs import fetch, probe, push, telling

    wanted = fetch.FetchJob.parse(job)
    if job["command"] == "push":
        return push.push(wanted, manifest.output_files(directory / "output"))
    if job["command"] == "preflight":
        from agent.uploader.preflight import preflight

        return preflight(wanted)
    return fetch.fetch(wanted, telling.Teller()) if job["command"] == "fetch" else probe.look(wanted)


if __name__ == "__main__":
    sys.exit(main())
