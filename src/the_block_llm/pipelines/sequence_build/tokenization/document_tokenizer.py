"""Tokenize documents and add the model's special tokens.

Text of the repository is never parsed for special tokens: ``<|eot_id|>`` in a file becomes several
ordinary tokens. Special tokens come from the profile and the chat template only.
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
from the_block_llm.pipelines.sequence_build.tokenization.token_cache import TokenCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_Spans = list[tuple[Ids, bool]]  # ids, and whether they are targets

# Private-use characters: no template contains, trims or escapes them.
_QUESTION: Final = "\ue000\ue001\ue002"
_ANSWER: Final = "\ue002\ue001\ue000"


@dataclass(frozen=True)
class TokenizedDocument:
    """Token ids of one document, and which of them are training targets; both of shape ``(n,)``."""

    input_ids: Ids
    labels_mask: Mask


@dataclass(frozen=True)
class ChatTemplateTokens:
    """Token ids that the chat template puts around a question and its answer."""

    before_question: Ids
    before_answer: Ids
    turn_end: Ids
    """Up to and including the token that ends the turn, a target: the model learns to stop."""
    after_turn: Ids


class DocumentTokenizer:
    """Tokenizes documents for one profile; takes ownership of the tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", profile: ModelProfile) -> None:
        """Look up the special tokens, then make the tokenizer treat them literally in text.

        Raises:
            ProfileError: The chat template drops the question, or never ends a turn.
        """
        self.backend: Any = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._start = self._token_ids(
            () if profile.document_start is None else (profile.document_start,)
        )
        self._end = self._token_ids((profile.document_end,))
        self._chat_template = (
            chat_template_tokens(tokenizer, profile)
            if profile.role == "advisor" and tokenizer.chat_template
            else None
        )
        self._encode_special_tokens_as_text()
        self.byte_lengths = byte_lengths(self.backend)
        self.unknown_bytes = unknown_bytes(self.vocabulary)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._encode_special_tokens_as_text()

    def _encode_special_tokens_as_text(self) -> None:
        # The library does not serialize this setting, so it is lost in a pickle.
        self.backend.encode_special_tokens = True

    def encode(self, docs: Sequence[RenderedDocument]) -> list[TokenizedDocument]:
        """Tokenize documents in one batch; see :meth:`encode_texts` and :meth:`assemble`."""
        return self.assemble(docs, self.encode_texts(docs))

    def encode_texts(
        self, docs: Sequence[RenderedDocument], cache: TokenCache | None = None
    ) -> list[Ids]:
        """Tokenize every segment; releases the GIL.

        Args:
            docs: The documents.
            cache: Where known texts are looked up and new ones are stored.
        """
        texts = [segment.text for doc in docs for segment in doc.segments]
        if cache is None:
            return self._encode(texts)
        cached = cache.lookup(texts)
        new = [text for text, ids in zip(texts, cached, strict=True) if ids is None]
        encoded = self._encode(new)
        cache.store(new, encoded)
        remaining = iter(encoded)
        return [next(remaining) if ids is None else ids for ids in cached]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.fromiter(encoding.ids, np.int32, len(encoding)) for encoding in encodings]

    def assemble(
        self, docs: Sequence[RenderedDocument], ids: Sequence[Ids]
    ) -> list[TokenizedDocument]:
        """Join encoded segments with special tokens, and mark the targets.

        Args:
            docs: The documents.
            ids: Of every segment of every document, from :meth:`encode_texts`.

        Raises:
            ProfileError: The tokenizer changes text, so targets would not be the repository's text.
        """
        texts = [segment.text for doc in docs for segment in doc.segments]
        self._require_lossless(texts, ids)
        documents: list[TokenizedDocument] = []
        position = 0
        for doc in docs:
            doc_ids = ids[position : position + len(doc.segments)]
            position += len(doc.segments)
            segments = [
                self._segment_spans(segment, segment_ids)
                for segment, segment_ids in zip(doc.segments, doc_ids, strict=True)
            ]
            assemble = self._assemble_chat if doc.kind == "chat" else self._assemble_text
            documents.append(assemble(segments))
        return documents

    def _segment_spans(self, segment: Segment, ids: Ids) -> _Spans:
        spans = (
            [(self._token_ids(segment.leading_context_tokens), False)]
            if segment.leading_context_tokens
            else []
        )
        if segment.leading_tokens:
            spans.append((self._token_ids(segment.leading_tokens), segment.train))
        spans.append((ids, segment.train))
        if segment.trailing_tokens:
            spans.append((self._token_ids(segment.trailing_tokens), segment.train))
        return spans

    def _assemble_text(self, segments: Sequence[_Spans]) -> TokenizedDocument:
        spans = [span for segment in segments for span in segment]
        end_is_target = bool(spans) and spans[-1][1]
        return _concatenate([(self._start, False), *spans, (self._end, end_is_target)])

    def _assemble_chat(self, segments: Sequence[_Spans]) -> TokenizedDocument:
        template = self._chat_template
        if template is None:
            raise ProfileError(
                "The model has no chat template, so no chat can be rendered for it. Use the "
                "instruct variant of the model, or role: completion."
            )
        question, answer = segments
        return _concatenate([
            (template.before_question, False), *question, (template.before_answer, False),
            *answer, (template.turn_end, answer[-1][1]), (template.after_turn, False),
        ])  # fmt: skip

    def _require_lossless(self, texts: Sequence[str], ids: Sequence[Ids]) -> None:
        text_bytes = sum(len(text.encode()) for text in texts)
        token_bytes = sum(int(self.byte_lengths[text_ids].sum()) for text_ids in ids)
        if text_bytes != token_bytes:
            raise ProfileError(
                f"The tokenizer encodes {text_bytes} bytes of text as tokens of {token_bytes} "
                "bytes, so it changes the text. Rows need a byte-level tokenizer, such as those of "
                "Llama 3, SmolLM2 and StarCoder2."
            )

    def _token_ids(self, tokens: Sequence[str]) -> Ids:
        return np.array([self.vocabulary[token] for token in tokens], np.int32)


