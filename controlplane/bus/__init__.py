"""NATS: agents' requests come in, wakes and events go out. Protobuf stops here.

connection.py   one connection, kept alive
server.py       requests in: subject -> node, bytes -> domain, answer -> bytes
convert.py      ... of sync, claim, commit, log; reports.py of reports, the hot path; bounds.py what is accepted
stream.py       events out, to JetStream
nats.py         the engine's `Bus`;  memory.py  the same contract without a server
"""
