"""Links of the pages that lead out of docs/, for mkdocs: GitHub follows them as they are, a site cannot.

Pictures come into the site; other links go to `repo_url`, or are plain text where that is not known.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that the pages show."""
    docs = Path(config.docs_dir)
    for page in files.documentation_pages():
        for shown, _, target in _LINK.findall(page.content_string):
            if shown and files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(docs.parent / target)))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Turn the links."""

    def turned(link: re.Match[str]) -> str:
        shown, text, target = link.groups()
        if shown:
            return f"![{text}]({target})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{target})"
        return text

    return _LINK.sub(turned, markdown)
