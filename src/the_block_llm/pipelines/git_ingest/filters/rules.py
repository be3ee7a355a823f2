"""Rules that drop files not worth training on, by path and by content.

A path alone is conclusive for few files, such as ``node_modules/x.js``. For others it is a hint:
``dist/main.js`` may be written by hand, ``chapter.asc`` may be prose. Such a hint counts if the
content confirms it, and where the content cannot be read.
"""

import re
import zlib
from typing import Final, NamedTuple

from the_block_llm.languages import language_of
from the_block_llm.pipelines.git_ingest.filters.gitattributes import NO_ATTRIBUTES, FileAttributes
from the_block_llm.schemas import DropReason

# In addition to every name that ends in ``.lock``.
_LOCK_FILES: Final = frozenset({
    "bun.lockb", "cabal.project.freeze", "cartfile.resolved", "conda-lock.yml",
    "dub.selections.json", "gems.locked", "go.sum", "go.work.sum", "gradle.lockfile",
    "npm-shrinkwrap.json", "package-lock.json", "package.resolved", "packages.lock.json",
    "pnpm-lock.yaml", "pylock.toml", "shrinkwrap.yaml", ".terraform.lock.hcl",
    "cargo.lock", "composer.lock", "flake.lock", "gemfile.lock", "pipfile.lock", "poetry.lock",
    "podfile.lock", "pubspec.lock", "uv.lock", "yarn.lock", "mix.lock",
})  # fmt: skip
_SECRET_PATHS: Final = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example|sample|template|dist|test)[^/]*)?|\.netrc|_netrc|\.pgpass"
    r"|\.htpasswd|\.npmrc|\.pypirc|\.dockercfg|\.git-credentials|\.s3cfg|\.boto"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)|credentials(?:\.json|\.csv)?|\.aws/credentials"
    r"|service[-_]account[^/]*\.json|client_secret[^/]*\.json|secrets?\.(?:ya?ml|json|toml)"
    r"|[^/]*\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg|ovpn|mobileprovision))$",
    re.IGNORECASE,
)
_LICENSE_PATHS: Final = re.compile(
    r"(?:^|/)(?:licen[cs]es?|copying(?:\.lesser)?|notice|unlicense|patents)(?:[-._][^/]*)?$"
    r"|(?:^|/)licenses/[^/]+\.txt$",
    re.IGNORECASE,
)
_VENDORED_PATHS: Final = re.compile(
    r"^(?:vendor|vendored|third[-_]?party|3rd[-_]?party|deps)/"
    r"|(?:^|/)(?:assets|css|js|media|public|static|www|wwwroot)/vendor/"
    r"|(?:^|/)(?:node_modules|bower_components|jspm_packages|godeps|site-packages|external_libs"
    r"|pods|\.venv|venv|\.tox|carthage/build|\.yarn/(?:releases|plugins|sdks|cache)"
    r"|font-?awesome)/",
    re.IGNORECASE,
)
# Suppliers of a shop are vendors too.
_MAYBE_VENDORED_PATHS: Final = re.compile(
    r"/(?:vendor|vendored|third[-_]?party|3rd[-_]?party)/"
    r"|(?:^|/)(?:jquery|bootstrap|angular|d3|mootools|prototype)[-.\d]*(?:\.slim)?\.js$",
    re.IGNORECASE,
)
_MINIFIED_PATHS: Final = re.compile(r"\.min\.(?:js|css|mjs|html)$|[-.]bundle\.js$", re.IGNORECASE)
_GENERATED_PATHS: Final = re.compile(
    r"\.pb(?:\.gw)?\.\w+$|_pb2(?:_grpc)?\.pyi?$|\.(?:js|css)\.map$|\.snap$|\.tsbuildinfo$"
    r"|(?:^|/)(?:__generated__|\.next|__snapshots__)/|(?:^|/)\.pnp\.c?js$"
    r"|(?:^|/)target/(?:debug|release|doc|criterion)/|zz_generated\.|\.(?:po|pot|xlf|resx)$",
    re.IGNORECASE,
)
_MAYBE_GENERATED_PATHS: Final = re.compile(
    r"\.(?:gen|generated|g|designer|freezed)\.\w+$|(?:^|/)(?:generated|dist)/|\.log$|_string\.go$"
    r"|(?:^|/)(?:configure|aclocal\.m4|ltmain\.sh|config\.guess|config\.sub|Makefile\.in)$",
    re.IGNORECASE,
)
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File|<key>\s")
_ARMOUR: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----")
_KEY_SUFFIXES: Final = (".asc", ".gpg", ".key", ".pem")
# A line of a key or a password has no space in it.
_TOKEN_LINE: Final = re.compile(rb"[+ -]?[\w+/=.:$-]+\s*")
_SETTING: Final = re.compile(
    rb"^[+ -]?\s*(?:export\s+)?[\"']?[\w.-]+[\"']?[ \t]*[=:][ \t]*[\"']?(?P<value>[^\s\"'#]+)",
    re.MULTILINE,
)
_TEMPLATE_VALUE: Final = re.compile(
    rb"[$<{%\[]|x{3,}|\*{3,}|\.{3}|change|your|example|placeholder|todo|none|null|true|false|dummy"
    rb"|-?[0-9.]+,?$",
    re.IGNORECASE,
)
_AUTH_SETTING: Final = re.compile(rb"_auth|_password|username\s*=", re.IGNORECASE)
_LICENSE_WORDS: Final = re.compile(
    rb"permission (?:is|to)\b|licen[cs]ed (?:under|to)|redistributions? (?:and use|of source)"
    rb"|(?:apache|mit|bsd|gnu|mozilla|isc|eclipse|commons|public) (?:[\w-]+ ){0,3}licen[cs]e"
    rb"|copyright|all rights reserved|public domain|without warrant|as is\b|\bpatents?\b",
    re.IGNORECASE,
)
_LICENSE_LANGUAGES: Final = frozenset((None, "Text", "Markdown", "reStructuredText", "HTML"))
# A licence or a version in the first lines of a file that belongs to somebody else.
_BANNER: Final = re.compile(
    rb"copyright|licen[cs]e|@author|@version|\(c\)|\bv?[0-9]+\.[0-9]+\.[0-9]+\b", re.IGNORECASE
)
_LOCK_WORDS: Final = re.compile(
    rb"sha(?:1|256|512)|integrity|checksum|digest|resolved|version|\b[0-9a-f]{40}\b|==[0-9]",
    re.IGNORECASE,
)
_BUILD_OUTPUT: Final = re.compile(
    rb"__esModule|sourceMappingURL=|__webpack|webpack(?:Jsonp|Bootstrap)|__commonJS|!function\("
    rb"|System\.register\(|\(function \(global, factory\)|generated (?:automatically )?by"
    rb"|from configure\.ac|automake|timestamp=",
    re.IGNORECASE | re.MULTILINE,
)
_LOG_LINE: Final = re.compile(
    rb"^[+ -]?[\[(<]?(?:[0-9]{4}[-/][0-9]{2}|[0-9]{2}:[0-9]{2}|[A-Z][a-z]{2} [ 0-9][0-9] |DEBUG"
    rb"|INFO|WARN|ERROR|\[[ 0-9.]+\])",
    re.MULTILINE,
)
_MAX_MINIFIED_SPACE: Final = 0.1
_GENERATED_HEADERS: Final = re.compile(
    rb"@generated\b|code generated .{0,80}do not edit"
    rb"|generated code\b.{0,40}do not (?:edit|modify)"
    rb"|(?:this|the following) (?:file|code|module) (?:is|was|has been) (?:auto-?|automatically )"
    rb"?generated|^\W{0,4}(?:auto-?|automatically )generated (?:by|from|file|code)"
    rb"|generated by .{0,60}(?:do not (?:edit|modify)|don't edit)"
    rb"|do not (?:edit|modify)[^\n]{0,60}generated|<auto-generated"
    rb"|<!--[^>\n]{0,60}\bgenerated (?:by|from|using|with)\b|<meta name=[\"']?generator\b",
    re.IGNORECASE | re.MULTILINE,
)
# Such headers are in the first lines; further down, text is usually about generated code.
_HEAD_BYTES: Final = 1000
_MINIFIABLE_SUFFIXES: Final = (
    ".js",
    ".mjs",
    ".cjs",
    ".css",
    ".ts",
    ".html",
    ".htm",
    ".svg",
    ".json",
)
_MAX_MEAN_LINE_BYTES: Final = 500
_MAX_LINE_BYTES: Final = 5000
# zlib compresses prose and code to 20-40 %; generated tables and fixtures to less.
_MIN_COMPRESSION_RATIO: Final = 0.06
_MIN_COMPRESSION_BYTES: Final = 1 << 15


