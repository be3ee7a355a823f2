"""Finds e-mail addresses of people, and what only looks like one."""

import re
from collections.abc import Iterator
from typing import Final

from the_block_llm.pipelines.git_ingest.redaction.random_strings import Span

EMAIL_KIND: Final = "email"
EMAIL: Final = r"[A-Za-z0-9._%+\-]@(?:[A-Za-z0-9\-]+\.)+[A-Za-z]{2}"
"""Source of a pattern of every address, for both :mod:`re` and RE2."""

_ADDRESS: Final = re.compile(
    r"(?<![\w.+%-])([A-Za-z0-9_][A-Za-z0-9._%+-]*)@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})(?![\w-])(?!:)"
)
# Addresses that do not identify a person.
_NON_PERSONAL: Final = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost|local)(?:\.(?:com|org|net))?$|^git@",
    re.IGNORECASE,
)
# After the @ stands a density (icon@2x.png), a version (react@18.2.0), or an instance of a unit.
_FILE_ENDING: Final = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|avif|ico|icns|bmp|tiff?|psd|pdf|eps|ttf|otf|woff2?|eot|mp[34]|wav|ogg|mov|webm"
    r"|service|socket|target|timer|mount|slice|path|scope|swap|device|conf|cfg|ini|ya?ml|toml|json[5lc]?|xml|html?|css"
    r"|s[ac]ss|less|jsx?|tsx?|mjs|cjs|vue|py|pyi|rb|rs|go|java|kt|cc?|cpp|hh?|hpp|cs|swift|php|lua|sql|txt|md|rst|adoc"
    r"|csv|tsv|log|lock|patch|diff|zip|tgz|gz|bz2|xz|tar|jar|war|whl|so|dll|dylib|exe|bin|dat|db|map|min|xib|nib"
    r"|storyboard|strings|plist|xcassets|imageset|atlas|fnt|tga|dds|gltf|glb|obj|wasm|proto|tmpl|tpl|erb|ejs|hbs"
    r"|bak|orig|rej|d|o|a)$",
    re.IGNORECASE,
)
_DENSITY: Final = re.compile(r"^\d+(?:\.\d+)?x\b", re.IGNORECASE)
_TOP_LEVEL_DOMAINS: Final = frozenset(
    {
        "md",
        "rs",
        "py",
        "sh",
        "zip",
        "mov",
        "so",
        "cc",
        "pl",
        "ps",
        "ai",
        "in",
        "is",
        "it",
        "do",
        "to",
    }
)


def personal_addresses(line: str) -> Iterator[Span]:
    """Yield the e-mail addresses on ``line``, except those of no person.

    >>> [line[s:e] for line in ["a.b@corp.dev icon@2x.png"] for s, e, _ in personal_addresses(line)]
    ['a.b@corp.dev']
    """
    for found in _ADDRESS.finditer(line):
        domain = found[2]
        ends_like_file = _FILE_ENDING.search(domain) is not None
        if ends_like_file and domain.rpartition(".")[2].lower() in _TOP_LEVEL_DOMAINS:
            # Both an ending and a country: anna@posteo.rs, area@one.rs.
            ends_like_file = "." not in found[1] and line[: found.start()].endswith(("/", "\\"))
        if ends_like_file or _DENSITY.match(domain) or _NON_PERSONAL.search(found[0]):
            continue
        yield Span(*found.span(), EMAIL_KIND)
