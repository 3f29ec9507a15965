import io
import json

import pytest

from trainplane.cli.request_file import edited, read


def test_a_file_without_anything_to_change_goes_out_byte_for_byte(tmp_path):
    body = b'{ "job_id":"a", "x": 1.0, "x": 1e400, "datasets": [{"source": "file:///abs/d.jsonl"}] }\n'
    (tmp_path / "r.json").write_bytes(body)
    assert read(str(tmp_path / "r.json")) == body


def test_relative_places_are_relative_to_the_requests_folder(tmp_path):
    folder = tmp_path / "with blank"
    folder.mkdir()
    request = {
        "base_model": {"model_name": "file://./model", "weights_url": "file://./w/"},
        "datasets": [{"source": "file://./a.jsonl"}, {"source": "s3://b/c"}, {"source": "file://../b.jsonl"}],
        "artifacts": {"output_uri": "file://./out/", "log_uri": "file://./logs/"},
        "labels": {"source": "file://./untouched"},
    }
    (folder / "r.json").write_text(json.dumps(request))
    sent = json.loads(read(str(folder / "r.json")))
    home = folder.resolve()
    assert sent["base_model"] == {"model_name": f"{home}/model", "weights_url": f"{home.as_uri()}/w/"}
    assert [each["source"] for each in sent["datasets"]] == [
        f"{home.as_uri()}/a.jsonl",
        "s3://b/c",
        f"{home.parent.as_uri()}/b.jsonl",
    ]
    assert sent["artifacts"] == {"output_uri": f"{home.as_uri()}/out/", "log_uri": f"{home.as_uri()}/logs/"}
    assert sent["labels"] == request["labels"]
    assert "%20" in sent["artifacts"]["output_uri"]


def test_changing_the_id_keeps_duplicates_and_numbers_as_written(tmp_path):
    body = b'{"job_id": "a", "rank": 1.50, "rank": 1E+400, "big": 123456789012345678901234567890, "n": NaN}'
    sent = edited(body, folder=tmp_path, job_id="b")
    assert sent == (b'{"job_id": "b", "rank": 1.50, "rank": 1E+400, "big": 123456789012345678901234567890, "n": NaN}')


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe{", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_object_is_left_for_the_control_plane_to_refuse(body, tmp_path):
    assert edited(body, folder=tmp_path, job_id="b") == body


def test_yaml_is_known_by_its_suffix_or_on_stdin_by_its_first_character(tmp_path):
    (tmp_path / "r.yml").write_text("job_id: y\n")
    assert json.loads(read(str(tmp_path / "r.yml"))) == {"job_id": "y"}
    for content, expected in (
        (b"job_id: y\n", b'{"job_id": "y"}'),
        (b' {"job_id": "j"}', b' {"job_id": "j"}'),
        (b"", b""),
    ):
        assert read("-", stdin=io.BytesIO(content)) == expected