class PathHint(NamedTuple):
    """What a path says about a file."""

    reason: DropReason | None
    is_conclusive: bool
    """False if the content decides; see :func:`confirms`."""


def path_hint(path: str, attributes: FileAttributes = NO_ATTRIBUTES) -> PathHint:
    """Return the reason to drop a file by its path; its attributes override the patterns.

    >>> [path_hint(path).reason for path in ("vendor/x/y.go", "Cargo.lock", "src/lib.rs")]
    ['vendored', 'lock_file', None]
    >>> path_hint("vendor/x/y.go", FileAttributes(vendored=False)).reason is None
    True
    """
    name = path[path.rfind("/") + 1 :]
    lower = name.lower()
    if _SECRET_PATHS.search(path):
        return PathHint("secret_file", is_conclusive=False)
    if attributes.vendored:
        return PathHint("vendored", is_conclusive=True)
    if attributes.generated:
        return PathHint("generated", is_conclusive=True)
    if lower in _LOCK_FILES or lower.endswith(".lock"):
        return PathHint("lock_file", is_conclusive=lower in _LOCK_FILES)
    if attributes.vendored is None:
        if _VENDORED_PATHS.search(path):
            return PathHint("vendored", is_conclusive=True)
        if _MAYBE_VENDORED_PATHS.search(path):
            return PathHint("vendored", is_conclusive=False)
    if attributes.generated is None:
        if _MINIFIED_PATHS.search(name):
            return PathHint("minified", is_conclusive=False)
        if _GENERATED_PATHS.search(path):
            return PathHint("generated", is_conclusive=True)
    if _LICENSE_PATHS.search(path) and language_of(name) in _LICENSE_LANGUAGES:
        return PathHint("licence", is_conclusive=False)
    if attributes.generated is None and _MAYBE_GENERATED_PATHS.search(path):
        return PathHint("generated", is_conclusive=False)
    return PathHint(None, is_conclusive=True)


