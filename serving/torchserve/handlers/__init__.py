"""What runs inside TorchServe: files that an archive packs. They import nothing of ours but one another, by bare names."""
