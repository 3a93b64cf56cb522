"""The servers that Driftwheel is compared with, each alone in one file."""
