"""Binary data written as text goes, in place; hashes, short vectors and words stay."""

import base64
import random
import textwrap
from collections.abc import Callable

import pytest

from the_block_llm.pipelines.git_ingest.filters.payloads import (
    PayloadCounts,
    has_words,
    may_hold_payload,
    remove_payloads,
)

DATA = random.Random(7).randbytes(3000)
BASE64 = base64.b64encode(DATA).decode()
WRAPPED = textwrap.wrap(BASE64, 76)


def rows(values: list[str], per_line: int, form: str) -> str:
    """Return values, so many to a line, in lines of the given form."""
    groups = (values[i : i + per_line] for i in range(0, len(values), per_line))
    return "".join(form.format(", ".join(group)) for group in groups)


def lines(form: str) -> str:
    return "".join(form.replace("@", line) for line in WRAPPED)


def escapes(form: str) -> str:
    groups = (DATA[i : i + 16] for i in range(0, 1600, 16))
    return "".join('  "' + "".join(form.format(b) for b in group) + '"\n' for group in groups)


def dump(form: Callable[[int, bytes], str]) -> str:
    return "".join(form(i, DATA[i : i + 16]) for i in range(0, 1600, 16))


PAYLOADS = {
    "data URI in Markdown": f"# Areas\n\n![plot](data:image/png;base64,{BASE64})\n",
    "data URI in CSS": f".logo {{\n  background: url(data:image/gif;base64,{BASE64});\n}}\n",
    "source map": f"run();\n//# sourceMappingURL=data:application/json;base64,{BASE64}\n",
    "JSON with line breaks": '{"picture": "' + "\\n".join(WRAPPED) + '\\n"}\n',
    "base64url": f'token = "{base64.urlsafe_b64encode(DATA).decode()}"\n',
    "certificate": "-----BEGIN CERTIFICATE-----\n" + lines("@\n") + "-----END CERTIFICATE-----\n",
    "MIME": "Content-Transfer-Encoding: base64\n\n" + lines("@\r\n") + "\r\n--end\r\n",
    "ConfigMap": "binaryData:\n  logo.png: |\n" + lines("    @\n") + "kind: ConfigMap\n",
    "strings of Java": "String s =\n" + lines('    "@" +\n') + '    "";\n',
    "list of Python": "LINES = [\n" + lines("    '@',\n") + "]\n",
    "comment": "/*\n" + lines(" * @\n") + " */\n",
    "po": 'msgid ""\n' + lines('"@\\n"\n') + 'msgstr ""\n',
    "hexadecimal": 'x = "' + DATA.hex() + '"\n',
    "hexadecimal lines": "".join(f"  {DATA[i : i + 30].hex()}\n" for i in range(0, 900, 30)),
    "xxd -i": "char png[] = {\n" + rows([f"0x{b:02x}" for b in DATA], 12, "  {},\n") + "};\n",
    "bytes with comments": "t = [\n" + rows([str(b) for b in DATA], 16, "  {},  # row\n") + "]\n",
    "signed bytes of Java": "byte[] b = {" + ", ".join(str(b - 128) for b in DATA) + "};\n",
    "Uint8Array": "new Uint8Array([" + ",".join(str(b) for b in DATA) + "])\n",
    "escaped": "char *png =\n" + escapes("\\x{:02x}") + ";\n",
    "octal": "char *png =\n" + escapes("\\{:03o}") + ";\n",
    "hexdump -C": dump(lambda i, g: f"{i:08x}  {g.hex(' ')}  |{'.' * 16}|\n"),
    "xxd": dump(lambda i, g: f"{i:08x}: {g.hex(' ', 2)}  {'.' * 16}\n"),
    "Intel HEX": dump(lambda i, g: f":10{i:04X}00{g.hex().upper()}AA\n"),
    "S-record": dump(lambda i, g: f"S113{i:04X}{g.hex().upper()}AA\n"),
}  # fmt: skip
ORDINARY = {
    "SHA-256 of files": "".join(f"{DATA[i : i + 32].hex()}  f{i}\n" for i in range(0, 2000, 32)),
    "digests alone": "".join(f"{DATA[i : i + 32].hex()}\n" for i in range(0, 2000, 32)),
    "integrity": "".join(
        f'  "sha512-{base64.b64encode(DATA[i : i + 64]).decode()}",\n' for i in range(0, 2900, 64)
    ),
    "digests in base64": "".join(
        f'"{base64.b64encode(DATA[i : i + 64]).decode()}",\n' for i in range(0, 2900, 64)
    ),
    "S-box": "sbox = {\n" + rows([f"0x{b:02x}" for b in DATA[:256]], 16, "  {},\n") + "};\n",
    "CRC table": "t = {\n" + rows([f"0x{b:08x}" for b in DATA], 8, "  {},\n") + "};\n",
    "matrix": rows([str(b * 7) for b in DATA], 12, "  [{}],\n"),
    "test vector": f'key = "{DATA[:96].hex()}"\n',
    "SSH key of one line": "ssh-ed25519 " + base64.b64encode(DATA[:51]).decode() + " me@host\n",
    "separators": ("/" * 78 + "\n// Part\n" + "=" * 78 + "\n") * 9,
    "long words": ("antidisestablishmentarianism" * 4 + "\n") * 9,
    "long name": "x = some" + "VeryLongNameOfAFactoryBean" * 12 + "()\n",
    "minified": "function a(b,c){return b+c}var d=a(1,2),e=function(f){return f};" * 40,
    "long path": "https://host/" + "segment/of/a/path/" * 30 + "\n",
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_binary_data_is_removed_from_files_and_patches(name: str) -> None:
    text = PAYLOADS[name].encode()
    patch = b"@@ -0,0 +1,9 @@ heading\n" + b"".join(
        b"+" + line for line in text.splitlines(keepends=True)
    )
    for original in (text, patch):
        counts = PayloadCounts()
        assert may_hold_payload(original) is not None
        reduced = remove_payloads(original, counts)
        assert len(reduced) < 0.2 * len(original), reduced[:400]
        assert b" removed]" in reduced
        assert reduced.count(b"\n") == original.count(b"\n")
        assert counts.removed.total() >= 1
        n_removed = len(original) - len(reduced)
        assert n_removed * 0.8 <= counts.removed_bytes.total() <= n_removed * 1.2
    assert all(line.startswith((b"+", b"@@")) for line in reduced.rstrip(b"\n").split(b"\n"))


@pytest.mark.parametrize("name", ORDINARY)
def test_code_and_digests_are_not_touched(name: str) -> None:
    text = ORDINARY[name].encode()
    patch = b"@@ -1,9 +1,9 @@\n" + b"".join(b"-" + line + b"\n" for line in text.split(b"\n"))
    for original in (text, patch):
        assert remove_payloads(original, PayloadCounts()) == original


def test_a_private_key_is_left_to_the_redactor() -> None:
    begin, end = (f"-----{word} RSA PRIVATE " + "KEY-----" for word in ("BEGIN", "END"))
    for text in (
        f"{begin}\n" + lines("@\n") + f"{end}\n",
        '{"key": "' + begin + "\\n" + "\\n".join(WRAPPED) + "\\n" + end + '"}\n',
    ):
        assert remove_payloads(text.encode(), PayloadCounts()) == text.encode()


def test_a_file_of_nothing_else_has_no_words_left() -> None:
    certificate = remove_payloads(PAYLOADS["certificate"].encode(), PayloadCounts())
    assert not has_words(certificate)
    page = remove_payloads(PAYLOADS["data URI in Markdown"].encode(), PayloadCounts())
    assert has_words(page)
    assert page == b"# Areas\n\n![plot](data:image/png;base64,[4 kB removed])\n"