def confirms(path: str, reason: DropReason, content: bytes) -> bool:
    """Return whether the content of a file confirms the reason that its path suggests."""
    head = content[:_HEAD_BYTES]
    if reason == "secret_file":
        return _holds_secrets(path.lower(), content)
    if reason == "licence":
        return _LICENSE_WORDS.search(content) is not None
    if reason == "vendored":
        return _BANNER.search(head) is not None or _is_dense(content)
    if reason == "lock_file":
        return not content.strip() or _LOCK_WORDS.search(content) is not None
    is_output = _BUILD_OUTPUT.search(content[: 4 * _HEAD_BYTES]) is not None
    if reason == "minified":
        return is_output or _is_dense(content)
    if path.lower().endswith(".log"):
        return 3 * len(_LOG_LINE.findall(content)) >= content.count(b"\n")
    return is_output or _has_generated_header(head) or _is_dense(content)


def _holds_secrets(path: str, content: bytes) -> bool:
    if _PRIVATE_KEY.search(content):
        return True
    lines = [line for line in content.splitlines() if line.strip()]
    n_tokens = sum(_TOKEN_LINE.fullmatch(line) is not None for line in lines)
    is_prose = 2 * n_tokens < len(lines) and len(lines) > 0
    if path.endswith(_KEY_SUFFIXES) or "/id_" in f"/{path}":
        # Public keys and certificates are no secret; what is left of them is no text.
        return not is_prose and _ARMOUR.search(content) is None
    if path.endswith(".npmrc"):
        return _AUTH_SETTING.search(content) is not None
    if ".env" in path or path.endswith((".yml", ".yaml", ".json", ".toml")):
        values = [match["value"] for match in _SETTING.finditer(content)]
        return any(_TEMPLATE_VALUE.match(value) is None for value in values)
    return True


def _is_dense(content: bytes) -> bool:
    """Return whether a file has hardly any space or line breaks, as minified code."""
    n_spaces = sum(map(content.count, (b" ", b"\n", b"\t")))
    return n_spaces < _MAX_MINIFIED_SPACE * len(content)


def content_drop_reason(
    path: str, content: bytes, attributes: FileAttributes = NO_ATTRIBUTES
) -> DropReason | None:
    """Return the reason to drop a file by its content in UTF-8."""
    if not content or content.isspace():
        return "empty"
    if attributes.generated is False:
        return None
    if _has_generated_header(content[:_HEAD_BYTES]):
        return "generated"
    n_lines = content.count(b"\n") + 1
    if path.lower().endswith(_MINIFIABLE_SUFFIXES) and len(content) > _MAX_LINE_BYTES:
        longest = max(map(len, content.split(b"\n")))
        if len(content) / n_lines > _MAX_MEAN_LINE_BYTES or longest > len(content) // 2:
            return "minified"
    if len(content) >= _MIN_COMPRESSION_BYTES:
        n_compressed_bytes = len(zlib.compress(content, 1))
        if n_compressed_bytes < _MIN_COMPRESSION_RATIO * len(content):
            return "generated"
    return None


def patch_drop_reason(
    path: str, hunks: bytes, attributes: FileAttributes = NO_ATTRIBUTES
) -> DropReason | None:
    """Return the reason to drop one file's part of a commit by its hunks."""
    if not hunks:
        return "empty"
    if attributes.generated is False:
        return None
    if _has_generated_header(hunks[:_HEAD_BYTES]):
        return "generated"
    if path.lower().endswith(_MINIFIABLE_SUFFIXES) and len(hunks) > _MAX_LINE_BYTES:
        longest = max(map(len, hunks.split(b"\n")))
        if longest > _MAX_LINE_BYTES and longest > len(hunks) // 8:
            return "minified"
    return None


def _has_generated_header(head: bytes) -> bool:
    """Return whether the start of a file marks it as generated."""
    return b"enerat" in head.lower() and _GENERATED_HEADERS.search(head) is not None
