"""Moves bytes for the agent in a child process of its own: artifacts to their place, logs while they grow.

The child is apart so that a large upload, or a heavy storage library, never holds up the agent; `child.py` is the
agent's side of it.
"""
