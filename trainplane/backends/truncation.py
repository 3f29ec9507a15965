"""What becomes of an example that is longer than it may be: one list of words for the request and the trainer."""

from __future__ import annotations

RIGHT, LEFT, DROP, ERROR = CHOICES = ("right", "left", "drop", "error")
"""Its end is cut off, its beginning is, it is left out, the job fails."""
