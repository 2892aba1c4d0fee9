"""The generated pages of the documentation: options, registries and docstrings as Markdown."""
