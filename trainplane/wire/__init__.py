"""What passes between control plane and agents: the messages (`v1`), the subjects and the stream they travel on."""
