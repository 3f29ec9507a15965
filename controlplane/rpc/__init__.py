"""The gRPC face: services, the one interceptor, and the conversion between messages and the domain."""
