"""The control plane: accepts jobs, places them, and tells what became of them."""
