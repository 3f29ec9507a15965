"""What of a request reaches the control plane, and what never does."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.gateway.wire import assert_error, call, exchange, get_by_http2, post_json, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_LIMIT = 262_144
INVALID_ARGUMENT = 3
NOT_FOUND = 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"job_id": "a", "unknown": [1, 2.50, "\xc3\xbc"]}',
        b"",
        b"{'single': 1,}",
        b'{"a": 1, "a": 2}',
        b"NaN",
        b"\xff\xfe\x00 not text",
        b"[" * 5000,
    ],
)
async def test_the_body_of_a_submit_arrives_byte_for_byte(gateway, control_plane, body):
    answer = await post_json(gateway, "/train", body)
    assert (answer.status, answer.json["job_id"]) == (200, "submitted")
    assert control_plane.seen.request.data == body
    assert control_plane.seen.request.content_type == "application/json"


@pytest.mark.parametrize("body", [b'{"backend": "x", "a": 1, "a": 2}', b"", b"\xff\xfe\x00 not text", b"[" * 5000])
async def test_the_body_sent_to_a_backend_arrives_byte_for_byte_with_the_backend_s_name(gateway, control_plane, body):
    answer = await post_json(gateway, "/backends/my-engine_2/train", body)
    assert (answer.status, answer.json["job_id"]) == (200, "submitted")
    assert control_plane.seen.request.backend == "my-engine_2"
    assert control_plane.seen.request.body.data == body
    assert control_plane.seen.request.body.content_type == "application/json"


@pytest.mark.parametrize("query", ["body.data=x", "backend=other", "data=x", "body=x"])
async def test_nothing_of_a_submit_to_a_backend_can_be_set_by_the_query(gateway, control_plane, query):
    calls = control_plane.seen.calls
    answer = await post_json(gateway, f"/backends/peft/train?{query}", b"{}")
    assert_error(answer, 400, INVALID_ARGUMENT, "UNKNOWN_QUERY_PARAMETER")
    assert control_plane.seen.calls == calls


async def test_a_body_of_exactly_the_limit_is_accepted(gateway, control_plane):
    assert (await post_json(gateway, "/train", b" " * BODY_LIMIT)).status == 200
    assert control_plane.seen.request.data == b" " * BODY_LIMIT


async def test_a_body_of_one_byte_more_is_refused(gateway, control_plane):
    calls = control_plane.seen.calls
    answer = await post_json(gateway, "/train", b" " * (BODY_LIMIT + 1))
    assert str(BODY_LIMIT) in assert_error(answer, 413, INVALID_ARGUMENT, "BODY_TOO_LARGE").message
    assert control_plane.seen.calls == calls


async def test_a_chunked_body_of_one_byte_more_is_refused(gateway, control_plane):
    calls = control_plane.seen.calls
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    body = chunk * (BODY_LIMIT // 0x8000) + b"1\r\n \r\n0\r\n\r\n"
    answer = await post_json(gateway, "/train", body, transfer_encoding="chunked")
    assert_error(answer, 413, INVALID_ARGUMENT, "BODY_TOO_LARGE")
    assert control_plane.seen.calls == calls


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/json",
        "application/json; charset=utf-16",
        "application/jsonx",
    ],
)
async def test_another_or_no_media_type_is_refused_with_the_header_to_add(gateway, control_plane, content_type):
    calls = control_plane.seen.calls
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await call(gateway, "POST", "/train", headers=headers, body=b"{}")
    message = assert_error(answer, 415, INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE").message
    assert "content-type: application/json" in message
    assert control_plane.seen.calls == calls


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", 'application/json ; charset="UTF-8"'])
async def test_json_in_any_spelling_is_accepted(gateway, content_type):
    answer = await call(gateway, "POST", "/train", headers={"content-type": content_type}, body=b"{}")
    assert answer.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
async def test_a_compressed_body_is_refused(gateway, encoding):
    answer = await post_json(gateway, "/train", b"\x1f\x8b", content_encoding=encoding)
    assert_error(answer, 415, INVALID_ARGUMENT, "UNSUPPORTED_CONTENT_ENCODING")


@pytest.mark.parametrize(
    "path",
    [
        "/train?data=e30%3D",
        "/train?content_type=x",
        "/train?extensions=x",
        "/train?validate_only=true",
        "/train/abc:cancel?job_id=evil",
    ],
)
async def test_a_post_takes_no_query_parameters(gateway, control_plane, path):
    calls = control_plane.seen.calls
    assert_error(await post_json(gateway, path, b"{}"), 400, INVALID_ARGUMENT, "UNKNOWN_QUERY_PARAMETER")
    assert control_plane.seen.calls == calls


@pytest.mark.parametrize(
    "path",
    [
        "/train/abc?job_id=evil",
        "/train/abc?%6aob_id=evil",
        "/train/abc/events?job_id=evil",
        "/train/abc:watch?job_id=evil",
        "/train?pageSize=1",
        "/train?page_size=1&nosuch=2",
        "/train?page_size.x=1",
        "/nodes?x",
    ],
)
async def test_a_query_parameter_that_the_method_does_not_take_is_refused(gateway, control_plane, path):
    calls = control_plane.seen.calls
    assert_error(await call(gateway, "GET", path), 400, INVALID_ARGUMENT, "UNKNOWN_QUERY_PARAMETER")
    assert control_plane.seen.calls == calls


async def test_the_refusal_names_the_parameters_that_there_are(gateway):
    answer = await call(gateway, "GET", "/train/abc/events?after=1")
    assert "after_sequence, page_size, page_token" in answer.json["message"]


async def test_known_query_parameters_arrive_decoded(gateway, control_plane):
    path = "/train?page_size=3&state=RUNNING&state=QUEUED&label=team%3Dnlp&label=note%3Da+b%2Bc&page_token=%26x"
    assert (await call(gateway, "GET", path)).status == 200
    seen = control_plane.seen.request
    assert (seen.page_size, list(seen.state), seen.page_token) == (3, [3, 1], "&x")
    assert list(seen.label) == ["team=nlp", "note=a b+c"]


@pytest.mark.parametrize("query", ["page_size=abc", "page_size=99999999999", "state=BOGUS"])
async def test_a_query_parameter_of_the_wrong_type_is_refused(gateway, query):
    answer = await call(gateway, "GET", f"/train?{query}")
    message = assert_error(answer, 400, INVALID_ARGUMENT, "INVALID_QUERY_PARAMETER").message
    assert query.split("=")[0] in message


async def test_a_cancel_needs_no_body(gateway, control_plane):
    answer = await call(gateway, "POST", "/train/abc:cancel", body=b"")
    assert (answer.status, answer.json["state"]) == (200, "CANCELLED")
    assert control_plane.seen.request.job_id == "abc"


async def test_a_cancel_whose_body_names_another_job_is_refused(gateway, control_plane):
    calls = control_plane.seen.calls
    answer = await post_json(gateway, "/train/abc:cancel", b'{"job_id": "evil"}')
    assert_error(answer, 400, INVALID_ARGUMENT, "INVALID_JSON")
    assert control_plane.seen.calls == calls


async def test_a_body_that_is_no_json_is_refused_without_repeating_it(gateway):
    answer = await post_json(gateway, "/train/abc:cancel", b'{"auth_token": hf_secret')
    assert_error(answer, 400, INVALID_ARGUMENT, "INVALID_JSON")
    assert b"hf_secret" not in answer.body


@pytest.mark.parametrize("path", ["/train/a%2Fb", "/train/a%5Cb", "/train/%2F..%2Fnodes", "/train/a%00b"])
async def test_an_encoded_slash_in_a_name_is_refused(gateway, path):
    assert_error(await call(gateway, "GET", path), 400, INVALID_ARGUMENT, "INVALID_PATH")


@pytest.mark.parametrize("path", ["/train/../nodes", "/train/%2e%2E/nodes", "/./nodes", "//nodes"])
async def test_a_path_is_normalised_before_it_is_routed(gateway, path):
    answer = await call(gateway, "GET", path)
    assert answer.json["nodes"][0]["name"] == "gpu-01"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/train/",
        "/train/..",
        "/train/a/b/c",
        "/train/abc:bogus",
        "/TRAIN",
        "/train/a:b/events",
        "/trainplane.v1.JobService/GetJob",
        "/grpc.health.v1.Health/Check",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_no_path_of_the_api_is_not_found(gateway, control_plane, method, path):
    calls = control_plane.seen.calls
    body = b"{}" if method == "POST" else None
    answer = await call(gateway, method, path, headers={"content-type": "application/json"}, body=body)
    assert_error(answer, 404, NOT_FOUND, "NO_ROUTE")
    assert control_plane.seen.calls == calls


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/train", "GET, POST"),
        ("OPTIONS", "/train", "GET, POST"),
        ("POST", "/nodes", "GET"),
        ("GET", "/train/a:cancel", "POST"),
        ("DELETE", "/readyz", "GET, HEAD"),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_told_those_that_it_does(gateway, method, path, allowed):
    answer = await call(gateway, method, path, body=b"")
    assert_error(answer, 405, 12, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed


async def test_the_clients_own_headers_arrive(gateway, control_plane):
    await post_json(
        gateway, "/train", b"{}", idempotency_key="k-1", authorization="Bearer token", traceparent="00-a-b-01"
    )
    metadata = control_plane.seen.metadata
    assert (metadata["idempotency-key"], metadata["authorization"]) == ("k-1", "Bearer token")
    assert metadata["traceparent"] == "00-a-b-01"


async def test_headers_that_only_trainplane_may_set_are_dropped(gateway, control_plane):
    forged = {
        "x-trainplane-role": "admin",
        "x-envoy-upstream-rq-timeout-ms": "60000",
        "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/forged",
        "grpc-timeout": "1n",
        "grpc-previous-rpc-attempts": "9",
        "x-request-id": "forged",
    }
    answer = await call(gateway, "GET", "/train/abc", headers=forged)
    assert answer.status == 200
    metadata = control_plane.seen.metadata
    assert control_plane.seen.seconds_left is None
    ours = {name for name in metadata if name.startswith(("x-envoy-", "x-trainplane-", "grpc-"))}
    assert ours <= {"x-envoy-original-path", "x-envoy-original-method"}
    assert metadata["x-envoy-original-path"] == "/train/abc"
    assert metadata["x-request-id"] == answer.headers["x-request-id"] != "forged"


async def test_a_header_name_with_an_underscore_is_refused(gateway):
    answer = await call(gateway, "GET", "/nodes", headers={"idempotency_key": "x"})
    assert_error(answer, 400, INVALID_ARGUMENT, "INVALID_HEADER")


async def test_headers_larger_than_8_kib_are_refused(gateway):
    answer = await call(gateway, "GET", "/nodes", headers={"x-long": "a" * 9000})
    assert_error(answer, 431, INVALID_ARGUMENT, "HEADERS_TOO_LARGE")


async def test_more_than_100_headers_are_refused(gateway):
    answer = await call(gateway, "GET", "/nodes", headers={f"x-{number}": "a" for number in range(120)})
    assert_error(answer, 431, INVALID_ARGUMENT, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /nodes HTTP/1.1\r\n\r\n",
        b"GET /nodes HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        b"POST /train HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_in_the_same_shape(gateway, raw):
    assert_error(await exchange(gateway, raw), 400, INVALID_ARGUMENT, "INVALID_HTTP")


async def test_http_1_0_is_refused_in_the_same_shape(gateway):
    assert_error(await exchange(gateway, b"GET /nodes HTTP/1.0\r\n\r\n"), 426, 12, "HTTP_VERSION_UNSUPPORTED")


async def test_a_websocket_is_refused_in_the_same_shape(gateway):
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    assert_error(await call(gateway, "GET", "/nodes", headers=upgrade), 403, 7, "UPGRADE_REFUSED")


async def test_an_offer_of_h2c_is_answered_in_http_1_1(gateway):
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    assert (await call(gateway, "GET", "/nodes", headers=offer)).status == 200


async def test_http_2_without_tls_is_served(gateway):
    assert b'"gpu-01"' in await get_by_http2(gateway, "/nodes")


async def test_nothing_is_proxied_to_anywhere_else(gateway):
    tunnel = await exchange(gateway, b"CONNECT example.com:80 HTTP/1.1\r\nhost: example.com:80\r\n\r\n")
    assert_error(tunnel, 403, 7, "UPGRADE_REFUSED")
    absolute = await exchange(gateway, b"GET http://example.com/nodes HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert_error(absolute, 421, 7, "HOST_NOT_ALLOWED")


async def test_a_page_that_rebinds_its_name_to_loopback_is_refused(gateway):
    answer = await call(gateway, "GET", "/nodes", headers={"host": f"evil.example:{gateway.port}"})
    assert_error(answer, 421, 7, "HOST_NOT_ALLOWED")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
async def test_loopbacks_own_names_are_served_with_any_port(gateway, host):
    assert (await call(gateway, "GET", "/nodes", headers={"host": host})).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_may_not_change_anything(gateway, control_plane, site):
    calls = control_plane.seen.calls
    answer = await call(gateway, "POST", "/train/abc:cancel", headers={"sec-fetch-site": site}, body=b"")
    assert_error(answer, 403, 7, "CROSS_SITE_REQUEST")
    assert control_plane.seen.calls == calls


async def test_a_connection_serves_one_request_after_another(gateway):
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        for path, status in (("/nodes", b"200"), ("/nope", b"404"), ("/nodes", b"200")):
            writer.write(request("GET", path))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.split(b" ")[1] == status
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
    finally:
        writer.close()
