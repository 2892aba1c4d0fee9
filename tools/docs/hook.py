"""What mkdocs calls while it builds the site: the generated pages join the written ones."""

from typing import Any

from distilplace.tools.docs.pages import pages


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages. They lie nowhere on disk."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
