"""What lies outside of docs/ and belongs to the site: the pictures of benchmarks/results.

Pages name them as they lie in the repository, where they are seen as well.
"""

import pathlib
import re

from mkdocs.structure.files import File

PICTURES = "benchmarks/results"


def on_files(files, config):
    root = pathlib.Path(config.config_file_path).parent
    for path in sorted((root / PICTURES).glob("*.png")):
        uri = path.relative_to(root).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    """In the site the folder of the pictures lies beside the pages, one level less up."""
    return re.sub(rf"\]\(\.\./((?:\.\./)*{PICTURES}/)", r"](\1", markdown)
