"""From drafts to token ids and targets, with the marks that the model knows.

Text of the repository is never parsed for special tokens: ``<|eot_id|>`` written in a file
is a handful of ordinary tokens. Marks come from the profile and from the chat template only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import pre_tokenizers

from the_block_llm.errors import ProfileError
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.tokenization.token_cache import TokenisedTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_Runs = list[tuple[Ids, bool]]

# Private-use characters: in no template, and no template trims or escapes them.
_QUESTION: Final = "\ue000\ue001\ue002"
_ANSWER: Final = "\ue002\ue001\ue000"


@dataclass(frozen=True)
class TokenisedDocument:
    """Token ids of one document, shape ``(n,)``, and which of them are learned, ``(n,)``."""

    input_ids: Ids
    labels_mask: Mask


@dataclass(frozen=True)
class ChatFrame:
    """What the chat template writes around a question and its answer."""

    before_question: Ids
    before_answer: Ids
    turn_end: Ids
    """Up to the token that ends the turn: learned, so that the model stops."""
    after_turn: Ids


class DocumentTokenizer:
    """Tokenises drafts for one profile; takes the tokenizer over for itself."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", profile: ModelProfile) -> None:
        """Read the marks, then have the tokenizer take every text literally.

        Raises:
            ProfileError: The chat template loses the question, or never ends a turn.
        """
        self.backend: Any = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._start = self._marks(
            () if profile.document_start is None else (profile.document_start,)
        )
        self._end = self._marks((profile.document_end,))
        self.chat_frame = (
            chat_frame(tokenizer, profile)
            if profile.role == "advisor" and tokenizer.chat_template
            else None
        )
        self._read_literally()
        self.byte_lengths = byte_lengths(self.backend)
        self.unknown_bytes = unknown_bytes(self.vocabulary)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read_literally()

    def _read_literally(self) -> None:
        # No part of what the library writes down of a tokenizer, so pickle does not keep it.
        self.backend.encode_special_tokens = True

    def encode(self, drafts: Sequence[RenderedDocument]) -> list[TokenisedDocument]:
        """Tokenise drafts in one batch; see :meth:`encode_texts` and :meth:`assemble`."""
        return self.assemble(drafts, self.encode_texts(drafts))

    def encode_texts(
        self, drafts: Sequence[RenderedDocument], earlier: TokenisedTexts | None = None
    ) -> list[Ids]:
        """Tokenise every segment, without holding up other Python threads.

        Args:
            drafts: The documents.
            earlier: Where texts that were tokenised before are found, and new ones kept.
        """
        texts = [segment.text for draft in drafts for segment in draft.segments]
        if earlier is None:
            return self._encode(texts)
        found = earlier.find(texts)
        new = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        encoded = self._encode(new)
        earlier.remember(new, encoded)
        remaining = iter(encoded)
        return [next(remaining) if ids is None else ids for ids in found]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.fromiter(encoding.ids, np.int32, len(encoding)) for encoding in encodings]

    def assemble(
        self, drafts: Sequence[RenderedDocument], ids: Sequence[Ids]
    ) -> list[TokenisedDocument]:
        """Put the marks around encoded segments, and say what is learned.

        Raises:
            ProfileError: The tokenizer changes text, so what is learned is not what is written.
        """
        texts = [segment.text for draft in drafts for segment in draft.segments]
        self._check_lossless(texts, ids)
        documents: list[TokenisedDocument] = []
        position = 0
        for draft in drafts:
            parts = ids[position : position + len(draft.segments)]
            position += len(draft.segments)
            runs = [
                self._marked(segment, part)
                for segment, part in zip(draft.segments, parts, strict=True)
            ]
            frame = self._framed_chat if draft.kind == "chat" else self._framed_text
            documents.append(frame(runs))
        return documents

    def _marked(self, segment: Segment, ids: Ids) -> _Runs:
        runs = (
            [(self._marks(segment.leading_context_tokens), False)]
            if segment.leading_context_tokens
            else []
        )
        if segment.leading_tokens:
            runs.append((self._marks(segment.leading_tokens), segment.train))
        runs.append((ids, segment.train))
        if segment.trailing_tokens:
            runs.append((self._marks(segment.trailing_tokens), segment.train))
        return runs

    def _framed_text(self, segments: Sequence[_Runs]) -> TokenisedDocument:
        runs = [run for segment in segments for run in segment]
        learns_end = bool(runs) and runs[-1][1]
        return _joined([(self._start, False), *runs, (self._end, learns_end)])

    def _framed_chat(self, segments: Sequence[_Runs]) -> TokenisedDocument:
        if self.chat_frame is None:
            raise ProfileError(
                "The model has no chat template, so no chat can be rendered for it. Use the "
                "instruct variant of the model, or role: completion."
            )
        frame = self.chat_frame
        question, answer = segments
        return _joined([
            (frame.before_question, False), *question, (frame.before_answer, False),
            *answer, (frame.turn_end, answer[-1][1]), (frame.after_turn, False),
        ])  # fmt: skip

    def _check_lossless(self, texts: Sequence[str], ids: Sequence[Ids]) -> None:
        written = sum(len(text.encode()) for text in texts)
        tokenised = sum(int(self.byte_lengths[part].sum()) for part in ids)
        if written != tokenised:
            raise ProfileError(
                f"The tokenizer turns {written} bytes of text into tokens of {tokenised} bytes, "
                "so it changes what it reads. Rows need a byte-level tokenizer, as Llama 3, "
                "SmolLM2 and StarCoder2 have."
            )

    def _marks(self, tokens: Sequence[str]) -> Ids:
        return np.array([self.vocabulary[token] for token in tokens], np.int32)


