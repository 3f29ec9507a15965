"""The gRPC face: services, the one guard, and the conversion between messages and the domain."""
