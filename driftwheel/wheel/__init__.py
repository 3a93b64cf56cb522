"""The steps that join training, exporting, serving and monitoring into one wheel."""