def chat_frame(tokenizer: "PreTrainedTokenizerFast", profile: ModelProfile) -> ChatFrame:
    """Find out what the chat template writes around a question and its answer.

    Raises:
        ProfileError: The template loses one of them, or no stop token ends the answer.
    """
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if rendered.count(_QUESTION) != 1 or rendered.count(_ANSWER) != 1:
        raise ProfileError(
            f"The chat template of {profile.name} does not write a question and its answer once "
            "each. Give the folder of a model with an ordinary chat template."
        )
    before_question, rest = rendered.split(_QUESTION)
    before_answer, after_answer = rest.split(_ANSWER)
    closing = _ids(tokenizer, after_answer)
    stops = {tokenizer.convert_tokens_to_ids(token) for token in profile.stop_tokens}
    end = next((at + 1 for at, id_ in enumerate(closing.tolist()) if id_ in stops), 0)
    if not end:
        raise ProfileError(
            f"The chat template of {profile.name} ends an answer with {after_answer!r}, which "
            f"holds none of the profile's stop_tokens {list(profile.stop_tokens)}: the model "
            "would never learn to stop. Correct stop_tokens in conf/local/parameters_models.yml."
        )
    return ChatFrame(
        before_question=_ids(tokenizer, before_question),
        before_answer=_ids(tokenizer, before_answer),
        turn_end=closing[:end],
        after_turn=closing[end:],
    )


def byte_lengths(backend: Any) -> npt.NDArray[np.int64]:
    """How many bytes of text each token stands for, shape ``(vocabulary,)``.

    A byte-level vocabulary writes every byte as one character. Marks stand for no text.
    """
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, id_ in vocabulary.items():
        lengths[id_] = len(token)
    lengths[list(backend.get_added_tokens_decoder())] = 0
    return lengths


def unknown_bytes(vocabulary: Mapping[str, int]) -> bytes:
    """Bytes that a byte-level vocabulary has no token for; a tokenizer leaves them out unsaid.

    Empty for a vocabulary of another kind, where nothing can be told from single bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lacking = [character for character in alphabet if character not in vocabulary]
    if len(lacking) > len(alphabet) // 2:
        return b""
    # The alphabet writes printable bytes as themselves, and the others in order from U+0100.
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return bytes(
        ord(character) if ord(character) < 256 else others[ord(character) - 256]
        for character in sorted(lacking)
    )


def _ids(tokenizer: "PreTrainedTokenizerFast", text: str) -> Ids:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return np.array(encoding.ids, np.int32)


def _joined(runs: _Runs) -> TokenisedDocument:
    ids = np.concatenate([part for part, _ in runs])
    trains = np.array([train for _, train in runs], np.bool_)
    mask = np.repeat(trains, [len(part) for part, _ in runs])
    mask[:1] = False  # nothing precedes the first token, so nothing predicts it
    return TokenisedDocument(ids, mask)
