"""The agent: one per GPU host. It owns the trainers of its node, and tells the control plane what is so."""

__version__ = "0.1.0"
