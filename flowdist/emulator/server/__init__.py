"""The HTTP server: the protocol of the connector, and what the emulator adds to it."""
