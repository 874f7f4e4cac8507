"""What MkDocs calls when it builds the site: the reference is added to the pages that are written by hand."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from docs.generated import pages  # the repository's root is on the path: python -m mkdocs, from there

    for path, content in pages():
        files.append(File.generated(config, path, content=content))
    return files
