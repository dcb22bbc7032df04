"""One instrument or board a file, each an ``ArrayBackend``; ``links`` holds the transports."""
