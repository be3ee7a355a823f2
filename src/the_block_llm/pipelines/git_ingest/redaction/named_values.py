"""Finds the values of credentials by the names before them, in code and configuration.

Each syntax is a pattern of what stands between the end of a name and its value. The same source is
compiled by :mod:`re`, to find values, and by RE2, to find the lines worth searching, so that the
two cannot disagree; it holds neither look-around nor references back.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from the_block_llm.pipelines.git_ingest.redaction.credential_names import (
    CREDENTIAL_NAME,
    Credential,
    credential_of,
    full_name,
)
from the_block_llm.pipelines.git_ingest.redaction.credential_values import FileKind, is_secret
from the_block_llm.pipelines.git_ingest.redaction.random_strings import Span, looks_random

_QUOTE: Final = r"\\{0,3}[\"'`]"
# String prefixes (b"", @"", N'', r#""#) and constructors around a literal.
_PREFIX: Final = (
    r"(?:(?:new\s+)?(?:(?:[A-Za-z_]\w{0,24}(?:::|\.))?(?:\w{0,16}Str(?:ing)?|\w{0,16}Secret|Some|Zeroizing"
    r"|SecretBox|Buffer)(?:::(?:from|new)|\.(?:valueOf|from|of))?|str|bytes|bytearray|_T|TEXT|Some)!?\s?\(\s{0,4}&?){0,2}"
    r"(?:[bBrRuUfFLN@$&]{1,3}|u8R?|LR|r#{1,3}|br#{1,3}|[bu]?R|%[qQw][({\[|])?"
)
_LITERAL: Final = rf"{_PREFIX}(?:{_QUOTE}|%[qQ][({{\[|])"
_BARE: Final = r"(?:![a-z]+\s|&\w+\s)?[^\s\"'`,;\\][^\s]{3}"
_VALUE: Final = rf"(?:{_LITERAL}|{_BARE})"
_AFTER_NAME: Final = rf"(?:{_QUOTE}|[\])}}]){{0,3}}\s{{0,24}}"
_OPERATOR: Final = r"(?:=>|:=|\?\?=|\|\|=|\?=|\+=|[=!]==?|=|:-|:|<-|->)\s{0,24}"
_TYPE: Final = (
    r"(?::\s{0,4}[&*]?'?[A-Za-z_][\w<>\[\]'?:.,&| ]{0,48}|\[\w*\]|\s(?:As\s)?[\w\[\]*.]{1,24}(?:\(\w{1,8}\))?"
    r"|\{[^{}]{0,40}\})"
)
_VALUE_KEY: Final = r"(?:value|default|ParameterValue|val|Value|content|data|secret_?[Ss]tring)"

_SYNTAXES: Final = {
    # With a type between: `const API_KEY: &str = "x"`, `char password[] = "x"`.
    "declaration": rf"[\])}}]{{0,3}}\s{{0,24}}{_TYPE}\s{{0,8}}:?=\s{{0,24}}{_LITERAL}",
    # Assignments of code, mappings of configuration, defaults in braces.
    "assignment": rf"{_AFTER_NAME}{_OPERATOR}{_VALUE}",
    # Arguments of functions such as define, getenv and put.
    "pair": rf"{_QUOTE}\s?,\s{{0,8}}{_LITERAL}",
    # getenv("PASSWORD") or "x", process.env.PASSWORD || "x", ENV.fetch("PASSWORD") {{ "x" }}
    "default": (
        rf"(?:{_QUOTE})?[\])]{{0,3}}\s?(?:\|\||\?\?|or\s|\?:|\{{|\.(?:unwrap_or|or_?[eE]lse|getOrElse"
        rf"|orElse|default)\w*\((?:\s?\|\w*\|)?|,\s?default(?:_value)?\s?[=:])\s{{0,4}}{_LITERAL}"
    ),
    # {name: PASSWORD, value: x}, "name": "PASSWORD", "value": "x", key="password" value="x"
    "name and value": (
        rf"(?:{_QUOTE})?\s?,?\s{{0,8}}(?:{_QUOTE})?{_VALUE_KEY}(?:{_QUOTE})?\s?[:=]>?\s{{0,8}}{_VALUE}"
    ),
    # <password>x</password>, <entry key="password">x</entry>, <name>password</name><value>x</value>
    "element": (
        rf"(?:{_QUOTE})?(?:\s[^<>]{{0,80}})?>(?:<!\[CDATA\[)?[^<>\s][^<>]{{3}}"
        r"|</\w{1,24}>\s{0,8}<\w{1,24}>[^<>\s][^<>]{3}"
    ),
    # setPassword("x"), PASSWORD('x'), password{"x"}
    "call": rf"\s?[({{]\s?{_LITERAL}",
    # PASSWORD 'x' of SQL, #define PASSWORD "x", ENV PASSWORD x, --password x, :password "x"
    "space": rf"(?:{_QUOTE})?\s{{1,24}}{_VALUE}",
}
_CLIENT_OPTIONS: Final = (
    # The option -p or its like of clients that take a password on the command line.
    r"\b(?:mysql(?:dump|admin|import|check|show)?|mariadb(?:-\w+)?)\b[^|;&\n]{0,160}?\s-p(?P<v1>[^\s'\"|;&]{4,}|'[^']+'|\"[^\"]+\")",
    r"\bsshpass\s[^|;&\n]{0,40}?-p\s{0,4}(?P<v2>\S+)",
    (
        r"\b(?:(?:docker|podman|helm|nerdctl|oras|crane|az|oc|cf|buildah|skopeo)\s(?:\w+\s)?login|twine|mongo(?:dump|restore|sh|export|import)?|cqlsh"
        r"|ansible-vault|curlftpfs|pscp|plink|vncpasswd|unrar|rabbitmqadmin)\b"
        r"[^|;&\n]{0,160}?\s-p(?:w)?\s{1,4}(?P<v3>[^\s|;&-]\S*)"
    ),
    r"\b(?:redis-cli|valkey-cli)\b[^|;&\n]{0,160}?\s-a\s{1,4}(?P<v4>\S+)",
    r"\b(?:curl|wget|http|https|svn)\b[^|;&\n]{0,200}?\s(?:-u|--user|-a|--auth|--proxy-user|-U)[ =]{0,2}['\"]?[^\s:'\"$]{1,64}:(?P<v5>[^\s'\"|;&]{4,})",
    r"\bldap(?:search|modify|add|delete|passwd|whoami)\b[^|;&\n]{0,200}?\s-w\s{1,4}(?P<v6>\S+)",
    r"\b(?:smbclient|mount\.cifs|rpcclient|net)\b[^|;&\n]{0,160}?(?:-U\s{0,4}\S{1,64}?%)(?P<v7>\S+)",
    r"\bopenssl\b[^|;&\n]{0,200}?\s-(?:pass|passin|passout)\s{1,4}pass:(?P<v8>\S+)",
    r"\b(?:zip|unzip|sqlcmd|bcp|zipcloak)\b[^|;&\n]{0,160}?\s-P\s{0,4}(?P<v9>[^\s-]\S*)",
    r"\b7z[ar]?\b[^|;&\n]{0,160}?\s-p(?P<v10>\S{4,})",
    r"\b(?:keytool|jarsigner)\b[^|;&\n]{0,240}?\s-(?:store|key|srcstore|deststore)pass\s{1,4}(?P<v11>\S+)",
    r"\bhtpasswd\b[^|;&\n]{0,40}?-\w*b\w*\s\S+\s\S+\s(?P<v12>\S+)",
    r"\brabbitmqctl\s(?:add_user|change_password)\s\S+\s(?P<v13>\S+)",
    r"\bnet\s+user\s\S+\s(?P<v14>[^\s/]\S*)",
    r"\becho\s{1,4}(?:-n\s)?['\"]?(?:[\w.-]{1,32}:)?(?P<v15>[^\s'\"|:$]{4,})['\"]?\s?\|\s?(?:sudo\s(?:-\w\s)*)?(?:chpasswd|passwd\s--stdin|docker\slogin|podman\slogin|helm\sregistry\slogin|-S\b)",
    r"\becho\s{1,4}['\"]?(?P<v16>[^\s'\"|:$]{4,})['\"]?\s?\|\s?sudo\s-S\b",
    r"\bIDENTIFIED\s+(?:WITH\s+\S{1,40}\s+)?(?:BY|AS)\s+(?:PASSWORD\s+)?N?(?P<v17>'[^']+'|\"[^\"]+\")",
    r"\b(?:requirepass|masterauth|masterpass)\s{1,8}(?P<v18>\S+)",
    r"\b(?:enable\s|username\s\S{1,40}\s(?:privilege\s\d+\s)?)?(?:password|secret)\s[0579]\s(?P<v19>\S+)",
    r"\bsnmp-server\scommunity\s(?P<v20>\S+)",
    r"\bpsk=(?P<v21>\"[^\"]{8,}\"|[^\s\"]{8,})",
    r"\bnmcli\b[^|;&\n]{0,120}?\spassword\s(?P<v22>\S+)",
    r"\bxfreerdp\b[^|;&\n]{0,160}?\s/p:(?P<v23>\S+)",
)
_DIRECTIVE: Final = re.compile(
    # Before a name and a bare value.
    r"^\s*(?:ENV|ARG|setenv|setx|set\s+-\w+|SetEnv|fastcgi_param)\s+$"
    r"|\bmachine\s+\S+(?:\s+(?:login|account)\s+\S+)?\s+$|^\s*(?:default\s+)?login\s+\S+\s+$",
    re.IGNORECASE,
)
_LITERAL_DIRECTIVE: Final = re.compile(
    # Before a name and a quoted value: #define, (def password "x"), :password "x", SQL.
    r"^\s*#\s*define\s+$|\((?:def\w*|setq|let\*?|define)\s+\(?$|[\s{(\[]:$"
    r"|\b(?:ALTER|CREATE|SET|WITH|USER|ROLE|LOGIN|ENCRYPTED|UNENCRYPTED)\s+(?:.*\s)?$|^\s*(?:set|const|val|var)\s+$"
)
_SETTER: Final = re.compile(r"(?i:^(?:set|with|use|add|put|update)[_A-Z]?)")
_PAIR_FUNCTION: Final = re.compile(
    # Functions that take a name and its value, or a default.
    r"(?i:^(?:define|getenv|setenv|putenv|env|environ|get|getordefault|get_or_default|fetch|put|set|setdefault|setx|of"
    r"|add|append|insert|default|arg|string|entry)$|property|parameter|param|value|variable|header|attribute|option"
    r"|field|config|setting|secret|argument|environment)"
)
_FIRST_ARGUMENT: Final = re.compile(r"\s?(?:\w+\s?,\s?)?\\{0,3}[\"'`][\w.\-]*$")
_FUNCTION_NAME: Final = re.compile(r"\w{1,60}(?=\s?$)")

NAMED_VALUE: Final = rf"{CREDENTIAL_NAME}(?:{'|'.join(_SYNTAXES.values())})"
"""Source of a pattern of every named value on one line."""

# A name whose value is on the next line.
_PENDING_END: Final = (
    rf"(?:{_AFTER_NAME}(?:{_TYPE}\s?)?(?:=>|:=|=|:|,|\()\s?\(?(?:![a-z]+\s?)?[|>]?[+-]?\d?\s?\\?\s{{0,4}}"
    rf"|(?:{_QUOTE})?,?\s{{0,4}}|(?:{_QUOTE})?\s{{0,4}}\{{\s?"
    r"|(?:[\"'])?>\s{0,4}|</\w{1,24}>\s{0,4})(?:\\n[\"'],?)?\r?$"
)
PENDING_VALUE: Final = rf"(?m:{CREDENTIAL_NAME}{_PENDING_END})"
"""Source of a pattern of the end of a line whose name may have its value on a later line."""
CLIENT_OPTION: Final = "|".join(_CLIENT_OPTIONS)
"""Source of a pattern of passwords that clients take on the command line."""
INSERT: Final = rf"(?i:\bINSERT\s+INTO\b[^;]{{0,400}}{CREDENTIAL_NAME}[^;]{{0,400}}\bVALUES\b)"
"""Source of a pattern of SQL that inserts a row with a credential."""

_NAME: Final = re.compile(CREDENTIAL_NAME)
_CONNECTORS: Final = {
    syntax: re.compile(source.replace(_VALUE, f"(?={_VALUE})").replace(_LITERAL, f"(?={_LITERAL})"))
    for syntax, source in _SYNTAXES.items()
}
_ELEMENT: Final = re.compile(
    rf"(?:{_QUOTE})?(?:\s[^<>]{{0,80}})?>(?:<!\[CDATA\[)?(?=[^<>\s])|</\w{{1,24}}>\s{{0,8}}<\w{{1,24}}>(?=[^<>\s])"
)
_CONNECTORS["element"] = _ELEMENT
_OPENING: Final = re.compile(rf"{_PREFIX}(?P<quote>\"\"\"|'''|{_QUOTE}|%[qQ][({{\[|])")
_PENDING: Final = re.compile(PENDING_VALUE)
_CLIENT: Final = re.compile(CLIENT_OPTION)
_INSERT: Final = re.compile(
    r"(?i:\bINSERT\s+INTO\s+\S+\s*\((?P<columns>[^()]{1,400})\)\s*VALUES\s*)"
)
_SQL_ROW: Final = re.compile(r"\(\s*(?P<values>(?:'(?:[^'\\]|''|\\.)*'|[^()'])*)\)")
_SQL_VALUE: Final = re.compile(r"\s*(?:N?'((?:[^'\\]|''|\\.)*)'|[^,']*)\s*(?:,|$)")
_TAG: Final = re.compile(r"(?:!!?[a-z]+|&\w+)\s+")
_PAIRED_BRACKETS: Final = {"(": ")", "[": "]", "{": "}", "|": "|"}
_MNEMONIC: Final = re.compile(r"^(?:[a-z]{3,8} ){11,23}[a-z]{3,8}$")


class _Value(NamedTuple):
    start: int
    end: int
    literal: bool


def named_secrets(line: str, kind: FileKind) -> Iterator[Span]:
    """Yield the secrets on ``line`` that follow the name of a credential."""
    position = 0
    while (found := _NAME.search(line, position)) is not None:
        position = found.end()
        name = full_name(line, *found.span())
        credential = credential_of(name)
        if credential is None:
            continue
        for value in _values_after(line, found, name, kind):
            text = line[value.start : value.end]
            if _MNEMONIC.match(text):
                yield Span(value.start, value.end, "mnemonic")
            elif is_secret(text, credential, kind, literal=value.literal):
                yield Span(value.start, value.end, _kind_of(credential))
            else:
                continue
            position = value.end
            break


def has_pending_value(line: str) -> bool:
    """Return whether the value of a credential may stand on a later line."""
    found = _PENDING.search(line)
    return found is not None and credential_of(_pending_name(line, found)) is not None


def _pending_name(line: str, found: re.Match[str]) -> str:
    name = _NAME.match(line, found.start())
    assert name is not None  # noqa: S101
    return full_name(line, *name.span())


def _kind_of(credential: Credential) -> str:
    return "keyed-secret" if credential is Credential.SECRET else "password"


def _values_after(
    line: str, name: re.Match[str], whole_name: str, kind: FileKind
) -> Iterator[_Value]:
    for syntax, connector in _CONNECTORS.items():
        found = connector.match(line, name.end())
        if found is None:
            continue
        value = _parse(syntax, line, name, found, whole_name, kind)
        if value is not None and value.start < value.end:
            yield value


def _parse(
    syntax: str,
    line: str,
    name: re.Match[str],
    connector: re.Match[str],
    whole_name: str,
    kind: FileKind,
) -> _Value | None:
    start = connector.end()
    before = _before(line, name.end() - len(whole_name))
    if syntax == "element":
        if not (before.endswith("<") or _PAIR_NAME.search(before)):
            return None
        end = line.find("</", start)
        cdata = line.find("]]>", start)
        end = min(e for e in (end, cdata, len(line)) if e >= 0)
        return _Value(start, end, literal=True) if end < len(line) or cdata >= 0 else None
    inside = _quote_around(line, name.start())
    literal = _literal(line, start)
    if literal is not None and _ends_text(line, literal.start, inside, connector[0]):
        return None
    if syntax == "pair":
        return literal if _is_argument_of_lookup(_before(line, name.end())) else None
    if syntax == "call":
        # setPassword("x"), but not getPassword("name"); .password("x") of a builder.
        is_setter = _SETTER.match(whole_name) is not None or before.endswith((".", "::"))
        is_constructor = whole_name[0].isupper() or connector[0].strip() == "{"
        return literal if is_setter or is_constructor else None
    if syntax == "space":
        is_option = whole_name.startswith("-")
        if literal is not None:
            return literal if is_option or _LITERAL_DIRECTIVE.search(before) else None
        if is_option:
            # After an option may also stand the next option, or an explanation.
            if line[start] in "-<>|&;" or not _is_unlike_prose(line[start:]):
                return None
            return _bare(line, start, literal=True, inside=inside)
        return _bare(line, start, literal=True) if _DIRECTIVE.search(before) else None
    if literal is not None:
        return None if connector[0].lstrip()[0] == ")" and ":" in connector[0] else literal
    if syntax in ("declaration", "default"):
        return None
    is_tight = not connector[0][-1:].isspace() and connector[0].rstrip(" ")[-1:] in "=:"
    is_mapping = ":" in connector[0]
    if is_mapping and (line[start] in "{[(<" or connector[0].lstrip()[0] == ")"):
        return None
    if is_mapping and not kind.bare_values and credential_of(whole_name) is Credential.PASS:
        return None  # the result of a test
    in_braces = before.endswith("${")  # ${PASSWORD:-x}
    is_literal = (
        kind.bare_values
        or (is_tight and "=" in connector[0] and (kind.shell_values or inside is not None))
        or connector[0].startswith(":-")
        or in_braces
        or (kind.shell_values and is_mapping and _is_unlike_prose(line[start:]))
    )
    return _bare(line, start, literal=is_literal, inside="}" if in_braces else inside)


def _is_argument_of_lookup(before: str) -> bool:
    """Return whether ``before`` ends in a name that is an argument of a function such as getenv."""
    function, bracket, argument = before.rpartition("(")
    if not bracket or not _FIRST_ARGUMENT.match(argument):
        return False
    name = _FUNCTION_NAME.search(function[-_MAX_FUNCTION_CHARACTERS:])
    return name is not None and _PAIR_FUNCTION.search(name[0]) is not None


def _before(line: str, end: int) -> str:
    """Return what precedes ``end``; of a long line, only the last characters."""
    if end <= _MAX_LITERAL_CHARACTERS:
        return line[:end]
    return "\0" + line[end - _MAX_LITERAL_CHARACTERS : end]  # not the beginning of the line


def _ends_text(line: str, start: int, inside: str | None, connector: str) -> bool:
    """Return whether the quote before ``start`` ends the text that holds the name: "Password: "."""
    is_escaped = line[start - 2 : start - 1] == "\\"
    return line[start - 1] == inside and not is_escaped and connector[0] not in "\"'`\\"


def _is_unlike_prose(text: str) -> bool:
    """Return whether the first word of ``text`` has a digit or looks random."""
    word = text.split(maxsplit=1)[0]
    return any(c.isdigit() for c in word) or (len(word) >= _MIN_WORD and looks_random(word))


def _literal(line: str, start: int) -> _Value | None:
    """Return the content of the string literal that begins at ``start``, if one does."""
    tag = _TAG.match(line, start)
    opening = _OPENING.match(line, tag.end() if tag else start)
    if opening is None:
        return None
    quote = opening["quote"]
    begin = opening.end()
    if quote.startswith("%"):
        end = line.find(_PAIRED_BRACKETS[quote[-1]], begin)
    else:
        end = _closing_quote(line, begin, quote)
    if line[opening.start() : opening.start("quote")].endswith("R") and line.startswith("(", begin):
        begin, end = begin + 1, line.find(")", begin)  # R"(x)" of C++
    return _Value(begin, len(line.rstrip()) if end < 0 else end, literal=True)


def _closing_quote(line: str, begin: int, quote: str) -> int:
    """Return where the literal ends, or -1; a quote after more backslashes is part of it."""
    mark = quote.lstrip("\\")
    n_backslashes = len(quote) - len(mark)
    position = line.find(mark, begin)
    while position >= 0:
        escapes = 0
        while position - escapes > begin and line[position - escapes - 1] == "\\":
            escapes += 1
        is_doubled = n_backslashes == 0 and mark == "'" and line.startswith("''", position)
        if is_doubled and position > begin and line[position + 2 : position + 3].isalnum():
            position = line.find(mark, position + 2)  # '' is a quote in SQL and YAML
            continue
        if escapes == n_backslashes or (n_backslashes == 0 and escapes % 2 == 0):
            return position - n_backslashes
        position = line.find(mark, position + 1)
    return -1


def _quote_around(line: str, position: int) -> str | None:
    """Return the quote of the string literal that holds ``position``, or None outside of one."""
    inside = None
    index = max(0, position - _MAX_LITERAL_CHARACTERS)
    while index < position:
        char = line[index]
        if char == "\\":
            index += 2
            continue
        if inside is None and char in "\"'`":
            # An apostrophe within a word opens nothing.
            if not (char == "'" and index and line[index - 1].isalnum()):
                inside = char
        elif char == inside:
            inside = None
        index += 1
    return inside


_MAX_LITERAL_CHARACTERS: Final = 400
_MAX_FUNCTION_CHARACTERS: Final = 64
_MIN_WORD: Final = 8  # letters of a word that can look random
_BARE_END: Final = re.compile(r"\s|\\[nrt\"']|$")
_OPENERS: Final = {")": "(", "]": "[", "}": "{", ">": "<"}


def _bare(line: str, start: int, *, literal: bool, inside: str | None = None) -> _Value | None:
    tag = _TAG.match(line, start)
    start = tag.end() if tag else start
    ended = _BARE_END.search(line, start)
    end = ended.start() if ended else len(line)
    if inside is not None:
        closing = line.find(inside, start, end)
        end = closing if closing >= 0 else end
        for stop in ";&":
            at = line.find(stop, start, end)
            end = at if at > start else end
    # {password: x, user: y}: the value ends where the brackets around it do.
    before = _before(line, start)
    is_nested = inside is None and any(
        before.count(o) > before.count(c) for c, o in _OPENERS.items() if o in "{[("
    )
    if is_nested:
        comma = line.find(",", start, end)
        end = comma if comma > start else end
        while end > start and line[end - 1] in ")]}" and _is_unbalanced(line[start:end]):
            end -= 1
    while end > start and line[end - 1] in ",;":
        end -= 1
    return _Value(start, end, literal) if end > start else None


def _is_unbalanced(text: str) -> bool:
    return any(text.count(close) > text.count(opener) for close, opener in _OPENERS.items())


def client_passwords(line: str, kind: FileKind) -> Iterator[Span]:
    """Yield the passwords in the options of command-line clients."""
    for found in _CLIENT.finditer(line):
        group = next(name for name, value in found.groupdict().items() if value)
        start, end = found.span(group)
        if group == _CISCO and not _is_unlike_prose(line[start:]):
            continue
        if line[start] in "'\"":
            start, end = start + 1, end - 1 if line[end - 1] == line[start] else end
        while end > start and line[end - 1] in "\"'`;,)":
            end -= 1
        if is_secret(line[start:end], Credential.PASSWORD, kind, literal=True):
            yield Span(start, end, "password")


def inserted_passwords(line: str, kind: FileKind) -> Iterator[Span]:
    """Yield the values of credential columns of ``INSERT INTO t (a, password) VALUES (…)``."""
    for insert in _INSERT.finditer(line):
        columns = [column.strip(" `\"[]'\\") for column in insert["columns"].split(",")]
        credentials = [
            credential_of(column) if _NAME.search(column) else None for column in columns
        ]
        position = insert.end()
        while (row := _SQL_ROW.match(line, position)) is not None:
            offset = row.start("values")
            for credential in credentials:
                value = _SQL_VALUE.match(line, offset, row.end("values"))
                if value is None:
                    break
                text = value[1]
                if credential and text and is_secret(text, credential, kind, literal=True):
                    yield Span(*value.span(1), _kind_of(credential))
                offset = value.end()
            position = row.end()
            while position < len(line) and line[position] in ", ":
                position += 1


_NEXT_VALUE: Final = re.compile(
    rf"^\s*(?:[-,+.&|]\s*)?(?:{_QUOTE})?(?:{_VALUE_KEY}(?:{_QUOTE})?\s{{0,24}}[:=]>?\s{{0,24}}"
    rf"|<(?:string|value|entry|property)>)"
)
_PAIR_NAME: Final = re.compile(
    rf"(?:\bname|[kK]ey|variable|ParameterKey|\bid|Name)(?:{_QUOTE})?\s{{0,24}}[:= ]>?\s{{0,24}}(?:{_QUOTE})?$"
    r"|<(?:name|key)>\s*$"
)
_CISCO: Final = "v19"  # the number before its password is the only sign of the command
_LIST_ITEM: Final = re.compile(r"^\s*-\s+")
_ASSIGNMENT_LINE: Final = re.compile(r"^\s*(?:-\s+)?[\"']?[\w.-]+[\"']?\s*[:=]\s")
_LINE_END: Final = re.compile(r"[\s,;)\]}]*(?:\\n[\"'],?)?[\s,;)\]}]*$")
_BLOCK: Final = re.compile(r":\s*(?:![a-z]+\s*)?[|>][+-]?\d?\s*$")
_MAX_PAIR_LINES: Final = 4
_MAX_BLOCK_LINES: Final = 20


def later_secrets(lines: Sequence[str], kind: FileKind) -> list[tuple[int, Span]]:
    """Return the secrets whose name ends the first of ``lines``, by index of their line.

    The value stands alone on the next line, in the list or block below the name, or beside
    ``value:`` within the next four lines, as in Kubernetes and Terraform.
    """
    first = lines[0]
    found = _PENDING.search(first)
    name = _pending_name(first, found) if found else ""
    credential = credential_of(name) if name else None
    if found is None or credential is None:
        return []
    name_end = found.start() + len(_NAME.match(first, found.start())[0])  # type: ignore[index]
    tail = first[name_end:].strip()
    before = _before(first, name_end - len(name))
    if _PAIR_NAME.search(before):
        return _paired_secret(lines, credential, kind)
    if not tail or tail[-1] not in ":=(,>|+-\\":
        return []
    if _BLOCK.search(first) or (tail[-1] == ":" and _LIST_ITEM.match("".join(lines[1:2]))):
        return list(_block_secrets(lines, credential, kind)) if kind.bare_values else []
    return _next_line_secret(lines, credential, kind, is_argument=tail[-1] == ",")


def _paired_secret(
    lines: Sequence[str], credential: Credential, kind: FileKind
) -> list[tuple[int, Span]]:
    """Return the value beside ``value:`` within the lines after ``name: PASSWORD``."""
    for index, line in enumerate(lines[1 : _MAX_PAIR_LINES + 1], 1):
        pair = _NEXT_VALUE.match(line)
        if pair is None:
            if not line.strip() or _LIST_ITEM.match(line):
                return []
            continue
        value = _literal(line, pair.end()) or (
            _element_value(line, pair.end())
            if pair[0].endswith(">")
            else _bare(line, pair.end(), literal=kind.bare_values)
        )
        return _masked(index, line, value, credential, kind)
    return []


def _block_secrets(
    lines: Sequence[str], credential: Credential, kind: FileKind
) -> Iterator[tuple[int, Span]]:
    """Yield the lines of a YAML block or list below a name."""
    indent = _indent(lines[0])
    is_block = _BLOCK.search(lines[0]) is not None
    for index, line in enumerate(lines[1:], 1):
        if not line.strip("\0 \r"):
            continue
        item = _LIST_ITEM.match(line)
        if _indent(line) < indent + is_block or not (is_block or item):
            return
        start = item.end() if item and not is_block else _indent(line)
        if not is_block and _ASSIGNMENT_LINE.match(line):
            return
        value = _literal(line, start) or _bare(line, start, literal=True)
        if value and not line[value.end :].strip("\"' \r"):
            yield from _masked(index, line, value, credential, kind)


def _next_line_secret(
    lines: Sequence[str], credential: Credential, kind: FileKind, *, is_argument: bool
) -> list[tuple[int, Span]]:
    """Return the value that stands alone on the line below its name."""
    index = next((i for i, line in enumerate(lines[1:3], 1) if line.strip("\0 \r")), None)
    if index is None:
        return []
    line = lines[index]
    start = _indent(line)
    value = _literal(line, start)
    if value is None and kind.bare_values and not is_argument and start > _indent(lines[0]):
        value = None if _ASSIGNMENT_LINE.match(line) else _bare(line, start, literal=True)
    if value is None or not _LINE_END.match(line[value.end :].lstrip("\\\"'`")):
        return []
    if is_argument:  # any other argument, unless it looks like a secret
        value = value._replace(literal=False)
    return _masked(index, line, value, credential, kind)


def _masked(
    index: int, line: str, value: _Value | None, credential: Credential, kind: FileKind
) -> list[tuple[int, Span]]:
    if value is None:
        return []
    text = line[value.start : value.end]
    is_found = is_secret(text, credential, kind, literal=value.literal)
    return [(index, Span(value.start, value.end, _kind_of(credential)))] if is_found else []


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _element_value(line: str, start: int) -> _Value | None:
    end = line.find("</", start)
    return _Value(start, end, literal=True) if end > start else None
