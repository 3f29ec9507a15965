"""Weights by https from an address that a user gave: over TLS, to public or allowed addresses, bounded, resumed."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.inputs.failures import InputError
from agent.inputs.fetch import fetch
from agent.inputs.https import Download
from tests.integration.inputs.conftest import Told
from trainplane.addresses import OutboundRules

LOOPBACK = OutboundRules.of(networks=("127.0.0.0/8", "::1/128"))
FIELD = "base_model.weights_url"
WEIGHTS = os.urandom(3_000_000)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key", "-out", folder / "pem"]
    subprocess.run([*argv.split(), *extra], check=True, capture_output=True)
    return folder


class Site(ThreadingHTTPServer):
    """Serves `/w.safetensors` over TLS, and redirects; `cut` ends bodies early."""

    daemon_threads = True

    def __init__(self, certificate) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "pem", certificate / "key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.cut_after_bytes = None
        self.etag = '"v1"'
        self.status = 200
        self.sized = True
        self.location = ""
        self.ranges = []

    def handle_error(self, *_):
        """Clients that do not trust us are part of the tests."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", site.location)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("range") or ""
        site.ranges.append(wanted)
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        partial = bool(wanted) and self.headers.get("if-range") == site.etag
        body = WEIGHTS[first:] if partial else WEIGHTS
        self.send_response(206 if partial else site.status)
        self.send_header("etag", site.etag)
        if site.sized:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(body[: site.cut_after_bytes])


@pytest.fixture
def site(certificate):
    serving = Site(certificate)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.fixture
def download(site, certificate):
    return Download(f"{site.url}/w.safetensors", FIELD, 1 << 30, LOOPBACK, str(certificate / "pem"))


def refusal(download, target):
    with pytest.raises(InputError) as caught:
        download.into(target, expects=lambda _size: None)
    assert str(caught.value).startswith(f"{FIELD}: ")
    assert not target.exists()
    return caught.value


def test_it_arrives_whole_and_its_size_is_told_first(download, tmp_path):
    sizes = []
    download.into(tmp_path / "w", expects=sizes.append)
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert sizes == [len(WEIGHTS)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("w.")] == []


def test_what_was_cut_off_goes_on_where_it_was(download, site, tmp_path):
    site.cut_after_bytes = 2_000_000
    assert refusal(download, tmp_path / "w").reason == "STORAGE_UNAVAILABLE"
    site.cut_after_bytes = None
    download.into(tmp_path / "w", expects=lambda _size: None)
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert site.ranges == ["", "bytes=2000000-"]


def test_what_changed_meanwhile_is_begun_anew(download, site, tmp_path):
    site.cut_after_bytes = 2_000_000
    refusal(download, tmp_path / "w")
    site.cut_after_bytes, site.etag = None, '"v2"'
    download.into(tmp_path / "w", expects=lambda _size: None)
    assert (tmp_path / "w").read_bytes() == WEIGHTS


def test_a_redirect_to_an_allowed_address_is_followed(download, site, tmp_path):
    site.location = "/w.safetensors"
    replace(download, url=f"{site.url}/moved").into(tmp_path / "w", expects=lambda _size: None)
    assert (tmp_path / "w").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://2852039166/",
        "https://[::ffff:10.0.0.1]/",
        "http://localhost/",
        "file:///etc/passwd",
        "https://user:password@localhost/",
    ],
)
def test_a_redirect_to_elsewhere_is_not_followed(download, site, tmp_path, location):
    site.location = location
    assert refusal(replace(download, url=f"{site.url}/moved"), tmp_path / "w").reason == "STORAGE_DENIED"


def test_redirects_without_end_are_not_followed_for_ever(download, site, tmp_path):
    site.location = "/moved"
    assert refusal(replace(download, url=f"{site.url}/moved"), tmp_path / "w").reason == "STORAGE_DENIED"


def test_an_address_that_is_not_public_is_refused_unless_a_setting_allows_it(download, site, tmp_path):
    refused = refusal(replace(download, rules=OutboundRules.of()), tmp_path / "w")
    assert refused.reason == "STORAGE_DENIED"
    assert "allowed_hosts" in str(refused)
    assert site.ranges == []
    allowed = OutboundRules.of(hosts=("localhost",))
    replace(download, rules=allowed).into(tmp_path / "w", expects=lambda _size: None)


def test_a_certificate_that_nobody_here_trusts_is_refused(download, site, tmp_path):
    assert refusal(replace(download, ca_bundle=None), tmp_path / "w").reason == "STORAGE_UNAVAILABLE"
    assert site.ranges == []


def test_more_than_this_node_takes_is_refused_before_the_first_byte(download, tmp_path):
    refused = refusal(replace(download, limit_bytes=1_000), tmp_path / "w")
    assert refused.reason == "CONFIG_INVALID"
    assert "cache_gb" in str(refused)


