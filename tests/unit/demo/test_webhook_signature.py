from __future__ import annotations

import pytest

from trainplane.demo import receiver

# The worked example of the Standard Webhooks libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
NOW = 1614265330.0
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_published_example_is_accepted():
    receiver.verify(HEADERS, BODY, secret=SECRET, now=NOW)


def test_one_right_signature_among_several_is_enough():
    several = HEADERS | {"webhook-signature": "v1,AAAA v2,ignored " + HEADERS["webhook-signature"]}
    receiver.verify(several, BODY, secret=SECRET, now=NOW)


@pytest.mark.parametrize(
    ("headers", "body", "secret", "now"),
    [
        pytest.param(HEADERS, BODY + b" ", SECRET, NOW, id="another body"),
        pytest.param(HEADERS | {"webhook-id": "msg_other"}, BODY, SECRET, NOW, id="another id"),
        pytest.param(HEADERS | {"webhook-timestamp": "1614265331"}, BODY, SECRET, NOW, id="another time"),
        pytest.param(HEADERS, BODY, "whsec_AAAA9r8GKYqrTwjUPD8ILPZIo2LaLaSw", NOW, id="another secret"),
        pytest.param(HEADERS, BODY, "whsec_no base64", NOW, id="a broken secret"),
        pytest.param(HEADERS, BODY, SECRET, NOW + 301, id="too late"),
        pytest.param(HEADERS, BODY, SECRET, NOW - 301, id="too early"),
        pytest.param(HEADERS | {"webhook-timestamp": "-1"}, BODY, SECRET, NOW, id="no time"),
        pytest.param(HEADERS | {"webhook-timestamp": "²"}, BODY, SECRET, NOW, id="a digit that is no number"),
        pytest.param(HEADERS | {"webhook-signature": "v1,é"}, BODY, SECRET, NOW, id="not ASCII"),
        pytest.param({}, BODY, SECRET, NOW, id="no header"),
    ],
)
def test_all_other_calls_are_refused(headers, body, secret, now):
    with pytest.raises(receiver.SignatureError):
        receiver.verify(headers, body, secret=secret, now=now)
