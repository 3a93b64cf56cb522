"""TorchServe as a runtime: its configuration, its process, its management API, and the handlers that run inside it."""
