"""`trainplane up`: all of trainplane's processes on one machine."""