def test_a_body_of_unknown_size_is_refused(download, site, tmp_path):
    site.sized = False
    assert refusal(download, tmp_path / "w").reason == "CONFIG_INVALID"


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "MODEL_NOT_FOUND"), (403, "STORAGE_DENIED"), (503, "STORAGE_UNAVAILABLE")]
)
def test_each_answer_has_its_reason(download, site, tmp_path, status, reason):
    site.status = status
    assert refusal(download, tmp_path / "w").reason == reason


def test_weights_by_https_join_the_hubs_configuration_and_tokenizer(
    job, settings, mirror, directory, site, certificate
):
    commit = mirror.serve("owner/name", directory)
    trusting = replace(settings, ca_bundle=str(certificate / "pem"), allowed_hosts=("localhost",))
    base_model = {"provider": "huggingface", "model_name": "owner/name", "weights_url": f"{site.url}/w.safetensors"}
    told = Told()
    model = fetch(job({"base_model": base_model}, settings=trusting), told)["inputs"]["model"]
    assert (model["name"], model["commit"]) == ("owner/name", commit)
    path = Path(model["path"])
    assert path.is_relative_to(settings.cache_dir)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(each.name for each in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert mirror.bodies() == 0
    assert told.expected[-1] == len(WEIGHTS)


@pytest.fixture
def by_https(job, settings, mirror, directory, site, certificate, tmp_path):
    """Fetches weights by https as another job each time; the model, and how many contents were read to their end."""
    mirror.serve("owner/name", directory)
    trusting = replace(settings, ca_bundle=str(certificate / "pem"), allowed_hosts=("localhost",))
    base_model = {"provider": "huggingface", "model_name": "owner/name", "weights_url": f"{site.url}/w.safetensors"}

    def fetched(number):
        attempt = tmp_path / "attempts" / f"JOB.{number}"
        attempt.mkdir(exist_ok=True)
        told = Told()
        model = fetch(job({"base_model": base_model}, settings=trusting, directory=attempt), told)["inputs"]["model"]
        return Path(model["path"]), told.expected.count(len(WEIGHTS))

    return fetched


def test_weights_by_https_come_once_for_all_jobs_while_their_etag_is_the_same(by_https, site, settings):
    path, downloads = by_https(2)
    assert (path.is_relative_to(settings.cache_dir), downloads) == (True, 1)
    assert by_https(3) == (path, 0)
    site.etag = '"v2"'
    other, downloads = by_https(4)
    assert (other != path, downloads) == (True, 1)


def test_weights_by_https_with_another_tokenizer_are_another_model(by_https, mirror, directory):
    path, _ = by_https(2)
    (directory / "tokenizer.json").write_text('{"other": 1}')
    mirror.repositories["owner/name"].commit(directory)
    other, downloads = by_https(3)
    assert ((other / "tokenizer.json").read_text(), downloads) == ('{"other": 1}', 1)
    assert other != path


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_weights_whose_server_does_not_tell_contents_apart_come_for_each_attempt(by_https, site, settings, etag):
    site.etag = etag
    path, downloads = by_https(2)
    assert (path.is_relative_to(settings.cache_dir), downloads) == (False, 1)
    assert by_https(3)[1] == 1


def test_weights_that_are_replaced_between_the_look_and_the_download_do_not_pass_for_what_they_were(
    download, site, tmp_path
):
    tag, size = download.look()
    assert (tag, size) == ('"v1"', len(WEIGHTS))
    site.etag = '"v2"'
    refused = refusal(replace(download, tag=tag), tmp_path / "w")
    assert (refused.reason, refused.lasting) == ("STORAGE_UNAVAILABLE", False)
    assert "replaced" in str(refused)


def test_a_dataset_by_https_keeps_its_suffix_and_passes_the_outbound_rules(job, settings, site, certificate):
    source = {"source": f"{site.url}/data/rows.jsonl?signature=a.b"}
    trusting = replace(settings, ca_bundle=str(certificate / "pem"))
    with pytest.raises(InputError, match=r"^datasets\[0\]\.source: .*not public") as caught:
        fetch(job({"datasets": [source]}, settings=trusting), Told())
    assert caught.value.reason == "STORAGE_DENIED"
    told = Told()
    allowed = job({"datasets": [source]}, settings=replace(trusting, allowed_hosts=("localhost",)))
    [dataset] = fetch(allowed, told)["inputs"]["datasets"]
    path = allowed.directory / "inputs" / "dataset-0.jsonl"
    assert dataset == {"path": str(path)}
    assert path.read_bytes() == WEIGHTS
    assert told.expected == [len(WEIGHTS)]


def test_a_dataset_that_is_not_there_by_https_is_a_missing_dataset(job, settings, site, certificate):
    site.status = 404
    allowed = replace(settings, ca_bundle=str(certificate / "pem"), allowed_hosts=("localhost",))
    with pytest.raises(InputError, match=r"^datasets\[0\]\.source: nothing is there") as caught:
        fetch(job({"datasets": [{"source": f"{site.url}/rows.csv"}]}, settings=allowed), Told())
    assert caught.value.reason == "DATASET_NOT_FOUND"
