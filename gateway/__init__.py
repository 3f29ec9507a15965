"""The HTTP door: Envoy, which turns JSON into gRPC, with a configuration rendered from the protos.

Python only renders the configuration and starts Envoy; no request ever passes through it.
"""