def chat_template_tokens(
    tokenizer: "PreTrainedTokenizerFast", profile: ModelProfile
) -> ChatTemplateTokens:
    """Return what the chat template puts around a question and its answer.

    Raises:
        ProfileError: The template drops one of them, or no stop token ends the answer.
    """
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if rendered.count(_QUESTION) != 1 or rendered.count(_ANSWER) != 1:
        raise ProfileError(
            f"The chat template of {profile.name} does not render a question and its answer once "
            "each. Use the folder of a model with an ordinary chat template."
        )
    before_question, rest = rendered.split(_QUESTION)
    before_answer, after_answer = rest.split(_ANSWER)
    closing = _encode_template(tokenizer, after_answer)
    stops = {tokenizer.convert_tokens_to_ids(token) for token in profile.stop_tokens}
    end = next((index + 1 for index, id_ in enumerate(closing.tolist()) if id_ in stops), 0)
    if not end:
        raise ProfileError(
            f"The chat template of {profile.name} ends an answer with {after_answer!r}, which "
            f"has none of the profile's stop_tokens {list(profile.stop_tokens)}: the model "
            "would never learn to stop. Correct stop_tokens in conf/local/parameters_models.yml."
        )
    return ChatTemplateTokens(
        before_question=_encode_template(tokenizer, before_question),
        before_answer=_encode_template(tokenizer, before_answer),
        turn_end=closing[:end],
        after_turn=closing[end:],
    )


def byte_lengths(backend: Any) -> npt.NDArray[np.int64]:
    """Return the bytes of text in each token, shape ``(vocabulary,)``.

    A byte-level vocabulary writes every byte as one character. Added tokens, which are not part of
    the text, have length 0.
    """
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, id_ in vocabulary.items():
        lengths[id_] = len(token)
    lengths[list(backend.get_added_tokens_decoder())] = 0
    return lengths


def unknown_bytes(vocabulary: Mapping[str, int]) -> bytes:
    """Return the bytes without a token in a byte-level vocabulary; a tokenizer drops them silently.

    Empty for a vocabulary of another type, where single bytes are not tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    missing = [character for character in alphabet if character not in vocabulary]
    if len(missing) > len(alphabet) // 2:
        return b""
    # The alphabet writes printable bytes as themselves, and the others in order from U+0100.
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return bytes(
        ord(character) if ord(character) < 256 else others[ord(character) - 256]
        for character in sorted(missing)
    )


def _encode_template(tokenizer: "PreTrainedTokenizerFast", text: str) -> Ids:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return np.array(encoding.ids, np.int32)


def _concatenate(spans: _Spans) -> TokenizedDocument:
    ids = np.concatenate([span_ids for span_ids, _ in spans])
    is_target = np.array([target for _, target in spans], np.bool_)
    mask = np.repeat(is_target, [len(span_ids) for span_ids, _ in spans])
    mask[:1] = False  # the first token has no prediction
    return TokenizedDocument(ids, mask)
