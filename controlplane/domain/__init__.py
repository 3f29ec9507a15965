"""The rules of jobs, attempts and nodes: stdlib only, synchronous, no clock, no I/O.

Time comes in as `…_us`: microseconds since the Unix epoch, UTC.
"""
