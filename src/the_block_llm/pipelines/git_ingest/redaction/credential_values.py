"""Values of credentials: what is a secret, and what only refers to one or stands in for one."""

import functools
import itertools
import re
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.git_ingest.redaction.credential_names import Credential
from the_block_llm.pipelines.git_ingest.redaction.random_strings import looks_random, words

_CONFIG_FILE: Final = re.compile(
    r"\.(?:ya?ml|toml|ini|cfg|conf|cnf|json[5c]?|properties|env|envrc|tf|tfvars|hcl|xml|plist|service"
    r"|config|settings|txt|netrc|pgpass|inc|list|secret|secrets|credentials|local|prod|dev|sample)$"
    r"|(?:^|/)\.?env(?:\.|$)|(?:^|/)[._][a-z]+rc$|Dockerfile|Containerfile|docker-compose"
    r"|(?:^|/)(?:\.pgpass|credentials|htpasswd|\.htpasswd|Caddyfile|Vagrantfile|\.npmrc|\.pypirc)$",
    re.IGNORECASE,
)
_SHELL_FILE: Final = re.compile(
    r"\.(?:sh|bash|zsh|fish|ksh|csh|ps1|psm1|bat|cmd|mk|md|markdown|rst|adoc|asc|asciidoc|org|tex"
    r"|html?|ipynb|log|sql|nix|bats|exp|tpl|tmpl|j2|erb)$"
    r"|(?:^|/)(?:Makefile|Jenkinsfile|Procfile|README|INSTALL|\.?[a-z]*profile|crontab)[^/]*$|^$",
    re.IGNORECASE,
)
_TEST_MATERIAL: Final = re.compile(
    r"(?:^|/)(?:\w+[_-])?(?:tests?|testing|test[_-]?data|testutils?|fixtures?|specs?|__tests__"
    r"|__mocks__|mocks?|stubs?|e2e|(?:test[_-]?)?vectors?|kats?|cassettes|snapshots|unittests?|regress"
    r"(?:ion)?|demos?|acceptance|integration|fuzz\w*|corpus|benchmarks?)(?:[_-]\w+)?/"
    r"|(?:^|/)(?:test|mock|fake)_[^/]+$|(?:^|/)conftest\.py$|_(?:tests?|spec)\.\w+$"
    r"|[.-](?:test|spec|stories|mock|e2e)s?\.\w+$|Tests?\.\w+$|Tests?Case\.\w+$",
    re.IGNORECASE,
)
_TRANSLATION: Final = re.compile(
    r"(?:^|/)(?:locales?|i18n|l10n|lang|langs|languages?|translations?|messages|intl|_locales)(?:/|[_.-])"
    r"|(?:^|/)values(?:-[\w-]+)?/strings\.xml$|\.(?:po|pot|arb|resx|strings|xlf|xliff|lproj|ftl)$"
    r"|(?:^|/)strings[\w.-]*\.(?:json|xml|ya?ml)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FileKind:
    """How values are written in a file, judged by its path."""

    bare_values: bool
    """Configuration: an unquoted word is a value, not a variable."""
    shell_values: bool
    """Shell, markup or prose: ``NAME=value`` without spaces is one."""
    is_test: bool
    """Test material, whose values are made up."""
    is_translation: bool
    """Texts of a user interface, where ``password`` is the name of a label."""


@functools.lru_cache(maxsize=4096)
def file_kind(path: str) -> FileKind:
    """Return the kind of the file at ``path``; an empty path is that of a commit message."""
    return FileKind(
        bare_values=_CONFIG_FILE.search(path) is not None,
        shell_values=_SHELL_FILE.search(path) is not None,
        is_test=_TEST_MATERIAL.search(path) is not None,
        is_translation=_TRANSLATION.search(path) is not None,
    )


# Where one of these is all of a value, the value stands elsewhere or is filled in later.
_DELIMITED: Final = re.compile(
    r"""^(?:
      \$\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\} | \$\(.* | \$\[.*\] | `.*               # ${VAR}, $(command)
    | \#\{.*\} | \{\{.*\}\} | <%.*%> | %[A-Za-z_]\w*% | @\w+@ | __\w+__
    | <[\w .:/-]*> | \[[\w .:-]+\] | \{\w*(?:[.:!]\w+)*\} | \*{3,}.* | \.{3}.*   # <password>
    | [a-z][a-z0-9+.-]*://.* | (?:arn|op|ssm|vault|env|file|secretsmanager|keyring|urn):.*
    | 0[xX][0-9a-fA-F]{1,16}[uUlL]* | [a-z_]+(?:[:=][\w,]+)?(?:\|[a-z_]+(?:[:=][\w,]+)?)+    # rules
    | [~^=v]{0,2}\d+(?:\.(?:\d+|x|\*)){1,4}[\w.+-]*                           # a version
    )$""",
    re.VERBOSE,
)
# The same, unless the value looks random: a password can begin like a variable, path or call.
_PLAIN: Final = re.compile(
    r"""^(?:
      \$[A-Za-z_]\w*(?:(?:->|::?|\.)\w+|\[[^\]]*\])* | \$\$?\w+ | \$[@*\#?!]      # $VAR, $a->b
    | %\(?\w*\)?[a-z] | @[A-Z_]+ | :[a-z_]+ | \? | [&*!][A-Za-z_]\w* | [|>][+-]?\d?
    | [A-Za-z_]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)*(?:\(.*\)?|\[.*\]?|(?:\.|::|->)[A-Za-z_]\w*);?
    | (?:/|\./|\.\./|~/|[A-Za-z]:\\)[\w.$@{}~+/\\ -]*                        # a path
    | [\w./\\{}$-]+\.(?:txt|key|pem|crt|cer|p12|pfx|jks|json|ya?ml|conf|cfg|ini|env|toml|xml|db
        |py|js|ts|php|rb|go|rs|java|sh|html?|md|gpg|asc|properties|sock|png|svg|css)
    | [A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+                                       # NAME_OF_A_VARIABLE
    )$""",
    re.VERBOSE,
)
# Parts of a value that are filled in later.
_TEMPLATE: Final = re.compile(
    r"\$\{[^{}]*\}|\$\([^()]*\)|\{\{.*?\}\}|<%.*?%>|%\(\w+\)[a-z]|%\{[^{}]*\}|%[sdiuvqx]|#\{[^{}]*\}|\$\{\{.*?\}\}|@@\w+@@"
)
_CHARACTER_CLASS: Final = re.compile(r"\[[^\]]*(?:a-z|A-Z|0-9|a-f|\\[dw])[^\]]*\]")
_REGULAR_EXPRESSION: Final = re.compile(
    r"^\^.*\$$|\[[a-z]-z|\[A-Z|\[0-9|\\[dwsSDW](?:[+*{]|$)|\.[*+]|\(\?[:=!P<]|^s/.*/$"
)
_LONG_X: Final = re.compile(r"[xX]{4}|(?:^|[^A-Za-z])[xX]{3}(?:[^A-Za-z]|$)|\*{3}|\.{3}|_{3}|-{4}")
_CONSTANT: Final = re.compile(r"^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+[;,)]*$")
_MAX_STEP_FRACTION: Final = 0.6  # 123456abcdef, 111222333
_ESCAPES: Final = re.compile(r"^(?:\\x[0-9A-Fa-f]{1,2}|\\u[0-9A-Fa-f]{4}|\\[0-7]{1,3}|\\.)+$")
_SEQUENCE: Final = re.compile(
    r"^(?:(.{1,8}?)\1+.?|(?:0?1?234\d*|abc[a-z]*|qwerty\w*|deadbeef\w*))$", re.IGNORECASE
)
# Published by services for their emulators and documentation, and so not secret.
_PUBLIC_EXAMPLES: Final = re.compile(
    r"EXAMPLE(?:KEY)?$|^Eby8vdM02xNOcqFlq|^eyJhbGciOi\w+\.eyJzdWIiOiIxMjM0NTY3ODkw"
)
_PLACEHOLDER_WORDS: Final = frozenset(
    """
    example examples confirmed users
    placeholder changeme change redacted your insert dummy foobar foo bar baz
    qux todo fixme replace here sample fake mock mocked test tests testing tester tested demo
    none null nil undefined undef unknown empty blank default some any my mine the this that
    put enter fill goes secret secrets password passwd passwort pass pwd passphrase token
    tokens key keys apikey credential credentials cred creds user username login admin
    administrator root guest anonymous anon postgres postgresql mysql mariadb mongo mongodb
    redis rabbitmq sa minio wordpress keycloak letmein qwerty abc xyz
    value values string str text bytes number object boolean bool type field input hidden
    required optional true false void auto basic bearer digest jwt oauth plain invalid valid
    missing wrong bad incorrect enabled disabled yes no on off custom email mail old new
    current confirm repeat again another other first second third long short public private
    hash hashed encrypted removed masked hide sensitive confidential generated random
    supersecret mysecret mypassword mypass topsecret verysecret secretkey mykey mytoken
    testpass testpassword testuser somepassword somesecret userpass rootpass adminpass dbpass
    notsecret unused ignored deprecated same thing not real only for use used development dev
    local localhost prod env variable var api id name names access refresh session client app
    application auth authorization x
    """.split()  # noqa: SIM905
)
_HEX: Final = re.compile(r"^(?:0x)?[0-9a-fA-F]+$")
_ALGORITHM: Final = re.compile(
    r"(?i:^(?:rsa|dsa|ec|ecdsa|ecdh|dh|ed|sk|ssh|openssh|ed25519|curve25519|x25519|ed448|x448|secp\d+[kr]1|nistp\d+|sha|sha\d+|md\d"
    r"|hmac\w*|aes\d*|gcm|cbc|ctr|ccm|poly1305|chacha20|x?salsa20\w*|blake\w*|argon2\w*|bcrypt|scrypt|pbkdf2|pkcs\d*|pss|oaep|tls|ssl"
    r"|v?\d+|cert|key|com|org|net|auth|with|hkdf|utf|utf8|base64|b64|hex|ascii|latin1|jwt|hs\d+|rs\d+|es\d+|ps\d+|oauth2?|oidc"
    r"|[a-z]{1,2}\d?)?$)"
)
_LEET: Final = str.maketrans("013457@$", "oieastas")
# With these words a text with spaces is a sentence of a user interface.
_SENTENCE_WORDS: Final = frozenset(
    """
    enter your the please is are must should cannot can not was be been at least to a an for
    of in invalid wrong incorrect new confirm repeat choose set reset forgot change with and
    or this that has have required if when use used no does failed error
    """.split()  # noqa: SIM905
)
_MIN_LENGTH: Final = 4
_MIN_LETTERS: Final = 6  # of a token without digits
_MIN_EXPRESSION_LENGTH: Final = 8
_MIN_GENERATED_LENGTH: Final = 12
_MIN_GENERATED_KINDS: Final = 3


def is_reference(value: str) -> bool:
    """Return whether ``value`` names where the secret is: a variable, template, path or call."""
    if _DELIMITED.match(value) or _CHARACTER_CLASS.search(value):
        return True
    if _PLAIN.match(value):
        return not _is_strong(value) or not any(c.isdigit() for c in value)
    without = _TEMPLATE.sub("", value)
    if without == value:
        return _REGULAR_EXPRESSION.search(value) is not None and not _is_strong(value)
    return not _is_strong(without)


def is_public_example(value: str) -> bool:
    """Return whether ``value`` is an example of a service, or filled with x, dots or a sequence."""
    steps = sum(ord(b) - ord(a) in (0, 1) for a, b in itertools.pairwise(value))
    return bool(
        steps >= _MAX_STEP_FRACTION * len(value)
        or _LONG_X.search(value)
        or _SEQUENCE.match(value)
        or _PUBLIC_EXAMPLES.search(value)
    )


def is_placeholder(value: str) -> bool:
    """Return whether ``value`` is made up: ``changeme``, ``xxxx``, ``your-api-key``, ``1234``."""
    if is_public_example(value):
        return True
    if _CONTAINED_WORD.search(value) or _ESCAPES.match(value):
        return True
    parts, plain = words(value), words(value.translate(_LEET))
    if any(p and all(part in _PLACEHOLDER_WORDS for part in p) for p in (parts, plain)):
        return True
    return not _is_strong(value) and any(part in _STANDS_FOR_VALUE for part in parts)


_CONTAINED_WORD: Final = re.compile(
    r"(?i:passw(?:or)?d|passwort|secret|example|change[_-]?(?:me|it)|placeholder|fakepwd|anonymous)"
)
_STANDS_FOR_VALUE: Final = frozenset(
    """
    example examples placeholder changeme redacted your dummy foobar todo fixme sample fake
    mock insert replace password passwd secret token credential credentials apikey passphrase
    test testing
    """.split()  # noqa: SIM905
)


def is_secret(value: str, credential: Credential, kind: FileKind, *, literal: bool) -> bool:
    """Return whether ``value`` of a credential is a secret.

    Args:
        value: The value without its quotes.
        credential: What its name says.
        kind: Kind of the file.
        literal: Whether it is quoted, or bare where values are not quoted; otherwise it may be an
            expression.
    """
    if len(value) < _MIN_LENGTH or is_reference(value) or is_placeholder(value):
        return False
    if kind.is_test or kind.is_translation:
        return literal and _is_generated(value)
    if not literal:
        if _CONSTANT.match(value):
            return False
        return (
            len(value) >= _MIN_EXPRESSION_LENGTH
            and _is_strong(value)
            and any(c.isdigit() for c in value)
            and not re.search(r"[()\[\]{};,]", value)
        )
    if any(c.isspace() for c in value):
        return _is_passphrase(value, credential)
    if value.isdigit():
        return credential is Credential.PASSWORD or len(value) >= 8
    if all(_ALGORITHM.match(part) for part in re.split(r"[-_,./: *]+", value)):
        return False
    is_word_like = not looks_random(value)
    has_digit = any(c.isdigit() for c in value)
    if credential is not Credential.PASSWORD and not has_digit and len(value) < _MIN_LETTERS:
        return False
    if is_word_like and not has_digit:
        # swordfish: a password where only passwords are expected, elsewhere an identifier.
        # In documentation it is a sample.
        return credential is Credential.PASSWORD and (
            kind.bare_values or not (kind.shell_values or _is_identifier(value))
        )
    if credential is not Credential.PASSWORD and is_word_like:
        return len(value) >= 8 and sum(map(str.isdigit, value)) >= 3
    return True


def _is_identifier(value: str) -> bool:
    return len(words(value)) > 1 and re.sub(r"[_.:/|,-]|:\d+", "", value).isalpha()


def _is_strong(value: str) -> bool:
    """Return whether the value looks random and is no short word with digits."""
    return len(value) >= 6 and looks_random(value) and not value.isdigit()


def _is_generated(value: str) -> bool:
    """Return whether the value looks like one of a password manager or of a service."""
    kinds = (str.isupper, str.islower, str.isdigit, lambda c: not c.isalnum())
    n_kinds = sum(any(is_kind(c) for c in value) for is_kind in kinds)
    return (
        len(value) >= _MIN_GENERATED_LENGTH
        and n_kinds >= _MIN_GENERATED_KINDS
        and _HEX.match(value) is None
        and _is_strong(value)
    )


def _is_passphrase(value: str, credential: Credential) -> bool:
    parts = value.split()
    if credential is not Credential.PASSWORD or len(parts) > 12:
        return False
    if any(part.strip(".,:;!?").lower() in _SENTENCE_WORDS for part in parts):
        return False
    return len(parts) >= 4 and all(part.isalpha() and part.islower() for part in parts)
