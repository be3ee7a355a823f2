"""Names of credentials: ``password``, ``DB_PASS``, ``apiKey``, and what is not one of them."""

import enum
import functools
import re
from typing import Final

from the_block_llm.pipelines.git_ingest.redaction.random_strings import words

_KEY_PURPOSES: Final = (
    "api|app(?:lication)?|access|account|admin|auth|bot|client|consumer|cookie|deploy|encrypt(?:ion)?"
    "|crypt(?:o)?|cipher|aes|hmac|install|jwt|licen[cs]e|logged_in|master|private|priv|root"
    "|secret|secure|security|server|service|session|shared|sign(?:ing)?|signature|ssh|storage"
    "|subscription|webhook|write|nonce"
)
CREDENTIAL_NAME: Final = (
    r"(?:[pP]ass[A-Z]\w{0,20}|(?i:(?:passw(?:or)?d|pass_?phrase|passcode|passwort|kennwort|contrase.{1,2}a|senha"
    r"|wachtwoord|motdepasse|pwd|secret|token|credential|mnemonic|seed_?-?phrase"
    rf"|(?:{_KEY_PURPOSES})[ _-]?keys?(?:_?base)?|(?:auth|nonce|logged_in)_salt)[\w.\-]{{0,24}}"
    r"|(?:pass|psk|pw|creds?)(?:[_.\-][\w.\-]{0,24}|\d{0,4})))"
)
"""A credential word and the rest of its name, for both :mod:`re` and RE2. The start of the name
(``POSTGRES_``) is left out: a pattern that begins with any word is slow."""

_PASSWORD: Final = re.compile(
    r"passw|pass_?phrase|passcode|pwd|kennwort|contrase|senha|wachtwoord|motdepasse"
)
_NAME_START: Final = re.compile(r"[\w.\-]*$")
_MAX_START_CHARACTERS: Final = 48
# Words that name a property of a credential when they are the last of the name.
_PROPERTIES: Final = frozenset(
    """
    name names id ids type types file files filename path paths dir directory folder url uri
    urls endpoint byte bytes len length size count counts number field fields param params parameter
    header headers prefix suffix env var variable label labels policy expiry expires expired
    expiration ttl kind format pattern regex rule rules hint help error errors err message
    messages msg prompt desc description budget limit index offset mask ref reference class
    schema version status state provider store manager reset required min max arn scope scopes
    issuer audience word words kinds symbol address mint contract price amount at by time
    timeout date created updated changed age days hours seconds encoder decoder encoding
    validator validation verifier checker strength entropy generator factory handler helper
    service client view form input page screen dialog modal button icon link text title
    placeholder tooltip column table row model request response dto controller route method
    function callback event listener action command option options flag enabled disabled
    allowed only mode algorithm algo cipher hash hashes hashed hasher digest salt iterations
    rounds iter bits source sources location storage cache rotation history reuse attempts
    retries tries failures quota bucket pool stream parser lexer visitor list set map array
    vec position pos start end begin pair pairs usage used unused value_type fingerprint
    thumbprint public pub pubkey exists present missing valid invalid match matches mismatch
    confirm confirmation change forgot recovery update policyid group groups user username
    owner holder transfer transfers sale standard registry balance supply decimals
    distribution vault_path interval duration frequency separator delimiter sep char chars
    character characters kindof auth authentication authenticator authentification login grant
    granted read reader write writer protected protection management mgr needed needs ok check
    checked sent received invalidated revoked context metadata info details data_type object
    objects property properties config configuration settings template selector locator xpath
    css id_token_hint libs lib flags cflags ldflags objs obj srcs src deps
    realm mgr gain kwargs args ctx fn func cb
    """.split()  # noqa: SIM905
)
# Words that follow the noun without changing what the name holds.
_QUALIFIERS: Final = frozenset(
    """
    prod production dev development staging stage test testing local live old new current
    default main primary secondary backup value val base b plain plaintext clear str string
    one two a c admin root
    """.split()  # noqa: SIM905
)
_NOT_CREDENTIALS: Final = re.compile(
    r"(?i:tokeni[sz]|tokens$|tokenlist|compass|bypass|trespass|secretar|nopass|\brpassword|hash|digest|sha\d|md5|checksum|fingerprint|identity|hostkey|metadata)"
)
# Where "pass" is the end of a longer word, it is a password only after one of these.
_OWNERS: Final = (
    "admin|auth|bind|client|db|database|default|email|ftp|gpg|http|imap|ldap|login|mail|maria|mongo|my"
    "|mysql|oracle|pg|pop|postgres|proxy|redis|require|root|server|smtp|sql|ssh|ssl|store|key|sudo"
    "|super|svc|system|user|usr|vpn|web|wifi|wlan"
)
_SHORT: Final = re.compile(rf"^(?:{_OWNERS})?(?:pass|pw|psk|creds?)$")


class Credential(enum.Enum):
    """What the name of a value says about it."""

    PASSWORD = "password"  # noqa: S105
    """Chosen by a person: any value can be one, also a word."""
    PASS = "pass"  # noqa: S105
    """Often a password, often the past tense of a test's or a render pass."""
    SECRET = "secret"  # noqa: S105
    """A secret, token or key: values are random."""


def full_name(line: str, start: int, end: int) -> str:
    """Return the identifier that ends with ``line[start:end]``, such as ``POSTGRES_PASSWORD``."""
    before = line[max(0, start - _MAX_START_CHARACTERS) : start]
    found = _NAME_START.search(before)
    return (found[0] if found else "") + line[start:end]


@functools.lru_cache(maxsize=4096)
def credential_of(name: str) -> Credential | None:
    """Return what kind of credential ``name`` holds, or None for a property such as its length.

    >>> credential_of("POSTGRES_PASSWORD"), credential_of("passwordFile"), credential_of("bypass")
    (<Credential.PASSWORD: 'password'>, None, None)
    """
    name = _last_component(name)
    if _NOT_CREDENTIALS.search(name) or not _NAMED.search(name):
        return None
    parts = words(name)
    while len(parts) > 1 and parts[-1] in _QUALIFIERS:
        parts.pop()
    if not parts or (len(parts) > 1 and parts[-1] in _PROPERTIES):
        return None
    lowered = name.lower()
    if _PASSWORD.search(lowered):
        return Credential.PASSWORD
    if _SHORT_WORDS.search(lowered):
        if not _SHORT.match(parts[-1]):
            return None
        return Credential.PASS if parts[-1] == "pass" and len(parts) == 1 else Credential.PASSWORD
    return Credential.SECRET


def _last_component(name: str) -> str:
    """Return the part of a dotted name that says what it holds, such as ``password``."""
    components = name.strip(".").split(".")
    while len(components) > 1 and all(word in _QUALIFIERS for word in words(components[-1])):
        components.pop()
    return components[-1]


_NAMED: Final = re.compile(CREDENTIAL_NAME)
_SHORT_WORDS: Final = re.compile(
    r"^(?!.*(?:secret|token|credential|mnemonic|key|salt|phrase)).*(?:pass|pw|psk|cred)"
)
