"""What `trainplane.Client` is made of: the connection, retries, resumed streams, specs as messages."""
