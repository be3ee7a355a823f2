"""Determines the encoding of text that is not UTF-8, or that the bytes do not determine it.

Any bytes decode under a dozen code pages, and most results look like text. An encoding is therefore
accepted only if the text under it is written in one language, with that language's letters in
plausible words, and if no other encoding gives a different text of which the same can be said.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from enum import Enum, auto
from itertools import pairwise
from typing import Final, NamedTuple

import charset_normalizer

_SAMPLE_BYTES: Final = 1 << 14
# In order of preference where several give the same text.
_LATIN_ENCODINGS: Final = (
    "cp1252", "iso8859_15", "cp1250", "iso8859_2", "cp1254", "cp1257", "iso8859_13", "iso8859_4",
    "iso8859_10", "iso8859_16", "iso8859_3", "cp850", "cp852", "cp857", "cp775", "mac_roman",
    "mac_latin2",
)  # fmt: skip
_LATIN_LETTERS: Final = {
    "German": "äöüß", "French": "àâæçéèêëîïôœùûüÿ", "Spanish": "áéíñóúü", "Dutch": "éëïöü",
    "Portuguese": "àáâãçéêíóôõúü", "Italian": "àèéìòù", "Catalan": "àçèéíïòóúü",
    "Swedish": "åäöé", "Danish": "åæøé", "Icelandic": "áéíóúýþæöð", "Albanian": "çë",
    "Polish": "ąćęłńóśźż", "Czech": "áčďéěíňóřšťúůýž", "Slovak": "áäčďéíĺľňóôŕšťúýž",
    "Hungarian": "áéíóöőúüű", "Croatian": "čćđšž", "Romanian": "ăâîşţșț", "Turkish": "çğıöşüâîû",
    "Estonian": "äõöüšž", "Latvian": "āčēģīķļņšūž", "Lithuanian": "ąčęėįšųūž",
}  # fmt: skip
_WORDS_OF_ONE_LETTER: Final = frozenset("àáèéìíòóöåæøœ")
_SCRIPTS_WITHOUT_WORDS: Final = frozenset(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))
_SYMBOLS: Final = frozenset("\xa0\xad©®°±«»§·•…–—‘’“”„™€¤£¿¡×µ½¼¾²³¹ªº")
_ENCODINGS_OF_SYMBOLS: Final = ("cp1252", "iso8859_15", "cp1250", "cp1251", "cp1254")


class _Language(NamedTuple):
    """A language that is not written in Latin letters, and how much of a text is common letters."""

    encodings: tuple[str, ...]
    letters: str
    """Regular expression for all its letters."""
    common: str
    """Letters that make up at least ``min_share`` of any longer text."""
    min_share: float
    rival_share: float
    """From this share on a reading cannot be excluded."""


_CYRILLIC_ENCODINGS: Final = ("cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5", "mac_cyrillic")
_LANGUAGES: Final = {
    "Russian": _Language(_CYRILLIC_ENCODINGS, "[а-яёА-ЯЁ]", "оеаинтсрвл", 0.5, 0.42),
    "Ukrainian": _Language(
        _CYRILLIC_ENCODINGS, "[абвгґдеєжзиіїйклмнопрстуфхцчшщьюяАБВГҐДЕЄЖЗИІЇЙКЛМНОПРСТУФХЦЧШЩЬЮЯ]",
        "оанівиерту", 0.5, 0.42,
    ),
    "Greek": _Language(
        ("cp1253", "iso8859_7"), "[ά-ώΑ-ΩΆΈΉΊΌΎΏΐΰϊϋ]", "ατοιενσρηπκςμ", 0.5, 0.42
    ),
    "Hebrew": _Language(("cp1255", "iso8859_8"), "[א-ת]", "יוהלארמבשנת", 0.6, 0.45),
    "Arabic": _Language(("cp1256", "iso8859_6"), "[ء-ي]", "اليمونرتبةع", 0.55, 0.45),
    "Japanese": _Language(
        ("cp932", "shift_jis", "euc_jp", "euc_jis_2004"), "[ぁ-んァ-ヶー一-龠々]",
        "のにるたとはしいをでてがなれからさっりすあもこまンスルトリイアラックドシジタフロ",
        0.3, 0.15,
    ),
    "Simplified Chinese": _Language(
        ("gb18030",), "[一-龠]",
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
        "发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前"
        "开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最"
        "重新数文件码改加密其型类名请", 0.2, 0.1,
    ),
    "Traditional Chinese": _Language(
        ("big5hkscs", "cp950"), "[一-龠]",
        "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過"
        "發後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心本前"
        "開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最"
        "重新數文件碼改加密其型類名請", 0.2, 0.1,
    ),
    "Korean": _Language(
        ("cp949", "johab"), "[가-힣]",
        "이다에의는로하을가고지서한은기으년대사시를리도인스일아자어부있해전보정나제수를그과와들면게니",
        0.25, 0.15,
    ),
}  # fmt: skip
ENCODINGS: Final = tuple(
    dict.fromkeys(
        (*_LATIN_ENCODINGS, *(name for entry in _LANGUAGES.values() for name in entry.encodings))
    )
)
"""Every encoding that is tried."""
_MIN_LETTERS: Final = 10
# Abbreviations, units and keys on a keyboard, in a long text whose encoding is declared.
_MAX_IMPLAUSIBLE_SHARE: Final = 0.1
_MAX_NOISE: Final = 0.4  # twice the library's own limit, under which it refuses accented words
_CJK_LANGUAGES: Final = ("Japanese", "Simplified Chinese", "Traditional Chinese", "Korean")
_NON_ASCII: Final = re.compile(r"[^\x00-\x7f]")
_WORD: Final = re.compile(r"[^\W\d_]+")
# A symbol inside a word, unless it is a vowel sign; an accented letter after a digit.
_IMPLAUSIBLE: Final = re.compile(
    r"[^\W\d_](?![’‘·\xad\u0300-\u036f\u0590-\u05cf\u064b-\u0655\u0e30-\u0e5b])[^\x00-\x7f\w][^\W\d_]"
    r"|[0-9](?![ªº])[^\W\d_\x00-\x7f]"
)
_CJK: Final = re.compile("[\u3041-\ud7a3]")
# A single character of Chinese, Japanese or Korean inside a word of ASCII.
_IMPLAUSIBLE_CJK: Final = re.compile("[a-z][\u3041-\ud7a3][a-z]")
_UNUSED: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd]")


def determine_encoding(data: bytes, declared: str | None = None) -> str | None:
    """Return the only encoding under which ``data`` is text in a language, or None.

    Args:
        data: Bytes that are not valid UTF-8. A sample from the start of a long text is examined.
        declared: Codec that the file or the commit names. It decides what the letters leave open,
            but is not believed against them.

    >>> determine_encoding("Prüfung der Größe".encode("latin-1"))
    'cp1252'
    >>> determine_encoding("naïve".encode("latin-1")) is None  # or is it "naďve" in cp1250?
    True
    """
    sample = _sample(data)
    proven: dict[str, str] = {}
    possible: set[str] = set()
    for encoding, text, verdict in _readings(sample):
        if verdict is _Verdict.PROVEN:
            proven.setdefault(text, encoding)
        elif verdict is _Verdict.POSSIBLE:
            possible.add(text)
    if len(proven) == 1 and not possible - proven.keys():
        encoding = next(iter(proven.values()))
        matches = charset_normalizer.from_bytes(
            sample, cp_isolation=[encoding], threshold=_MAX_NOISE
        )
        if matches:
            return encoding if _round_trips(data, encoding) else None
    if declared is None or not _round_trips(data, declared):
        return None
    text = sample.decode(declared)
    is_refuted = bool(proven) and text not in proven
    return declared if _is_plausible(text) and not is_refuted else None


def _round_trips(data: bytes, encoding: str) -> bool:
    try:
        return data.decode(encoding).encode(encoding) == data
    except UnicodeError:
        return False


def _is_plausible(text: str) -> bool:
    """Return whether ``text``, decoded by a declared encoding, is text.

    >>> _is_plausible("Größe"), _is_plausible("Ïðèâåò")  # the second is Russian, read as Latin-1
    (True, False)
    """
    if _UNUSED.search(text):
        return False
    n_cjk = len(_CJK.findall(text))
    if n_cjk:
        return n_cjk < _MIN_LETTERS or any(
            _judge_script(text, name, _LANGUAGES[name]) is not _Verdict.IMPOSSIBLE
            for name in _CJK_LANGUAGES
        )
    words = _accented_words(text)
    n_implausible = sum(not _is_plausible_word(word) for word in words)
    n_implausible += len(_IMPLAUSIBLE.findall(text))
    return n_implausible <= _MAX_IMPLAUSIBLE_SHARE * len(words)


class _Verdict(Enum):
    IMPOSSIBLE = auto()
    POSSIBLE = auto()
    PROVEN = auto()


def _sample(data: bytes) -> bytes:
    """Return the lines at the start that are not ASCII, up to some 16 KiB."""
    lines = [line for line in data[: 64 * _SAMPLE_BYTES].splitlines(True) if not line.isascii()]
    if len(data) > 64 * _SAMPLE_BYTES and len(lines) > 1:
        lines.pop()  # it may be cut in the middle of a character
    sizes = itertools.accumulate(map(len, lines))
    n_lines = sum(size <= _SAMPLE_BYTES for size in sizes)
    return b"".join(lines[: max(n_lines, 1)])


def _readings(sample: bytes) -> Iterator[tuple[str, str, _Verdict]]:
    """Yield each encoding that can decode the sample, the text, and what is to be thought of it."""
    texts: dict[str, str] = {}

    def decoded(encoding: str) -> str | None:
        if encoding not in texts:
            try:
                text = sample.decode(encoding)
            except UnicodeError:
                text = "\ufffd"
            texts[encoding] = "\ufffd" if _UNUSED.search(text) else text
        return texts[encoding] if texts[encoding] != "\ufffd" else None

    is_multi_byte = False
    for name, language in _LANGUAGES.items():
        for encoding in language.encodings:
            if (text := decoded(encoding)) is not None:
                is_multi_byte = is_multi_byte or name in _CJK_LANGUAGES
                yield encoding, text, _judge_script(text, name, language)
    for encoding in _LATIN_ENCODINGS:
        if (text := decoded(encoding)) is not None:
            yield encoding, text, _judge_latin(text)
    if not is_multi_byte:
        for encoding in _ENCODINGS_OF_SYMBOLS:
            if (text := decoded(encoding)) is not None and _has_only_symbols(text):
                yield encoding, text, _Verdict.PROVEN


def _accented_words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.replace("µ", " ")) if not word.isascii()}


def _judge_latin(text: str) -> _Verdict:
    words = _accented_words(text)
    if not words or _IMPLAUSIBLE.search(text) or not all(map(_is_plausible_word, words)):
        return _Verdict.IMPOSSIBLE
    letters = {c for word in words for c in word.lower() if c > "\x7f"} - {"\u0307"}
    if not any(letters <= frozenset(known) for known in _LATIN_LETTERS.values()):
        return _Verdict.IMPOSSIBLE
    symbols = {c for c in _NON_ASCII.findall(text) if not c.isalpha()}
    if not symbols <= _SYMBOLS:
        return _Verdict.POSSIBLE
    has_evidence = any(len(word) >= 3 and word[0] < "\x80" for word in words)
    return _Verdict.PROVEN if has_evidence else _Verdict.POSSIBLE


def _is_plausible_word(word: str) -> bool:
    """Return whether a word with letters beyond ASCII can be a word."""
    scripts = {unicodedata.name(c, "?").split(" ", 1)[0] for c in word}
    if scripts & _SCRIPTS_WITHOUT_WORDS:
        return True
    if len(scripts) > 1:
        return False
    if len(word) == 1:
        return scripts != {"LATIN"} or word.lower() in _WORDS_OF_ONE_LETTER
    if not (word.islower() or word[1:].islower() or word.replace("ß", "").isupper()):
        # Names such as `PrüfeGröße` have capitals inside, but seldom accented ones.
        if any(a.islower() and b.isupper() and not (a + b).isascii() for a, b in pairwise(word)):
            return False
        if any(a.isupper() and b.islower() and a > "\x7f" for a, b in pairwise(word[1:])):
            return False
    if "LATIN" not in scripts:
        return True
    n_accented = sum(c > "\x7f" for c in word)
    starts_with_capitals = word[0] > "\x7f" < word[1] and word[:2].isupper()
    return n_accented < len(word) and not starts_with_capitals


def _judge_script(text: str, name: str, language: _Language) -> _Verdict:
    letters = [c for c in _NON_ASCII.findall(text) if c.isalpha() and c not in "µªº"]
    if not letters or not re.fullmatch(f"(?:{language.letters})+", "".join(letters)):
        return _Verdict.IMPOSSIBLE
    if name in _CJK_LANGUAGES:
        n_kana = sum("\u3041" <= c <= "\u30ff" for c in letters)
        lacks_kana = name == "Japanese" and n_kana < len(letters) / 4
        if lacks_kana or _IMPLAUSIBLE_CJK.search(text):
            return _Verdict.IMPOSSIBLE
    elif _IMPLAUSIBLE.search(text) or not all(map(_is_plausible_word, _accented_words(text))):
        return _Verdict.IMPOSSIBLE
    share = sum(c.lower() in language.common for c in letters) / len(letters)
    if len(letters) < _MIN_LETTERS and name not in _CJK_LANGUAGES:
        return _Verdict.POSSIBLE
    if share < language.rival_share:
        return _Verdict.IMPOSSIBLE
    if share < language.min_share or len(letters) < _MIN_LETTERS:
        return _Verdict.POSSIBLE
    return _Verdict.PROVEN


def _has_only_symbols(text: str) -> bool:
    """Return whether what is not ASCII is typography, such as a dash or a copyright sign."""
    return (
        set(_NON_ASCII.findall(text)) <= _SYMBOLS
        and re.search(r"[^\x00-\x7f]{2}", text) is None
        and _IMPLAUSIBLE.search(text) is None
    )
