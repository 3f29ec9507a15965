"""The trainer: one process, one attempt, one adapter. See docs/trainer-contract.md for what passes to and from it.

The only code of this project that imports torch. Nothing imports it: an agent starts `python -m agent.trainer`.
Kept empty, so that the process writes its first report before it imports anything.
"""
