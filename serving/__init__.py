"""The server: one core, thin transports, and a front door."""
