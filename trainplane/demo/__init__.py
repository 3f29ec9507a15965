"""What `trainplane demo` is made of: a real small model, a dataset about trainplane, listeners on the ways out.

`model` and `evaluate` import torch and run as processes of their own; the rest is light. Nothing here is imported
by the control plane or an agent.
"""
