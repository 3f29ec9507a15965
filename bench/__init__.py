"""Benchmarks of trainplane: each measures against a stated limit, or a peer in the same run on the same machine.

`make bench` runs all of them and writes RESULTS.md; `python -m bench NAME…` runs some and writes nothing.
"""
